//! Fixes that a preview refuses, and its messages.

use insta::assert_snapshot;

use super::{file, no_slot_is_left, refusal};
use crate::e2e::Shop;
use crate::support::until;

const SCHEMA: &str =
    "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob');
    CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES users DEFERRABLE INITIALLY DEFERRED);
    CREATE PROCEDURE done() LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET name = 'x'; COMMIT; END $$;";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

fn tried(shop: &Shop, fix: &str) -> String {
    let path = file(shop, "fix.sql", fix);
    let output = shop.daemon.command(&["keys", "--sql", &path, "--dsn", &shop.database.dsn()]);
    assert!(output.stdout.is_empty(), "{output:?}");
    refusal(&output, &[(&path, "fix.sql")])
}

#[test]
fn a_fix_that_cannot_be_tried_says_where_and_why_and_changes_nothing() {
    let mut shop = Shop::open(SCHEMA, RULE);
    let broken = "UPDATE users SET name = 'y' WHERE id = 1;\n\n  UPDATE users\n     SET nme = 'Anne';";
    let said = [
        tried(&shop, broken),
        tried(&shop, "UPDATE users SET name = 'ü' || FORM users"),
        tried(&shop, "UPDATE users SET name = 'y';\nCOMMIT;"),
        tried(&shop, "VACUUM users"),
        tried(&shop, "\\copy users from 'users.csv'"),
        tried(&shop, "COPY users FROM STDIN;\n3\tCid\n\\.\n"),
        tried(&shop, "UPDATE users SET name = 'y'; CALL done()"),
        tried(&shop, "DO $$ BEGIN UPDATE users SET name = 'y'; COMMIT; END $$"),
        tried(&shop, "ALTER SYSTEM SET work_mem = '1GB'"),
        tried(&shop, "INSERT INTO pets VALUES (1, 99)"),
        tried(&shop, "UPDATE users SET id = 1"),
        tried(&shop, "UPDATE users SET name = 'y'; SELECT coherd.wait()"),
        tried(&shop, "UPDATE users SET name = $1"),
        tried(&shop, " -- nothing\n"),
    ];
    assert_snapshot!(said.join("\n"), @r#"
    exit 1
    coherd: fix.sql:4:10: 42703 column "nme" of relation "users" does not exist; everything was rolled back

    exit 1
    coherd: fix.sql:1:37: 42601 syntax error at or near "users"; everything was rolled back

    exit 1
    coherd: nothing was tried: fix.sql:2:1: COMMIT cannot be tried: the fix is tried in one transaction, which is rolled back, so it may neither begin nor end one; leave it out, and run the file with psql -1 -f, which puts BEGIN and COMMIT around it

    exit 1
    coherd: nothing was tried: fix.sql:1:1: VACUUM cannot be tried: it runs in no transaction, and changes no row; leave it out

    exit 1
    coherd: nothing was tried: fix.sql:1:1: a command of psql begins here, and this is not psql: leave it out

    exit 1
    coherd: nothing was tried: fix.sql:1:1: COPY cannot be tried: rows that come from the client are not read here; use INSERT … VALUES, or COPY from a file of the server

    exit 1
    coherd: fix.sql:1:30: 2D000 invalid transaction termination; coherd runs the fix in one transaction, so nothing in the fix may end it; everything was rolled back

    exit 1
    coherd: fix.sql:1:1: 2D000 invalid transaction termination; coherd runs the fix in one transaction, so nothing in the fix may end it; everything was rolled back

    exit 1
    coherd: fix.sql:1:1: 25001 ALTER SYSTEM cannot run inside a transaction block; everything was rolled back

    exit 1
    coherd: fix.sql: a constraint that is checked at COMMIT does not hold, so the fix would fail there: 23503 insert or update on table "pets" violates foreign key constraint "pets_owner_fkey"

    exit 1
    coherd: fix.sql:1:1: 23505 duplicate key value violates unique constraint "users_pkey"; everything was rolled back

    exit 1
    coherd: fix.sql:1:30: 25001 coherd.wait(): this transaction has written, and no cache sees its changes before it commits. This error rolls the transaction back, with the fix in it (Call it after COMMIT, in a transaction of its own: not in a file that psql -1 runs, and not after the fix in the same psql -c.); everything was rolled back

    exit 1
    coherd: fix.sql:1:25: 42P02 there is no parameter $1; everything was rolled back

    exit 1
    coherd: nothing was tried: fix.sql holds no statement
    "#);
    assert_eq!(shop.sql.rows("SELECT name FROM users ORDER BY id"), [["Ann"], ["Bob"]]);
    no_slot_is_left(&mut shop);
}

#[test]
fn a_fix_that_waits_for_a_lock_gives_up_soon_and_lets_others_through() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.sql.run("BEGIN; UPDATE users SET name = 'mine' WHERE id = 1");
    // Taking no xid after the slot is made: the slot waits for transactions that were there before.
    let path = file(&shop, "fix.sql", "ALTER TABLE users ADD COLUMN more int");
    let output = shop.daemon.command(&["keys", "--sql", &path, "--dsn", &shop.database.dsn(), "--timeout", "700ms"]);
    let said = refusal(&output, &[]);
    assert!(
        said.contains("waits for the transactions that are running") && said.contains("nothing was tried"),
        "{said}"
    );
    shop.sql.run("ROLLBACK; BEGIN; LOCK TABLE users IN ROW SHARE MODE");
    let output =
        shop.daemon.command(&["keys", "--sql", &path, "--dsn", &shop.database.dsn(), "--lock-timeout", "300ms"]);
    let said = refusal(&output, &[(&path, "fix.sql")]);
    assert!(said.contains("fix.sql:1:1: 55P03") && said.contains("--lock-timeout"), "{said}");
    shop.sql.run("ROLLBACK");
}

#[test]
fn a_role_that_may_not_is_told_of_another_and_another_database_is_noticed() {
    let shop = Shop::open(SCHEMA, RULE);
    let path = file(&shop, "fix.sql", "UPDATE users SET name = 'y'");
    let said = refusal(&shop.daemon.command(&["keys", "--sql", &path]), &[(&path, "fix.sql")]);
    assert_snapshot!(said, @r#"
    exit 1
    coherd: fix.sql:1:1: 42501 permission denied for table users; the role of source.dsn cannot read tables: give a role that can with --dsn; everything was rolled back
    "#);
    let other = crate::support::Database::create_on(shop.database.server.clone());
    let said = refusal(&shop.daemon.command(&["keys", "--sql", &path, "--dsn", &other.dsn()]), &[(&path, "fix.sql")]);
    assert_snapshot!(said, @r#"
    exit 1
    coherd: nothing was tried: --dsn leads to another server or database than source.dsn, where the fix could not be followed
    "#);
    let said = refusal(&shop.daemon.command(&["keys", "--sql", "/no/such/fix.sql"]), &[]);
    assert_snapshot!(said, @r#"
    exit 1
    coherd: reading /no/such/fix.sql: No such file or directory (os error 2)
    "#);
    for wrong in [
        &["keys"][..],
        &["keys", "--table", "users"],
        &["keys", "--where", "true"],
        &["keys", "--sql", "x", "--table", "t"],
    ] {
        assert_eq!(shop.daemon.command(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_killed_preview_is_rolled_back_and_leaves_no_slot() {
    let mut shop = Shop::open(SCHEMA, RULE);
    let path = file(&shop, "fix.sql", "UPDATE users SET name = 'gone'; SELECT pg_sleep(60)");
    let mut preview = std::process::Command::new(crate::support::daemon::coherd())
        .args(["keys", "--sql", &path, "--dsn", &shop.database.dsn(), "--timeout", "2s", "--config"])
        .arg(shop.daemon.config())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    until("the fix is being tried", || (shop.sql.one(sleeping) == "1").then_some(()));
    preview.kill().unwrap();
    preview.wait().unwrap();
    until("the row is free", || {
        shop.sql.try_run("SET lock_timeout = '100ms'; UPDATE users SET name = 'mine' WHERE id = 1").ok()
    });
    assert_eq!(shop.sql.one("SELECT name FROM users WHERE id = 2"), "Bob");
    no_slot_is_left(&mut shop);
}
