//! The admin HTTP server over a real socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use coherd::admin::http;
use coherd::admin::metrics::Metrics;
use coherd::admin::status::{Board, Stage, State, TargetStatus, View, WAITERS_MAX};
use coherd::config::Config;
use coherd::core::Watermarks;
use coherd::types::lsn::Lsn;
use coherd::types::observation::HeldWal;
use tokio::sync::oneshot;

use crate::support::until;

pub const CONFIG: &str = "source: {dsn: 'host=db password=hunter2', slot: shop}
targets: {cache: {url: 'redis://:hunter2@h/0'}}
rules: [{table: users, keys: ['user:{id}']}]
";

pub struct Admin {
    pub address: SocketAddr,
    board: Board,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn start() -> Admin {
        let config = Config::parse(CONFIG, Path::new("c.yaml"), &|_| None).unwrap();
        let targets = config.targets.iter().map(|target| (target.name.as_str(), target.scheme.as_str()));
        let board = Board::new(&config.source.slot, &config.source.publication, targets);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { http::listen("127.0.0.1:0".parse().unwrap()) }).unwrap();
        let listener = listener.answering_to(&["coherd.example.com".to_owned()]);
        let address = listener.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let serve = http::serve(listener, board.clone(), Metrics::new(&board), config.admin.ready_max_lag, stopped);
        let server = runtime.spawn(serve);
        Admin { address, board, stop: Some(stop), server: Some(server), runtime }
    }

    pub fn streaming() -> Admin {
        let admin = Admin::start();
        admin.board.enter(State::Streaming);
        admin.board.target(0, TargetStatus::is_up);
        admin
    }

    pub fn settle(&self, at: u64) {
        let lsn = Lsn::new(at);
        self.board.moved(Watermarks { decoded: lsn, visible: lsn, applied: lsn, settled: lsn });
    }

    pub fn hear(&self, end: u64) {
        self.board.heard(Lsn::new(end));
    }

    /// How many more waiters the server accepts. No other client may connect meanwhile.
    fn free_places(&self) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        let mut waits: Vec<_> =
            (0..=WAITERS_MAX).map(|_| Box::pin(self.board.reached(Stage::Settled, Lsn::MAX))).collect();
        waits.iter_mut().map(|wait| wait.as_mut().poll(&mut context)).take_while(Poll::is_pending).count()
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(socket, "{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        socket
    }

    /// Returns status code, head and body.
    fn get(&self, path: &str) -> (u16, String, String) {
        answer(self.send(&format!("GET {path}")))
    }
}

fn answer(mut socket: TcpStream) -> (u16, String, String) {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

#[test]
fn the_probes_tell_alive_from_ready() {
    let admin = Admin::start();
    assert_eq!(admin.get("/livez").0, 200);
    let (code, _, reasons) = admin.get("/readyz");
    assert_eq!(code, 503);
    assert!(reasons.contains("starting: ") && reasons.contains("target cache has not answered yet"), "{reasons}");
    admin.board.enter(State::Streaming);
    admin.board.target(0, TargetStatus::is_up);
    assert_eq!(admin.get("/readyz").0, 200);
    admin.board.enter(State::Standby { reason: "slot \"shop\" is active for PID 7".into() });
    let (code, _, reasons) = admin.get("/readyz");
    assert_eq!(code, 503);
    assert!(reasons.contains("hot standby") && reasons.contains("PID 7"), "{reasons}");
    assert_eq!(admin.get("/livez").0, 200, "a standby is alive");
}

#[test]
fn the_status_is_json_that_the_command_line_reads_back() {
    let admin = Admin::streaming();
    admin.board.seen(7_000_000_000_000_000_001, 3, Lsn::new(500));
    admin.settle(400);
    admin.board.gap("slot_missing", "slot shop is gone".into());
    let (code, head, body) = admin.get("/status");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let view: View = serde_json::from_str(&body).unwrap();
    assert_eq!((view.state.as_str(), view.slot.as_str(), view.ready), ("streaming", "shop", true));
    assert_eq!(view.system_id.as_deref(), Some("7000000000000000001"));
    assert_eq!((view.watermarks.settled.as_str(), view.wal_end.as_str()), ("0/190", "0/1F4"));
    assert_eq!((view.lag_bytes, view.gaps.len()), (100, 1));
}

#[test]
fn a_rule_that_is_not_covered_shows_on_every_page() {
    let admin = Admin::streaming();
    admin.board.rules(["rules[0] public.users".into(), "rules[1] public.orders".into()]);
    admin.board.uncover(1, "the publication lacks the table; run ALTER PUBLICATION coherd ADD TABLE public.orders;");
    let (code, _, reasons) = admin.get("/readyz");
    assert_eq!(code, 503);
    assert!(reasons.contains("rules[1] public.orders is not covered: ") && reasons.contains("ADD TABLE"), "{reasons}");
    let view: View = serde_json::from_str(&admin.get("/status").2).unwrap();
    assert_eq!(view.rules.iter().map(|rule| rule.covered).collect::<Vec<_>>(), [true, false]);
    assert!(view.rules[1].reason.as_ref().is_some_and(|reason| reason.contains("ADD TABLE")));
    assert!(admin.get("/").2.contains("1 of 2 covered"));
    admin.board.cover(1);
    assert_eq!(admin.get("/readyz").0, 200);
}

#[test]
fn what_the_slot_holds_back_and_a_target_suspended_show_on_every_page() {
    let admin = Admin::streaming();
    let view = || serde_json::from_str::<View>(&admin.get("/status").2).unwrap();
    assert_eq!((view().slot_retained_bytes, view().last_look_age_seconds), (None, None));
    let held = HeldWal { end: coherd::types::lsn::Lsn::new(9000), retained: 4096, safe: Some(8192), segment: 1 << 24 };
    admin.board.observed(Some(held), std::time::Instant::now());
    admin.board.target(0, |target| target.suspended = Some("suspended at 0/123".to_owned()));
    admin.board.resent("target_went_back", "cache: 3 keys".to_owned());
    let its = view();
    assert_eq!((its.slot_retained_bytes, its.safe_wal_size), (Some(4096), Some(8192)));
    assert!(its.last_look_age_seconds.is_some() && its.catalogue_age_seconds.is_some());
    assert!(its.targets[0].suspended && its.resends.len() == 1);
    assert!(admin.get("/readyz").2.contains("target cache was suspended at 0/123; coherd flushes it when it is back"));
    let page = admin.get("/").2;
    assert!(page.contains("4096 bytes") && page.contains("suspended"), "{page}");
}

#[test]
fn no_page_shows_a_credential() {
    let admin = Admin::streaming();
    admin.settle(1 << 32);
    for path in ["/", "/status", "/metrics", "/readyz", "/livez", "/wait?token=1/0"] {
        let (code, _, body) = admin.get(path);
        assert_eq!(code, 200, "{path}");
        assert!(!body.contains("hunter2"), "{path}: {body}");
    }
}

#[test]
fn the_metrics_have_the_type_that_scrapers_ask_for() {
    let (code, head, body) = Admin::start().get("/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(body.contains("coherd_target_up{target=\"cache\"} 0") && body.ends_with("# EOF\n"), "{body}");
}

#[test]
fn a_wait_is_answered_when_the_position_is_settled() {
    let admin = Admin::streaming();
    admin.settle(0x20_0063);
    let waits = admin.send("GET /wait?token=2097252&timeout=20s");
    waits.set_nonblocking(true).unwrap();
    let late = admin.get("/wait?token=2097252&timeout=1ms");
    assert_eq!(late.0, 504);
    assert!(late.2.contains("\"settled\":\"0/200063\""), "{}", late.2);
    let nothing_yet = waits.peek(&mut [0]).unwrap_err();
    assert_eq!(nothing_yet.kind(), std::io::ErrorKind::WouldBlock);
    let began = Instant::now();
    admin.settle(0x20_0064);
    until("the wait is answered", || waits.peek(&mut [0]).is_ok().then_some(()));
    assert!(began.elapsed() < Duration::from_secs(10));
    waits.set_nonblocking(false).unwrap();
    let (code, _, body) = answer(waits);
    assert_eq!(code, 200);
    assert!(body.contains("\"settled\":\"0/200064\""), "{body}");
    assert_eq!(admin.get("/wait?token=0/200064").0, 200, "the other way to write it");
}

#[test]
fn five_thousand_wait_and_only_those_are_woken_whose_position_is_reached() {
    const CROWD: usize = 5000;
    let admin = Admin::streaming();
    let wait = |token| admin.send(&format!("GET /wait?token={token}&timeout=60s"));
    let (early, late): (Vec<_>, Vec<_>) = (0..CROWD / 2).map(|_| (wait(0x20_0064), wait(0x20_00C8))).unzip();
    // The server handles connections in order, so this answer shows that the waits have begun.
    assert_eq!(admin.get("/livez").0, 200);
    for socket in early.iter().chain(&late) {
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.peek(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        socket.set_nonblocking(false).unwrap();
    }
    let began = Instant::now();
    admin.settle(0x20_0064);
    for socket in early {
        assert_eq!(answer(socket).0, 200);
    }
    let took = began.elapsed();
    println!("{} of {CROWD} who waited were answered within {took:?}", CROWD / 2);
    assert!(took < Duration::from_secs(10), "{took:?}");
    until("the others still wait", || (admin.free_places() == WAITERS_MAX - CROWD / 2).then_some(()));
    // The other clients disconnect without an answer.
    drop(late);
    until("their places are free", || (admin.free_places() == WAITERS_MAX).then_some(()));
}

#[test]
fn applied_can_be_waited_for_alone() {
    let admin = Admin::streaming();
    admin.board.moved(Watermarks { applied: Lsn::new(0x20_0064), ..Watermarks::default() });
    assert_eq!(admin.get("/wait?token=2097252&stage=applied&timeout=1ms").0, 200);
    assert_eq!(admin.get("/wait?token=2097252&stage=settled&timeout=1ms").0, 504);
}

#[test]
fn wrong_parameters_say_what_to_write() {
    let admin = Admin::start();
    let refusal = |path: &str| {
        let (code, _, body) = admin.get(path);
        assert_eq!(code, 400, "{path}: {body}");
        body
    };
    insta::assert_snapshot!(refusal("/wait"), @r#"token is missing; give the LSN that SELECT coherd.token() gave, e.g. /wait?token=16/B374D848"#);
    insta::assert_snapshot!(refusal("/wait?token=x"), @r#"token: "x" is not an LSN: give it as Postgres prints it (16/B374D848) or as an unsigned decimal (97500059720)"#);
    insta::assert_snapshot!(refusal("/wait?token=5"), @"token: 0/5 is no position in a server's log; give what SELECT coherd.token() gave. Seconds are timeout=5s");
    insta::assert_snapshot!(refusal("/wait?token=1/1&timeout=soon"), @r#"timeout: "soon" is no duration; write e.g. 500ms or 2s"#);
    insta::assert_snapshot!(refusal("/wait?token=1/1&stage=visible"), @r#"stage: "visible" is none; write applied or settled"#);
    insta::assert_snapshot!(refusal("/wait?tokn=1"), @r#""tokn" is no parameter of /wait; there are token, timeout and stage"#);
}

#[test]
fn a_position_that_the_server_has_not_told_of_is_waited_for_with_a_hint() {
    let admin = Admin::streaming();
    admin.hear(0x20_0000);
    let (code, _, body) = admin.get("/wait?token=FF/0&timeout=1ms");
    assert_eq!(code, 504);
    assert!(body.contains("\"hint\":\"the server has reported its log only up to 0/200000: "), "{body}");
    assert!(!admin.get("/wait?token=0/200000&timeout=1ms").2.contains("hint"));
}

#[test]
fn pages_that_are_none_and_methods_that_write_are_refused() {
    let admin = Admin::start();
    let (code, _, body) = admin.get("/flush");
    assert_eq!(code, 404);
    assert!(body.contains("/readyz"), "{body}");
    for path in ["/status", "/wait"] {
        assert_eq!(answer(admin.send(&format!("POST {path}"))).0, 405, "{path}");
    }
    let (code, head, body) = admin.get("/");
    assert_eq!(code, 200);
    assert!(head.contains("text/html") && body.contains("/metrics"), "{head} {body}");
}

#[test]
fn the_end_sends_those_who_wait_home() {
    let mut admin = Admin::streaming();
    let waits = admin.send("GET /wait?token=FF/0&timeout=60s");
    // A client that sends nothing must not delay the shutdown.
    let _silent = TcpStream::connect(admin.address).unwrap();
    // The same thread answers, so the wait has begun by then.
    assert_eq!(admin.get("/livez").0, 200);
    let began = Instant::now();
    admin.stop.take().unwrap().send(()).unwrap();
    assert_eq!(answer(waits).0, 503);
    let server = admin.server.take().unwrap();
    admin.runtime.block_on(server).unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(TcpStream::connect(admin.address).is_err(), "nobody listens any more");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let admin = Admin::start();
    let error = admin.runtime.block_on(async { http::listen(admin.address) }).unwrap_err().to_string();
    assert!(error.contains(&admin.address.to_string()) && error.contains("choose another port"), "{error}");
}

#[test]
fn only_names_that_nobody_else_can_have_are_answered() {
    let admin = Admin::streaming();
    let asked = |host: &str| {
        let mut socket = TcpStream::connect(admin.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(socket, "GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        answer(socket)
    };
    for host in [&admin.address.to_string(), "localhost:9871", "coherd.example.com", "10.0.0.7", "[::1]:80", "coherd"] {
        assert_eq!(asked(host).0, 200, "{host}");
    }
    for host in ["rebound.example", "rebound.example:9871", "127.0.0.1.rebound.example"] {
        let (code, _, body) = asked(host);
        assert!(code == 421 && body.contains("admin: hosts:") && !body.contains("slot"), "{host}: {code} {body}");
    }
    let mut socket = TcpStream::connect(admin.address).unwrap();
    write!(socket, "GET http://rebound.example/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(answer(socket).0, 421);
}

#[test]
fn a_head_that_does_not_end_is_not_waited_for_and_not_kept() {
    let admin = Admin::start();
    let begun = |says: &[u8]| {
        let mut socket = TcpStream::connect(admin.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let _ = socket.write_all(says);
        let began = Instant::now();
        // The server closes the connection, perhaps after a short answer.
        let ended = std::io::copy(&mut socket, &mut std::io::sink());
        assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is still open");
        began.elapsed()
    };
    assert!(begun(b"GET /livez HTTP/1.1\r\nhost: a\r\n") < Duration::from_secs(15));
    let large = [&b"GET /livez HTTP/1.1\r\nx: "[..], &vec![b'x'; 20_000]].concat();
    assert!(begun(&large) < Duration::from_secs(4), "it is not waited for either");
}
