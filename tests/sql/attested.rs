//! Whose word `coherd.wait()` takes: the lock that says "settled" counts only from the walsender's own role.

use super::database;
use crate::support::postgres::postgres_client;

/// The lock by which a daemon says that what the walsender `pid` sends is settled.
fn lock(pid: &str) -> String {
    format!("SELECT pg_advisory_lock_shared(1668245605, {pid})")
}

#[test]
fn only_the_role_of_the_walsender_can_say_that_its_stream_is_settled() {
    let (database, mut admin) = database("");
    let [reader, other] = ["reader", "other"].map(|kind| format!("{}_{kind}", database.name));
    admin.run(&format!("CREATE ROLE {reader} LOGIN; CREATE ROLE {other} LOGIN"));
    {
        let [mut stream, mut daemon] = [0, 1].map(|_| postgres_client(&database.dsn_as(&reader)).unwrap());
        let pid = stream.one("SELECT pg_backend_pid()");
        let vouched = format!("SELECT coherd.vouched({pid})");
        let mut forger = postgres_client(&database.dsn_as(&other)).unwrap();
        forger.run(&lock(&pid));
        assert_eq!(forger.one(&vouched), "f", "another role holds the lock");
        // Another way to the same end: a member of the role becomes it, and stays who logged in.
        admin.run(&format!("GRANT {reader} TO {other}"));
        let mut member = postgres_client(&database.dsn_as(&other)).unwrap();
        member.run(&format!("SET ROLE {reader}; {}", lock(&pid)));
        assert_eq!(member.one(&vouched), "f", "SET ROLE changes who logged in for nobody");
        forger.run("BEGIN");
        assert_eq!(forger.one(&vouched), "f");
        daemon.run(&lock(&pid));
        assert_eq!(
            forger.one(&vouched),
            "t",
            "any role sees that the right one holds it, also in a transaction that looked before"
        );
        forger.run("COMMIT");
        assert_eq!(admin.one("SELECT coherd.vouched(NULL)"), "f", "nobody streams");
        daemon.run("SELECT pg_advisory_unlock_all()");
        assert_eq!(forger.one(&vouched), "f");
    }
    super::until("the sessions have ended", || admin.try_run(&format!("DROP ROLE {reader}, {other}")).ok());
}
