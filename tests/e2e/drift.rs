//! Changes of the catalogue that affect the rules and do not show in the stream.

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, code int NOT NULL UNIQUE, spare text,
                        mood mood DEFAULT 'good');
    INSERT INTO users SELECT id, 0, id FROM generate_series(1, 100) id;
    CREATE TABLE carts (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO carts VALUES (1);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n  - table: carts\n    keys: [\"cart:{id}\"]\n";

impl Shop {
    /// Runs `sql`, with `{p}` replaced by the publication. One message is one transaction.
    pub(super) fn alter(&mut self, sql: &str) {
        self.sql.run(&sql.replace("{p}", &self.database.name));
    }

    fn rule_covered(&self) -> bool {
        let metrics = self.daemon.http("/metrics").1;
        metrics.contains("coherd_rule_covered{rule=\"rules[0] public.users\"} 1")
    }

    /// Waits until the rule of `users` is flushed, and no other.
    fn users_are_flushed(&self, what: &str) {
        until(what, || (self.cached() == ["cart:1", "other"]).then_some(()));
    }

    fn flushes(&self) -> usize {
        let status = self.daemon.status();
        let of_drift = |event: &&serde_json::Value| event["reason"] == "publication_changed";
        status["flushes"].as_array().map_or(0, |flushes| flushes.iter().filter(of_drift).count())
    }
}

fn shop(rest: &str) -> Shop {
    let mut shop = Shop::open(SCHEMA, &format!("{RULES}{rest}"));
    shop.settle();
    shop.cache(&["user:1", "user:2", "cart:1", "other"]);
    shop
}

#[test]
fn what_may_have_hidden_changes_flushes_the_rule_and_no_other() {
    for sql in [
        "ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users",
        "ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users (id, n)",
        "ALTER TABLE users REPLICA IDENTITY USING INDEX users_code_key; ALTER TABLE users REPLICA IDENTITY DEFAULT;
         ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users",
        "ALTER TABLE users ALTER n TYPE bigint USING n + 1000",
        "CREATE TABLE fresh (LIKE users INCLUDING ALL); ALTER PUBLICATION {p} DROP TABLE users; DROP TABLE users;
         ALTER TABLE fresh RENAME TO users; ALTER PUBLICATION {p} ADD TABLE users",
        "ALTER TABLE users RENAME TO away; ALTER TABLE away RENAME TO users",
        "ALTER TABLE users ADD COLUMN plan text DEFAULT 'free'",
        "ALTER TABLE users DROP COLUMN spare",
        "ALTER TABLE users RENAME COLUMN spare TO other",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
    ] {
        let mut shop = shop("");
        shop.alter(sql);
        shop.users_are_flushed(sql);
        assert!(shop.flushes() >= 1);
        assert!(shop.rule_covered());
        shop.cache(&["user:1", "user:2"]);
        shop.sql.run("INSERT INTO users VALUES (1, 1, 1) ON CONFLICT (id) DO UPDATE SET n = 7");
        until("keys are invalidated by name again", || (shop.cached() == ["cart:1", "other", "user:2"]).then_some(()));
        until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    }
}

#[test]
fn what_changes_the_file_or_the_owner_alone_flushes_nothing() {
    let mut shop = shop("");
    let mut statements = vec![
        "VACUUM FULL users",
        "CLUSTER users USING users_pkey",
        "ALTER TABLE users OWNER TO pg_monitor",
        "ALTER TABLE users SET TABLESPACE pg_default",
        "ALTER TABLE users ADD COLUMN later text",
        "ALTER TYPE mood ADD VALUE 'new'",
        "GRANT SELECT, UPDATE (n) ON users TO PUBLIC",
    ];
    if shop.database.server.version() >= 190_000 {
        statements.push("REPACK (CONCURRENTLY) users");
    }
    for sql in &statements {
        shop.alter(sql);
        // The same look must report this change together with the one before.
        shop.alter("ALTER TABLE carts DROP COLUMN IF EXISTS plan, ADD COLUMN plan text DEFAULT 'free'");
        until("the rule of carts is flushed", || (!shop.cached().contains(&"cart:1".to_owned())).then_some(()));
        shop.cache(&["cart:1"]);
        assert_eq!(shop.cached(), ["cart:1", "other", "user:1", "user:2"], "{sql}: {}", shop.daemon.log());
    }
    assert_eq!(shop.flushes(), statements.len());
}

#[test]
fn what_hides_changes_is_told_with_its_repair_and_settles_nothing_until_it_is_repaired() {
    for (sql, words, repair) in [
        (
            "ALTER PUBLICATION {p} DROP TABLE users",
            "ADD TABLE ONLY public.users;",
            "ALTER PUBLICATION {p} ADD TABLE users (id)",
        ),
        (
            "ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users WHERE (id > 50)",
            "filters its rows",
            "ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users (id)",
        ),
        (
            "ALTER PUBLICATION {p} SET (publish = 'insert, delete, truncate')",
            "rules[0] public.users is not covered: publication {p}: it leaves out update",
            "ALTER PUBLICATION {p} SET (publish = 'insert, update, delete, truncate')",
        ),
        ("ALTER TABLE users RENAME TO away", "there is no such table", "ALTER TABLE away RENAME TO users"),
    ] {
        let mut shop = shop("");
        shop.alter(sql);
        let name = shop.database.name.clone();
        let said = until("readiness tells what is wrong", || {
            let (code, body) = shop.daemon.http("/readyz");
            (code == 503 && body.contains("not covered")).then_some(body)
        });
        assert!(said.contains(&words.replace("{p}", &name)), "{said}");
        until("the rule is flushed", || (!shop.cached().contains(&"user:1".to_owned())).then_some(()));
        assert!(!shop.rule_covered());
        // Neither a reader nor the stream can know of the hidden change.
        shop.cache(&["user:1", "user:2"]);
        shop.sql.run("UPDATE carts SET n = n + 1");
        let token = shop.sql.one("SELECT coherd.token()");
        let wait = format!("SELECT coherd.wait({token}, '300ms', '{name}')");
        assert_eq!(shop.sql.one(&wait), "f", "{sql}");
        assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=100ms")).0, 504, "{sql}");
        let confirmed = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}'");
        let before = shop.sql.one(&confirmed);
        until("the slot goes on", || {
            shop.sql.run("UPDATE carts SET n = n + 1");
            (shop.sql.one(&confirmed) != before).then_some(())
        });
        shop.alter(repair);
        until("the rule is flushed again", || (shop.cached() == ["other"]).then_some(()));
        until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
        assert!(shop.rule_covered());
        let wait = format!("SELECT coherd.wait({token}, '30s', '{name}')");
        assert_eq!(shop.sql.one(&wait), "t");
    }
}

#[test]
fn a_column_that_a_rule_needs_and_that_is_gone_is_told_and_every_change_flushes_meanwhile() {
    let mut shop = shop("");
    shop.sql.run("ALTER TABLE users RENAME id TO uid");
    until("readiness tells what is wrong", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("there is no column id")).then_some(())
    });
    assert!(!shop.rule_covered());
    shop.users_are_flushed("readers see the column under another name");
    shop.cache(&["user:1", "user:2"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 1 WHERE uid = 1"), ["cart:1", "other"]);
    shop.cache(&["user:1", "user:2"]);
    shop.sql.run("ALTER TABLE users RENAME uid TO id");
    shop.users_are_flushed("readers see the column under another name");
    until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    assert!(shop.rule_covered());
    shop.cache(&["user:1", "user:2"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 1"), ["cart:1", "other", "user:2"]);
}

#[test]
fn a_transaction_that_wrote_while_the_table_was_not_published_is_waited_for() {
    let mut shop = shop("");
    let mut writer = shop.database.client();
    shop.alter("ALTER PUBLICATION {p} DROP TABLE users");
    writer.run("BEGIN; UPDATE users SET n = 5 WHERE id = 2");
    shop.alter("ALTER PUBLICATION {p} ADD TABLE users (id)");
    shop.users_are_flushed("the rule is flushed at once");
    // Filled with the value that was committed at that time.
    shop.cache(&["user:2"]);
    let flushes = shop.flushes();
    writer.run("COMMIT");
    let token = shop.sql.one("SELECT coherd.token()");
    let wait = format!("SELECT coherd.wait({token}, '30s', '{}')", shop.database.name);
    assert_eq!(shop.sql.one(&wait), "t");
    assert_eq!(shop.cached(), ["cart:1", "other"], "{} flushes before, {} after", flushes, shop.flushes());
}

#[test]
fn a_rule_that_was_changed_while_the_daemon_was_down_is_flushed_and_no_other() {
    let mut shop = shop("");
    shop.cache(&["person:1"]);
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit("user:{id}", "person:{id}");
    shop.daemon.launch();
    until("what the rule makes now is flushed", || {
        (shop.cached() == ["cart:1", "other", "user:1", "user:2"]).then_some(())
    });
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.cache(&["person:1"]);
    shop.daemon.launch();
    shop.settle();
    assert!(shop.cached().contains(&"person:1".to_owned()), "once is enough: {}", shop.daemon.log());
}

#[test]
fn with_on_gap_halt_a_hidden_change_halts_the_target_and_flushes_nothing() {
    let mut shop = shop("on_gap: halt\n");
    shop.alter("ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users (id)");
    until("readiness tells of the halt", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("halted (on_gap: halt)")).then_some(())
    });
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    assert_eq!(shop.cached(), ["cart:1", "other", "user:1", "user:2"]);
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit("on_gap: halt", "on_gap: flush");
    shop.daemon.launch();
    shop.users_are_flushed("the next start flushes");
}

#[test]
fn a_table_that_a_publication_for_all_tables_leaves_out_is_not_covered() {
    let mut shop = shop("");
    if shop.database.server.version() < 190_000 {
        return;
    }
    shop.alter("CREATE TABLE logs (id int); DROP PUBLICATION {p}");
    let all = "CREATE PUBLICATION {p} FOR ALL TABLES EXCEPT (TABLE users, TABLE logs)";
    shop.alter(&format!("{all} WITH (publish_via_partition_root = true)"));
    let said = until("readiness tells what is wrong", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("for all tables except this one")).then_some(body)
    });
    let repair = format!("ALTER PUBLICATION {} SET ALL TABLES EXCEPT (TABLE public.logs);", shop.database.name);
    assert!(said.contains(&repair), "{said}");
    let check = shop.daemon.command(&["check"]);
    assert!(crate::support::daemon::text(&check).contains(&repair), "{}", crate::support::daemon::text(&check));
    assert!(!shop.rule_covered());
    shop.cache(&["user:1"]);
    shop.alter(&repair);
    until("the rule is covered again", || shop.rule_covered().then_some(()));
    until("and flushed", || (!shop.cached().contains(&"user:1".to_owned())).then_some(()));
    shop.cache(&["user:2"]);
    shop.alter("UPDATE users SET n = n + 1 WHERE id = 2");
    shop.settle();
    assert!(!shop.cached().contains(&"user:2".to_owned()));
}
