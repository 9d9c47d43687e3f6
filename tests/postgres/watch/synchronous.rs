//! Whether `synchronous_standby_names` makes writers wait for the stream.

use super::super::own_server;
use super::Watching;
use crate::support::{Database, until};

#[test]
fn a_setting_that_counts_us_is_seen_while_it_stands_whatever_the_role_may_see() {
    let database = Database::create_on(own_server(""));
    let mut watching = Watching::start(&database, &["t"]);
    assert_eq!(watching.look().synchronous, None);
    let others = database.server.wait_for("FIRST 1 (stand_by, coherd2)");
    assert_eq!(watching.look().synchronous, None);
    let waiting = database.server.wait_for("FIRST 1 (stand_by, COHERD)");
    let why = until("it is seen", || watching.look().synchronous);
    assert!(why.contains("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (stand_by)';"), "{why}");
    drop((waiting, others));
    until("it is gone", || watching.look().synchronous.is_none().then_some(()));
}

#[test]
fn a_standby_counts_nobody() {
    let database = Database::create_on(own_server(""));
    database.create_role();
    let standby = std::sync::Arc::new(database.server.standby("synchronous_standby_names = '*'"));
    standby.catch_up(&database.server);
    let mut watching = Watching::over(&standby.dsn_as("coherd", &database.name), &database.name, &["t"]);
    assert_eq!(watching.look().synchronous, None);
    standby.promote();
    until("its writers would wait", || watching.look().synchronous);
    let mut sql = crate::support::postgres::postgres_client(&standby.dsn("postgres")).unwrap();
    assert_eq!(sql.one("SHOW synchronous_standby_names"), "*");
}
