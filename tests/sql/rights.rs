//! Who may call which function, and that running the script again does not change this.

use super::{FUNCTIONS, database, refusal};
use crate::support::Database;
use crate::support::postgres::Client;

/// The grants of an earlier version of the script, in which everybody could call everything.
const OPEN_TO_ALL: &str = "
    COMMENT ON SCHEMA coherd IS 'Cache coherence: read your writes, manual invalidation, status (version 5)';
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coherd TO PUBLIC";

/// The calls that only operators may make.
const CALLS: [&str; 4] =
    ["coherd.invalidate('a')", "coherd.touch('t', 'true', 'NAME')", "coherd.flush('t')", "coherd.emit('{}')"];

/// A new role, dropped with its database.
struct Role<'d> {
    database: &'d Database,
    name: String,
}

impl Role<'_> {
    fn create<'d>(database: &'d Database, kind: &str) -> Role<'d> {
        let name = format!("{}_{kind}", database.name);
        database.run(&format!("CREATE ROLE {name} LOGIN; GRANT SELECT ON t TO {name}"));
        Role { database, name }
    }

    fn session(&self) -> Client {
        crate::support::postgres::postgres_client(&self.database.dsn_as(&self.name)).unwrap()
    }

    /// The [`CALLS`] that it may make.
    fn may(&self) -> Vec<&'static str> {
        let mut session = self.session();
        let may =
            |call: &&str| session.try_run(&format!("SELECT {}", call.replace("NAME", &self.database.name))).is_ok();
        CALLS.into_iter().filter(may).collect()
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        let name = &self.name;
        crate::support::until("the role is gone", || {
            self.database.client().try_run(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).ok()
        });
    }
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

#[test]
fn only_operators_may_invalidate_and_everybody_may_wait() {
    let (database, mut admin) = database(T);
    let (app, operator) = (Role::create(&database, "app"), Role::create(&database, "operator"));
    admin.run(&format!("GRANT coherd_operator TO {}", operator.name));
    assert_eq!((app.may(), operator.may()), (vec![], CALLS.to_vec()));
    let told = refusal(&mut app.session(), "SELECT coherd.invalidate('session:alice')");
    assert!(told.starts_with("42501 permission denied for function invalidate"), "{told}");
    let wait = format!("coherd.wait(timeout => '1ms', slot => '{}')", database.name);
    app.session().run(&format!("SELECT coherd.token(), {wait}; SELECT * FROM coherd.status"));
}

#[test]
fn a_later_run_takes_the_right_from_everybody_once_and_respects_what_was_granted_and_revoked() {
    let (database, mut admin) = database(T);
    let (app, named) = (Role::create(&database, "app"), Role::create(&database, "named"));
    admin.run(&format!(
        "{OPEN_TO_ALL}; GRANT EXECUTE ON FUNCTION coherd.flush(regclass), coherd.emit(json) TO {}",
        named.name
    ));
    assert_eq!(app.may(), CALLS);
    admin.run(FUNCTIONS);
    assert_eq!((app.may(), named.may()), (vec![], vec![CALLS[2], CALLS[3]]), "what was granted by name stays");
    admin.run("GRANT EXECUTE ON FUNCTION coherd.invalidate(text[]), coherd.emit(json) TO PUBLIC");
    admin.run(&format!("REVOKE EXECUTE ON FUNCTION coherd.flush(regclass) FROM {}, coherd_operator", named.name));
    admin.run("REVOKE EXECUTE ON FUNCTION coherd.token() FROM PUBLIC");
    admin.run(FUNCTIONS);
    assert_eq!((app.may(), named.may()), (vec![CALLS[0], CALLS[3]], vec![CALLS[0], CALLS[3]]));
    assert!(refusal(&mut app.session(), "SELECT coherd.token()").starts_with("42501 "));
    admin.run(&format!("GRANT coherd_operator TO {}", named.name));
    assert_eq!(named.may(), [CALLS[0], CALLS[1], CALLS[3]], "what was taken from the operators stays taken");
}

#[test]
fn messages_can_be_taken_from_everybody_as_the_script_says() {
    let server = std::sync::Arc::new(super::Postgres::start(""));
    let (database, mut admin) = super::database_on(server, T);
    database.create_role();
    let (app, operator) = (Role::create(&database, "app"), Role::create(&database, "operator"));
    admin.run(&format!("GRANT coherd_operator TO {}", operator.name));
    let send = "SELECT pg_logical_emit_message(true, 'coherd', '')";
    app.session().run(send);
    let statement = FUNCTIONS.lines().filter_map(|line| line.strip_prefix("--     ")).collect::<Vec<_>>().join("\n");
    assert!(statement.starts_with("DO $$") && statement.ends_with("END $$;"), "{statement}");
    admin.run(&statement);
    for mut session in [app.session(), app.session()] {
        assert!(refusal(&mut session, send).starts_with("42501 "));
        assert!(
            refusal(&mut session, "SELECT pg_logical_emit_message(false, 'coherd', ''::bytea)").starts_with("42501 ")
        );
    }
    assert_eq!(operator.may(), CALLS);
    crate::support::postgres::postgres_client(&database.dsn_as("coherd")).unwrap().run(send);
}

#[test]
fn a_pattern_in_a_key_raises_a_notice_that_names_flush() {
    let (_database, mut admin) = database(T);
    let noticed =
        |client: &mut Client, keys: &str| client.notices(&format!("SELECT coherd.invalidate({keys})")).join("\n");
    insta::assert_snapshot!(noticed(&mut admin, "'user:1', 'user:*'"), @"coherd.invalidate(): keys are taken literally, and one of them contains * or [ | coherd.flush('public.users') invalidates every key of a table's rules.");
    assert_eq!(noticed(&mut admin, "'user:1', 'page:/a?b=c', NULL"), "");
}

/// Otherwise a role that may create schemas could own the functions that a superuser calls.
#[test]
fn a_schema_that_another_role_has_made_first_is_not_trusted_with_the_functions() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let mallory = Role::create(&database, "mallory");
    database.run(&format!("GRANT CREATE ON DATABASE {} TO {}", database.name, mallory.name));
    let mut session = mallory.session();
    session.run("CREATE SCHEMA coherd");
    let refused = refusal(&mut database.client(), FUNCTIONS).replace(&mallory.name, "mallory");
    insta::assert_snapshot!(refused, @"42501 the schema coherd belongs to role mallory, who could replace the functions in it | Run this as mallory. Or, where mallory is not to be trusted: DROP SCHEMA coherd CASCADE; and run this again.");
    assert_eq!(database.client().one("SELECT count(*) FROM pg_proc WHERE pronamespace = 'coherd'::regnamespace"), "0");
    session.run(FUNCTIONS);
    session.run(FUNCTIONS);
}

#[test]
fn a_function_of_another_role_in_the_schema_is_not_replaced_because_it_would_stay_that_roles() {
    let (database, mut admin) = database(T);
    let mallory = Role::create(&database, "mallory");
    admin.run(&format!("ALTER FUNCTION coherd.token() OWNER TO {}", mallory.name));
    let refused = refusal(&mut admin, FUNCTIONS).replace(&mallory.name, "mallory");
    insta::assert_snapshot!(refused, @"42501 a function or a view in the schema coherd belongs to role mallory, who could replace it | DROP SCHEMA coherd CASCADE; and run this again.");
    admin.run("DROP SCHEMA coherd CASCADE");
    admin.run(FUNCTIONS);
}

/// psql continues after an error.
#[test]
fn a_file_that_is_refused_changes_nothing_also_where_psql_goes_on() {
    let (database, mut admin) = database(T);
    let mallory = Role::create(&database, "mallory");
    admin.run(&format!("ALTER FUNCTION coherd.token() OWNER TO {}; COMMENT ON SCHEMA coherd IS 'old'", mallory.name));
    let psql = std::process::Command::new("psql")
        .args(["-X", "-q", "-d", &database.dsn(), "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/sql/coherd.sql")])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&psql.stderr);
    assert!(told.contains("in the schema coherd belongs to role"), "{told}");
    assert_eq!(admin.one("SELECT obj_description('coherd'::regnamespace)"), "old");
}
