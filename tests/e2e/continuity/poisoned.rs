//! The log contains a record that Postgres cannot decode. Every attempt to read it fails at the same position.

use super::*;

/// Short, so that tests need not wait for a minute.
const TIMEOUT: &str = "  decoding_timeout: 2s\n";

/// A shop with a second published table, whose row filter divides by zero for the row with `id = 0`.
fn with_failing_filter(rest: &str) -> Option<Shop> {
    if Postgres::shared().version() < 150_000 {
        return None;
    }
    let mut shop = Shop::open(&format!("{SCHEMA} CREATE TABLE audit (id int PRIMARY KEY);"), &format!("{RULE}{rest}"));
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("ALTER PUBLICATION {publication} ADD TABLE audit WHERE (10 / id > 0)"));
    shop.settle();
    shop.restart_with(TIMEOUT);
    shop.cache(&["user:1", "user:2", "other"]);
    Some(shop)
}

impl Shop {
    /// Restarts the daemon with another line below `source:`.
    fn restart_with(&mut self, line: &str) {
        assert_eq!(self.daemon.stop(Signal::Term), 0);
        self.daemon.edit("source:\n", &format!("source:\n{line}"));
        self.daemon.launch();
    }

    /// The answer of `/readyz`, once it contains `word`.
    fn not_ready_because(&self, word: &str) -> String {
        until(&format!("readiness says {word}"), || {
            let (code, body) = self.daemon.http("/readyz");
            (code == 503 && body.contains(word)).then_some(body)
        })
    }

    /// Waits until every key of the rules is gone. The gap is reported once, and coherd invalidates keys by name again.
    fn got_past_it(&mut self) {
        until("every key of the rules is gone", || (self.cached() == ["other"]).then_some(()));
        self.ready();
        assert_eq!(self.told("gaps"), ["log_not_decodable", "slot_gone"], "{}", self.daemon.log());
        self.invalidates_by_name();
    }
}

#[test]
fn a_row_filter_that_fails_costs_a_flush_and_not_the_stream() {
    let Some(mut shop) = with_failing_filter("") else { return };
    shop.sql.run("INSERT INTO audit VALUES (0)");
    shop.change_user_1();
    let said = shop.not_ready_because("22012");
    assert!(said.contains("cannot decode the log at 0/") && said.contains("division by zero"), "{said}");
    assert!(said.contains("coherd creates a new slot"), "{said}");
    shop.got_past_it();
    // A row that the filter can evaluate does no harm.
    shop.sql.run("INSERT INTO audit VALUES (1)");
    shop.invalidates_by_name();
}

#[test]
fn a_byte_without_a_unicode_character_costs_a_flush_and_not_the_stream() {
    let database = Database::create_with("ENCODING 'WIN1252' LOCALE 'C' TEMPLATE template0");
    let schema = format!("{SCHEMA} CREATE TABLE notes (id int PRIMARY KEY, body text);");
    let rules = format!("{RULE}  - table: notes\n    keys: [\"note:{{id}}:{{body}}\"]\n    on_missing_old: skip\n");
    let mut shop = Shop::open_on(database, &schema, &rules);
    shop.settle();
    shop.restart_with(TIMEOUT);
    shop.cache(&["user:1", "user:2", "other"]);
    shop.sql.run("INSERT INTO notes VALUES (1, convert_from('\\x81', 'WIN1252'))");
    shop.change_user_1();
    let said = shop.not_ready_because("22P05");
    assert!(!said.contains("0x81"), "a byte of the row: {said}");
    shop.got_past_it();
    assert!(!shop.daemon.log().contains("0x81"), "{}", shop.daemon.log());
}

#[test]
fn it_halts_where_on_gap_says_so() {
    let Some(mut shop) = with_failing_filter("on_gap: halt\n") else { return };
    shop.sql.run("INSERT INTO audit VALUES (0)");
    shop.change_user_1();
    let said = shop.not_ready_because("halted");
    assert!(said.contains("cannot decode the log at 0/") && said.contains("22012"), "{said}");
    assert_eq!(shop.cached(), ["other", "user:1", "user:2"]);
    assert_eq!(shop.daemon.http("/livez").0, 200);
    assert!(!shop.daemon.has_ended());
    let flushed = shop.daemon.command(&["flush", "--yes", "--dsn", &shop.database.dsn()]);
    assert!(flushed.status.success(), "{}", crate::support::daemon::text(&flushed));
    shop.got_past_it();
}

#[test]
fn it_is_found_at_a_start_as_well() {
    let Some(mut shop) = with_failing_filter("") else { return };
    shop.daemon.stop(Signal::Kill);
    shop.sql.run("INSERT INTO audit VALUES (0)");
    shop.change_user_1();
    shop.daemon.launch_unready();
    shop.got_past_it();
}
