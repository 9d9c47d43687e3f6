//! Tables, publication, slot and functions: each is broken with SQL and fixed with the printed SQL.

use super::bench::{Bench, Found};

/// A finding that SQL alone causes.
pub struct Broken {
    pub code: &'static str,
    /// SQL to run before `coherd setup`.
    tables: &'static str,
    rules: &'static [&'static str],
    /// SQL to run after it. `NAME` is the database, the publication and the slot.
    breaking: &'static str,
    /// The oldest server version on which this can happen.
    since: u32,
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, email text, v int)";
const BY_ID: &[&str] = &["{table: t, keys: ['t:{id}']}"];
const SKIPPING: &[&str] = &["{table: t, keys: ['t:{id}', 'e:{email}'], on_missing_old: skip}"];
const TREE: &str = "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
    CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9); CREATE TABLE t2 PARTITION OF t DEFAULT";

const fn broken(
    code: &'static str,
    tables: &'static str,
    rules: &'static [&'static str],
    breaking: &'static str,
) -> Broken {
    Broken { code, tables, rules, breaking, since: 0 }
}

const fn since(since: u32, broken: Broken) -> Broken {
    Broken { since, ..broken }
}

pub const BROKEN: &[Broken] = &[
    broken("publication-missing", T, BY_ID, "SELECT pg_drop_replication_slot('NAME'); DROP PUBLICATION NAME"),
    broken("slot-before-publication", T, BY_ID, "DROP PUBLICATION NAME"),
    broken("slot-missing", T, BY_ID, "SELECT pg_drop_replication_slot('NAME')"),
    broken("functions-missing", T, BY_ID, "DROP SCHEMA coherd CASCADE"),
    broken("functions-old", T, BY_ID, "COMMENT ON SCHEMA coherd IS 'older'"),
    broken("publication-operations", T, BY_ID, "ALTER PUBLICATION NAME SET (publish = 'insert')"),
    broken(
        "publication-root",
        TREE,
        BY_ID,
        "ALTER PUBLICATION NAME SET TABLE t; ALTER PUBLICATION NAME SET (publish_via_partition_root = false)",
    ),
    since(
        180_000,
        broken(
            "publication-generated",
            "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)",
            &["{table: t, keys: ['t:{g}'], on_missing_old: skip}"],
            "ALTER PUBLICATION NAME SET (publish_generated_columns = none)",
        ),
    ),
    since(
        180_000,
        broken(
            "identity-generated",
            "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)",
            BY_ID,
            "ALTER PUBLICATION NAME SET (publish_generated_columns = none); ALTER TABLE t REPLICA IDENTITY FULL",
        ),
    ),
    broken("column-list", T, BY_ID, "ALTER PUBLICATION NAME SET TABLE t (id)"),
    broken("table-surplus", T, BY_ID, "CREATE TABLE u (id int PRIMARY KEY); ALTER PUBLICATION NAME ADD TABLE u"),
    broken(
        "published-unwritable",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bare (id int); CREATE PUBLICATION NAME FOR ALL TABLES",
        BY_ID,
        "",
    ),
    broken(
        "identity-index",
        T,
        BY_ID,
        "CREATE UNIQUE INDEX t_unused ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX t_unused",
    ),
    broken("table-unlogged", "CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", BY_ID, ""),
    broken("table-unpublished", T, BY_ID, "ALTER PUBLICATION NAME DROP TABLE t"),
    broken("column-unpublished", T, SKIPPING, "ALTER PUBLICATION NAME SET TABLE t (id)"),
    broken("row-filter", T, BY_ID, "ALTER PUBLICATION NAME SET TABLE t WHERE (id > 3)"),
    broken("identity-missing", "CREATE TABLE t (id int)", BY_ID, ""),
    broken("identity-old-rows", T, &["{table: t, keys: ['e:{email}']}"], ""),
    broken("identity-comparison", T, &["{table: t, keys: ['t:{id}'], when_changed: [v]}"], ""),
    broken("identity-condition", T, &["{table: t, keys: ['t:{id}'], where: v > 1}"], ""),
    broken("list-full", T, BY_ID, "ALTER PUBLICATION NAME SET TABLE t (id); ALTER TABLE t REPLICA IDENTITY FULL"),
    broken(
        "list-identity",
        "CREATE TABLE t (id int, v int NOT NULL, PRIMARY KEY (id, v))",
        BY_ID,
        "ALTER PUBLICATION NAME SET TABLE t (id)",
    ),
    broken("leaf-unlogged", TREE, BY_ID, "ALTER TABLE t1 SET UNLOGGED"),
    broken("leaf-identity", TREE, BY_ID, "ALTER PUBLICATION NAME SET TABLE t; ALTER TABLE t REPLICA IDENTITY FULL"),
    broken("toast", T, SKIPPING, ""),
    broken("synchronous-commit", T, BY_ID, "ALTER DATABASE NAME SET synchronous_commit = off"),
    broken("synchronous-commit", T, BY_ID, "ALTER ROLE postgres IN DATABASE NAME SET synchronous_commit = off"),
];

/// Carries out the printed remedies, as often as fixing one finding reveals another with the same code.
fn repaired(its: &Broken) -> Option<Found> {
    let bench = Bench::new(its.rules);
    if bench.database.server.version() < its.since {
        println!("{}: skipped, it takes Postgres {}", its.code, its.since / 10_000);
        return None;
    }
    bench.sql(its.tables);
    bench.shell("coherd setup");
    if !its.breaking.is_empty() {
        bench.sql(its.breaking);
    }
    let found = bench.finds(its.code);
    bench.carry_out(&found);
    bench.misses(its.code);
    Some(found)
}

#[test]
fn what_sql_breaks_the_printed_sql_repairs() {
    let mut unbroken = Vec::new();
    for its in BROKEN {
        println!("{}", its.code);
        if let Some(found) = repaired(its) {
            unbroken.push(format!("{} {}", found.severity, found.code));
        }
    }
    let version = crate::support::Postgres::shared().version();
    assert_eq!(unbroken.len(), BROKEN.iter().filter(|its| its.since <= version).count());
}
