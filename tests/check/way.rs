//! The connections to the servers: servers that are down or refuse, and software in between.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bench::Bench;
use crate::support::Postgres;

const RULE: &[&str] = &["{table: t, keys: ['t:{id}']}"];

/// What is in front of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Answers the startup message itself, as poolers do, with its own process id.
    Pooler,
    /// An old pooler, which accepts no replication connection.
    OldPooler,
    /// Rejects `options`, as pgbouncer before 1.20.
    Strict,
    /// Drops the startup parameters that it does not know (`ignore_startup_parameters`).
    Forgetful,
    /// Accepts no replication connection, as a line of pg_hba.conf may require.
    Guard,
    /// Sends connections to each server in turn.
    Balancer,
}

/// Listens, and returns the port. Its threads end with the tests.
fn stand(between: Between, servers: Vec<u16>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let turn = AtomicUsize::new(0);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = servers[turn.fetch_add(1, Ordering::Relaxed) % servers.len()];
            std::thread::spawn(move || serve(between, client, TcpStream::connect(("127.0.0.1", server)).unwrap()));
        }
    });
    port
}

fn serve(between: Between, mut client: TcpStream, mut server: TcpStream) {
    let mut startup = vec![0; 8192];
    let length = client.read(&mut startup).unwrap_or(0);
    startup.truncate(length);
    let fields: Option<&[u8]> = match between {
        Between::OldPooler => Some(b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"),
        Between::Guard => Some(b"SFATAL\0C28000\0Mno pg_hba.conf entry for replication connection\0\0"),
        Between::Strict => Some(b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"),
        Between::Pooler | Between::Balancer | Between::Forgetful => None,
    };
    let refused: &[u8] = if between == Between::Strict { b"options" } else { b"replication" };
    if let (Some(fields), true) = (fields, startup.windows(refused.len()).any(|word| word == refused)) {
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        let _ = client.write_all(&[b"E", &length[..], fields].concat());
        return;
    }
    let at = startup.windows(7).position(|word| word == b"pg_temp");
    if let (Between::Forgetful, Some(at)) = (between, at) {
        startup[at..at + 7].copy_from_slice(b"public2");
    }
    let _ = server.write_all(&startup);
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    let mut chunk = vec![0; 65536];
    while let Ok(length @ 1..) = server.read(&mut chunk) {
        let bytes = &mut chunk[..length];
        // BackendKeyData: K, a length of 12, the process id.
        if let (Between::Pooler, Some(at)) = (between, bytes.windows(5).position(|head| head == b"K\0\0\0\x0c")) {
            bytes[at + 5..at + 9].copy_from_slice(&77_u32.to_be_bytes());
        }
        if client.write_all(bytes).is_err() {
            return;
        }
    }
}

fn set_up() -> Bench {
    let bench = Bench::new(RULE);
    bench.sql("CREATE TABLE t (id int PRIMARY KEY)");
    let (fine, text) = bench.shell("coherd setup");
    assert!(fine, "{text}");
    bench
}

fn through(bench: &Bench, port: u16) -> String {
    bench.database.dsn().replace(&format!(":{}/", bench.database.server.port()), &format!(":{port}/"))
}

#[test]
fn a_pooler_in_the_way_is_told_with_the_servers_own_address() {
    let mut bench = set_up();
    let server = bench.database.server.port();
    for between in [Between::Pooler, Between::OldPooler] {
        bench.dsn = through(&bench, stand(between, vec![server]));
        let found = bench.finds("pooler");
        assert!(found.severity == "error" && found.message.contains(&format!("127.0.0.1 port {server}")), "{found:?}");
        bench.dsn = bench.database.dsn();
        bench.misses("pooler");
    }
    for between in [Between::Strict, Between::Forgetful] {
        bench.dsn = through(&bench, stand(between, vec![server]));
        let found = bench.finds("pooler");
        assert!(found.severity == "error" && found.message.contains("the server's own address"), "{found:?}");
        bench.dsn = bench.database.dsn();
        bench.misses("pooler");
    }
}

/// The daemon must not report "Postgres is away" for ever.
#[test]
fn a_daemon_behind_a_pooler_says_so_and_ends() {
    let mut bench = set_up();
    let server = bench.database.server.port();
    for between in [Between::OldPooler, Between::Strict] {
        bench.dsn = through(&bench, stand(between, vec![server]));
        let (fine, text) = bench.shell("timeout 20 coherd run");
        assert!(!fine && text.contains("such as pgbouncer") && text.contains("the server's own address"), "{text}");
    }
}

#[test]
fn a_balancer_in_the_way_is_told() {
    let mut bench = set_up();
    let another = Postgres::start("");
    crate::support::postgres::postgres_client(&another.dsn("postgres"))
        .unwrap()
        .run(&format!("CREATE DATABASE {}", bench.database.name));
    bench.dsn = through(&bench, stand(Between::Balancer, vec![bench.database.server.port(), another.port()]));
    assert_eq!(bench.finds("other-server").severity, "error");
    bench.dsn = bench.database.dsn();
    bench.misses("other-server");
}

#[test]
fn a_database_that_is_away_or_refuses_is_told_and_so_is_a_bad_address() {
    let mut bench = set_up();
    let right = bench.dsn.clone();
    for (code, severity, dsn) in [
        ("source-unreachable", "unknown", "postgresql://nobody@127.0.0.1:1/none".to_owned()),
        ("source-refused", "error", right.replace("postgres@", "nobody@")),
        ("source-dsn", "error", "postgresql://127.0.0.1:port/none".to_owned()),
    ] {
        bench.dsn = dsn;
        assert_eq!(bench.finds(code).severity, severity, "{code}");
        bench.dsn.clone_from(&right);
        bench.misses(code);
    }
}

#[test]
fn sql_without_replication_is_told() {
    let mut bench = set_up();
    bench.dsn = through(&bench, stand(Between::Guard, vec![bench.database.server.port()]));
    let found = bench.finds("replication-refused");
    assert!(found.severity == "error" && found.message.contains("not the replication connection"), "{found:?}");
    bench.dsn = bench.database.dsn();
    bench.misses("replication-refused");
}

#[test]
fn replicas_that_are_none_are_told() {
    let mut bench = set_up();
    let another = Postgres::start_another("");
    for (code, severity, dsn) in [
        ("replica-unreachable", "unknown", "postgresql://postgres@127.0.0.1:1/none".to_owned()),
        ("replica-refused", "error", bench.database.dsn_as("nobody")),
        ("replica-foreign", "error", another.dsn("postgres")),
        ("replica-primary", "error", bench.database.dsn()),
        ("source-dsn", "error", "postgresql://127.0.0.1:port/none".to_owned()),
    ] {
        bench.source = format!(", replicas: ['{dsn}']");
        let found = bench.finds(code);
        assert!(found.severity == severity && found.subject.starts_with("source.replicas[0]"), "{found:?}");
        bench.source.clear();
        bench.misses(code);
    }
}
