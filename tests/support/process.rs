//! A child process that cannot outlive the tests.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A server under a shell that holds one end of a pipe. When the tests die, in whatever way, the pipe closes and the
/// shell stops the server.
pub struct Server {
    shell: Child,
    pid: u32,
    log: PathBuf,
}

/// A signal, by its name for `kill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    /// Postgres's fast shutdown.
    Interrupt,
    /// Postgres's immediate shutdown.
    Quit,
    Kill,
    Stop,
    Continue,
    Hangup,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::Hangup => "HUP",
        }
    }
}

/// Prints the server's pid on stdout, then waits for the name of a signal or for the end of its stdin. A stopped
/// process receives the signal only once it is continued.
const WATCHDOG: &str = r#"log=$1; shift
"$@" </dev/null >>"$log" 2>&1 & pid=$!
echo $pid; exec >/dev/null
read -r signal
kill -${signal:-KILL} $pid 2>/dev/null; kill -CONT $pid 2>/dev/null
wait $pid 2>/dev/null"#;

impl Server {
    /// Starts `command` (program, then arguments) and appends its output to `log`.
    pub fn start(command: &[String], log: &Path) -> Server {
        File::options().create(true).append(true).open(log).expect("log file");
        let mut shell = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(log)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("the watchdog speaks");
        let pid = line.trim().parse().expect("a pid");
        Server { shell, pid, log: log.to_owned() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid, signal);
    }

    /// Sends a signal and waits until the process has ended. Returns its exit code, 128 + n after signal n.
    pub fn stop(mut self, signal: Signal) -> i32 {
        self.end(signal)
    }

    fn end(&mut self, signal: Signal) -> i32 {
        if let Some(mut pipe) = self.shell.stdin.take() {
            let _ = writeln!(pipe, "{}", signal.name());
        }
        self.shell.wait().ok().and_then(|status| status.code()).unwrap_or(-1)
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&self) -> bool {
        !Path::new(&format!("/proc/{}/status", self.pid)).exists()
            || std::fs::read_to_string(format!("/proc/{}/status", self.pid)).is_ok_and(|s| s.contains("State:\tZ"))
    }

    /// Everything that the process has printed.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Signal::Kill);
    }
}

/// Sends a signal to any process.
pub fn send_signal(pid: u32, signal: Signal) {
    let _ = Command::new("kill").arg(format!("-{}", signal.name())).arg(pid.to_string()).status();
}

/// The peak resident memory of a process, in KiB.
pub fn peak_rss_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmHWM:")
}

/// The present resident memory of a process, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmRSS:")
}

fn memory_kib(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with(what)).expect(what);
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
}

/// Below the ports that Linux uses for outgoing connections. The tests open many of those, and one could take the port
/// before its server does, or while its server restarts.
const SERVER_PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that is free at the moment. Another process may take it before the caller does; callers then try again.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(SERVER_PORTS)).take(1000);
    ports.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).expect("a free port")
}
