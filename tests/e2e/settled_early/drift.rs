//! A change that is in no stream, because its table was not published. The flush for it must be repeated after the
//! replica has replayed *the change*. Its position is at or before the end of the log at the look at the catalogue, and
//! perhaps far past the decoded position.

use super::*;

/// `(id)`, or the empty string if all columns are published.
const PUBLISHED_COLUMNS: &str = "SELECT coalesce('(' || (SELECT string_agg(a.attname, ', ') FROM pg_attribute a
    WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])) || ')', '')
    FROM pg_publication_rel r WHERE r.prrelid = 'users'::regclass";

impl Stage {
    /// Changes row 1 while its table is not published, and publishes the table again. `looks`: the daemon sees it
    /// missing.
    fn change_unpublished(&mut self, looks: bool) -> u64 {
        let publication = self.shop.database.name.clone();
        let columns = self.shop.sql.one(PUBLISHED_COLUMNS);
        self.shop.sql.run(&format!("ALTER PUBLICATION {publication} DROP TABLE users"));
        if looks {
            self.shop.until_looked_at();
        }
        self.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
        self.shop.sql.run(&format!("ALTER PUBLICATION {publication} ADD TABLE users {columns}"));
        self.token()
    }
}

/// The catalogue query goes to the server itself, and shows changes beyond the decoded position. So the flush carries
/// the end of the log at the look.
#[test]
fn a_change_of_the_catalogue_that_is_found_before_it_is_read_settles_only_when_it_is_replayed() {
    for looks in [false, true] {
        let mut stage = Stage::open("");
        let behind = StoppedWalsender::of(&mut stage.shop);
        // In this order. Otherwise the daemon may have read a little that the replica has not replayed, and wait for
        // that.
        stage.pause();
        let token = stage.change_unpublished(looks);
        stage.shop.until_looked_at();
        drop(behind);
        stage.until_read(token);
        stage.must_not_settle_before_it_is_replayed(token);
    }
}

/// The same, while the daemon pauses reading because no target has room.
#[test]
fn a_change_of_the_catalogue_while_no_target_has_room_settles_only_when_it_is_replayed() {
    let mut stage = Stage::open("");
    // More than may be in flight and wait: four deliveries of up to 32,768 keys each, and as many keys again.
    stage.shop.sql.run("INSERT INTO items SELECT generate_series(1, 200000)");
    stage.shop.settle();
    stage.cache_is_away(true);
    stage.shop.sql.run("UPDATE items SET n = 1");
    stage.pause();
    until("no target has room", || {
        (stage.shop.daemon.status()["targets"][0]["pending_keys"].as_u64()? > 30_000).then_some(())
    });
    let token = stage.change_unpublished(false);
    stage.shop.until_looked_at();
    stage.cache_is_away(false);
    stage.until_read(token);
    stage.must_not_settle_before_it_is_replayed(token);
}

/// The same at a start: the record does not list the rule, and reading begins 100,000 rows before the change.
#[test]
fn a_start_with_a_backlog_and_a_changed_catalogue_settles_only_when_it_is_replayed() {
    let mut stage = Stage::open("");
    stage.shop.daemon.stop(Signal::Term);
    stage.pause();
    stage.shop.sql.run("INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 100000)");
    let token = stage.change_unpublished(false);
    stage.shop.cache(&["user:299"]);
    stage.shop.daemon.launch_unready();
    until("the daemon follows the log", || (stage.shop.daemon.status()["state"] == "streaming").then_some(()));
    // Otherwise a fast machine reads all of it before the daemon looks at the catalogue.
    let behind = StoppedWalsender::of(&mut stage.shop);
    stage.shop.until_looked_at();
    until("the rule is flushed", || (!stage.shop.cached().contains(&"user:299".to_owned())).then_some(()));
    drop(behind);
    stage.until_read(token);
    stage.must_not_settle_before_it_is_replayed(token);
}

/// The same with a suspended target: two flushes cover one rule, and the one that is repeated later counts.
#[test]
fn a_change_of_the_catalogue_while_the_target_is_suspended_settles_only_when_it_is_replayed() {
    let mut stage = Stage::open("  wal_budget: 8MiB\n");
    stage.suspend();
    let behind = StoppedWalsender::of(&mut stage.shop);
    stage.pause();
    let token = stage.change_unpublished(true);
    stage.shop.until_looked_at();
    stage.cache_is_back_and_flushed();
    drop(behind);
    stage.until_read(token);
    stage.must_not_settle_before_it_is_replayed(token);
}
