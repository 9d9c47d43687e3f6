//! `coherd keys --table --where`: the keys that rows have now, and which of them are cached.

use insta::assert_snapshot;

use super::{file, names, refusal, told};
use crate::e2e::Shop;
use crate::support::daemon::text;
use crate::support::process::Signal;

const SCHEMA: &str =
    "CREATE TABLE users (id int PRIMARY KEY, name text, email text NOT NULL, seen timestamptz, code char(4));
    ALTER TABLE users REPLICA IDENTITY FULL;
    INSERT INTO users VALUES (1, 'Ann', 'Ann@x', '2026-01-02 03:04:05+02', 'ab'), (2, 'Bob', 'bob@x', NULL, NULL),
        (3, 'Cid', 'cid@x', NULL, NULL);
    CREATE TABLE products (id int PRIMARY KEY); INSERT INTO products VALUES (4);
    CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    INSERT INTO events VALUES (1, '2026-01-05'), (2, '2026-02-06');
    CREATE TABLE notes (id int);
    CREATE FUNCTION writes() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; RETURN true; END $$;";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\", \"mail:{email|lower}\", \"at:{seen}:{code}\"]\n
  - table: products\n    keys: [\"product:{id}\"]\n    action: bump\n  - table: events\n    keys: [\"event:{id}\"]\n";

fn rows(shop: &Shop, table: &str, predicate: &str) -> serde_json::Value {
    told(shop, &["keys", "--table", table, "--where", predicate, "--dsn", &shop.database.dsn()])
}

#[test]
fn the_keys_of_rows_are_those_that_the_daemon_would_invalidate() {
    let mut shop = Shop::open(SCHEMA, RULES);
    for (table, predicate) in [
        ("users", "id < 3"),
        ("public.users", "email ILIKE 'ann%' -- nobody else"),
        ("users", "id IN (SELECT 3)"),
        ("events", "day > '2026-01-31'"),
        ("events_1", "true"),
    ] {
        let keys = names(&rows(&shop, table, predicate), "keys", "key");
        let all = [
            "user:1",
            "user:2",
            "user:3",
            "mail:ann@x",
            "mail:bob@x",
            "mail:cid@x",
            "event:1",
            "event:2",
            "at:2026-01-02 01:04:05+00:ab  ",
            "at::",
        ];
        shop.cache(&all);
        let touch = format!("SELECT coherd.touch('{table}', $p${predicate}\n$p$, '{}')", shop.database.name);
        let left = shop.left_after(&touch);
        let gone = all.iter().filter(|key| !left.iter().any(|left| left == *key)).map(|&key| key.to_owned());
        assert_eq!(keys, gone.collect(), "{predicate}");
        assert!(!keys.is_empty());
    }
}

#[test]
fn people_see_what_is_cached_and_for_how_long() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "mail:bob@x"]);
    let mut client = shop.redis.client();
    let () = redis::cmd("EXPIRE").arg("user:1").arg(5000).query(&mut client).unwrap();
    let () = redis::cmd("SET").arg("product:4:version").arg("17").query(&mut client).unwrap();
    let users = ["keys", "--table", "users", "--where", "id < 3", "--dsn", &shop.database.dsn()];
    let products = ["keys", "--table", "products", "--where", "true", "--dsn", &shop.database.dsn()];
    let none = ["keys", "--table", "users", "--where", "false", "--dsn", &shop.database.dsn()];
    let few = ["keys", "--table", "users", "--where", "true", "--limit", "1", "--dsn", &shop.database.dsn()];
    let said: Vec<String> = [users, products, none].iter().map(|asked| text(&shop.daemon.command(asked))).collect();
    let few = text(&shop.daemon.command(&few));
    assert_snapshot!(format!("{}\n{few}", said.join("\n")), @r#"
    KEY                             ACTION  FROM          CACHE
    at:2026-01-02 01:04:05+00:ab    delete  public.users  no
    mail:ann@x                      delete  public.users  no
    mail:bob@x                      delete  public.users  yes, no TTL
    user:1                          delete  public.users  yes, 83 min
    user:2                          delete  public.users  no

    5 keys, 2 cached now in cache
    - 2 rows of public.users
    - seen (timestamp with time zone) stands in keys as 2026-02-03 04:05:06+00, always in UTC
    - code (character(4)) stands in keys padded with blanks to its length; |trim removes them

    KEY        ACTION  FROM             CACHE
    product:4  bump    public.products  yes, no TTL, version 17

    1 key, 1 cached now in cache
    - 1 row of public.products

    no keys
    - 0 rows of public.users

    KEY                             ACTION  FROM          CACHE
    at:2026-01-02 01:04:05+00:ab    delete  public.users  no
    mail:ann@x                      delete  public.users  no
    user:1                          delete  public.users  yes, 83 min

    3 keys, 1 cached now in cache
    - 1 row of public.users
    - there are more rows: coherd read only the first 1; raise --limit to read more
    - seen (timestamp with time zone) stands in keys as 2026-02-03 04:05:06+00, always in UTC
    - code (character(4)) stands in keys padded with blanks to its length; |trim removes them
    "#);
}

#[test]
fn a_condition_can_neither_write_nor_hold_a_second_statement() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let said: Vec<String> = [
        "writes()",
        "true); DELETE FROM users; --",
        "true); COMMIT; DELETE FROM users; SELECT (true",
        "set_config('transaction_read_only', 'off', false) IS NOT NULL AND writes()",
        "id = nextval('pg_catalog.no_such')",
        "nme = 'Ann'",
        "id = $1",
        "pg_sleep(60) IS NOT NULL",
    ]
    .iter()
    .map(|predicate| {
        let asked =
            ["keys", "--table", "users", "--where", predicate, "--timeout", "300ms", "--dsn", &shop.database.dsn()];
        refusal(&shop.daemon.command(&asked), &[])
    })
    .collect();
    assert_snapshot!(said.join("\n"), @r#"
    exit 1
    coherd: the condition could not be used: 25006 cannot execute DELETE in a read-only transaction

    exit 1
    coherd: the condition could not be used, at character 30 of it: 42601 syntax error at or near ")"

    exit 1
    coherd: the condition could not be used: 42601 cannot insert multiple commands into a prepared statement

    exit 1
    coherd: the condition could not be used: 25001 cannot set transaction read-write mode inside a read-only transaction

    exit 1
    coherd: the condition could not be used, at character 14 of it: 42P01 relation "pg_catalog.no_such" does not exist

    exit 1
    coherd: the condition could not be used, at character 1 of it: 42703 column "nme" does not exist (Perhaps you meant to reference the column "users.name".)

    exit 1
    coherd: the condition holds a parameter ($1), for which there is no value: write the value

    exit 1
    coherd: the condition could not be used: 57014 canceling statement due to statement timeout; --timeout allows more time
    "#);
    assert_eq!(shop.sql.one("SELECT count(*) FROM users"), "3");
}

#[test]
fn a_table_without_a_rule_or_a_role_without_the_right_is_told() {
    let shop = Shop::open(SCHEMA, RULES);
    let said: Vec<String> = [
        &["keys", "--table", "usr", "--where", "true"][..],
        &["keys", "--table", "notes", "--where", "true"],
        &["keys", "--table", "users", "--where", "true"],
    ]
    .iter()
    .map(|asked| refusal(&shop.daemon.command(asked), &[(&shop.database.name, "app")]))
    .collect();
    assert_snapshot!(said.join("\n"), @r#"
    exit 1
    coherd: there is no table public.usr in database app; did you mean users?

    exit 1
    coherd: no rule names public.notes, so no key is made of its rows; rules name public.events, public.products, public.users

    exit 1
    coherd: the condition could not be used: 42501 permission denied for table users; the role of source.dsn cannot read tables: give a role that can with --dsn
    "#);
}

#[test]
fn where_the_cache_is_away_the_keys_are_told_all_the_same_and_it_fails() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.redis.signal(Signal::Stop);
    shop.daemon.edit("    url: ", "    reply_timeout: 200ms\n    connect_timeout: 200ms\n    url: ");
    let output = shop.daemon.command(&["keys", "--table", "users", "--where", "id = 1", "--dsn", &shop.database.dsn()]);
    shop.redis.signal(Signal::Continue);
    assert_eq!(output.status.code(), Some(1));
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("user:1") && said.contains("cache did not answer"), "{said}");
    assert!(failed.contains("what is cached there is not known: target cache: Redis at"), "{failed}");
}

#[test]
fn a_condition_and_a_fix_find_names_as_they_do_in_the_users_own_sessions() {
    let schema = "CREATE SCHEMA shop; CREATE TABLE shop.users (id int PRIMARY KEY);
        CREATE FUNCTION shop.is_odd(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 % 2 = 1';
        INSERT INTO shop.users SELECT generate_series(1, 4)";
    let mut shop = Shop::open(schema, "  - table: shop.users\n    keys: ['user:{id}']\n");
    let name = shop.database.name.clone();
    let of_role = shop.database.dsn();
    let of_options = format!("{of_role}&options=-c%20search_path%3Dshop");
    let fix = file(&shop, "fix.sql", "SET LOCAL work_mem = '8MB'; DELETE FROM users WHERE is_odd(id);");
    for (dsn, sets) in [(&of_options, "RESET"), (&of_role, "SET search_path = shop")] {
        let reset = format!("ALTER DATABASE {name} {sets}{}", if sets == "RESET" { " search_path" } else { "" });
        shop.sql.run(&reset);
        for asked in [&["--table", "shop.users", "--where", "is_odd(id)"][..], &["--sql", &fix]] {
            let told = told(&shop, &[&["keys", "--dsn", dsn][..], asked].concat());
            assert_eq!(names(&told, "keys", "key"), ["user:1", "user:3"].map(str::to_owned).into(), "{asked:?} {dsn}");
        }
    }
}

#[test]
fn the_text_of_a_value_is_what_the_daemon_puts_into_the_key() {
    let schema = "CREATE TABLE flags (id int PRIMARY KEY, active boolean, ip inet, code char(4));
        INSERT INTO flags VALUES (1, true, '::1', 'ab'), (2, false, '10.0.0.1/8', 'abcd');";
    let rules = "  - table: flags\n    keys: [\"flag:{active}:{ip}:{code}\", \"code:{code|trim}:{active|upper}\"]\n    on_missing_old: skip\n";
    let mut shop = Shop::open(schema, rules);
    let said = rows(&shop, "flags", "true");
    let keys = ["code:ab:T", "code:abcd:F", "flag:f:10.0.0.1/8:abcd", "flag:t:::1:ab  "];
    assert_eq!(names(&said, "keys", "key"), keys.map(str::to_owned).into());
    shop.cache(&keys);
    assert_eq!(shop.left_after("UPDATE flags SET id = id + 10"), Vec::<String>::new());
    let notes: Vec<&str> = said["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_snapshot!(notes.join("\n"), @"
    2 rows of public.flags
    active (boolean) stands in keys as t or f, not true or false
    ip (inet) stands in keys without /32 or /128 for a single address
    code (character(4)) stands in keys padded with blanks to its length; |trim removes them
    ");
}

const TENANTS: &str =
    "CREATE TABLE users (id int PRIMARY KEY, tenant int NOT NULL); CREATE TABLE tags (id int PRIMARY KEY);
    INSERT INTO users SELECT i, i % 5 FROM generate_series(1, 10) i; INSERT INTO tags SELECT generate_series(1, 10);
    ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON users USING (tenant = 1);";
const OF_TENANTS: &str = "  - table: users\n    keys: [\"user:{id}\"]\n  - table: tags\n    keys: [\"tag:{id}\"]\n";

/// A role that may read both tables, but not all rows of `users`.
fn tenant(shop: &Shop) -> String {
    let role = format!("tenant_{}", shop.database.name);
    shop.database.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON users, tags TO {role}; GRANT USAGE ON SCHEMA coherd TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coherd TO {role}"
    ));
    role
}

#[test]
fn rows_that_row_level_security_hides_are_told() {
    let shop = Shop::open(TENANTS, OF_TENANTS);
    let dsn = shop.database.dsn_as(&tenant(&shop));
    for (table, predicate, keys, hidden) in [
        ("users", "true", 2, true),
        // The condition reads hidden rows of another table.
        ("tags", "id IN (SELECT id FROM users)", 2, true),
        ("tags", "true", 10, false),
    ] {
        let said = told(&shop, &["keys", "--table", table, "--where", predicate, "--dsn", &dsn]);
        let notes = said["notes"].to_string();
        assert_eq!(names(&said, "keys", "key").len(), keys, "{predicate}: {notes}");
        assert_eq!(notes.contains("row-level security hides rows from role tenant_"), hidden, "{predicate}: {notes}");
        // An owner or superuser sees everything, and gets no note.
        let said = rows(&shop, table, predicate);
        assert_eq!(names(&said, "keys", "key").len(), 10, "{predicate}");
        assert!(!said["notes"].to_string().contains("row-level"), "{said}");
    }
}

#[test]
fn a_touch_warns_of_rows_that_row_level_security_hides() {
    let shop = Shop::open(TENANTS, OF_TENANTS);
    let dsn = shop.database.dsn_as(&tenant(&shop));
    let touch = |dsn: &str, table: &str| {
        let sql = format!("SELECT coherd.touch('{table}', 'true', '{}')", shop.database.name);
        text(&std::process::Command::new("psql").args(["-X", "-A", "-t", "-c", &sql, dsn]).output().unwrap())
    };
    let said = touch(&dsn, "users").replace(&shop.database.name, "app");
    assert!(said.contains("row-level security hides rows of users from role \"tenant_app\""), "{said}");
    assert!(said.lines().any(|line| line == "2"), "{said}");
    assert_eq!(touch(&dsn, "tags").trim(), "10");
    assert_eq!(touch(&shop.database.dsn(), "users").trim(), "10");
}
