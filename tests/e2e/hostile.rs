//! The daemon with a target that is not a Redis server.

use crate::support::hostile::{Hostile, PAYLOADS};
use crate::support::process::peak_rss_kib;
use crate::support::{Daemon, Database, until};

#[test]
fn a_hostile_cache_costs_no_memory_and_is_named() {
    let database = Database::create();
    database.run("CREATE TABLE users (id int PRIMARY KEY)");
    let server = Hostile::start();
    let mut daemon = Daemon::configure(&database, &server.url(), "rules:\n  - {table: users, keys: ['user:{id}']}\n");
    daemon.setup(&database);
    daemon.launch_unready();
    for payload in PAYLOADS {
        server.sends(*payload);
        let before = server.served();
        until(&format!("the daemon has met {}", payload.name), || (server.served() >= before + 2).then_some(()));
        let peak = peak_rss_kib(daemon.pid()) / 1024;
        assert!(peak < 64, "{}: {peak} MiB at the most", payload.name);
    }
    assert!(!daemon.has_ended(), "{}", daemon.log());
    let (code, text) = daemon.http("/readyz");
    assert!(code == 503 && text.contains("target cache is down"), "{text}");
    assert_eq!(daemon.http("/livez").0, 200);
}
