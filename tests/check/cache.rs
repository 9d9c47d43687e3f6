//! Caches: missing rights, server settings, foreign data. The printed `redis-cli` lines fix them.

use redis::Value;

use super::bench::{Bench, Case, run_all};
use crate::support::{Database, Redis, until};

const DELETE: &[&str] = &["{table: t, keys: ['t:{id}']}"];
const BUMP: &[&str] = &["{table: t, keys: ['t:{id}'], action: bump}"];
const PUBLISH: &[&str] = &["{table: t, keys: ['t:{id}'], action: publish}"];

/// One right that is taken from a user with all the others.
pub struct Lacking {
    pub code: &'static str,
    rules: &'static [&'static str],
    /// More fields of the target.
    target: &'static str,
    /// The missing right, as an argument of ACL SETUSER.
    without: &'static [&'static str],
}

const fn lacking(code: &'static str, rules: &'static [&'static str], without: &'static [&'static str]) -> Lacking {
    Lacking { code, rules, target: "", without }
}

pub const LACKING: &[Lacking] = &[
    lacking("acl-unlink", DELETE, &["-unlink"]),
    lacking("acl-unlink", BUMP, &["-unlink"]),
    lacking("acl-hset", DELETE, &["-hset"]),
    lacking("acl-hget", DELETE, &["-hget"]),
    lacking("acl-hgetall", DELETE, &["-hgetall"]),
    lacking("acl-dbsize", DELETE, &["-dbsize"]),
    lacking("acl-scan", DELETE, &["-scan"]),
    lacking("acl-info", DELETE, &["-info"]),
    lacking("acl-eval", DELETE, &["-eval"]),
    lacking("acl-evalsha", DELETE, &["-evalsha"]),
    lacking("acl-eval", BUMP, &["-eval"]),
    lacking("acl-evalsha", BUMP, &["-evalsha"]),
    lacking("acl-time", BUMP, &["-time"]),
    lacking("acl-get", BUMP, &["-get"]),
    lacking("acl-set", BUMP, &["-set"]),
    lacking("acl-publish", PUBLISH, &["-publish"]),
    lacking("acl-multi", PUBLISH, &["-multi", "-discard"]),
    lacking("acl-multi", PUBLISH, &["-discard"]),
    lacking("acl-function-list", BUMP, &["-function|list"]),
    lacking("acl-function-load", BUMP, &["-function|load"]),
    lacking("acl-keys", DELETE, &["resetkeys"]),
    lacking("acl-keys", BUMP, &["resetkeys", "~coherd:*", "~t:1*"]),
    lacking("acl-keys", DELETE, &["resetkeys", "~t:*"]),
    Lacking { target: ", leases: true", ..lacking("acl-keys", DELETE, &["resetkeys", "~coherd:*", "~t:*"]) },
    lacking("acl-channel", PUBLISH, &["resetchannels", "&another:*"]),
];

fn admin(bench: &Bench, words: &[&str]) -> Value {
    redis::cmd(words[0]).arg(&words[1..]).query(&mut bench.redis.client()).unwrap()
}

/// Redis 6 has no functions, and refuses an ACL rule that names them.
fn has_functions(bench: &Bench) -> bool {
    let info: String = redis::cmd("INFO").arg("server").query(&mut bench.redis.client()).unwrap();
    !info.contains("redis_version:6")
}

/// A bench whose database has no findings.
fn bench(redis: Redis, rules: &[&str]) -> Bench {
    let bench = Bench::on(Database::create(), redis, rules);
    bench.sql("CREATE TABLE t (id int PRIMARY KEY)");
    bench
}

#[test]
fn what_a_user_lacks_is_granted_as_printed_and_nothing_else_is_missed() {
    let mut bench = bench(Redis::start(), DELETE);
    let has_functions = has_functions(&bench);
    for its in LACKING.iter().filter(|its| has_functions || !its.code.contains("function")) {
        println!("{}", its.code);
        admin(&bench, &["FLUSHALL"]);
        let whole = ["ACL", "SETUSER", "some-one", "reset", "on", ">secret", "~*", "&*", "+@all"];
        admin(&bench, &[&whole[..], its.without].concat());
        bench.url = format!("redis://some-one:secret@127.0.0.1:{}/0", bench.redis.port());
        bench.rules = its.rules.iter().map(|&rule| rule.to_owned()).collect();
        bench.target = its.target.to_owned();
        let before = bench.check();
        let others = before.iter().filter(|found| found.code.starts_with("acl-") && found.code != its.code);
        assert_eq!(others.count(), 0, "{before:?}");
        bench.repairs(its.code);
    }
    let tried = admin(&bench, &["DBSIZE"]);
    assert_eq!(tried, Value::Int(0), "nothing was written");
}

#[test]
fn a_check_is_heard_by_no_subscriber() {
    let bench = bench(Redis::start(), PUBLISH);
    let mut client = bench.redis.client();
    let mut listening = client.as_pubsub();
    listening.psubscribe("*").unwrap();
    bench.check();
    let _: () = redis::cmd("PUBLISH").arg("end").arg("x").query(&mut bench.redis.client()).unwrap();
    assert_eq!(listening.get_message().unwrap().get_channel_name(), "end");
}

/// Cases of server settings.
pub const SET: &[Case] = &[
    Case { codes: &["eviction-none"], run: || set_to(&["--maxmemory", "100mb"], "", "eviction-none") },
    Case {
        codes: &["eviction-record"],
        run: || set_to(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], "", "eviction-record"),
    },
    Case {
        codes: &["eviction-leases"],
        run: || {
            let args = ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"];
            set_to(&args, ", leases: true", "eviction-leases");
        },
    },
    Case { codes: &["target-persistence"], run: || set_to(&["--save", "60 1"], "", "target-persistence") },
    Case { codes: &["target-persistence"], run: || set_to(&["--appendonly", "yes"], "", "target-persistence") },
    Case { codes: &["target-not-ready"], run: || set_to(&["--min-replicas-to-write", "1"], "", "target-not-ready") },
    Case {
        codes: &["target-full"],
        run: || {
            let bench = bench(Redis::start(), DELETE);
            for number in 0..200 {
                admin(&bench, &["SET", &format!("filling:{number}"), &"x".repeat(100_000), "EX", "1000"]);
            }
            admin(&bench, &["CONFIG", "SET", "maxmemory", "10mb"]);
            bench.repairs("target-full");
        },
    },
    Case {
        codes: &["target-replicas"],
        run: || {
            let bench = bench(Redis::start(), DELETE);
            let _replica = Redis::start_with(&["--replicaof", "127.0.0.1", &bench.redis.port().to_string()]);
            bench.repairs("target-replicas");
        },
    },
];

fn set_to(args: &[&str], target: &str, code: &str) {
    let mut bench = bench(Redis::start_with(args), DELETE);
    target.clone_into(&mut bench.target);
    bench.repairs(code);
}

/// Cases of data in a server.
pub const HOLDING: &[Case] = &[
    Case {
        codes: &["record-unreadable"],
        run: || {
            let bench = bench(Redis::start(), DELETE);
            let record = format!("coherd:{}", bench.database.name);
            for spoiling in [&["SET", &record, "x"][..], &["HSET", &record, "applied", "soon"]] {
                admin(&bench, spoiling);
                bench.repairs("record-unreadable");
            }
        },
    },
    Case {
        codes: &["library-missing", "library-old", "library-foreign"],
        run: || {
            let mut bench = bench(Redis::start(), DELETE);
            ", leases: true".clone_into(&mut bench.target);
            if !has_functions(&bench) {
                bench.finds("library-unsupported");
                return;
            }
            bench.repairs("library-missing");
            let old = "-- coherd function library, version 0: x\nredis.register_function('coherd_get', function() end)";
            for (code, text) in [("library-old", old), ("library-foreign", &old[40..])] {
                admin(&bench, &["FUNCTION", "LOAD", "REPLACE", &format!("#!lua name=coherd\n{text}")]);
                bench.repairs(code);
            }
        },
    },
];

#[test]
fn what_a_cache_is_set_to_is_repaired_as_printed() {
    run_all(SET);
}

#[test]
fn what_stands_in_a_cache_is_repaired_as_printed() {
    run_all(HOLDING);
}

/// Cases that only the configuration or another server fixes.
pub const ELSEWHERE: &[Case] = &[
    Case {
        codes: &["target-unreachable", "target-refused"],
        run: || {
            let mut bench = bench(Redis::start_with(&["--requirepass", "secret"]), DELETE);
            let right = format!("redis://:secret@127.0.0.1:{}/0", bench.redis.port());
            for (code, url) in [
                ("target-unreachable", "redis://127.0.0.1:1/0".to_owned()),
                ("target-refused", bench.redis.url()),
                ("target-refused", right.replace("secret", "guess")),
            ] {
                bench.url = url;
                let found = bench.finds(code);
                assert_eq!(found.severity, if code == "target-refused" { "error" } else { "unknown" });
                assert!(!found.message.contains("guess"), "{found:?}");
                bench.url.clone_from(&right);
                bench.misses(code);
            }
        },
    },
    Case {
        codes: &["target-read-only"],
        run: || {
            let mut bench = bench(Redis::start(), DELETE);
            let primary = bench.url.clone();
            let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &bench.redis.port().to_string()]);
            bench.url = replica.url();
            let found = bench.finds("target-read-only");
            assert!(found.message.contains(&bench.redis.port().to_string()), "{found:?}");
            bench.url = primary;
            bench.misses("target-read-only");
        },
    },
    Case { codes: &["target-cluster"], run: || elsewhere(node_of_a_cluster(), "target-cluster") },
    Case {
        codes: &["target-command"],
        run: || elsewhere(Redis::start_with(&["--rename-command", "UNLINK", ""]), "target-command"),
    },
];

/// The server ends if its bus port, 10,000 above its own, is taken. Then the test tries again.
fn node_of_a_cluster() -> Redis {
    until("a node of a cluster has all its ports", || {
        let redis = Redis::start_with(&["--cluster-enabled", "yes"]);
        let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().ok()?;
        redis::cmd("PING").query::<Value>(&mut connection).ok().map(|_| redis)
    })
}

/// `check` finds the code at this server, and not at another one.
fn elsewhere(redis: Redis, code: &str) {
    let mut bench = bench(redis, DELETE);
    bench.finds(code);
    let another = Redis::start();
    bench.url = another.url();
    bench.misses(code);
}

#[test]
fn another_url_or_another_server_repairs_what_no_command_can() {
    run_all(ELSEWHERE);
}

/// With the user that `src/targets/redis/mod.rs` documents.
#[test]
fn the_documented_user_may_do_everything_that_is_checked() {
    let mut bench = bench(
        Redis::start(),
        &[DELETE[0], "{table: t, keys: ['b:{id}'], action: bump}", "{table: t, keys: ['p:{id}'], action: publish}"],
    );
    let source = include_str!("../../src/targets/redis/mod.rs");
    let lines: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let from = lines.iter().position(|line| line.starts_with("ACL SETUSER")).expect("documented");
    let rule = lines[from..].iter().take_while(|line| **line != "```").copied().collect::<Vec<_>>().join(" ");
    let has_functions = has_functions(&bench);
    let words = rule.split_whitespace().filter(|word| has_functions || !word.contains("function"));
    let words: Vec<String> = words.map(|word| word.replace("PASSWORD", "secret")).collect();
    admin(&bench, &words.iter().map(String::as_str).collect::<Vec<_>>());
    bench.url = format!("redis://coherd:secret@127.0.0.1:{}/3", bench.redis.port());
    let found = bench.check();
    let of_target = found.iter().filter(|found| found.subject == "target cache");
    assert_eq!(
        of_target.map(|found| found.code.as_str()).collect::<Vec<_>>(),
        [if has_functions { "library-missing" } else { "library-unsupported" }]
    );
}
