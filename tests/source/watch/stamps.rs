//! What moves a stamp, and what must not.

use super::Watching;
use crate::support::{Database, Postgres};

/// Runs each of `steps` and holds the stamps of `table` before and after it against one another.
fn step(database: &Database, table: &str, steps: &[&str], right: impl Fn(&str, &str) -> bool) {
    let mut watching = Watching::start(database, &[table]);
    let mut before = watching.stamp().expect("there is such a table");
    let mut wrong = Vec::new();
    for sql in steps {
        // A statement that cannot be in a transaction, or several in one, or several in one each.
        for sql in sql.split(";;") {
            database.run(&sql.replace("$P", &database.name));
        }
        let after = watching.stamp().expect("there is such a table");
        if !right(&before, &after) {
            wrong.push(format!("{sql}\n    {before}\n    {after}"));
        }
        before = after;
    }
    assert!(wrong.is_empty(), "on Postgres {}:\n{}", database.server.version(), wrong.join("\n"));
}

fn stays(before: &str, after: &str) -> bool {
    before == after
}

fn moves(before: &str, after: &str) -> bool {
    before != after
}

/// Nothing here can hide a change of a row.
const HARMLESS: &[&str] = &[
    "INSERT INTO t VALUES (1, 2, 'x'); UPDATE t SET v = 3; DELETE FROM t",
    "GRANT SELECT ON t TO PUBLIC",
    "GRANT UPDATE (v) ON t TO PUBLIC",
    "ANALYZE t",
    "VACUUM t",
    "VACUUM (FREEZE) t",
    "VACUUM (FREEZE) pg_publication_rel",
    "VACUUM (FREEZE) pg_publication",
    "VACUUM (FREEZE) pg_type",
    "VACUUM (FREEZE) pg_class",
    "CREATE INDEX ON t (v)",
    "CREATE UNIQUE INDEX CONCURRENTLY t_v_id ON t (v, id)",
    "REINDEX TABLE t",
    "REINDEX TABLE CONCURRENTLY t",
    "CLUSTER other USING other_pkey",
    "ALTER TABLE t ADD COLUMN extra int DEFAULT 5",
    "ALTER TABLE t DROP COLUMN extra",
    "ALTER TABLE t ALTER COLUMN note SET NOT NULL",
    "ALTER TABLE t ALTER COLUMN note SET STATISTICS 10",
    "ALTER TABLE t ADD CHECK (v > 0)",
    "ALTER TABLE t SET (fillfactor = 70)",
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TRIGGER nothing AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()",
    "ALTER TABLE other ADD COLUMN t int REFERENCES t",
    "COMMENT ON TABLE t IS 'x'",
    "CREATE TABLE another (id int PRIMARY KEY)",
    "BEGIN; ALTER TABLE t REPLICA IDENTITY FULL; TRUNCATE t CASCADE; ALTER TABLE t RENAME TO u; ROLLBACK",
];

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text);
    CREATE TABLE other (id int PRIMARY KEY)";

#[test]
fn what_hides_no_change_leaves_the_stamp_alone() {
    let others = [
        "ALTER PUBLICATION $P ADD TABLE other",
        "ALTER PUBLICATION $P SET TABLE t, other",
        "ALTER PUBLICATION $P DROP TABLE other",
    ];
    let modern: &[&str] = &["ALTER PUBLICATION $P ADD TABLES IN SCHEMA apart", "DROP SCHEMA apart"];
    for (publication, others) in
        [("FOR TABLE t", &others[..]), ("FOR ALL TABLES", &[]), ("FOR TABLES IN SCHEMA public", modern)]
    {
        let database = Database::create();
        if publication.contains("SCHEMA") && database.server.version() < 150_000 {
            continue;
        }
        database.run(TABLES);
        database.run(&format!("CREATE SCHEMA apart; CREATE PUBLICATION {} {publication}", database.name));
        step(&database, "t", &[HARMLESS, others].concat(), stays);
    }
}

#[test]
fn whatever_a_change_could_slip_through_moves_the_stamp() {
    let database = Database::create();
    database.run(TABLES);
    database.run(&format!("CREATE PUBLICATION {} FOR TABLE t, other", database.name));
    let steps = [
        "ALTER PUBLICATION $P DROP TABLE t; ALTER PUBLICATION $P ADD TABLE t",
        "ALTER PUBLICATION $P DROP TABLE t;;ALTER PUBLICATION $P ADD TABLE t",
        "ALTER PUBLICATION $P SET TABLE other;;ALTER PUBLICATION $P SET TABLE t, other",
        "ALTER PUBLICATION $P SET (publish = 'insert');;ALTER PUBLICATION $P SET (publish = 'insert, update, \
         delete, truncate')",
        "ALTER PUBLICATION $P SET (publish_via_partition_root = true)",
        "DROP PUBLICATION $P; CREATE PUBLICATION $P FOR TABLE t",
        "DROP PUBLICATION $P",
        "CREATE PUBLICATION $P FOR ALL TABLES",
        "DROP PUBLICATION $P; CREATE PUBLICATION $P FOR TABLE t, other",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text); ALTER PUBLICATION $P ADD TABLE t",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "CREATE UNIQUE INDEX one ON t (v); CREATE UNIQUE INDEX two ON t (id, v); ALTER TABLE t REPLICA IDENTITY USING \
         INDEX one",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX two",
        "ALTER TABLE t REPLICA IDENTITY NOTHING",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "ALTER TABLE t ADD PRIMARY KEY (id, v)",
        "ALTER TABLE t ALTER COLUMN note TYPE text USING upper(note)",
        "TRUNCATE t",
        "VACUUM (FULL) t",
        "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t",
        "ALTER TABLE t RENAME TO u; ALTER TABLE other RENAME TO t; ALTER TABLE t RENAME TO other; ALTER TABLE u RENAME \
         TO t",
        "ALTER PUBLICATION $P DROP TABLE t",
        "ALTER TABLE t SET UNLOGGED",
        "ALTER TABLE t SET LOGGED",
        "CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s;;ALTER TABLE s.t SET SCHEMA public",
    ];
    step(&database, "t", &steps, moves);
}

#[test]
fn column_lists_row_filters_and_schemas_move_the_stamp() {
    if Postgres::shared().version() < 150_000 {
        return;
    }
    let database = Database::create();
    database.run(TABLES);
    database.run(&format!("CREATE SCHEMA s; CREATE PUBLICATION {} FOR TABLE t", database.name));
    let steps = [
        "ALTER PUBLICATION $P SET TABLE t (id, v)",
        "ALTER PUBLICATION $P SET TABLE t (id)",
        "ALTER PUBLICATION $P SET TABLE t",
        "ALTER PUBLICATION $P SET TABLE t WHERE (id > 0);;ALTER PUBLICATION $P SET TABLE t",
        "ALTER PUBLICATION $P SET TABLE t WHERE (id > 0)",
        "ALTER PUBLICATION $P SET TABLE t WHERE (id > 1)",
        "ALTER PUBLICATION $P ADD TABLES IN SCHEMA public",
        "ALTER PUBLICATION $P DROP TABLE t",
        "ALTER TABLE t SET SCHEMA s; ALTER TABLE s.t SET SCHEMA public",
        "ALTER TABLE t SET SCHEMA s;;ALTER TABLE s.t SET SCHEMA public",
        "ALTER PUBLICATION $P DROP TABLES IN SCHEMA public;;ALTER PUBLICATION $P ADD TABLES IN SCHEMA public",
        "ALTER PUBLICATION $P SET TABLE t",
    ];
    step(&database, "t", &steps, moves);
}

#[test]
fn a_table_that_is_not_there_has_no_stamp_and_the_others_have_theirs() {
    let database = Database::create();
    database.run("CREATE SCHEMA \"A b\"; CREATE TABLE \"A b\".\"T'\" (id int); CREATE VIEW v AS SELECT 1");
    let mut watching = Watching::start(&database, &["none", "A b.T'", "nowhere.t", "v"]);
    let there: Vec<(String, bool)> =
        watching.look().tables.iter().map(|table| (table.name.to_string(), table.stamp.is_some())).collect();
    let expected = [("public.\"none\"", false), ("\"A b\".\"T'\"", true), ("nowhere.t", false), ("public.v", true)];
    assert_eq!(there, expected.map(|(name, there)| (name.to_owned(), there)));
    database.run("CREATE TABLE \"none\" (id int)");
    assert!(watching.look().tables[0].stamp.is_some());
}
