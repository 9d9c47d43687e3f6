//! Publication and replica identity: what `coherd setup` creates and prints does not break writers or migrations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::bench::{Bench, Case, run_all};
use crate::support::{Database, until};

const USERS: &str =
    "CREATE TABLE users (id int PRIMARY KEY, email varchar(80) NOT NULL, name varchar(80) NOT NULL, note int);
    INSERT INTO users VALUES (1, 'a', 'b', 0)";
const BY_ID: &str = "{table: users, keys: ['u:{id}']}";
const BY_EMAIL: &str = "{table: users, keys: ['e:{email}']}";

/// Asserts that every UPDATE and DELETE of the application works.
fn writes(database: &Database, table: &str, when: &str) {
    for sql in [format!("UPDATE {table} SET id = id"), format!("DELETE FROM {table} WHERE id = -1")] {
        let written = database.client().try_run(&sql);
        assert!(written.is_ok(), "{when}: {sql}: {:?}", written.unwrap_err().as_db_error());
    }
}

fn set_up(tables: &str, rules: &[&str], source: &str) -> Bench {
    let mut bench = Bench::new(rules);
    source.clone_into(&mut bench.source);
    bench.sql(tables);
    let (fine, text) = bench.shell("coherd setup");
    assert!(fine, "{text}");
    bench
}

fn entries(bench: &Bench) -> Vec<String> {
    let sql = format!(
        "SELECT tablename, array_to_string(attnames, ',') FROM pg_publication_tables WHERE pubname = '{}' ORDER BY 1",
        bench.database.name
    );
    bench.database.client().rows(&sql).iter().map(|row| row.join(": ")).collect()
}

fn has_lists(bench: &Bench) -> bool {
    bench.database.server.version() >= 150_000
}

#[test]
fn migrations_of_a_table_that_was_set_up_leave_its_writers_alone() {
    let bench = set_up(USERS, &[BY_ID], "");
    for migration in [
        "ALTER TABLE users REPLICA IDENTITY FULL",
        "ALTER TABLE users REPLICA IDENTITY DEFAULT",
        "ALTER TABLE users ALTER COLUMN id TYPE bigint",
        "ALTER TABLE users DROP COLUMN note",
        "ALTER TABLE users ADD COLUMN more text DEFAULT 'x'",
        "ALTER TABLE users DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (id, email)",
    ] {
        let migrated = bench.database.client().try_run(migration);
        assert!(migrated.is_ok(), "{migration}: {:?}", migrated.unwrap_err().as_db_error());
        writes(&bench.database, "users", migration);
    }
}

#[test]
fn the_table_of_a_removed_rule_leaves_the_publication_and_may_lose_its_primary_key() {
    let tables = format!("{USERS}; CREATE TABLE posts (id int PRIMARY KEY, title text)");
    let mut bench = set_up(&tables, &[BY_ID, "{table: posts, keys: ['p:{id}']}"], "");
    bench.rules.pop();
    let (fine, text) = bench.shell("coherd setup");
    assert!(fine, "{text}");
    assert_eq!(text.replace(&bench.database.name, "NAME"), "removed: from publication NAME: public.posts\n");
    bench.sql("ALTER TABLE posts DROP CONSTRAINT posts_pkey");
    writes(&bench.database, "posts", "without a primary key");
    assert_eq!(bench.shell("coherd setup").1, "nothing to do: everything is there\n");
}

#[test]
fn an_application_that_writes_all_the_time_notices_nothing_of_a_conversion_and_nothing_is_lost() {
    let mut bench = set_up(USERS, &[BY_ID], "");
    if !has_lists(&bench) {
        return;
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, count, mut client) = (stop.clone(), count.clone(), bench.database.client());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                client.try_run("UPDATE users SET note = note + 1").map_err(|error| error.to_string())?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        })
    };
    let more = || {
        let before = count.load(Ordering::Relaxed);
        until("the application has written on", || (count.load(Ordering::Relaxed) > before + 20).then_some(()));
    };
    for (publish, entry) in [("keys", "users: id"), ("rows", "users: id,email,name,note"), ("keys", "users: id")] {
        more();
        bench.source = format!(", publish: {publish}");
        let (fine, text) = bench.shell("coherd setup");
        assert!(fine && text == "changed: table public.users\n", "{text}");
        assert_eq!(entries(&bench), [entry]);
    }
    more();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap().unwrap();
    let name = &bench.database.name;
    let sql = format!(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{name}', NULL, NULL, 'proto_version', '1', \
         'publication_names', '{name}') WHERE get_byte(data, 0) = ascii('U')"
    );
    assert_eq!(bench.database.client().one(&sql), count.load(Ordering::Relaxed).to_string());
}

#[test]
fn a_list_is_narrowed_to_what_rules_need() {
    let rules = ["{table: users, keys: ['u:{id}', 'n:{name}'], on_missing_old: skip}"];
    let mut bench = set_up(USERS, &rules, ", publish: keys");
    if !has_lists(&bench) {
        return;
    }
    assert_eq!(entries(&bench), ["users: id,name"]);
    bench.rules = vec![BY_ID.to_owned()];
    let (fine, text) = bench.shell("coherd setup");
    assert!(fine && text == "changed: table public.users\n", "{text}");
    assert_eq!(entries(&bench), ["users: id"]);
    bench.sql("ALTER TABLE users DROP COLUMN name");
    writes(&bench.database, "users", "after DROP COLUMN");
}

#[test]
fn a_publication_that_others_may_read_is_changed_by_nobody_but_its_reader() {
    let tables = format!("{USERS}; CREATE TABLE posts (id int PRIMARY KEY)");
    let bench = set_up(&tables, &[BY_ID], "");
    if !has_lists(&bench) {
        return;
    }
    bench.sql("ALTER PUBLICATION NAME SET TABLE users (id), posts");
    bench.sql("SELECT pg_create_logical_replication_slot('NAME_b', 'pgoutput')");
    assert!(bench.shell("coherd setup").0);
    assert_eq!(entries(&bench), ["posts: id", "users: id"], "another slot may be another reader's");
    bench.sql("SELECT pg_drop_replication_slot('NAME_b'); COMMENT ON PUBLICATION NAME IS 'ours, said the DBA'");
    assert!(bench.shell("coherd setup").0);
    assert_eq!(entries(&bench), ["posts: id", "users: id"], "coherd did not make it");
    let surplus = bench.finds("table-surplus");
    assert!(
        surplus.message.contains("public.posts") && surplus.message.contains("if it has no other subscribers"),
        "{surplus:?}"
    );
}

/// Drops every index that looks unused, as a DBA would.
fn drop_unused_indexes(bench: &Bench) {
    let sql = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'users'::regclass AND NOT indisprimary";
    for row in bench.database.client().rows(sql) {
        let _ = bench.database.client().try_run(&format!("DROP INDEX {}", row[0]));
    }
}

#[test]
fn no_index_that_a_remedy_made_can_be_dropped_as_unused() {
    for source in ["", ", publish: keys"] {
        let bench = set_up_later(source);
        bench.repairs("identity-old-rows");
        drop_unused_indexes(&bench);
        writes(&bench.database, "users", "after DROP INDEX");
        bench.misses("identity-missing");
    }
}

/// `users` with a rule that needs more of its old rows than they contain.
fn set_up_later(source: &str) -> Bench {
    let mut bench = Bench::new(&[BY_EMAIL]);
    source.clone_into(&mut bench.source);
    bench.sql(USERS);
    bench.shell("coherd setup");
    bench
}

#[test]
fn a_second_column_gets_an_identity_although_the_name_of_the_index_is_taken() {
    let mut bench = set_up_later(", publish: keys");
    bench.sql("CREATE TABLE other (id int); CREATE INDEX users_coherd_identity_2 ON other (id)");
    let found = bench.finds("identity-old-rows");
    assert!(found.remedy.iter().any(|line| line.contains("ADD CONSTRAINT users_coherd_identity UNIQUE")), "{found:?}");
    bench.repairs("identity-old-rows");
    writes(&bench.database, "users", "after the first remedy");
    bench.rules = vec!["{table: users, keys: ['e:{email}', 'n:{name}']}".to_owned()];
    bench.repairs("identity-old-rows");
    writes(&bench.database, "users", "after the second remedy");
    let constraints = "SELECT conname FROM pg_constraint WHERE conrelid = 'users'::regclass AND contype = 'u'";
    assert_eq!(bench.database.client().rows(constraints), [["users_coherd_identity_3"]]);
    bench.rules = vec!["{table: users, keys: ['e:{email}', 'n:{name}', 'o:{note}']}".to_owned()];
    bench.sql("ALTER TABLE users ALTER COLUMN note SET NOT NULL");
    bench.repairs("identity-old-rows");
    writes(&bench.database, "users", "after the third remedy");
    assert_eq!(bench.database.client().rows(constraints), [["users_coherd_identity"]]);
}

#[test]
fn a_bare_index_of_an_earlier_remedy_does_not_stand_in_the_way() {
    let mut bench = set_up_later("");
    bench.sql("CREATE UNIQUE INDEX users_coherd_identity ON users (id, email)");
    bench.sql("ALTER TABLE users REPLICA IDENTITY USING INDEX users_coherd_identity");
    bench.rules = vec!["{table: users, keys: ['e:{email}', 'n:{name}']}".to_owned()];
    bench.repairs("identity-old-rows");
    drop_unused_indexes(&bench);
    writes(&bench.database, "users", "after the remedy");
}

#[test]
fn full_is_proposed_unless_rows_are_wide_or_the_caller_asks_for_a_constraint() {
    let bench = set_up_later("");
    let proposes = |command: &str| {
        let text = bench.shell(command).1;
        (text.contains("REPLICA IDENTITY FULL;"), text.contains("ADD CONSTRAINT"))
    };
    assert_eq!(proposes("coherd check"), (true, false));
    assert_eq!(proposes("coherd setup"), (true, false));
    assert_eq!(proposes("coherd check --identity constraint"), (false, true));
    assert_eq!(proposes("coherd setup --print --identity constraint"), (false, true));
    bench.sql(
        "ALTER TABLE users ADD COLUMN document text; ALTER TABLE users ALTER COLUMN document SET STORAGE EXTERNAL;
         INSERT INTO users SELECT i, i, i, i, repeat('x', 10000) FROM generate_series(2, 50) i",
    );
    bench.sql("VACUUM users");
    assert_eq!(proposes("coherd check"), (false, true), "values are stored outside of their rows");
    assert_eq!(proposes("coherd check --identity full"), (true, false));
}

#[test]
fn every_published_table_is_looked_at_for_its_own_writers() {
    for publication in
        ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public", "FOR TABLE users, bare, tree, dull, part.of_it"]
    {
        let bench = Bench::new(&[BY_ID]);
        if publication.contains("SCHEMA") && !has_lists(&bench) {
            continue;
        }
        bench.sql(USERS);
        bench.sql(
            "CREATE SCHEMA part; CREATE TABLE bare (id int); CREATE TABLE dull (id int PRIMARY KEY);
             CREATE TABLE tree (id int) PARTITION BY RANGE (id);
             CREATE TABLE part.of_it PARTITION OF tree FOR VALUES FROM (0) TO (9); CREATE UNLOGGED TABLE unlogged (id int);
             CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        );
        bench.sql(&format!("CREATE PUBLICATION NAME {publication} WITH (publish_via_partition_root = true)"));
        bench.shell("coherd setup");
        let found = bench.finds("published-unwritable");
        for (table, named) in [
            ("public.bare", true),
            ("part.of_it", true),
            ("public.nothing", !publication.contains("users")),
            ("public.dull", false),
            ("public.users", false),
            ("public.unlogged", false),
        ] {
            assert_eq!(found.message.contains(table), named, "{publication}: {table}: {found:?}");
        }
        bench.carry_out(&found);
        for table in ["bare", "part.of_it", "tree", "nothing", "dull", "users"] {
            writes(&bench.database, table, publication);
        }
        bench.misses("published-unwritable");
    }
}

pub const CASES: &[Case] = &[Case {
    codes: &["column-surplus"],
    run: || {
        let bench = set_up(USERS, &[BY_ID], ", publish: keys");
        if has_lists(&bench) {
            bench.sql("ALTER PUBLICATION NAME SET TABLE users (id, email)");
            bench.repairs("column-surplus");
            assert_eq!(entries(&bench), ["users: id"]);
        }
    },
}];

#[test]
fn what_is_published_for_nothing_is_taken_away_as_printed() {
    run_all(CASES);
}
