//! Findings that no statement fixes: the configuration is edited, or somebody acts elsewhere.

use super::bench::Bench;

/// A finding that disappears when the rules are changed.
pub struct Edited {
    pub code: &'static str,
    tables: &'static str,
    wrong: &'static [&'static str],
    right: &'static [&'static str],
}

const TWO: &str = "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE u (id int PRIMARY KEY, name text)";

const fn edited(
    code: &'static str,
    tables: &'static str,
    wrong: &'static [&'static str],
    right: &'static [&'static str],
) -> Edited {
    Edited { code, tables, wrong, right }
}

pub const EDITED: &[Edited] = &[
    edited("table-missing", TWO, &["{table: tt, keys: ['t:{id}']}"], &["{table: t, keys: ['t:{id}']}"]),
    edited(
        "table-partition",
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t DEFAULT",
        &["{table: t1, keys: ['t:{id}']}"],
        &["{table: t, keys: ['t:{id}']}"],
    ),
    edited(
        "table-kind",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t",
        &["{table: v, keys: ['t:{id}']}"],
        &["{table: t, keys: ['t:{id}']}"],
    ),
    edited(
        "table-kind",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE FOREIGN DATA WRAPPER none; CREATE SERVER far FOREIGN DATA WRAPPER none;
         CREATE FOREIGN TABLE f (id int) SERVER far",
        &["{table: f, keys: ['t:{id}']}"],
        &["{table: t, keys: ['t:{id}']}"],
    ),
    edited("column-missing", TWO, &["{table: t, keys: ['t:{ix}']}"], &["{table: t, keys: ['t:{id}']}"]),
    edited("scope-wide", TWO, &["{table: t, keys: ['{id}'], scope: '*'}"], &["{table: t, keys: ['t:{id}']}"]),
    edited("scope-record", TWO, &["{table: t, keys: ['coherd:{id}']}"], &["{table: t, keys: ['t:{id}']}"]),
    edited(
        "scope-foreign",
        TWO,
        &["{table: t, keys: ['t:{id}']}", "{table: u, keys: ['t:by-name:{name}'], on_missing_old: skip}"],
        &["{table: t, keys: ['t:{id}']}", "{table: u, keys: ['u:by-name:{name}'], on_missing_old: skip}"],
    ),
    edited(
        "key-conflict",
        TWO,
        &["{table: t, keys: ['t:{id}']}", "{table: u, keys: ['t:{id}'], action: bump}"],
        &["{table: t, keys: ['t:{id}']}", "{table: u, keys: ['t:name:{name}'], action: bump, on_missing_old: skip}"],
    ),
    edited(
        "key-record",
        TWO,
        &["{table: t, keys: ['coherd:{name}'], on_missing_old: skip}"],
        &["{table: t, keys: ['coherd:{id}']}"],
    ),
];

#[test]
fn what_configuration_breaks_configuration_repairs() {
    for its in EDITED {
        println!("{}", its.code);
        let mut bench = Bench::new(its.wrong);
        bench.sql(its.tables);
        let found = bench.finds(its.code);
        assert_eq!(found.remedy, Vec::<String>::new(), "then it belongs where it is carried out");
        bench.rules = its.right.iter().map(|&rule| rule.to_owned()).collect();
        bench.misses(its.code);
    }
}

#[test]
fn rules_that_only_look_alike_are_no_finding() {
    let bench = Bench::new(&[
        "{table: t, keys: ['t:{id}', 't:by-name:{name}'], on_missing_old: skip}",
        "{table: u, keys: ['u:{id}', 'u:{id}:names'], action: bump}",
        "{table: u, keys: ['u:name:{name}'], on_missing_old: skip}",
        "{table: u, keys: ['u:{id}'], action: publish}",
    ]);
    bench.sql(TWO);
    let of_rules = |code: &str| ["scope-", "key-"].iter().any(|prefix| code.starts_with(prefix));
    let found: Vec<_> = bench.check().into_iter().filter(|found| of_rules(&found.code)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_target_that_no_rule_goes_to_is_told() {
    let mut bench = Bench::new(&["{table: t, keys: ['t:{id}'], targets: [cache]}"]);
    bench.sql(TWO);
    bench.targets = format!("  another: {{url: '{}'}}\n", bench.redis.url());
    assert_eq!(bench.finds("target-unused").subject, "target another");
    bench.targets.clear();
    bench.misses("target-unused");
}

#[test]
fn what_only_its_owner_can_repair_is_told_until_it_is() {
    let bench = Bench::new(&["{table: p, keys: ['p:{id}']}"]);
    bench.sql("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)");
    bench.finds("table-empty-tree");
    bench.sql("CREATE TABLE p1 PARTITION OF p DEFAULT");
    bench.misses("table-empty-tree");
    bench.sql("ALTER TABLE p1 REPLICA IDENTITY FULL; ALTER TABLE p REPLICA IDENTITY FULL");
    bench.finds("leaf-future");
    bench.sql("ALTER TABLE p REPLICA IDENTITY DEFAULT");
    bench.misses("leaf-future");
}

#[test]
fn a_generated_column_is_told_where_the_server_never_sends_it() {
    let mut bench = Bench::new(&["{table: t, keys: ['t:{g}'], on_missing_old: skip}"]);
    if bench.database.server.version() >= 180_000 {
        bench.sql("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) VIRTUAL)");
    } else {
        bench.sql("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)");
    }
    bench.finds("column-generated");
    bench.rules = vec!["{table: t, keys: ['t:{id}']}".to_owned()];
    bench.misses("column-generated");
}

#[test]
fn a_slot_of_somebody_else_is_told_until_another_name_is_given() {
    let bench = Bench::new(&["{table: t, keys: ['t:{id}']}"]);
    bench.sql("CREATE TABLE t (id int PRIMARY KEY); SELECT pg_create_physical_replication_slot('NAME')");
    assert!(bench.finds("slot-physical").remedy.is_empty());
    bench.sql("SELECT pg_drop_replication_slot('NAME')");
    bench.misses("slot-physical");
    let another = crate::support::Database::create();
    let name = &bench.database.name;
    another.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    assert!(bench.finds("slot-database").remedy.is_empty());
    another.run(&format!("SELECT pg_drop_replication_slot('{name}')"));
    bench.misses("slot-database");
}

#[test]
fn bytes_without_an_encoding_are_told() {
    let mut bench = Bench::new(&["{table: t, keys: ['t:{id}']}"]);
    let name = format!("{}_ascii", bench.database.name);
    bench.sql(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"));
    let utf8 = std::mem::replace(&mut bench.dsn, bench.database.server.dsn(&name));
    bench.finds("encoding");
    bench.dsn = utf8;
    bench.misses("encoding");
    bench.sql(&format!("DROP DATABASE {name}"));
}
