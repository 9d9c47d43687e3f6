//! What coherd sends to Redis, and what Redis holds afterwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coherd::targets::Delivery;
use coherd::types::invalidation::{Action, Batch, RuleId};
use coherd::types::lsn::Lsn;
use coherd::types::pattern::Extent;

use super::{Asked, config, delivery, open, open_url, record};
use crate::support::Redis;

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

#[tokio::test]
async fn the_record_is_a_hash_of_decimal_numbers() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    open_url(&server.url()).deliver(&delivery(97_500_059_720, &[])).await.unwrap();
    assert_eq!(asked.field("applied").as_deref(), Some("97500059720"));
    assert_eq!(asked.field("settled").as_deref(), Some("48750029860"));
    assert_eq!(asked.field("system_id").as_deref(), Some("18446744073709551615"));
    assert_eq!(asked.field("timeline").as_deref(), Some("7"));
    let updated: u64 = asked.field("updated_ms").unwrap().parse().unwrap();
    assert!(now_us().abs_diff(updated * 1000) < 60_000_000, "{updated}");
}

#[tokio::test]
async fn a_record_of_an_earlier_build_is_read_and_gives_way_to_one_of_this_build() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let old = "applied 200 struck 150 settled 150 system_id 7 timeline 3 sequence 17 marks 1f updated_ms 1 slot app";
    let set: Vec<&str> = ["HSET", "coherd:app"].into_iter().chain(old.split(' ')).collect();
    asked.run::<()>(&set);
    let target = open_url(&server.url());
    let record = target.load_record().await.unwrap().record.unwrap();
    assert_eq!((record.applied.as_u64(), record.confirmed.as_u64(), record.sequence), (200, 150, 17));
    assert_eq!(record.rules.as_deref(), Some("1f"));
    let mut next = delivery(300, &[]);
    next.record.rules = Some("2e".into());
    target.deliver(&next).await.unwrap();
    assert_eq!(asked.field("rules").as_deref(), Some("2e"));
    assert_eq!((asked.field("struck"), asked.field("marks")), (None, None));
}

#[tokio::test]
async fn a_hundred_thousand_keys_go_in_few_commands_and_are_all_gone() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(100_000, |n| format!("user:{n}"));
    let mut batch = Batch::default();
    for n in 0..100_000 {
        batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
    }
    let delivered = open_url(&server.url()).deliver(&Delivery { batch, record: record(9) }).await.unwrap();
    assert_eq!(delivered.hit, 100_000);
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 1);
    assert_eq!(asked.calls("unlink"), 100_000_u64.div_ceil(512));
    assert_eq!(asked.calls("hset"), 1);
}

#[tokio::test]
async fn a_later_record_never_gets_between_the_pipelines_of_an_earlier_delivery() {
    let server = Redis::start();
    let target = open_url(&server.url());
    let mut batch = Batch::default();
    for n in 0..60_000 {
        batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
    }
    let large = Delivery { batch, record: record(100) };
    let small = [delivery(200, &[]), delivery(300, &[])];
    let mut asked = Asked::of(&server);
    for _ in 0..5 {
        let (a, b, c) = tokio::join!(target.deliver(&large), target.deliver(&small[0]), target.deliver(&small[1]));
        a.and(b).and(c).unwrap();
        assert_eq!(asked.field("applied").as_deref(), Some("300"));
    }
}

#[tokio::test]
async fn a_bumped_pointer_always_moves_expires_and_is_never_an_old_one() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let mut config = config(&server.url());
    config.version_ttl = Duration::from_secs(90);
    let target = open(&config);
    asked.set("p:1");
    let bump = delivery(1, &[(Action::Bump, "p:1"), (Action::Bump, "p:2")]);
    let before = now_us();
    assert_eq!(target.deliver(&bump).await.unwrap().hit, 2);
    let first = asked.pointer("p:1").unwrap();
    assert!((before..=now_us()).contains(&first), "{first}");
    assert!(asked.has("p:1"), "the key itself stays");
    let ttl: u64 = asked.run(&["PTTL", "p:1:version"]);
    assert!((60_000..=90_000).contains(&ttl), "{ttl}");
    // The same delivery again, as after a lost reply.
    target.deliver(&bump).await.unwrap();
    let second = asked.pointer("p:1").unwrap();
    assert!(second > first);
    // A pointer that is ahead of the clock moves by one.
    let ahead = second + 3_600_000_000;
    let _: () = asked.run(&["SET", "p:1:version", &ahead.to_string()]);
    target.deliver(&bump).await.unwrap();
    assert_eq!(asked.pointer("p:1"), Some(ahead + 1));
    // An evicted pointer comes back as a later one.
    let old = asked.pointer("p:2").unwrap();
    let _: () = asked.run(&["DEL", "p:2:version"]);
    target.deliver(&bump).await.unwrap();
    assert!(asked.pointer("p:2").unwrap() > old);
}

#[tokio::test]
async fn a_thousand_pointers_are_few_calls_and_the_script_is_sent_whole_once() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    let mut batch = Batch::default();
    for n in 0..1000 {
        batch.push(Action::Bump, RuleId(0), format!("p:{n}").as_bytes());
    }
    let bump = Delivery { batch, record: record(1) };
    for _ in 0..3 {
        assert_eq!(target.deliver(&bump).await.unwrap().hit, 1000);
    }
    // Each of three deliveries has two bump calls and the record's; only the first sends the scripts whole.
    assert_eq!((asked.calls("eval"), asked.calls("evalsha")), (3, 6));
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_sent_again_within_the_delivery() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    let bump = delivery(1, &[(Action::Bump, "p"), (Action::Delete, "k")]);
    for _ in 0..3 {
        target.deliver(&bump).await.unwrap();
        let before = asked.pointer("p").unwrap();
        let _: () = asked.run(&["SCRIPT", "FLUSH"]);
        target.deliver(&bump).await.unwrap();
        assert!(asked.pointer("p").unwrap() > before);
    }
}

#[tokio::test]
async fn a_published_key_and_a_published_scope_arrive_on_their_channels() {
    let server = Redis::start();
    let mut subscriber = server.client();
    let mut channels = subscriber.as_pubsub();
    channels.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    channels.psubscribe("coherd:app:*").unwrap();
    let mut batch = Batch::default();
    batch.push(Action::Publish, RuleId(0), b"user:1");
    batch.push_scope(&coherd::types::invalidation::Scope { action: Action::Publish, keys: Extent::read("user:*") });
    open_url(&server.url()).deliver(&Delivery { batch, record: record(1) }).await.unwrap();
    let mut got: Vec<(String, String)> = (0..2)
        .map(|_| channels.get_message().unwrap())
        .map(|message| (message.get_channel_name().to_owned(), message.get_payload().unwrap()))
        .collect();
    got.sort();
    let expected = [("coherd:app:invalidations", "user:1"), ("coherd:app:invalidations:scopes", "user:*")];
    assert_eq!(got, expected.map(|(channel, text)| (channel.to_owned(), text.to_owned())));
}

#[tokio::test]
async fn the_documented_acl_is_enough_for_everything_and_denies_the_rest() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let source = include_str!("../../src/targets/redis/mod.rs");
    let lines: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let from = lines.iter().position(|line| line.starts_with("ACL SETUSER")).expect("documented");
    let rule = lines[from..].iter().take_while(|line| **line != "```").copied().collect::<Vec<_>>().join(" ");
    // Redis 6 has no functions, and refuses a rule that names them.
    let has_functions = !asked.run::<String>(&["INFO", "server"]).contains("redis_version:6");
    let words = rule.split_whitespace().filter(|word| has_functions || !word.contains("function"));
    let rule: Vec<&str> = words.map(|word| word.replace("PASSWORD", "secret").leak() as &str).collect();
    let _: () = asked.run(&rule);
    let target = open_url(&format!("redis://coherd:secret@127.0.0.1:{}/3", server.port()));
    let mut batch = Batch::default();
    for action in [Action::Delete, Action::Bump, Action::Publish] {
        batch.push(action, RuleId(0), b"k");
        batch.push_scope(&coherd::types::invalidation::Scope { action, keys: Extent::read("k*") });
    }
    target.deliver(&Delivery { batch, record: record(50) }).await.unwrap();
    let loaded = target.load_record().await.unwrap().record.unwrap();
    assert_eq!(loaded.applied, Lsn::new(50));
    assert_eq!(asked.calls("function|load"), u64::from(has_functions));
    let names: String = asked.run(&["CLIENT", "LIST"]);
    assert!(names.contains("name=coherd:app"), "{names}");
    let denied: Vec<::redis::Value> = asked.run(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "{denied:?}");
    assert!(::redis::cmd("ACL").arg(&["DRYRUN", "coherd", "FLUSHALL"]).query::<String>(&mut asked.0).unwrap() != "OK");
}
