//! Every test that needs more than one module, in one binary: real servers, real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]

mod admin;
mod catalog;
mod check;
mod command_line;
mod setup;
mod source;
mod sql;
mod support;

#[test]
fn the_support_servers_start_and_stop() {
    let database = support::Database::create();
    database.run("CREATE TABLE t (id int)");
    assert_eq!(database.client().one("SELECT count(*) FROM t"), "0");
    let mut redis = support::Redis::start();
    let _: () = redis::cmd("SET").arg("a").arg(1).query(&mut redis.client()).unwrap();
    redis.restart();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut redis.client()).unwrap(), 0);
}
