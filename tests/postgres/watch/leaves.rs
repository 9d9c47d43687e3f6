//! Partitions: which exist, whether their files changed, and which were partitions before their first row.

use std::collections::BTreeMap;

use super::super::own_server;
use super::Watching;
use crate::support::Database;

const ROOT: &str = "CREATE TABLE p (id int PRIMARY KEY, v int NOT NULL) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)";

/// File and `born_here` of each leaf, by name.
fn leaves(database: &Database, watching: &mut Watching) -> BTreeMap<String, (u32, bool)> {
    let mut client = database.client();
    let name = |oid: u32| client.one(&format!("SELECT {oid}::regclass"));
    let leaves = watching.leaves();
    let names: Vec<String> = leaves.iter().map(|leaf| leaf.oid).map(name).collect();
    names.into_iter().zip(leaves).map(|(name, leaf)| (name, (leaf.file.node, leaf.born_here))).collect()
}

fn names(leaves: &BTreeMap<String, (u32, bool)>) -> Vec<&str> {
    leaves.keys().map(String::as_str).collect()
}

#[test]
fn a_truncated_or_rewritten_leaf_has_a_new_file() {
    let database = Database::create();
    database.run(ROOT);
    let mut watching = Watching::start(&database, &["p"]);
    let mut before = leaves(&database, &mut watching);
    assert_eq!(names(&before), ["p1", "p2"]);
    for sql in ["TRUNCATE p1", "ALTER TABLE p1 ALTER COLUMN v TYPE int USING v + 1"] {
        // Postgres alters an inherited column only in the whole tree at once.
        let all = sql.starts_with("ALTER");
        database.run(&if all { sql.replace("p1", "p") } else { sql.to_owned() });
        let after = leaves(&database, &mut watching);
        assert_ne!(before["p1"], after["p1"], "{sql}");
        assert_eq!(before["p2"] == after["p2"], !all, "{sql}");
        before = after;
    }
    for sql in
        ["INSERT INTO p VALUES (1, 1)", "ANALYZE", "VACUUM", "GRANT SELECT ON p1 TO PUBLIC", "CREATE INDEX ON p (v)"]
    {
        database.run(sql);
        assert_eq!(before, leaves(&database, &mut watching), "{sql}");
    }
}

#[test]
fn a_partition_with_another_file_may_have_lost_its_rows_unless_it_was_moved() {
    let database = Database::create_on(own_server("allow_in_place_tablespaces = on"));
    database.run("CREATE TABLESPACE elsewhere LOCATION ''");
    database.run(
        "CREATE TABLE p (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000);
         INSERT INTO p SELECT id, 'x' FROM generate_series(0, 1999) id",
    );
    let mut watching = Watching::start(&database, &["p"]);
    let mut before = watching.table();
    let mut wrong = Vec::new();
    for (loses, sql) in [
        (false, "REINDEX TABLE p1"),
        (false, "ALTER TABLE p1 OWNER TO pg_monitor"),
        (false, "ANALYZE p"),
        (false, "ALTER TABLE p1 SET TABLESPACE elsewhere"),
        // Nothing distinguishes these from a TRUNCATE.
        (true, "VACUUM (FULL) p1"),
        (true, "CLUSTER p1 USING p1_pkey"),
        (true, "ALTER TABLE p ALTER COLUMN note TYPE text USING upper(note)"),
        (true, "TRUNCATE p1"),
        (true, "TRUNCATE p2; ANALYZE p2"),
        (true, "INSERT INTO p VALUES (1, 'x'); TRUNCATE p1; INSERT INTO p VALUES (2, 'x'); ANALYZE p1"),
        (true, "TRUNCATE p1; INSERT INTO p VALUES (3, 'x'); REINDEX TABLE p1"),
        (true, "DROP TABLE p2"),
    ] {
        database.run(sql);
        let after = watching.table();
        if before.is_broken_by(&after) != loses {
            wrong.push(format!("{sql}\n    {before:?}\n    {after:?}"));
        }
        before = after;
    }
    assert!(wrong.is_empty(), "on Postgres {}:\n{}", database.server.version(), wrong.join("\n"));
}

/// Attached partitions, with or without rows. The part before `;;` is a transaction of its own.
const ATTACHED: &[(&str, &str)] = &[
    (
        "f",
        "CREATE TABLE f (id int PRIMARY KEY, v int NOT NULL); INSERT INTO f VALUES (200, 1);;\
       ALTER TABLE p ATTACH PARTITION f FOR VALUES FROM (200) TO (210)",
    ),
    (
        "g",
        "CREATE TABLE g (LIKE p); INSERT INTO g VALUES (210, 1);
       ALTER TABLE p ATTACH PARTITION g FOR VALUES FROM (210) TO (220)",
    ),
    (
        "h",
        "CREATE TABLE h AS SELECT 220 AS id, 1 AS v; ALTER TABLE h ALTER id SET NOT NULL, ALTER v SET NOT NULL;
       ALTER TABLE p ATTACH PARTITION h FOR VALUES FROM (220) TO (230)",
    ),
    (
        "j",
        "CREATE TABLE j (LIKE p, more int); ALTER TABLE j DROP COLUMN more; INSERT INTO j VALUES (240, 1);
       ALTER TABLE p ATTACH PARTITION j FOR VALUES FROM (240) TO (250)",
    ),
    (
        "d2",
        "CREATE TABLE d2 (LIKE d INCLUDING ALL); INSERT INTO d2 VALUES (10);
        ALTER TABLE d ATTACH PARTITION d2 FOR VALUES FROM (10) TO (20)",
    ),
    ("a", "ALTER TABLE p DETACH PARTITION a; ALTER TABLE p ATTACH PARTITION a FOR VALUES FROM (100) TO (110)"),
    (
        "i",
        "CREATE TABLE i PARTITION OF p FOR VALUES FROM (230) TO (240); ALTER TABLE p DETACH PARTITION i;
       INSERT INTO i VALUES (230, 1); ALTER TABLE p ATTACH PARTITION i FOR VALUES FROM (230) TO (240)",
    ),
];

#[test]
fn only_a_leaf_that_was_a_partition_before_its_first_row_is_born_here() {
    let database = Database::create();
    database.run(ROOT);
    database.run(
        "CREATE TABLE d (id serial, v int NOT NULL DEFAULT 1) PARTITION BY RANGE (id);
         ALTER TABLE d ADD PRIMARY KEY (id)",
    );
    let mut watching = Watching::start(&database, &["p"]);
    let mut defaults = Watching::start(&database, &["d"]);
    let mut born = |name: &str, sql: &str| {
        database.run(sql);
        let watching = if name.starts_with('d') { &mut defaults } else { &mut watching };
        let leaf = leaves(&database, watching).get(name).map(|(_, born)| *born);
        leaf.unwrap_or_else(|| panic!("{name} is no leaf after {sql}"))
    };
    born("p1", "");
    born("d0", "CREATE TABLE d0 PARTITION OF d DEFAULT");
    // Created as a partition, with other statements in the same transaction, and written to at once.
    for (name, sql) in [
        ("a", "CREATE TABLE a PARTITION OF p FOR VALUES FROM (100) TO (110); INSERT INTO p VALUES (101, 1)"),
        (
            "b",
            "INSERT INTO p VALUES (1, 1); CREATE TABLE b PARTITION OF p (v DEFAULT 3) FOR VALUES FROM (110) TO (120)",
        ),
        ("c", "BEGIN; SAVEPOINT s; CREATE TABLE c PARTITION OF p FOR VALUES FROM (120) TO (130); RELEASE s; COMMIT"),
        ("d1", "CREATE TABLE d1 PARTITION OF d FOR VALUES FROM (1) TO (9); INSERT INTO d VALUES (DEFAULT, 1)"),
        (
            "e",
            "CREATE TABLE e PARTITION OF p FOR VALUES FROM (130) TO (140); CREATE INDEX ON e (v);
               ALTER TABLE e ALTER COLUMN v SET STATISTICS 10; GRANT SELECT ON e TO PUBLIC; ANALYZE e",
        ),
    ] {
        assert!(born(name, sql), "{sql}");
    }
    for (name, sql) in ATTACHED {
        let (first, last) = sql.split_once(";;").unwrap_or(("", sql));
        database.run(first);
        assert!(!born(name, last), "{sql}");
    }
}

#[test]
fn a_leaf_below_a_partition_that_was_attached_was_not_born_here() {
    let database = Database::create();
    database.run(
        "CREATE TABLE p (id int NOT NULL, v int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    );
    let mut watching = Watching::start(&database, &["p"]);
    watching.look();
    database.run(
        "CREATE TABLE born PARTITION OF p FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (v);
         CREATE TABLE born1 PARTITION OF born FOR VALUES FROM (0) TO (9);
         CREATE TABLE empty PARTITION OF p FOR VALUES FROM (400) TO (500) PARTITION BY RANGE (v);
         CREATE TABLE came (id int NOT NULL, v int NOT NULL) PARTITION BY RANGE (v);
         CREATE TABLE came1 PARTITION OF came FOR VALUES FROM (0) TO (9); INSERT INTO came VALUES (200, 1);
         ALTER TABLE p ATTACH PARTITION came FOR VALUES FROM (200) TO (300)",
    );
    let seen = leaves(&database, &mut watching);
    assert_eq!(names(&seen), ["born1", "came1", "p1"]);
    assert!(seen["born1"].1 && !seen["came1"].1);
    database.run("CREATE TABLE came2 PARTITION OF came FOR VALUES FROM (10) TO (19)");
    assert!(!leaves(&database, &mut watching)["came2"].1);
}

#[test]
fn a_detached_leaf_is_gone() {
    let database = Database::create();
    database.run(ROOT);
    let mut watching = Watching::start(&database, &["p"]);
    watching.look();
    database.run("ALTER TABLE p DETACH PARTITION p1");
    assert_eq!(names(&leaves(&database, &mut watching)), ["p2"]);
    // A reader keeps the detach from finishing. Inserts no longer go to the partition.
    let mut reader = database.client();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM p");
    let mut dba = database.client();
    dba.run("SET statement_timeout = '500ms'");
    dba.try_run("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY").unwrap_err();
    assert_eq!(names(&leaves(&database, &mut watching)), [""; 0]);
}

#[test]
fn what_a_crash_has_blurred_was_not_born_here() {
    let database = Database::create_on(super::super::own_server(""));
    database.run(ROOT);
    let mut watching = Watching::start(&database, &["p"]);
    watching.look();
    let attached = |name: &str, from: u32| {
        format!(
            "CREATE TABLE {name} (LIKE p); INSERT INTO {name} VALUES ({from}, 1);
             ALTER TABLE p ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({})",
            from + 10
        )
    };
    database.run("CHECKPOINT");
    database.run(&attached("a", 100));
    assert!(!leaves(&database, &mut watching)["a"].1);
    database.server.stop(crate::support::process::Signal::Quit);
    database.server.launch();
    while !matches!(watching.next(), coherd::postgres::Watched::Seen(_)) {}
    // The log does not contain command numbers.
    let cmins = "SELECT count(DISTINCT cmin::text) FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum >= -1";
    assert_eq!(database.client().one(cmins), "1");
    assert!(!leaves(&database, &mut watching)["a"].1);
    database.run("CREATE TABLE b PARTITION OF p FOR VALUES FROM (200) TO (210)");
    database.run(&attached("c", 300));
    let seen = leaves(&database, &mut watching);
    assert!(seen["b"].1 && !seen["c"].1);
}
