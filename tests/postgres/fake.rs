//! Servers that are not Postgres, or are hostile: what they send must not exhaust coherd's memory, nor fill its log.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::daemon::{coherd, text};
use crate::support::process::{Server, Signal, free_port};
use crate::support::until;

/// What a hostile server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// A message of almost 2 GiB instead of the password request.
    Greeting,
    /// Endless notices before the login.
    Notices,
    /// Endless parameters before the login.
    Parameters,
    /// A row of almost 2 GiB in answer to the first query.
    Row,
    /// Endless rows in answer to the first query.
    Rows,
    /// An error of 100 MB in answer to the first query.
    Error,
}

#[derive(Default)]
struct Sent {
    connections: AtomicU64,
    bytes: AtomicU64,
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn logged_in() -> Vec<u8> {
    let version = frame(b'S', b"server_version\x0015.1\0");
    [frame(b'R', &[0; 4]), version, frame(b'K', &[0; 8]), frame(b'Z', b"I")].concat()
}

/// The bytes that come first, the bytes that repeat, and how often.
fn words(lie: Lie) -> (Vec<u8>, Vec<u8>, usize) {
    const FOR_EVER: usize = usize::MAX;
    let zeros = vec![0; 1 << 20];
    let notice = frame(b'N', &[&b"SNOTICE\0C00000\0M"[..], &[b'm'; 500], b"\0\0"].concat());
    let row = frame(b'D', &[&b"\0\x01\0\0\x03\xE8"[..], &[b'v'; 1000]].concat());
    let columns = frame(b'T', b"\0\x01search_path\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    let head = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    let many = |one: &[u8]| one.repeat((1 << 20) / one.len());
    match lie {
        Lie::Greeting => (head(b'R', 0x7FFF_FFF0), zeros, FOR_EVER),
        Lie::Notices => (Vec::new(), many(&notice), FOR_EVER),
        Lie::Parameters => (Vec::new(), many(&frame(b'S', b"name\0value\0")), FOR_EVER),
        Lie::Row => ([columns, head(b'D', 0x7FFF_FFF0)].concat(), zeros, FOR_EVER),
        Lie::Rows => (columns, many(&row), FOR_EVER),
        Lie::Error => {
            ([head(b'E', (100 << 20) + 4 + 17 + 2), b"SERROR\0C22023\0Mno".to_vec()].concat(), vec![b'm'; 1 << 20], 100)
        }
    }
}

/// Sends the lie to every client.
fn stand(lie: Lie) -> (u16, Arc<Sent>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::<Sent>::default();
    let counted = sent.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            counted.connections.fetch_add(1, Ordering::Relaxed);
            let sent = counted.clone();
            std::thread::spawn(move || tell(lie, client, &sent));
        }
    });
    (port, sent)
}

fn tell(lie: Lie, mut client: TcpStream, sent: &Sent) {
    let mut heard = vec![0; 8192];
    let _ = client.read(&mut heard);
    if !matches!(lie, Lie::Greeting | Lie::Notices | Lie::Parameters) {
        let _ = client.write_all(&logged_in());
        let _ = client.read(&mut heard);
    }
    let (first, then, times) = words(lie);
    let _ = client.write_all(&first);
    for _ in 0..times {
        if client.write_all(&then).is_err() {
            return;
        }
        sent.bytes.fetch_add(then.len() as u64, Ordering::Relaxed);
    }
    // Ends the error message.
    let _ = client.write_all(b"\0\0");
    let _ = client.write_all(&frame(b'Z', b"I"));
    while client.read(&mut heard).is_ok_and(|count| count > 0) {}
}

fn configuration(port: u16) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    let text = format!(
        "source: {{dsn: 'postgresql://coherd@127.0.0.1:{port}/app?sslmode=disable&connect_timeout=2'}}\n\
         targets: {{cache: {{url: 'redis://127.0.0.1:1'}}}}\nadmin: {{listen: '127.0.0.1:{}'}}\n\
         rules:\n  - {{table: t, keys: ['t:{{id}}']}}\n",
        free_port()
    );
    std::fs::write(&path, text).unwrap();
    (folder, path.display().to_string())
}

#[test]
fn a_check_tells_of_them_in_a_few_words() {
    let checks = [Lie::Greeting, Lie::Parameters, Lie::Row, Lie::Rows, Lie::Error].map(|lie| {
        std::thread::spawn(move || {
            let (port, _) = stand(lie);
            let (_folder, path) = configuration(port);
            (lie, Command::new(coherd()).args(["check", "--config", &path]).output().unwrap())
        })
    });
    for check in checks {
        let (lie, output) = check.join().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{lie:?}: {said}");
        assert!(said.len() < 10_000 && said.contains("source-"), "{lie:?}: {} bytes", said.len());
    }
}

#[test]
fn a_daemon_survives_them_too_and_its_log_stays_short() {
    let all = [Lie::Greeting, Lie::Notices, Lie::Parameters, Lie::Row, Lie::Rows, Lie::Error];
    let lives = all.map(|lie| std::thread::spawn(move || (lie, live(lie))));
    let lives: Vec<_> = lives.into_iter().map(|life| life.join().unwrap()).collect();
    assert!(lives.iter().all(|(_, (peak, log))| *peak < 64 && *log < 100_000), "MiB, bytes of log: {lives:?}");
}

/// Peak memory in MiB, and the length of the log.
fn live(lie: Lie) -> (u64, usize) {
    let (port, sent) = stand(lie);
    let (folder, path) = configuration(port);
    let command = [coherd(), "run".to_owned(), "--config".to_owned(), path];
    let daemon = Server::start(&command, &folder.path().join("log"));
    let mut peak = 0;
    until("the daemon has tried three times, has ended, or has been sent 300 MB", || {
        if daemon.has_ended() {
            return Some(());
        }
        peak = memory(daemon.pid()).unwrap_or(peak);
        let enough = sent.bytes.load(Ordering::Relaxed) > 300 << 20;
        (enough || sent.connections.load(Ordering::Relaxed) >= 3).then_some(())
    });
    let log = daemon.output();
    assert!(daemon.has_ended() || daemon.stop(Signal::Term) < 128, "{lie:?}: {log}");
    (peak, log.len())
}

/// Peak memory in MiB; `None` once the process has ended.
fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}
