//! Positions passed to `coherd.wait()`: those that cannot be in this server's log are refused.

use super::{database, refusal};

#[test]
fn seconds_given_as_a_token_are_refused_with_the_way_to_write_them() {
    let (database, mut client) = database("");
    let slot = &database.name;
    for token in ["5", "-5", "30000", "'5'", "'0/5'", "'0/5'::pg_lsn", "8640000000000", "'5s'", "'5 s'", "''", "'1.5'"]
    {
        let told = refusal(&mut client, &format!("SELECT coherd.wait({token}, slot => '{slot}')"));
        if token.starts_with("864") {
            assert!(told.contains("is beyond the end of this server's log"), "{told}");
        }
        assert!(
            told.starts_with("22023 coherd.wait(): ") && told.contains("Seconds are timeout => '5s'"),
            "{token}: {told}"
        );
    }
    // Postgres 19 prints leading zeros.
    let told = refusal(&mut client, "SELECT coherd.wait(5)").replace("0/00000005", "0/5");
    insta::assert_snapshot!(told, @"22023 coherd.wait(): 0/5 is not a position in this server's log | The first argument is a token of coherd.token(). Seconds are timeout => '5s'.");
    insta::assert_snapshot!(refusal(&mut client, "SELECT coherd.wait('5s')"), @"22023 coherd.wait(): the first argument is not a position in a log | Give a token of coherd.token(), in either form: 16/B374D848 or decimal. Seconds are timeout => '5s'.");
    let nothing = ["NULL", "NULL::text", "NULL::bigint", "NULL::pg_lsn"]
        .map(|null| client.one(&format!("SELECT coherd.wait({null}, timeout => '1ms', slot => '{slot}')")));
    assert_eq!(nothing, ["f"; 4], "NULL is the present position");
}

#[test]
fn a_position_beyond_the_log_is_refused_on_a_primary_and_waited_for_on_a_standby() {
    let server = std::sync::Arc::new(super::Postgres::start(""));
    let (database, mut client) = super::database_on(server.clone(), "");
    let beyond = client.one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn + 100000000");
    let wait = format!("SELECT coherd.wait({beyond}, timeout => '10ms', slot => '{}')", database.name);
    let told = refusal(&mut client, &wait);
    assert!(told.starts_with("22023 ") && told.contains("was lost in a failover, a crash or a restore"), "{told}");
    let standby = server.standby("");
    standby.catch_up(&server);
    let mut there = crate::support::postgres::postgres_client(&standby.dsn(&database.name)).unwrap();
    // The position is accepted, and the lookup of the slot fails: the slot is on the primary only.
    let told = refusal(&mut there, &wait);
    assert!(told.starts_with("42704 "), "{told}");
}

#[test]
fn a_position_that_this_server_has_written_is_taken_in_every_form() {
    let (database, mut client) = database("");
    let slot = &database.name;
    for token in [
        "coherd.token()",
        "coherd.token()::text",
        "' ' || coherd.token()",
        "pg_current_wal_insert_lsn()",
        "pg_current_wal_insert_lsn()::text",
    ] {
        assert_eq!(
            client.one(&format!("SELECT coherd.wait({token}, timeout => '1ms', slot => '{slot}')")),
            "f",
            "{token}"
        );
    }
}
