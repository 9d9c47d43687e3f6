//! Which changes of the catalogue make coherd flush a rule, and which do not.

use coherd::types::observation::TableSeen;

use super::Watching;
use crate::support::{Database, Postgres};

/// Runs each of `steps` and checks `table` as seen before and after it.
fn step(database: &Database, table: &str, steps: &[&str], right: impl Fn(&TableSeen, &TableSeen) -> bool) {
    let mut watching = Watching::start(database, &[table]);
    let mut before = watching.table();
    let mut wrong = Vec::new();
    for sql in steps {
        // `;;` separates statements that must not share a transaction.
        for sql in sql.split(";;") {
            database.run(&sql.replace("$P", &database.name));
        }
        let after = watching.table();
        assert!(after.stamp.is_some(), "{sql}");
        if !right(&before, &after) {
            wrong.push(format!("{sql}\n    {before:?}\n    {after:?}"));
        }
        before = after;
    }
    assert!(wrong.is_empty(), "on Postgres {}:\n{}", database.server.version(), wrong.join("\n"));
}

fn stays(before: &TableSeen, after: &TableSeen) -> bool {
    !before.is_broken_by(after)
}

fn moves(before: &TableSeen, after: &TableSeen) -> bool {
    before.is_broken_by(after)
}

/// None of these can hide a change of a row.
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
    "CLUSTER t USING t_pkey",
    "VACUUM (FULL) t",
    "VACUUM (FULL) pg_class",
    "ALTER TABLE t SET TABLESPACE pg_default",
    "ALTER TABLE t OWNER TO pg_monitor",
    "ALTER TABLE t OWNER TO CURRENT_USER",
    "ALTER TABLE t ADD COLUMN extra int",
    "ALTER TABLE t ALTER COLUMN extra SET DEFAULT 7",
    "ALTER TABLE t ADD COLUMN mood mood",
    "ALTER TYPE mood ADD VALUE 'new'",
    "ALTER TYPE other_mood RENAME VALUE 'a' TO 'b'",
    "ALTER DOMAIN positive ADD CHECK (value < 1000)",
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

const TABLES: &str = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE other_mood AS ENUM ('a');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text); CREATE TABLE other (id int PRIMARY KEY)";

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

/// Readers of the table see other values, and the log shows none of it.
#[test]
fn whatever_changes_values_without_changing_rows_is_seen() {
    let database = Database::create();
    database.run(TABLES);
    database.run(&format!(
        "CREATE TYPE place AS (street text, number int); CREATE TYPE mood_range AS RANGE (SUBTYPE = int);
         CREATE DOMAIN lively AS mood; CREATE DOMAIN answer AS int DEFAULT 42;
         CREATE TYPE home AS (place place, since lively);
         INSERT INTO t VALUES (1, 2, 'x'); CREATE PUBLICATION {} FOR TABLE t, other",
        database.name
    ));
    let steps = [
        "ALTER TABLE t ADD COLUMN plan text DEFAULT 'free'",
        "ALTER TABLE t DROP COLUMN plan, ADD COLUMN plan text DEFAULT 'gold'",
        "ALTER TABLE t RENAME COLUMN plan TO tariff",
        "ALTER TABLE t DROP COLUMN tariff",
        "ALTER TABLE t ADD COLUMN serial serial",
        "ALTER TABLE t ADD COLUMN random float DEFAULT random()",
        "ALTER TABLE t ADD COLUMN number int GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE t ADD COLUMN answer answer",
        "ALTER TABLE t ADD COLUMN double int GENERATED ALWAYS AS (v * 2) STORED",
        "ALTER TABLE t ALTER COLUMN double DROP EXPRESSION",
        "ALTER TABLE t ALTER COLUMN note TYPE text USING upper(note)",
        "ALTER TABLE t ALTER COLUMN v TYPE bigint",
        "ALTER TABLE t ALTER COLUMN note TYPE varchar(100)",
        "ALTER TABLE t ADD COLUMN mood mood DEFAULT 'good'",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
        "ALTER TABLE t DROP COLUMN mood",
        "ALTER TABLE t ADD COLUMN moods lively[] DEFAULT '{bad}'",
        "ALTER TYPE mood RENAME VALUE 'fine' TO 'good'",
        "ALTER TABLE t DROP COLUMN moods",
        "ALTER TABLE t ADD COLUMN home home DEFAULT '(,bad)'",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
        "ALTER TYPE place RENAME ATTRIBUTE street TO road",
        "ALTER TYPE place ADD ATTRIBUTE floor int",
        "ALTER TYPE place DROP ATTRIBUTE number",
    ];
    step(&database, "t", &steps, moves);
    if database.server.version() >= 170_000 {
        database.run("ALTER TABLE t ADD COLUMN triple int GENERATED ALWAYS AS (v * 3) STORED");
        step(&database, "t", &["ALTER TABLE t ALTER COLUMN triple SET EXPRESSION AS (v * 4)"], moves);
    }
    // For a virtual column, the server refuses this while the table is published (0A000, 18 and 19).
    if database.server.version() >= 190_000 {
        step(&database, "t", &["REPACK t", "REPACK (CONCURRENTLY) t"], stays);
    }
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
