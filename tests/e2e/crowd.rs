//! Many connections to the admin port. Probes are answered nevertheless.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY)";
const RULES: &str = "  - table: users\n    keys: ['user:{id}']\n";

/// Far more than the daemon under test accepts.
const CROWD: usize = 1_500;

/// A daemon limited to 1,200 file descriptors, and so to 1,000 connections.
fn shop() -> Shop {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.daemon.stop(Signal::Term);
    shop.daemon.wrap(&["sh", "-c", "ulimit -n 1200; exec \"$@\"", "sh"]);
    shop.daemon.launch();
    shop
}

fn crowd(shop: &Shop, says: &str) -> Vec<TcpStream> {
    let come = |_| {
        let mut guest = TcpStream::connect(("127.0.0.1", shop.daemon.admin())).unwrap();
        guest.write_all(says.as_bytes()).unwrap();
        guest
    };
    (0..CROWD).map(come).collect()
}

fn a_probe_is_answered_within_a_second(shop: &Shop) {
    until("a probe is answered within a second", || {
        let began = Instant::now();
        let code = shop.daemon.http("/livez").0;
        (code == 200 && began.elapsed() < Duration::from_secs(1)).then_some(())
    });
    assert_eq!(shop.daemon.http("/readyz").0, 200);
    assert_eq!(shop.daemon.http("/metrics").0, 200);
}

#[test]
fn probes_are_answered_however_many_are_connected_and_say_nothing() {
    let shop = shop();
    for says in ["", "GET /li", "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let crowd = crowd(&shop, says);
        a_probe_is_answered_within_a_second(&shop);
        drop(crowd);
    }
}

#[test]
fn probes_are_answered_however_many_wait() {
    let shop = shop();
    let waiting = crowd(&shop, "GET /wait?token=FFFF/0&timeout=60s HTTP/1.1\r\nhost: a\r\n\r\n");
    a_probe_is_answered_within_a_second(&shop);
    drop(waiting);
}
