//! The advisory lock that tells SQL that a stream's position is attested.

use super::*;
use crate::support::until;

/// The walsenders that a session in the database attests.
fn attested_for(sql: &mut crate::support::postgres::Client) -> Vec<Vec<String>> {
    sql.rows(
        "SELECT objid FROM pg_locks JOIN pg_database d ON d.oid = database
         WHERE locktype = 'advisory' AND classid = 1668245605 AND datname = current_database() ORDER BY objid",
    )
}

fn told(watching: &mut Watching) -> Option<u32> {
    until("it tells for whom it attests", || match watching.next() {
        Watched::Attested(attested) => Some(attested),
        Watched::Seen(_) | Watched::Away(_) => None,
    })
}

#[test]
fn what_is_attested_can_be_seen_as_soon_as_it_is_told_and_no_longer() {
    let database = Database::create();
    let mut sql = database.client();
    let mut watching = Watching::start(&database, &[]);
    assert_eq!(attested_for(&mut sql), Vec::<Vec<String>>::new());
    for walsender in [Some(7), Some(4_194_304), None, Some(7)] {
        watching.attest.send(walsender).unwrap();
        assert_eq!(told(&mut watching), walsender);
        let expected: Vec<Vec<String>> = walsender.iter().map(|pid| vec![pid.to_string()]).collect();
        assert_eq!(attested_for(&mut sql), expected);
    }
    sql.run("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'");
    assert_eq!(told(&mut watching), Some(7), "a new connection attests again");
    assert_eq!(attested_for(&mut sql), [["7"]]);
    drop(watching);
    until("nobody attests any more", || attested_for(&mut sql).is_empty().then_some(()));
}

#[test]
fn a_wish_that_is_taken_back_before_it_is_granted_is_answered() {
    let database = Database::create();
    let mut watching = Watching::start(&database, &[]);
    watching.seen();
    // Nothing runs between the two, so the watcher sees only the second.
    watching.attest.send(Some(7)).unwrap();
    watching.attest.send(None).unwrap();
    assert_eq!(told(&mut watching), None);
}
