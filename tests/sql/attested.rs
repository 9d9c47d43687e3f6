//! Whose attestation `coherd.wait()` accepts: the lock counts only if the walsender's own role holds it.

use super::{FUNCTIONS, database};
use crate::support::postgres::postgres_client;

/// The lock by which a daemon attests what the walsender `pid` sends.
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
        let attested = format!("SELECT coherd.attested({pid})");
        let mut forger = postgres_client(&database.dsn_as(&other)).unwrap();
        forger.run(&lock(&pid));
        assert_eq!(forger.one(&attested), "f", "another role holds the lock");
        // Another way to forge it: a member of the role runs SET ROLE, but its session's login role stays.
        admin.run(&format!("GRANT {reader} TO {other}"));
        let mut member = postgres_client(&database.dsn_as(&other)).unwrap();
        member.run(&format!("SET ROLE {reader}; {}", lock(&pid)));
        assert_eq!(member.one(&attested), "f", "SET ROLE changes who logged in for nobody");
        forger.run("BEGIN");
        assert_eq!(forger.one(&attested), "f");
        daemon.run(&lock(&pid));
        assert_eq!(
            forger.one(&attested),
            "t",
            "any role sees that the right one holds it, also in a transaction that looked before"
        );
        forger.run("COMMIT");
        assert_eq!(admin.one("SELECT coherd.attested(NULL)"), "f", "nobody streams");
        daemon.run("SELECT pg_advisory_unlock_all()");
        assert_eq!(forger.one(&attested), "f");
    }
    super::until("the sessions have ended", || admin.try_run(&format!("DROP ROLE {reader}, {other}")).ok());
}

#[test]
fn functions_of_version_7_are_renamed_in_place_with_what_stands_on_them() {
    let (database, mut client) = database("");
    database.run(
        "ALTER VIEW coherd.status RENAME COLUMN attested TO vouched; ALTER FUNCTION coherd.attested(int) RENAME TO vouched;
         CREATE VIEW mine AS SELECT slot, vouched FROM coherd.status;
         REVOKE EXECUTE ON FUNCTION coherd.vouched(int) FROM PUBLIC;
         COMMENT ON SCHEMA coherd IS 'Cache coherence: read your writes, invalidation by hand, status (version 7)'",
    );
    database.run(FUNCTIONS);
    database.run(FUNCTIONS);
    let slot = &database.name;
    assert_eq!(client.rows(&format!("SELECT attested FROM coherd.status WHERE slot = '{slot}'")), [["f"]]);
    assert_eq!(
        client.rows(&format!("SELECT vouched FROM mine WHERE slot = '{slot}'")),
        [["f"]],
        "as its owner named it"
    );
    let names = "SELECT proname FROM pg_proc WHERE pronamespace = 'coherd'::regnamespace AND proname IN ('vouched', 'attested')";
    assert_eq!(client.rows(names), [["attested"]]);
    let public = "SELECT proacl::text LIKE '%{=X/%' OR proacl::text LIKE '%,=X/%' FROM pg_proc WHERE oid = 'coherd.attested(int)'::regprocedure";
    assert_eq!(client.one(public), "f", "what was revoked stays so");
}
