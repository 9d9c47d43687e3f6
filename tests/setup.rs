//! `coherd setup` and `coherd teardown` as processes, while an application keeps writing.

use std::process::{Command, Output};
use std::sync::Arc;

use coherd::cli::setup::plan;
use coherd::postgres::client::dsn::Dsn;
use coherd::postgres::survey::schema::FUNCTIONS_COMMENT;
use coherd::postgres::{Source as _, server as source};
use coherd::rules::config::RawRule;
use serde_json::Value;

use crate::catalog::{Session, rules};
use crate::sql::{FUNCTIONS, ROLE};
use crate::support::{Database, Postgres};

/// A configuration file. Slot and publication have the database's name.
pub struct Config {
    folder: tempfile::TempDir,
    name: String,
}

impl Config {
    /// `rules` are YAML, one entry each: `{table: t, keys: ["t:{id}"]}`.
    pub fn new(dsn: &str, name: &str, rules: &[&str]) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { folder, name: name.to_owned() };
        config.write(dsn, rules);
        config
    }

    pub fn write(&self, dsn: &str, rules: &[&str]) {
        let name = &self.name;
        let rules: String = rules.iter().flat_map(|rule| ["  - ", rule, "\n"]).collect();
        let text = format!(
            "source: {{dsn: '{dsn}', slot: {name}, publication: {name}}}\n\
             targets: {{cache: {{url: 'redis://127.0.0.1:1/0'}}}}\nrules:\n{rules}"
        );
        std::fs::write(self.folder.path().join("c.yaml"), text).unwrap();
    }

    /// Adds `source.publish`.
    pub fn publish(&self, what: &str) {
        let path = self.folder.path().join("c.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("source: {", &format!("source: {{publish: {what}, "))).unwrap();
    }

    pub fn coherd(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coherd"));
        let output = command.args(arguments).env("COHERD_CONFIG", self.folder.path().join("c.yaml")).output().unwrap();
        let Output { status, stdout, stderr } = output;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&self.name, "NAME");
        Ended { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Asserts that every UPDATE and DELETE works.
fn write(database: &Database, writes: &[&str], when: &str) {
    for sql in writes {
        let written = database.client().try_run(sql);
        assert!(written.is_ok(), "{when}: {sql}: {:?}", written.unwrap_err().as_db_error());
    }
}

/// One table of every kind for which Postgres writes old rows differently.
const EVERY_KIND: &str =
    "CREATE TABLE bare (id int, v text); CREATE TABLE two (a int, b int, v text, PRIMARY KEY (a, b));
         CREATE TABLE full_ (id int, v text); ALTER TABLE full_ REPLICA IDENTITY FULL;
         CREATE TABLE indexed (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text);
         ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_u_key;
         CREATE TABLE tree (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE leaf (v text, id int PRIMARY KEY, extra int); ALTER TABLE leaf DROP COLUMN extra;
         ALTER TABLE tree ATTACH PARTITION leaf FOR VALUES FROM (0) TO (9);
         CREATE TABLE \"Mixed Case\" (\"Id\" int PRIMARY KEY, v text);
         CREATE TABLE computed (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED, v text);
         CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent);
         ALTER TABLE child ADD PRIMARY KEY (id)";

const EVERY_RULE: &[&str] = &[
    "{table: bare, keys: ['b:{id}']}",
    "{table: two, keys: ['t:{b}']}",
    "{table: full_, keys: ['f:{v}']}",
    "{table: indexed, keys: ['i:{u}']}",
    "{table: tree, keys: ['p:{id}']}",
    "{table: '\"Mixed Case\"', keys: ['m:{\"Id\"}']}",
    "{table: computed, keys: ['c:{id}']}",
    "{table: parent, keys: ['h:{id}']}",
    "{table: child, keys: ['h:{id}']}",
];

#[test]
fn writes_of_every_kind_of_table_work_before_and_after() {
    let database = Database::create();
    database.run(EVERY_KIND);
    let tables = ["bare", "two", "full_", "indexed", "tree", "leaf", "\"Mixed Case\"", "computed", "parent", "child"];
    let writes: Vec<String> = tables
        .iter()
        .flat_map(|table| [format!("UPDATE {table} SET v = 'x'"), format!("DELETE FROM {table} WHERE v = 'y'")])
        .collect();
    let writes: Vec<&str> = writes.iter().map(String::as_str).collect();
    let config = Config::new(&database.dsn(), &database.name, EVERY_RULE);
    write(&database, &writes, "before");
    let ended = config.coherd(&["setup"]);
    write(&database, &writes, "after");
    assert_eq!(ended.code, 1, "the table without identity is left out: {ended:?}");
    insta::assert_snapshot!(ended.stdout, @r#"
    made: publication NAME
    made: table public.two
    made: table public.full_
    made: table public.indexed
    made: table public.tree
    made: table public."Mixed Case"
    made: table public.computed
    made: table public.parent
    made: table public.child
    made: schema coherd
    made: slot NAME
    error [identity-missing] rules[0] public.bare: it has no replica identity; if it were published, the application's UPDATEs and DELETEs would fail with 55000
        ALTER TABLE public.bare REPLICA IDENTITY FULL;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.bare;
    error [table-unpublished] rules[0] public.bare: it is not in publication NAME, so its changes are not sent
        -- the statements for rules[0] public.bare
    warning [setup-record] target cache: setup could not write the record of the new slot, so the first run flushes this target: Redis at 127.0.0.1:1: connecting: Connection refused (os error 111); is the server up and reachable?
    "#);
    let again = config.coherd(&["setup"]);
    insta::assert_snapshot!(again.stdout, @r#"
    error [identity-missing] rules[0] public.bare: it has no replica identity; if it were published, the application's UPDATEs and DELETEs would fail with 55000
        ALTER TABLE public.bare REPLICA IDENTITY FULL;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.bare;
    error [table-unpublished] rules[0] public.bare: it is not in publication NAME, so its changes are not sent
        -- the statements for rules[0] public.bare
    "#);
    // After the remedy, executed word for word, nothing is left to do.
    database.run("ALTER TABLE public.bare REPLICA IDENTITY FULL");
    assert_eq!(config.coherd(&["setup"]).code, 0);
    assert_eq!(config.coherd(&["setup"]).stdout, "nothing to do: everything is there\n");
    write(&database, &writes, "at last");
    if database.server.version() >= 150_000 {
        let sql = format!(
            "SELECT tablename, array_to_string(attnames, ',') FROM pg_publication_tables WHERE pubname = '{}' ORDER BY 1",
            database.name
        );
        let rows: Vec<String> = database.client().rows(&sql).iter().map(|row| row.join(": ")).collect();
        // The columns that the message lists depend on the version, because of the generated one.
        let rows = rows.iter().map(|row| if row.starts_with("computed") { "computed: COMPUTED" } else { row });
        let rows: Vec<&str> = rows.collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
        Mixed Case: Id,v
        bare: id,v
        child: id,v
        computed: COMPUTED
        full_: id,v
        indexed: id,u,v
        parent: id,v
        tree: id,v
        two: a,b,v
        "#);
    }
}

#[test]
fn the_printed_sql_is_what_setup_does() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY, email text, v int)");
    let config = Config::new(
        &database.dsn(),
        &database.name,
        &["{table: t, keys: ['t:{id}', 'e:{email}'], on_missing_old: flush}"],
    );
    let printed = config.coherd(&["setup", "--print"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    // From Postgres 17 on, it is a failover slot.
    let text = printed.stdout.replace(FUNCTIONS.trim_end(), "-- sql/coherd.sql").replace(", failover => true", "");
    let text = text.replace(", publish_generated_columns = stored", "");
    insta::assert_snapshot!(text, @r#"
    CREATE PUBLICATION NAME WITH (publish_via_partition_root = true);
    COMMENT ON PUBLICATION NAME IS 'Made by coherd setup for slot NAME';
    ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
    -- sql/coherd.sql
    SELECT pg_catalog.pg_create_logical_replication_slot('NAME', 'pgoutput');
    "#);
    assert_eq!(database.client().one("SELECT count(*) FROM pg_publication"), "0", "--print changes nothing");
    let (before, slot) = printed.stdout.rsplit_once("SELECT pg_catalog.pg_create").unwrap();
    let (objects, _) = before.split_once(FUNCTIONS.trim_end()).unwrap();
    database.run(&objects.replace("NAME", &database.name));
    database.run(FUNCTIONS);
    database.run(&format!("SELECT pg_catalog.pg_create{}", slot.replace("NAME", &database.name)));
    let ended = config.coherd(&["setup"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "nothing to do: everything is there\n"));
}

/// The publication belongs to somebody else: setup widens its column list for a rule and removes nothing.
#[test]
fn a_rule_that_was_added_takes_nothing_from_a_list_of_others() {
    let database = Database::create();
    if database.server.version() < 150_000 {
        return;
    }
    database.run("CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int)");
    database.run(&format!("CREATE PUBLICATION {} FOR TABLE t (id, c)", database.name));
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    config.publish("keys");
    config.coherd(&["setup"]);
    config.write(&database.dsn(), &["{table: t, keys: ['a:{a}'], on_missing_old: skip}"]);
    config.publish("keys");
    insta::assert_snapshot!(config.coherd(&["setup", "--print"]).stdout, @r#"
    BEGIN;
    ALTER PUBLICATION NAME DROP TABLE ONLY public.t;
    ALTER PUBLICATION NAME ADD TABLE ONLY public.t (id, a, c);
    COMMIT;
    "#);
    let ended = config.coherd(&["setup", "--json"]);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &json["changed"][0], &json["slot"]), (0, &"table public.t".into(), &Value::Null));
    write(&database, &["UPDATE t SET a = 1"], "after");
}

#[test]
fn the_least_privileged_role_follows_what_the_owner_set_up() {
    let server = Arc::new(Postgres::start(""));
    let database = Database::create_on(server);
    let name = &database.name;
    database.run(&format!("CREATE ROLE owner LOGIN; GRANT CREATE ON DATABASE {name} TO owner"));
    database.run("GRANT CREATE ON SCHEMA public TO owner; SET ROLE owner; CREATE TABLE t (id int PRIMARY KEY)");
    database.run(ROLE);
    let config = Config::new(&database.dsn_as("coherd"), name, &["{table: t, keys: ['t:{id}']}"]);
    let alone = config.coherd(&["setup"]);
    assert_eq!(alone.code, 1);
    insta::assert_snapshot!(alone.stdout.replace(", publish_generated_columns = stored", ""), @r#"
    error [setup-refused] publication NAME: refused to role coherd: 42501 permission denied for database NAME; run these as the owner, or run coherd setup --dsn with the owner's address
        CREATE PUBLICATION NAME WITH (publish_via_partition_root = true);
        COMMENT ON PUBLICATION NAME IS 'Made by coherd setup for slot NAME';
    "#);
    let together = config.coherd(&["setup", "--dsn", &database.dsn_as("owner")]);
    assert_eq!(together.code, 0, "{together:?}");
    insta::assert_snapshot!(together.stdout, @r#"
    made: publication NAME
    made: table public.t
    made: schema coherd
    made: slot NAME
    warning [operator-missing] schema coherd: the role coherd_operator does not exist, so only the schema's owner and coherd's own role can invalidate manually. Run the first statement as a role with CREATEROLE, the others as the owner of the schema coherd
        CREATE ROLE coherd_operator NOLOGIN;
        GRANT USAGE ON SCHEMA coherd TO coherd_operator;
        GRANT EXECUTE ON FUNCTION coherd.invalidate(text[]), coherd.touch(regclass, text, name), coherd.flush(regclass), coherd.emit(json) TO coherd_operator;
    warning [setup-record] target cache: setup could not write the record of the new slot, so the first run flushes this target: Redis at 127.0.0.1:1: connecting: Connection refused (os error 111); is the server up and reachable?
    "#);
    crate::support::postgres::postgres_client(&database.dsn_as("coherd"))
        .unwrap()
        .run("SELECT coherd.invalidate('t:1')");
    let role = Session::open(&database.dsn_as("coherd"), name);
    let seen = role.look(&rules(&[RawRule::of("t", &["t:{id}"])]));
    assert!(!seen.role.superuser && seen.role.replication && !seen.role.may_create);
    assert_eq!(seen.functions.as_deref(), Some(FUNCTIONS_COMMENT));
    assert!(seen.tables[0].published.is_some() && !seen.publication.unwrap().owned);
    let refused = config.coherd(&["teardown", "--yes"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("name its owner with --dsn"), "{refused:?}");
    let gone = config.coherd(&["teardown", "--yes", "--dsn", &database.dsn_as("owner")]);
    assert_eq!(gone.code, 0, "{gone:?}");
    assert!(gone.stdout.starts_with("DROP PUBLICATION NAME;\n") && gone.stdout.ends_with("DROP SCHEMA coherd;\n"));
}

#[test]
fn a_slot_older_than_its_publication_is_refused() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    database.run(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database.name));
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    let ended = config.coherd(&["setup"]);
    assert_eq!(ended.code, 1);
    insta::assert_snapshot!(ended.stdout, @r#"
    error [slot-before-publication] slot NAME: the slot is there but publication NAME is not, and a publication created after its slot breaks the stream. If coherd created the slot, drop it and run coherd setup again. If a subscription uses the slot, choose another name (source.slot)
        SELECT pg_catalog.pg_drop_replication_slot('NAME');
    "#);
}

#[test]
fn teardown_says_what_it_would_do_and_does_it_with_yes() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    config.coherd(&["setup"]);
    let asked = config.coherd(&["teardown"]);
    assert_eq!(asked.code, 1);
    let shown = format!("{}{}", asked.stdout, asked.stderr);
    let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("DROP ROUTINE")).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    SELECT pg_catalog.pg_drop_replication_slot('NAME');
    DROP PUBLICATION NAME;
    DROP VIEW coherd.status;
    DROP SCHEMA coherd;
    coherd: nothing was dropped; to drop the above, add --yes
    "#);
    let done = config.coherd(&["teardown", "--yes"]);
    assert_eq!((done.code, done.stdout), (0, asked.stdout));
    let again = config.coherd(&["teardown"]);
    insta::assert_snapshot!(format!("{} {}", again.code, again.stdout), @r#"0 nothing to do: no slot, no publication and no schema coherd is there to drop"#);
}

#[test]
fn teardown_refuses_while_somebody_streams() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    config.coherd(&["setup"]);
    let mut reader = source::Postgres::new(source::PostgresConfig {
        dsn: Dsn::parse(&database.dsn(), &|_| None).unwrap(),
        slot: database.name.clone(),
        publication: database.name.clone(),
        messages: true,
        creation: source::Creation::default(),
    });
    let runtime = Session::of(&database).runtime;
    let (stream, _) = runtime.block_on(reader.stream()).unwrap();
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()";
    let mut client = database.client();
    crate::support::until("the slot is in use", || (client.one(active) == "1").then_some(()));
    let refused = config.coherd(&["teardown", "--yes"]);
    drop(stream);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the slot NAME is in use by process"), "{refused:?}");
    assert_eq!(client.one("SELECT count(*) FROM pg_publication"), "1", "nothing was dropped");
}

#[test]
fn a_standby_is_not_set_up() {
    let database = Database::create();
    let mut seen = Session::of(&database).look(&[]);
    seen.server.in_recovery = true;
    let plan = plan(&[], &seen, &coherd::types::database::Beside::default());
    assert!(plan.is_empty() && plan.findings[0].message.contains("give the primary's address"), "{plan:?}");
}

/// Objects that another coherd, a DBA or a subscription made stay.
#[test]
fn teardown_leaves_what_another_coherd_needs_and_what_coherd_did_not_make() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), name, &["{table: t, keys: ['t:{id}']}"]);
    assert_eq!(config.coherd(&["setup"]).code, 0);
    database.run(&format!("SELECT pg_create_logical_replication_slot('{name}_b', 'pgoutput')"));
    let one = config.coherd(&["teardown", "--yes"]);
    insta::assert_snapshot!(one.stdout, @r#"
    kept: schema coherd: the coherds of other slots in this database may use it (NAME_b); --schema drops it nevertheless
    SELECT pg_catalog.pg_drop_replication_slot('NAME');
    DROP PUBLICATION NAME;
    "#);
    assert_eq!((one.code, database.client().one("SELECT coherd.token() IS NOT NULL")), (0, "t".to_owned()));

    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t"));
    database.run("CREATE VIEW positions AS SELECT coherd.token()");
    let refused = config.coherd(&["teardown", "--yes", "--schema"]);
    assert!(refused.code == 1 && refused.stderr.contains("2BP01"), "a view of the application needs it: {refused:?}");
    assert!(
        refused.stdout.contains("kept: publication NAME: coherd setup did not make it for this slot"),
        "{refused:?}"
    );
    database.run("DROP VIEW positions");
    assert_eq!(config.coherd(&["teardown", "--yes", "--schema"]).code, 0);
    assert_eq!(database.client().one("SELECT count(*) FROM pg_namespace WHERE nspname = 'coherd'"), "0");
    assert_eq!(database.client().one("SELECT count(*) FROM pg_publication"), "1");

    database.run("CREATE SCHEMA coherd; COMMENT ON SCHEMA coherd IS 'the team Coherd'");
    for (made, plugin) in [("physical", None), ("logical", Some("test_decoding"))] {
        let plugin = plugin.map(|plugin| format!(", '{plugin}'")).unwrap_or_default();
        database.run(&format!("SELECT pg_create_{made}_replication_slot('{name}'{plugin})"));
        let ended = config.coherd(&["teardown", "--yes"]);
        let mut client = database.client();
        assert!(ended.code == 1 && ended.stderr.contains("not ours to drop"), "{ended:?}");
        client.run(&format!("SELECT pg_drop_replication_slot('{name}')"));
    }
    let left = config.coherd(&["teardown", "--yes"]);
    assert!(left.code == 0 && left.stdout.contains("kept: schema coherd: coherd did not make it"), "{left:?}");
}

#[test]
fn setup_prints_no_statement_that_drops_a_slot_which_coherd_did_not_make() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), name, &["{table: t, keys: ['t:{id}']}"]);
    let two_phase = "logical_replication_slot('NAME', 'pgoutput', false, true)";
    for slot in ["physical_replication_slot('NAME')", "logical_replication_slot('NAME', 'test_decoding')", two_phase] {
        for publication in ["", "CREATE PUBLICATION NAME FOR TABLE t"] {
            database.run(&format!("SELECT pg_create_{slot}; {publication}").replace("NAME", name));
            for command in [&["setup"][..], &["setup", "--print"], &["check"], &["run"]] {
                // Without a publication, `run` reports that first.
                if command == ["run"] && publication.is_empty() {
                    continue;
                }
                let ended = config.coherd(command);
                let text = format!("{}{}", ended.stdout, ended.stderr);
                assert!(ended.code != 0 && !text.contains("pg_drop"), "{slot}: {command:?}: {text}");
                assert!(text.contains("choose another name (source.slot)"), "{slot}: {command:?}: {text}");
            }
            database.run(&format!("SELECT pg_drop_replication_slot('{name}'); DROP PUBLICATION IF EXISTS {name}"));
        }
    }
}
