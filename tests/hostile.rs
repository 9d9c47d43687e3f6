//! A database whose owner lays traps: functions, operators, relations and types in `public` that an unqualified
//! statement would use in place of the server's own. No trap may run, neither for a superuser nor for the daemon's
//! role.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::e2e::Shop;
use crate::sql::{FUNCTIONS, ROLE};
use crate::support::daemon::text;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, Redis, planted, until};

const UNINSTALL: &str = include_str!("../sql/uninstall.sql");

/// One row of each kind of value that `touch()` prints, a partitioned table, and a type of the application.
const SCHEMA: &str = "
CREATE TYPE public.plan AS ENUM ('free', 'paid');
CREATE TABLE public.users (id bigint PRIMARY KEY, email pg_catalog.text, plan public.plan DEFAULT 'free',
    at timestamptz DEFAULT '2026-01-01', tags pg_catalog.text[] DEFAULT '{a,b}', doc pg_catalog.json DEFAULT '{}');
ALTER TABLE public.users REPLICA IDENTITY FULL;
CREATE TABLE public.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
INSERT INTO public.users (id, email) VALUES (1, 'a@x'), (2, 'b@x');
INSERT INTO public.parts VALUES (1);";

const RULES: &str = "rules:\n  - table: users\n    keys: ['user:{id}', 'mail:{email}', 'plan:{plan}:{at}:{tags}']\n  \
                     - table: parts\n    keys: ['part:{id}']\n";

struct Trap {
    server: Arc<Postgres>,
}

impl Trap {
    /// `path` is the search path that the owner sets for the database.
    fn lay(path: &str) -> (Trap, Database) {
        let server = Arc::new(Postgres::start(""));
        let database = Database::create_on(server.clone());
        let name = database.name.clone();
        database.run(&format!("CREATE ROLE mallory LOGIN; ALTER DATABASE {name} OWNER TO mallory; {SCHEMA}"));
        // Before Postgres 15, the database's owner does not own the schema public.
        database.run("ALTER SCHEMA public OWNER TO mallory");
        let mut mallory = postgres_client(&database.dsn_as("mallory")).unwrap();
        let words: Vec<String> = words().iter().map(|word| format!("'{word}'")).collect();
        let traps = include_str!("hostile/overloads.sql").replace("$WORDS$", &format!("ARRAY[{}]", words.join(",")));
        mallory.run("SET search_path = pg_catalog");
        mallory.run(&traps);
        mallory.run(&format!("ALTER DATABASE {name} SET search_path = {path}"));
        let mut safe = database.client();
        safe.run("SET search_path = pg_catalog");
        for (kind, name) in [
            ("function", "pg_partition_root"),
            ("function", "obj_description"),
            ("function", "format"),
            ("function", "string_agg"),
            ("operator", "%"),
            ("operator", "="),
            ("relation", "pg_replication_slots"),
            ("type", "text"),
        ] {
            let sql = format!("SELECT count(*) FROM public.made WHERE kind = '{kind}' AND name = '{name}'");
            assert_ne!(safe.one(&sql), "0", "there is no trap for the {kind} {name}");
        }
        (Trap { server }, database)
    }

    /// Fails if a trap has run.
    fn nobody_was_robbed(&self, doing: &str) {
        let log = self.server.log();
        let lines: BTreeSet<&str> =
            log.lines().filter_map(|line| line.split_once("ROBBED ")).map(|(_, said)| said).collect();
        assert!(lines.is_empty(), "{doing} ran what the owner of the database has laid out:\n{lines:#?}");
    }
}

/// Every word and every run of operator characters in the source and SQL files.
fn words() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut folders =
        vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                words.extend(text.split(|c| !is_word(c)).map(str::to_owned));
                let is_operator = |c: char| "+-*/<>=~!@#%^&|`?".contains(c);
                words.extend(text.split(|c| !is_operator(c)).map(str::to_owned));
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Does what a DBA and the daemon do, from the first setup to the teardown.
fn nothing_of_ours_runs_what_the_owner_has_laid_out(path: &str) {
    let (trap, database) = Trap::lay(path);
    let redis = Redis::start();
    let mut daemon = Daemon::configure(&database, &redis.url(), RULES);
    trap.nobody_was_robbed("role.sql");
    // Neither a connection string nor a role setting may bring the search path back.
    daemon.edit("sslmode=disable", &format!("sslmode=disable&options=-c%20search_path%3D{}", path.replace(' ', "")));
    database.run(&format!("ALTER ROLE coherd IN DATABASE {} SET search_path = {path}", database.name));
    let superuser = database.dsn();
    let run = |daemon: &Daemon, words: &[&str]| {
        let output = daemon.command(words);
        trap.nobody_was_robbed(&format!("coherd {}", words[0]));
        assert!(output.status.success(), "{words:?}: {}", text(&output));
    };
    run(&daemon, &["setup", "--dsn", &superuser]);
    daemon.launch();
    let mut shop = Shop { daemon, redis, sql: database.client(), database };
    shop.cache(&["user:1", "part:1"]);
    shop.sql.run("UPDATE public.users SET email = 'c@x'");
    shop.sql.run("TRUNCATE public.parts_1");
    until("the watch has found the partition that was emptied", || shop.cached().is_empty().then_some(()));
    trap.nobody_was_robbed("the daemon");
    shop.cache(&["user:1"]);
    for words in [
        &["check"][..],
        &["status"],
        &["wait", "--timeout", "30s"],
        &["explain", "user:1"],
        &["keys", "--table", "users", "--where", "true", "--dsn", &superuser],
        &["keys", "--sql", &fix(&shop), "--dsn", &superuser],
        &["tail", "--for", "100ms"],
        &["invalidate", "--wait=30s", "user:1"],
        &["flush", "--yes", "--wait=30s"],
    ] {
        run(&shop.daemon, words);
    }
    functions(&trap, &mut shop);
    assert_eq!(shop.daemon.stop(Signal::Term), 0);
    // Also as the superuser: the command line's own session uses source.dsn.
    let role = shop.database.dsn_as(&planted::role());
    shop.daemon.edit(&role, &superuser);
    run(&shop.daemon, &["check"]);
    shop.daemon.launch();
    run(&shop.daemon, &["invalidate", "--wait=30s", "user:1"]);
    assert_eq!(shop.daemon.stop(Signal::Term), 0);
    run(&shop.daemon, &["teardown", "--yes"]);
    files(&trap, &shop);
}

fn fix(shop: &Shop) -> String {
    let path = shop.daemon.config().with_file_name("fix.sql");
    std::fs::write(&path, "UPDATE public.users SET email = 'd@x'; TRUNCATE public.parts").unwrap();
    path.display().to_string()
}

/// Calls the SQL functions as the superuser, under the owner's search path.
fn functions(trap: &Trap, shop: &mut Shop) {
    let slot = shop.database.name.clone();
    for sql in [
        "SELECT coherd.token()".to_owned(),
        format!("SELECT coherd.wait(timeout => '30s', slot => '{slot}')"),
        format!("SELECT coherd.wait(coherd.token(), '30s', '{slot}')"),
        format!("SELECT coherd.wait('0/1000000', '30s', '{slot}')"),
        "SELECT coherd.invalidate('user:1', 'user:2')".to_owned(),
        format!("SELECT coherd.touch('public.users', 'true', '{slot}')"),
        format!("SELECT coherd.touch('public.parts', 'true', '{slot}')"),
        "SELECT coherd.flush('public.users')".to_owned(),
        "SELECT * FROM coherd.status".to_owned(),
    ] {
        shop.sql.run(&sql);
        trap.nobody_was_robbed(&sql);
    }
    shop.settle();
}

/// Runs the SQL files as psql does.
fn files(trap: &Trap, shop: &Shop) {
    let mut sql = shop.database.client();
    let path = sql.one("SHOW search_path");
    for (name, file) in [("role.sql", ROLE), ("coherd.sql", FUNCTIONS), ("uninstall.sql", UNINSTALL)] {
        sql.run(file);
        trap.nobody_was_robbed(name);
        assert_eq!(sql.one("SHOW search_path"), path, "{name} leaves another search path behind");
    }
}

#[test]
fn nothing_runs_by_the_path_that_every_database_has() {
    nothing_of_ours_runs_what_the_owner_has_laid_out("public");
}

#[test]
fn nothing_runs_by_a_path_that_puts_public_first() {
    nothing_of_ours_runs_what_the_owner_has_laid_out("public, pg_catalog");
}
