//! A database is restored to an earlier state on the same timeline, from a cold copy of the data directory or a
//! snapshot of the machine. Its log then grows past the record before the daemon looks. A position alone cannot
//! distinguish two histories of one timeline, so the record names its last transaction by position and id.

use super::*;

const CHANGED: u32 = 100;

/// A server of its own behind a proxy, backed up while it was down. Then rows have changed, and their new values are
/// cached.
fn backed_up() -> (Shop, Proxy) {
    let mut shop = Shop::alone("", SCHEMA, &RULES["rules:\n".len()..]);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    let server = Arc::clone(&shop.database.server);
    let proxy = Proxy::start(server.port());
    shop.daemon.edit(&format!("127.0.0.1:{}/", server.port()), &format!("127.0.0.1:{}/", proxy.port()));
    server.stop(Signal::Interrupt);
    server.back_up();
    server.launch();
    shop.sql = shop.database.client();
    shop.daemon.launch();
    shop.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id <= {CHANGED}"));
    shop.settle();
    let mut pipe = redis::pipe();
    for id in 1..=CHANGED {
        pipe.cmd("SET").arg(format!("user:{id}")).arg(1).ignore();
    }
    pipe.exec(&mut shop.redis.client()).unwrap();
    (shop, proxy)
}

impl Shop {
    /// Restores the copy, and writes until its log is past everything in the record.
    fn put_back(&mut self, more: &str) {
        let end: u64 = self.sql.one("SELECT pg_current_wal_insert_lsn() - '0/0'").parse().expect("a position");
        let server = Arc::clone(&self.database.server);
        server.stop(Signal::Interrupt);
        server.restore();
        server.launch();
        self.sql = self.database.client();
        until("the log is further than before", || {
            self.sql.run("INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 100)");
            (self.sql.one(&format!("SELECT pg_current_wal_insert_lsn() - '0/0' > {end}")) == "t").then_some(())
        });
        self.sql.run(more);
    }

    fn is_found_out(&mut self) {
        self.settle();
        let stale = self.stale();
        let gaps = self.daemon.status()["gaps"].clone();
        assert!(stale.is_empty(), "all being settled, {} keys are stale; gaps: {gaps}", stale.len());
        assert_eq!(gaps[0]["reason"], "database_went_back", "{gaps}");
    }
}

#[test]
fn a_database_that_was_put_back_while_the_daemon_was_down_is_found_out() {
    let (mut shop, _proxy) = backed_up();
    shop.daemon.stop(Signal::Term);
    shop.put_back("");
    shop.daemon.launch();
    shop.is_found_out();
}

/// The daemon was killed, so its record is a little behind what it had read.
#[test]
fn a_database_that_was_put_back_after_a_crash_of_the_daemon_is_found_out() {
    let (mut shop, _proxy) = backed_up();
    shop.daemon.stop(Signal::Kill);
    shop.put_back("");
    shop.daemon.launch();
    shop.is_found_out();
}

/// The other history has commits of the same rule.
#[test]
fn a_database_that_was_put_back_and_is_written_to_again_is_found_out() {
    let (mut shop, _proxy) = backed_up();
    shop.daemon.stop(Signal::Term);
    shop.put_back("UPDATE users SET n = 5 WHERE id = 7 OR id > 200");
    shop.daemon.launch();
    shop.is_found_out();
}

#[test]
fn a_database_that_was_put_back_while_the_daemon_could_not_reach_it_is_found_out() {
    let (mut shop, proxy) = backed_up();
    proxy.refuse(true);
    proxy.cut();
    shop.put_back("");
    proxy.behave();
    until("the daemon follows the log again", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    shop.is_found_out();
}
