//! Many tables, with a schema for each tenant: the cost of a look, and whether it finds what has changed.

use std::time::{Duration, Instant};

use coherd::postgres::Watched;

use super::Watching;
use crate::support::{Database, until};

/// `make test` uses fewer tables; `make test-full` uses as many as DESIGN promises.
const FEW: usize = 2_000;

/// The permitted share of one core, in thousandths: a hundredth of the core with 10,000 tables, and in proportion
/// below.
pub fn share_max(tables: usize) -> u128 {
    (10 * tables as u128).div_ceil(10_000)
}

/// How many tables to make.
pub fn tables() -> usize {
    std::env::var("COHERD_MANY_TABLES").map_or(FEW, |tables| tables.parse().expect("a number"))
}

/// Creates `count` tables, two in each schema, and returns their names.
pub fn create_tenants(database: &Database, count: usize) -> Vec<String> {
    database.run(
        "CREATE PROCEDURE make(count int) LANGUAGE plpgsql AS $$ BEGIN
             FOR i IN 1 .. count LOOP
                 EXECUTE format('CREATE SCHEMA tenant_%s', i);
                 EXECUTE format('CREATE TABLE tenant_%1$s.users (id int PRIMARY KEY, v int, name text);
                                 CREATE TABLE tenant_%1$s.carts (id int PRIMARY KEY, v int, name text)', i);
                 IF i % 50 = 0 THEN COMMIT; END IF;
             END LOOP;
         END $$",
    );
    database.run(&format!("CALL make({})", count / 2));
    (1..=count / 2).flat_map(|i| [format!("tenant_{i}.users"), format!("tenant_{i}.carts")]).collect()
}

/// CPU time that a process has used, in nanoseconds.
pub fn cpu(pid: &str) -> u128 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("schedstat");
    stat.split_whitespace().next().expect("a number").parse().expect("a number")
}

#[test]
fn a_look_at_many_tables_costs_no_more_than_a_hundredth_of_a_core() {
    let database = Database::create();
    let names = create_tenants(&database, tables());
    database.run(&format!("CREATE PUBLICATION {} FOR ALL TABLES", database.name));
    database.run("VACUUM ANALYZE");
    database.create_role();
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    let pace = Duration::from_secs(1);
    let began = Instant::now();
    let mut watching = Watching::paced(&database.dsn_as("coherd"), &database.name, &tables, pace);
    let first = watching.seen();
    assert_eq!(first.database.expect("the first look shows the catalogue").tables.len(), tables.len());
    assert!(first.tables.iter().all(|table| table.stamp.is_some()));
    println!("the first look at {} tables took {:?}", tables.len(), began.elapsed());

    let mut dba = database.client();
    let watcher =
        format!("SELECT pid FROM pg_stat_activity WHERE usename = 'coherd' AND datname = '{}'", database.name);
    let pid = until("the watcher has a session", || dba.rows(&watcher).pop()).swap_remove(0);
    // A writer is always active, so no look can be skipped because nothing has happened.
    dba.run("CREATE TABLE other (id int)");
    let look = |watching: &mut Watching, dba: &mut crate::support::postgres::Client| {
        dba.run("INSERT INTO other VALUES (1)");
        let Watched::Seen(seen) = watching.next() else { panic!("the watcher lost its session") };
        seen
    };
    look(&mut watching, &mut dba);
    let (began, before, own) = (Instant::now(), cpu(&pid), cpu("thread-self"));
    while began.elapsed() < 10 * pace {
        let seen = look(&mut watching, &mut dba);
        assert!(seen.tables.is_empty() && seen.database.is_none(), "nothing differs");
    }
    let elapsed = began.elapsed().as_nanos();
    let (server, here) = (cpu(&pid) - before, cpu("thread-self") - own);
    let (server, here) = (server * 100_000 / elapsed, here * 100_000 / elapsed);
    println!("{} tables: {server} and {here} hundred-thousandths of a core, of the server's and ours", tables.len());
    // coherd is a debug build here; the server is a release build.
    assert!(server <= 100 * share_max(tables.len()).max(5), "the server: {server} hundred-thousandths of a core");
    assert!(here <= 100 * share_max(tables.len()).max(5), "here: {here} hundred-thousandths of a core");

    // A look finds the changed tables and describes no others.
    dba.run("ALTER TABLE tenant_7.users REPLICA IDENTITY FULL; ALTER TABLE tenant_9.carts RENAME TO wagons");
    let seen = until("the changes are seen", || Some(watching.seen_bare()).filter(|seen| !seen.tables.is_empty()));
    let mut touched: Vec<String> = seen.tables.iter().map(|table| table.name.to_string()).collect();
    touched.sort();
    assert_eq!(touched, ["tenant_7.users", "tenant_9.carts"]);
    let known: Vec<String> = seen.database.unwrap().tables.iter().map(|table| table.name.to_string()).collect();
    assert_eq!(known, ["tenant_7.users"], "the other one is not there");
}
