//! The catalogue as coherd reads it, and the audit's remedies, executed word for word.

use coherd::postgres::catalog;
use coherd::rules::audit::audit;
use coherd::rules::config::{MissingOld, RawRule, Rule, resolve};
use coherd::types::database::Database as Seen;
use coherd::types::finding::Finding;
use coherd::types::table::{PublishedBy, Table, TableName};

use crate::support::Database;

/// A session and its runtime. The role is a superuser unless the DSN says otherwise.
pub struct Session {
    pub runtime: tokio::runtime::Runtime,
    pub client: tokio_postgres::Client,
    pub name: String,
}

impl Session {
    pub fn open(dsn: &str, name: &str) -> Session {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(dsn, tokio_postgres::NoTls)).unwrap();
        runtime.spawn(connection);
        Session { runtime, client, name: name.to_owned() }
    }

    pub fn of(database: &Database) -> Session {
        Session::open(&database.dsn(), &database.name)
    }

    /// Slot and publication have the database's name.
    pub fn look(&self, rules: &[Rule]) -> Seen {
        let names: Vec<TableName> = rules.iter().map(|rule| rule.table.clone()).collect();
        self.runtime.block_on(catalog::look(&self.client, &self.name, &self.name, &names)).unwrap()
    }

    pub fn audit(&self, rules: &[Rule]) -> Vec<Finding> {
        audit(rules, &self.look(rules))
    }
}

pub fn rules(raw: &[RawRule]) -> Vec<Rule> {
    resolve(raw, &["cache".into()]).unwrap()
}

pub fn rule(table: &str, keys: &[&str]) -> Vec<Rule> {
    rules(&[RawRule::of(table, keys)])
}

/// All findings as text; NAME replaces the database's name, which differs in each run.
pub fn text(findings: &[Finding], database: &Database) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n").replace(&database.name, "NAME")
}

fn table(database: &Database, sql: &str, name: &str) -> Table {
    database.run(sql);
    let rules = rule(name, &["x:{id}"]);
    Session::of(database).look(&rules).tables.swap_remove(0)
}

#[test]
fn the_server_and_the_role_are_described() {
    let database = Database::create();
    let seen = Session::of(&database).look(&[]);
    assert_eq!((seen.server.version, seen.server.wal_level.as_str()), (database.server.version(), "logical"));
    assert!(seen.server.slots.max == 50 && seen.server.senders.max == 50 && !seen.server.in_recovery);
    assert_eq!((seen.server.sender_timeout.as_secs(), seen.server.encoding.as_str()), (60, "UTF8"));
    assert!(seen.role.superuser && seen.role.replication && seen.role.may_create);
    assert_eq!((seen.publication, seen.slot, seen.functions), (None, None, None));
}

#[test]
fn the_identity_is_what_the_server_would_write() {
    for (sql, identity) in [
        ("CREATE TABLE t (id int, v int)", &[][..]),
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", &["id"]),
        ("CREATE TABLE t (v int, id int, PRIMARY KEY (id, v))", &["v", "id"]),
        ("CREATE TABLE t (id int, v int, PRIMARY KEY (id) INCLUDE (v))", &["id"]),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v int)", &[]),
        ("CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY NOTHING", &[]),
        ("CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL", &["id", "v"]),
        (
            "CREATE TABLE t (gone int, id int PRIMARY KEY, v int NOT NULL UNIQUE); ALTER TABLE t DROP COLUMN gone;
             ALTER TABLE t REPLICA IDENTITY USING INDEX t_v_key",
            &["v"],
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); CREATE UNIQUE INDEX i ON t (v);
             ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
            &[],
        ),
    ] {
        let database = Database::create();
        let table = table(&database, sql, "t");
        assert_eq!(table.identity_columns, identity, "{sql}");
        // The server has the final say.
        database.run(&format!("CREATE PUBLICATION {} FOR ALL TABLES", database.name));
        let writes = database.client().try_run("UPDATE t SET v = 1").is_ok();
        assert_eq!(table.has_identity(), writes, "{sql}");
    }
}

#[test]
fn a_partition_tree_is_as_strong_as_its_weakest_leaf() {
    let database = Database::create();
    let tree = table(
        &database,
        "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9);
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (9) TO (19) PARTITION BY RANGE (id);
         CREATE TABLE t21 PARTITION OF t2 FOR VALUES FROM (9) TO (12);
         ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t1 REPLICA IDENTITY FULL",
        "t",
    );
    let leaves: Vec<&str> = tree.leaves.iter().map(|leaf| leaf.name.name.as_str()).collect();
    assert_eq!(leaves, ["t1", "t21"]);
    assert!(tree.column("id").unwrap().in_identity && !tree.column("v").unwrap().in_identity);
    let leaf = Session::of(&database).look(&rule("t21", &["x:{id}"])).tables.swap_remove(0);
    assert_eq!(leaf.partition_root.unwrap().sql(), "public.t");
}

#[test]
fn a_publication_holds_a_table_by_name_by_schema_or_whole() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY, v int, \"W\" int)");
    let published = |sql: &str| {
        database.run(&format!("DROP PUBLICATION IF EXISTS {name}; CREATE PUBLICATION {name} {sql}"));
        Session::of(&database).look(&rule("s.t", &["x:{id}"])).tables.swap_remove(0).published
    };
    assert_eq!(published(""), None);
    assert_eq!(published("FOR ALL TABLES").unwrap().by, PublishedBy::AllTables);
    let whole = published("FOR TABLE s.t").unwrap();
    assert_eq!((whole.by, whole.columns, whole.row_filter), (PublishedBy::Table, None, false));
    if database.server.version() >= 150_000 {
        assert_eq!(published("FOR TABLES IN SCHEMA s").unwrap().by, PublishedBy::Schema);
        let narrow = published("FOR TABLE s.t (\"W\", id) WHERE (id > 3)").unwrap();
        assert_eq!(narrow.columns.unwrap(), ["id", "W"]);
        assert!(narrow.row_filter);
    }
}

#[test]
fn a_missing_table_brings_the_names_it_may_have_meant() {
    let database = Database::create();
    database.run("CREATE SCHEMA app; CREATE TABLE app.orders (id int); CREATE TABLE users (id int)");
    database.run(&format!("CREATE PUBLICATION {}", database.name));
    let wrong = rules(&[
        RawRule::of("orders", &["o:{id}"]),
        RawRule::of("usrs", &["u:{id}"]),
        RawRule::of("zebra", &["z:{id}"]),
    ]);
    insta::assert_snapshot!(text(&Session::of(&database).audit(&wrong), &database), @r#"
    error [table-missing] rules[0] public.orders: there is no such table in database NAME; did you mean app.orders?
    error [table-missing] rules[1] public.usrs: there is no such table in database NAME; did you mean public.users?
    error [table-missing] rules[2] public.zebra: there is no such table in database NAME
    "#);
}

#[test]
fn what_is_never_in_the_log_is_refused() {
    let database = Database::create();
    database.run(
        "CREATE VIEW v AS SELECT 1 AS id; CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
    );
    database.run(&format!("CREATE PUBLICATION {} FOR ALL TABLES", database.name));
    let all = ["v", "u", "p1", "p"].map(|table| RawRule::of(table, &["x:{id}"]));
    insta::assert_snapshot!(text(&Session::of(&database).audit(&rules(&all)), &database), @r#"
    error [publication-root] publication NAME: it sends the changes of public.p under the names of its partitions, which no rule matches
        ALTER PUBLICATION NAME SET (publish_via_partition_root = true);
    error [table-kind] rules[0] public.v: it is no table (a view, a foreign table or the like) and has no changes of its own; write the rule for the tables it reads
    error [table-unlogged] rules[1] public.u: it is unlogged, so its changes are not in the log. The statement writes the whole table into the log, and locks it meanwhile
        ALTER TABLE public.u SET LOGGED;
    error [table-partition] rules[2] public.p1: it is a partition, and changes come under the name of its root; write the rule for public.p
    "#);
}

#[test]
fn columns_that_are_not_sent_are_named() {
    let database = Database::create();
    let name = &database.name;
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, email text, \"userName\" text, g int GENERATED ALWAYS AS (id + 1) STORED)",
    );
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t (id, \"userName\") WHERE (id > 0)"));
    let rules = rules(&[RawRule {
        on_missing_old: MissingOld::Skip,
        ..RawRule::of("t", &["a:{emial}", "b:{username}", "c:{g}", "d:{email}"])
    }]);
    let mut seen = Session::of(&database).look(&rules);
    seen.server.version = 170_000;
    insta::assert_snapshot!(text(&audit(&rules, &seen), &database), @r#"
    error [column-missing] rules[0] public.t: there is no column emial; did you mean email?
    error [column-missing] rules[0] public.t: there is no column username; there is "userName", which is written in double quotes: {"userName"}
    error [column-generated] rules[0] public.t: column g is generated, and Postgres sends such columns from version 18 on; build the key from the columns that it is computed from
    error [column-unpublished] rules[0] public.t: publication NAME leaves out email
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE ONLY public.t;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
        COMMIT;
    error [row-filter] rules[0] public.t: publication NAME filters its rows: changes outside the filter are never seen
        -- the statements for rules[0] public.t
    warning [column-list] rules[0] public.t: source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, 2BP01). When the entry changes, a running coherd flushes the table's rules once
        -- the statements for rules[0] public.t
    warning [toast] rules[0] public.t: large values of email are stored out of line (TOAST), and Postgres does not log them when an UPDATE leaves them unchanged. coherd then flushes the rule's scope, whatever on_missing_old says. REPLICA IDENTITY FULL logs them
        -- coherd check has the statements once the table's other findings are fixed
    "#);
}

#[test]
fn a_generated_column_is_sent_from_eighteen_on() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)");
    database.run(&format!("CREATE PUBLICATION {} FOR TABLE t", database.name));
    let rules = rules(&[RawRule { on_missing_old: MissingOld::Skip, ..RawRule::of("t", &["c:{g}"]) }]);
    let mut seen = Session::of(&database).look(&rules);
    seen.server.version = 180_000;
    insta::assert_snapshot!(text(&audit(&rules, &seen), &database), @r#"
    error [publication-generated] publication NAME: it leaves out generated columns, and a rule reads g of public.t
        ALTER PUBLICATION NAME SET (publish_generated_columns = stored);
    "#);
    let remedy = &audit(&rules, &seen)[0].remedy[0];
    if database.server.version() >= 180_000 {
        database.run(remedy);
        assert_eq!(Session::of(&database).audit(&rules), Vec::<Finding>::new());
    }
}

#[test]
fn a_publication_that_leaves_things_out_is_named() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t (id int PRIMARY KEY)");
    let both = rules(&[RawRule::of("p", &["x:{id}"]), RawRule::of("t", &["x:{id}"])]);
    insta::assert_snapshot!(text(&Session::of(&database).audit(&both), &database), @r#"
    error [publication-missing] publication NAME: it is not in database NAME, so nothing is sent
        coherd setup
    warning [table-empty-tree] rules[0] public.p: it has no partition, so no row can be written and no key can ever be made
    "#);
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE p WITH (publish = 'insert, update')"));
    insta::assert_snapshot!(text(&Session::of(&database).audit(&both), &database), @r#"
    error [publication-operations] publication NAME: it leaves out delete, truncate: such changes are never seen
        ALTER PUBLICATION NAME SET (publish = 'insert, update, delete, truncate');
    error [publication-root] publication NAME: it sends the changes of public.p under the names of its partitions, which no rule matches
        ALTER PUBLICATION NAME SET (publish_via_partition_root = true);
    warning [table-empty-tree] rules[0] public.p: it has no partition, so no row can be written and no key can ever be made
    error [table-unpublished] rules[1] public.t: it is not in publication NAME, so its changes are not sent; coherd setup adds it
        ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
    "#);
}

/// Executes the remedies of `audit` word for word and in order, with the application's writes before, between and
/// after. Then only warnings may be left. Returns the findings' text.
fn repaired(tables: &str, publication: &str, raw: &[RawRule], writes: &[&str]) -> String {
    let database = Database::create();
    database.run(tables);
    database.run(&format!("CREATE PUBLICATION {} {publication}", database.name));
    let (rules, session) = (rules(raw), Session::of(&database));
    let findings = session.audit(&rules);
    let mut dba = database.client();
    let write = |after: &str| {
        for sql in writes {
            let written = database.client().try_run(sql);
            assert!(written.is_ok(), "after {after}: {sql}: {:?}", written.unwrap_err().as_db_error());
        }
    };
    let fails_now = findings.iter().any(|finding| finding.message.contains("DELETEs fail with"));
    if !fails_now {
        write("nothing");
    }
    let statements: Vec<&String> = findings.iter().flat_map(|finding| &finding.remedy).collect();
    for statement in &statements {
        dba.run(statement);
        if !fails_now {
            write(statement);
        }
    }
    write("everything");
    let left = session.audit(&rules);
    let errors: Vec<_> = left.iter().filter(|left| left.severity == coherd::types::finding::Severity::Error).collect();
    assert_eq!(errors, Vec::<&Finding>::new());
    text(&findings, &database)
}

#[test]
fn a_placeholder_outside_the_identity_is_repaired() {
    let text = repaired(
        "CREATE TABLE t (id int PRIMARY KEY, email varchar(80) NOT NULL, n int); INSERT INTO t VALUES (1, 'a')",
        "FOR TABLE t (id)",
        &[RawRule::of("t", &["u:{id}", "e:{email|lower}"])],
        &["UPDATE t SET n = 1", "UPDATE t SET email = email || 'x'", "DELETE FROM t WHERE id = 9"],
    );
    insta::assert_snapshot!(text, @r#"
    error [identity-old-rows] rules[0] public.t: Postgres does not log the old email, so coherd could not remove the old key when it changes or the row is deleted. The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE. Or set on_missing_old in the rule: flush (flush its scope each time) or skip (keep the old key)
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE ONLY public.t;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
        COMMIT;
        ALTER TABLE public.t REPLICA IDENTITY FULL;
    error [column-unpublished] rules[0] public.t: publication NAME leaves out email; coherd setup adds it
        -- the statements for rules[0] public.t
    warning [column-list] rules[0] public.t: source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, 2BP01). When the entry changes, a running coherd flushes the table's rules once
        -- the statements for rules[0] public.t
    "#);
}

#[test]
fn a_nullable_placeholder_is_repaired_with_full() {
    let text = repaired(
        "CREATE TABLE \"T\" (id int PRIMARY KEY, \"eMail\" text); INSERT INTO \"T\" VALUES (1, 'a')",
        "FOR TABLE \"T\" (id)",
        &[
            RawRule::of("\"T\"", &["e:{\"eMail\"}"]),
            RawRule { when_changed: vec!["\"eMail\"".into()], ..RawRule::of("\"T\"", &["u:{id}"]) },
        ],
        &["UPDATE \"T\" SET \"eMail\" = 'b'", "DELETE FROM \"T\" WHERE id = 9"],
    );
    insta::assert_snapshot!(text, @r#"
    error [identity-old-rows] rules[0] public."T": Postgres does not log the old "eMail", so coherd could not remove the old key when it changes or the row is deleted. The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE. Or set on_missing_old in the rule: flush (flush its scope each time) or skip (keep the old key)
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE ONLY public."T";
        ALTER PUBLICATION NAME ADD TABLE ONLY public."T";
        COMMIT;
        ALTER TABLE public."T" REPLICA IDENTITY FULL;
    error [column-unpublished] rules[0] public."T": publication NAME leaves out "eMail"; coherd setup adds it
        -- the statements for rules[0] public."T"
    warning [identity-comparison] rules[1] public."T": Postgres does not log the old "eMail", which when_changed compares, so every UPDATE counts as a change. The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE.
        -- the statements for rules[0] public."T"
    warning [column-list] rules[0] public."T": source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, 2BP01). When the entry changes, a running coherd flushes the table's rules once
        -- the statements for rules[0] public."T"
    "#);
}

#[test]
fn a_table_without_identity_is_repaired_before_it_is_added() {
    let text = repaired(
        "CREATE TABLE t (id int, v int); INSERT INTO t VALUES (1)",
        "",
        &[RawRule::of("t", &["u:{id}"])],
        &["UPDATE t SET v = 1", "DELETE FROM t WHERE id = 9"],
    );
    insta::assert_snapshot!(text, @r#"
    error [identity-missing] rules[0] public.t: it has no replica identity; if it were published, the application's UPDATEs and DELETEs would fail with 55000
        ALTER TABLE public.t REPLICA IDENTITY FULL;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
    error [table-unpublished] rules[0] public.t: it is not in publication NAME, so its changes are not sent
        -- the statements for rules[0] public.t
    "#);
}

#[test]
fn a_publication_that_makes_writes_fail_is_repaired() {
    let bare =
        repaired("CREATE TABLE t (id int)", "FOR TABLE t", &[RawRule::of("t", &["u:{id}"])], &["UPDATE t SET id = 1"]);
    insta::assert_snapshot!(bare, @r#"
    error [identity-missing] rules[0] public.t: it is published but has no replica identity, so the application's UPDATEs and DELETEs fail with 55000
        ALTER TABLE public.t REPLICA IDENTITY FULL;
    "#);
    let narrow = repaired(
        "CREATE TABLE t (a int, id int, PRIMARY KEY (a, id)); CREATE TABLE f (id int); ALTER TABLE f REPLICA IDENTITY FULL",
        "FOR TABLE t (id), f (id)",
        &[RawRule::of("t", &["u:{id}"]), RawRule::of("f", &["f:{id}"])],
        &["UPDATE t SET id = 1", "UPDATE f SET id = 1"],
    );
    insta::assert_snapshot!(narrow, @r#"
    error [list-identity] rules[0] public.t: its column list leaves out a, part of the replica identity, so the application's UPDATEs and DELETEs fail with 42P10
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE ONLY public.t;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.t;
        COMMIT;
    warning [column-list] rules[0] public.t: source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, 2BP01). When the entry changes, a running coherd flushes the table's rules once
        -- the statements for rules[0] public.t
    error [list-full] rules[1] public.f: its replica identity is FULL, which allows no column list, so the application's UPDATEs and DELETEs fail with 42P10
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE ONLY public.f;
        ALTER PUBLICATION NAME ADD TABLE ONLY public.f;
        COMMIT;
    "#);
}

#[test]
fn a_partition_tree_is_repaired_leaf_by_leaf() {
    let text = repaired(
        "CREATE TABLE p (id int PRIMARY KEY, v int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); CREATE TABLE p2 PARTITION OF p DEFAULT;
         INSERT INTO p VALUES (1, 1), (11, 1)",
        "FOR TABLE p (id) WITH (publish_via_partition_root = true)",
        &[RawRule::of("p", &["v:{v}"])],
        &["UPDATE p SET v = v + 1", "UPDATE p1 SET v = 0", "DELETE FROM p WHERE id = 8"],
    );
    insta::assert_snapshot!(text, @r#"
    error [identity-old-rows] rules[0] public.p: Postgres does not log the old v, so coherd could not remove the old key when it changes or the row is deleted. The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE. Or set on_missing_old in the rule: flush (flush its scope each time) or skip (keep the old key)
        BEGIN;
        ALTER PUBLICATION NAME DROP TABLE public.p;
        ALTER PUBLICATION NAME ADD TABLE public.p;
        COMMIT;
        ALTER TABLE public.p1 REPLICA IDENTITY FULL;
        ALTER TABLE public.p2 REPLICA IDENTITY FULL;
        ALTER TABLE public.p REPLICA IDENTITY FULL;
    error [column-unpublished] rules[0] public.p: publication NAME leaves out v; coherd setup adds it
        -- the statements for rules[0] public.p
    warning [column-list] rules[0] public.p: source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, 2BP01). When the entry changes, a running coherd flushes the table's rules once
        -- the statements for rules[0] public.p
    "#);
}

#[test]
fn no_change_is_missed_while_a_remedy_runs() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE TABLE t (id int PRIMARY KEY, email text, n int); INSERT INTO t VALUES (1, 'a', 0)");
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t (id)"));
    database.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    let (rules, session) = (rule("t", &["e:{email}"]), Session::of(&database));
    let mut dba = database.client();
    let mut updates = 0;
    for statement in session.audit(&rules).iter().flat_map(|finding| &finding.remedy) {
        dba.run(statement);
        database.run("UPDATE t SET n = n + 1");
        updates += 1;
    }
    assert!(updates > 4);
    let sql = format!(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{name}', NULL, NULL, 'proto_version', '1', \
         'publication_names', '{name}') WHERE get_byte(data, 0) = ascii('U')"
    );
    assert_eq!(dba.one(&sql), updates.to_string());
}
