//! `coherd invalidate` and `coherd flush`: manual invalidations, through the log.

use std::process::{Command, Stdio};

use insta::assert_snapshot;

use super::refusal;
use crate::e2e::Shop;
use crate::support::daemon::text;
use crate::support::process::Signal;

const SCHEMA: &str =
    "CREATE SCHEMA hidden; CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE hidden.products (id int PRIMARY KEY);";
const RULES: &str =
    "  - table: users\n    keys: [\"user:{id}\"]\n  - table: hidden.products\n    keys: [\"product:{id}\"]\n";

#[test]
fn keys_go_by_name_and_the_token_can_be_waited_for() {
    let shop = Shop::open(SCHEMA, &format!("{RULES}manual: {{keys: any}}\n"));
    shop.cache(&["user:1", "user:2", "it's one"]);
    let output = shop.daemon.command(&["invalidate", "user:1", "it's one"]);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let (done, command) = said.trim_end().split_once('\n').unwrap();
    assert!(done.starts_with("invalidated 2 keys at "), "{said}");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let waited = shop.daemon.command(&words);
    assert!(waited.status.success(), "{command}: {}", text(&waited));
    assert_eq!(shop.cached(), ["user:2"]);
    let output = shop.daemon.command(&["invalidate", "--wait=30s", "user:2"]);
    assert!(output.status.success() && text(&output).contains(" is settled; "), "{}", text(&output));
    assert!(shop.cached().is_empty());
}

#[test]
fn a_key_that_is_none_is_refused_and_so_is_an_order_that_nobody_would_hear() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let long = "x".repeat(65_537);
    let name = shop.database.name.clone();
    let mut said = vec![
        refusal(&shop.daemon.command(&["invalidate", "user:1", ""]), &[]),
        refusal(&shop.daemon.command(&["invalidate", &long]), &[]),
    ];
    assert_eq!(shop.daemon.command(&["invalidate"]).status.code(), Some(2));
    shop.daemon.edit("source:\n", "source:\n  messages: false\n");
    said.push(refusal(&shop.daemon.command(&["invalidate", "user:1"]), &[]));
    shop.daemon.edit("  messages: false\n", "");
    shop.daemon.edit(&format!("slot: {name}"), "slot: nobodys");
    said.push(refusal(&shop.daemon.command(&["invalidate", "user:1"]), &[]));
    shop.daemon.edit("slot: nobodys", &format!("slot: {name}"));
    shop.sql.run("DROP SCHEMA coherd CASCADE");
    said.push(refusal(&shop.daemon.command(&["flush", "--yes"]), &[]));
    assert_snapshot!(said.join("\n"), @r#"
    exit 1
    coherd: nothing was done: key 2 of 2 is empty: is a variable of the shell not set?

    exit 1
    coherd: nothing was done: key 1 of 1 has 65537 bytes, and no key that coherd makes has more than 65536

    exit 1
    coherd: nothing was done: source.messages is false, so the daemon acts on nothing that is requested manually; set it to true and restart coherd

    exit 1
    coherd: nothing was done: there is no replication slot nobodys on this server, so no coherd reads the request: `coherd setup` creates it

    exit 1
    coherd: nothing was done: this database has no coherd.invalidate() and coherd.flush(): `coherd setup` creates them
    "#);
}

#[test]
fn a_flush_counts_first_and_wants_a_yes() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:2", "user:3", "product:1", "other"]);
    let output = shop.daemon.command(&["flush"]);
    assert_eq!(output.status.code(), Some(1));
    assert_snapshot!(text(&output), @r#"
    SCOPE      ACTION          FROM                    CACHE
    product:*  flush (delete)  hidden.products manual  1 key
    user:*     flush (delete)  public.users manual     3 keys
    coherd: nothing was flushed; to flush the above, add --yes
    "#);
    assert_eq!(shop.cached().len(), 5);
    let output = shop.daemon.command(&["flush", "--table", "hidden.products", "--yes", "--wait=30s"]);
    assert!(output.status.success() && text(&output).contains("flushed 1 table at"), "{}", text(&output));
    assert_eq!(shop.cached(), ["other", "user:1", "user:2", "user:3"]);
    let output = shop.daemon.command(&["flush", "--yes", "--wait=30s", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let told: Vec<serde_json::Value> =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().map(Result::unwrap).collect();
    assert_eq!(told[0]["scopes"][1]["cached"]["cache"]["keys"], 3, "{told:?}");
    assert_eq!((&told[1]["done"], &told[2]["reached"]), (&"flushed 2 tables".into(), &true.into()));
    assert_eq!(shop.cached(), ["other"]);
    let said = refusal(&shop.daemon.command(&["flush", "--table", "pets", "--yes"]), &[]);
    assert_snapshot!(said, @r#"
    exit 1
    coherd: nothing was done: no rule names public.pets; rules name hidden.products, public.users
    "#);
}

#[test]
fn somebody_at_a_terminal_is_asked() {
    let shop = Shop::open(SCHEMA, RULES);
    for (answer, left) in [("n", &["user:1"][..]), ("y", &[])] {
        shop.cache(&["user:1"]);
        let config = shop.daemon.config().display().to_string();
        let command = format!("{} flush --wait=30s --config {config}", crate::support::daemon::coherd());
        // script(1) gives it a terminal.
        let mut asked = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(asked.stdin.as_mut().unwrap(), format!("{answer}\n").as_bytes()).unwrap();
        let output = asked.wait_with_output().unwrap();
        assert!(
            text(&output).contains("Flush all of that, for hidden.products, public.users? [y/N]"),
            "{}",
            text(&output)
        );
        assert_eq!(shop.cached(), left, "{answer}: {}", text(&output));
    }
}

#[test]
fn an_order_reaches_a_cache_that_is_away_when_it_is_back() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1"]);
    shop.redis.signal(Signal::Stop);
    let output = shop.daemon.command(&["invalidate", "--wait=100ms", "user:1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    shop.redis.signal(Signal::Continue);
    shop.settle();
    assert!(shop.cached().is_empty());
}

#[test]
fn a_pattern_is_refused_with_the_command_that_was_meant_unless_it_is_to_be_taken_literally() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:*", "user:?"]);
    for pattern in ["user:*", "user:[0-9]", "user:?"] {
        let said = refusal(&shop.daemon.command(&["invalidate", "user:2", pattern]), &[]);
        assert!(
            said.contains("nothing was done: key 2 of 2 looks like a pattern") && said.contains("coherd flush"),
            "{said}"
        );
    }
    assert_eq!(shop.cached(), ["user:*", "user:1", "user:?"]);
    let output = shop.daemon.command(&["invalidate", "--literal", "--wait=30s", "user:*"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(shop.cached(), ["user:1", "user:?"]);
}

#[test]
fn a_key_that_no_rule_covers_is_refused_because_the_daemon_would_ignore_it() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "session:alice"]);
    assert_snapshot!(refusal(&shop.daemon.command(&["invalidate", "user:1", "session:alice"]), &[]), @r"
    exit 1
    coherd: nothing was done: key 2 of 2 is not covered by any rule, so the daemon ignores it: add a rule that covers it, or set manual.keys to any and reload coherd
    ");
    assert_eq!(shop.cached(), ["session:alice", "user:1"]);
}
