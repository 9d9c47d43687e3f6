//! `coherd keys --sql`: it lists exactly what the daemon then invalidates, and the preview leaves nothing behind.

use std::collections::BTreeSet;

use coherd::rules::shape::Shape;
use serde_json::Value;

use super::{file, names, no_slot_is_left, told};
use crate::e2e::Shop;
use crate::support::postgres::postgres_client;
use crate::support::{Daemon, until};

const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, name text, email text NOT NULL);
    CREATE UNIQUE INDEX users_identity ON users (id, email);
    ALTER TABLE users REPLICA IDENTITY USING INDEX users_identity;
    INSERT INTO users SELECT n, 'name', 'mail' || n || '@x' FROM generate_series(1, 12) n;
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE, total int,
        CONSTRAINT dear CHECK (total < 1000), UNIQUE (total) DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE orders REPLICA IDENTITY FULL;
    INSERT INTO orders SELECT n, n, n * 10 FROM generate_series(1, 10) n;
    CREATE TABLE items (id int PRIMARY KEY, order_id int, qty int, note text);
    ALTER TABLE items REPLICA IDENTITY FULL;
    INSERT INTO items SELECT n, n, 1, 'note' FROM generate_series(1, 10) n;
    CREATE TABLE products (id int PRIMARY KEY, price int);
    INSERT INTO products SELECT n, n FROM generate_series(1, 5) n;
    CREATE TABLE audit (id serial PRIMARY KEY, line text);
    CREATE FUNCTION priced() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (line) VALUES ('priced');
        UPDATE items SET qty = qty + 1 WHERE id = NEW.id;
        RETURN NULL;
    END $$;
    CREATE TRIGGER priced AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION priced();
    CREATE TABLE events (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    INSERT INTO events SELECT n, '2026-01-05', 'a' FROM generate_series(1, 3) n;";

const RULES: &str = "
  - table: users
    keys: [\"user:{id}\", \"mail:{email|lower}\"]
  - table: orders
    keys: [\"order:{id}\", \"orders-of:{user_id}\"]
  - table: items
    keys: [\"items-of:{order_id}\"]
    when_changed: [qty]
  - table: products
    keys: [\"product:{id}\"]
    action: bump
  - table: events
    keys: [\"event:{id}\"]
manual: {keys: any}
";

/// Each fix is previewed and then run.
const FIXES: [(&str, &str); 12] = [
    ("a join", "UPDATE users u SET name = 'rich' FROM orders o WHERE o.user_id = u.id AND o.total > 70"),
    (
        "a CTE with RETURNING",
        "WITH moved AS (UPDATE users SET email = 'NEW2@x' WHERE id = 2 RETURNING id)
         UPDATE orders SET total = 1 FROM moved WHERE user_id = moved.id",
    ),
    ("a DELETE with a subselect", "DELETE FROM items WHERE order_id IN (SELECT id FROM orders WHERE total = 1)"),
    (
        "ON CONFLICT DO UPDATE",
        "INSERT INTO users VALUES (1, 'again', 'mail1@y'), (13, 'new', 'mail13@x')
         ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email",
    ),
    (
        "a script with comments, quotes, a value in between, and parts that are rolled back",
        "-- Ticket 4711; emails of import -- twice
         UPDATE users SET email = 'between@x' WHERE id = 4; /* ; /* COMMIT; */ */
         UPDATE users SET email = 'mail4@z;' WHERE id = 4;
         DO $fix$ BEGIN
             UPDATE items SET note = 'it''s; only a note' WHERE id = 5;
             BEGIN
                 UPDATE users SET name = 'not this one' WHERE id = 5;
                 RAISE EXCEPTION 'COMMIT;';
             EXCEPTION WHEN raise_exception THEN UPDATE items SET qty = 7 WHERE id = 6;
             END;
         END $fix$;
         SAVEPOINT s; UPDATE users SET name = 'nor this' WHERE id = 6; ROLLBACK TO s;",
    ),
    (
        "MERGE",
        "MERGE INTO users u USING (VALUES (7, 'mail7@y'), (14, 'mail14@x')) AS v (id, email) ON u.id = v.id
         WHEN MATCHED THEN UPDATE SET email = v.email WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'merged', v.email)",
    ),
    ("a cascade", "DELETE FROM users WHERE id = 3"),
    ("a trigger", "UPDATE products SET price = price + 1 WHERE id IN (1, 2)"),
    ("a TRUNCATE", "TRUNCATE events"),
    ("an ALTER TABLE that writes the table anew", "ALTER TABLE items ALTER qty TYPE bigint USING qty + 1"),
    (
        "what is named manually",
        "UPDATE users SET name = 'x' WHERE id = 9; SELECT coherd.invalidate('anything at all', 'product:4')",
    ),
    ("a table made anew", "DROP TABLE events; CREATE TABLE events (id int PRIMARY KEY, day date, note text)"),
];

fn universe() -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for n in 1..=20 {
        keys.extend(["user", "order", "orders-of", "items-of", "event", "mail"].map(|name| format!("{name}:{n}")));
        keys.extend(["x", "y", "z;"].map(|host| format!("mail:mail{n}@{host}")));
    }
    keys.extend(["mail:new2@x", "mail:between@x", "anything at all", "product:4", "other"].map(str::to_owned));
    keys
}

fn pointers(shop: &Shop) -> Vec<Option<u64>> {
    let mut client = shop.redis.client();
    (1..=5).map(|n| redis::cmd("GET").arg(format!("product:{n}:version")).query(&mut client).unwrap()).collect()
}

/// All state that a preview could have changed.
fn state(shop: &mut Shop) -> Vec<Vec<String>> {
    let mut state = shop.sql.rows(
        "SELECT oid, relname, relfilenode, relnatts FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid",
    );
    for table in ["users", "orders", "items", "products", "audit", "events"] {
        state.extend(shop.sql.rows(&format!("SELECT t::text FROM {table} t ORDER BY 1")));
    }
    state
}

/// The keys that a preview lists, and those of `universe` that its scopes cover.
fn announced(preview: &Value, universe: &[String]) -> BTreeSet<String> {
    let mut keys = names(preview, "keys", "key");
    for scope in names(preview, "scopes", "scope") {
        let scope = Shape::of_glob(&scope);
        let covered = universe.iter().filter(|key| scope.meets(&Shape::of_key(key.as_bytes())));
        keys.extend(covered.cloned());
    }
    keys
}

#[test]
fn the_preview_of_each_fix_lists_what_the_daemon_then_invalidates_and_leaves_nothing_behind() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let universe = universe();
    let all: Vec<&str> = universe.iter().map(String::as_str).collect();
    for (name, fix) in FIXES {
        let dsn = shop.database.dsn();
        if name == "MERGE" && shop.database.server.version() < 150_000 {
            continue;
        }
        shop.cache(&all);
        let (before, pointed) = (state(&mut shop), pointers(&shop));
        let preview = told(&shop, &["keys", "--sql", &file(&shop, "fix.sql", fix), "--dsn", &dsn]);
        assert_eq!(state(&mut shop), before, "{name}: something is left of the preview");
        shop.settle();
        assert_eq!(shop.cached().iter().filter(|key| universe.contains(key)).count(), universe.len(), "{name}");
        let expected = announced(&preview, &universe);
        assert!(!expected.is_empty(), "{name}: {preview}");

        shop.sql.run(&format!("BEGIN; {fix}; COMMIT"));
        shop.settle();
        let invalidated = |shop: &Shop| -> BTreeSet<String> {
            let left = shop.cached();
            let gone = universe.iter().filter(|key| !left.contains(key)).cloned();
            let moved = pointers(shop).into_iter().zip(&pointed).zip(1..).filter(|((now, then), _)| now != *then);
            gone.chain(moved.map(|(_, n)| format!("product:{n}"))).collect()
        };
        if preview["scopes"].as_array().unwrap().is_empty() {
            assert_eq!(invalidated(&shop), expected, "{name}: {preview}");
            continue;
        }
        // The daemon finds catalogue-only changes within a second, and flushes again when all transactions have ended.
        until("the scopes are flushed", || (invalidated(&shop) == expected).then_some(()));
        no_slot_is_left(&mut shop);
        shop = Shop::open(SCHEMA, RULES);
    }
    no_slot_is_left(&mut shop);
}

#[test]
fn a_fix_of_many_rows_is_seen_whole_and_without_what_it_rolled_back() {
    let mut shop = Shop::open(SCHEMA, RULES);
    // More than the server buffers, and written slowly enough that the server sends it before the rollback.
    let fix = "SAVEPOINT s; INSERT INTO users SELECT n, repeat('x', 100), 'no' || n FROM generate_series(1000, 6000) n;
               DO $$ DECLARE written pg_lsn := pg_current_wal_insert_lsn() - 20000; BEGIN
                   FOR attempt IN 1..3000 LOOP
                       EXIT WHEN (SELECT sent_lsn FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
                           WHERE s.temporary AND s.database = current_database()) > written;
                       PERFORM pg_sleep(0.01);
                   END LOOP;
               END $$;
               ROLLBACK TO s;
               INSERT INTO users SELECT n, repeat('x', 100), 'yes' || n FROM generate_series(1000, 4999) n;";
    let path = file(&shop, "fix.sql", fix);
    let dsn = shop.database.dsn();
    let preview = told(&shop, &["keys", "--sql", &path, "--dsn", &dsn, "--limit", "100000"]);
    let keys = names(&preview, "keys", "key");
    assert_eq!(keys.len(), 8000);
    assert!(keys.iter().all(|key| !key.starts_with("mail:no")) && keys.contains("mail:yes4999"));
    assert_eq!(preview["changes"][0]["rows"], 4000, "{}", preview["changes"]);
    let few = told(&shop, &["keys", "--sql", &path, "--dsn", &dsn, "--limit", "10"]);
    assert_eq!((names(&few, "keys", "key").len(), &few["more"]), (10, &Value::Bool(true)));
    assert_eq!(shop.sql.one("SELECT count(*) FROM users"), "12");
}

#[test]
fn a_transaction_beyond_the_limit_of_keys_is_previewed_as_the_flush_that_it_will_be() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.daemon.edit("rules:", "limits: { max_keys_per_transaction: 10 }\nrules:");
    let path = file(&shop, "fix.sql", "UPDATE users SET name = 'all'");
    let preview = told(&shop, &["keys", "--sql", &path, "--dsn", &shop.database.dsn()]);
    assert_eq!(names(&preview, "scopes", "scope"), ["mail:*", "user:*"].map(str::to_owned).into());
}

#[test]
fn a_preview_keeps_nobody_waiting_but_for_the_rows_of_the_fix() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let fix = "UPDATE users SET name = 'slow' WHERE id = 1; SELECT pg_sleep(3)";
    let (path, dsn) = (file(&shop, "fix.sql", fix), shop.database.dsn());
    std::thread::scope(|scope| {
        let daemon: &Daemon = &shop.daemon;
        let preview = scope.spawn(move || daemon.command(&["keys", "--sql", &path, "--dsn", &dsn, "--json"]));
        let sleeping =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        until("the fix is being tried", || (shop.sql.one(sleeping) == "1").then_some(()));
        let mut writer = postgres_client(&shop.database.dsn()).unwrap();
        writer.run("SET lock_timeout = '200ms'; UPDATE users SET name = 'other' WHERE id = 2; INSERT INTO users VALUES (20, 'a', 'b')");
        writer.run("ALTER TABLE items ADD COLUMN more int");
        let refused = writer.try_run("UPDATE users SET name = 'mine' WHERE id = 1").unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "55P03", "the row of the fix");
        let preview = preview.join().unwrap();
        assert!(preview.status.success(), "{}", crate::support::daemon::text(&preview));
        let preview: Value = serde_json::from_slice(&preview.stdout).unwrap();
        assert_eq!(
            names(&preview, "keys", "key"),
            ["mail:mail1@x", "user:1"].map(str::to_owned).into(),
            "others' are not in it"
        );
    });
}

#[test]
fn the_preview_says_what_is_cached_and_what_else_the_fix_does() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "mail:mail1@x"]);
    let () = redis::cmd("EXPIRE").arg("user:1").arg(5000).query(&mut shop.redis.client()).unwrap();
    let fix = "UPDATE users SET name = 'x' WHERE id = 1; INSERT INTO audit (line) VALUES ('a'), ('b');
               ALTER TABLE users RENAME email TO mail; LOCK TABLE products IN EXCLUSIVE MODE;";
    let output = shop.daemon.command(&["keys", "--sql", &file(&shop, "fix.sql", fix), "--dsn", &shop.database.dsn()]);
    assert!(output.status.success(), "{}", crate::support::daemon::text(&output));
    let text = String::from_utf8(output.stdout).unwrap().replace(&shop.database.name, "app");
    let text: Vec<&str> = text.lines().map(|line| line.split_once(" ms it ").map_or(line, |(_, rest)| rest)).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    SCOPE   ACTION          FROM                    CACHE
    mail:*  flush (delete)  public.users catalogue  1 key
    user:*  flush (delete)  public.users catalogue  1 key

    KEY           ACTION  FROM                 CACHE
    mail:mail1@x  delete  public.users update  yes, no TTL
    user:1        delete  public.users update  yes, 83 min

    2 keys, 2 flushed scopes, 2 cached now in cache
    - public.users: update of 1 row
    - public.users is rewritten, emptied or recreated: coherd flushes its rules' scopes
    - public.audit: 2 rows changed, and no rule names the table
    - AFTER THE FIX: error [column-missing] rules[0] public.users: there is no column email; did you mean mail?
    held locks that others have to wait for: ExclusiveLock on public.products, AccessExclusiveLock on public.users
    - the preview does not show what others write before you run the fix. The rollback does not undo numbers taken from sequences, or what a function does outside of this database
    "#);
}
