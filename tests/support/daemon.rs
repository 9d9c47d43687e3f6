//! The daemon under test, as its own process with its own configuration file.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Server, Signal, free_port};
use super::wait::until;
use super::{Database, Redis, planted};

/// A configuration in a temp dir, and the daemon that runs with it.
pub struct Daemon {
    server: Option<Server>,
    dir: TempDir,
    admin: u16,
    /// `NAME=value` pairs for the daemon's environment.
    environment: Vec<String>,
    /// A command to prefix to the daemon's.
    wrapper: Vec<String>,
}

impl Daemon {
    /// Writes a configuration for `database` and `redis_url`, followed by `rest` (rules and more). Starts nothing. The
    /// daemon connects as the role of `sql/role.sql`; slot and publication have the database's name.
    pub fn configure(database: &Database, redis_url: &str, rest: &str) -> Daemon {
        database.create_role();
        let name = &database.name;
        let admin = free_port();
        let config = format!(
            "source:\n  dsn: {}\n  slot: {name}\n  publication: {name}\ntargets:\n  cache:\n    url: {redis_url}\n\
             admin:\n  listen: 127.0.0.1:{admin}\n{rest}",
            database.dsn_as(&planted::role()),
        );
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("coherd.yaml"), config).expect("configuration");
        Daemon { server: None, dir, admin, environment: Vec::new(), wrapper: Vec::new() }
    }

    /// [`Daemon::configure`], then `coherd setup` as the superuser, then `coherd run` until it follows the log.
    pub fn start(database: &Database, redis: &Redis, rest: &str) -> Daemon {
        let mut daemon = Daemon::configure(database, &redis.url(), rest);
        daemon.setup(database);
        daemon.launch();
        daemon
    }

    /// Runs `coherd setup` as the superuser; it must succeed.
    pub fn setup(&self, database: &Database) {
        let output = self.command(&["setup", "--dsn", &database.dsn()]);
        assert!(output.status.success(), "setup: {}", text(&output));
    }

    /// Starts the daemon and waits until it is ready.
    pub fn launch(&mut self) {
        self.launch_unready();
        until("the daemon is ready", || {
            let server = self.server.as_ref().expect("launched");
            assert!(!server.has_ended(), "the daemon ended: {}", server.output());
            (self.http("/readyz").0 == 200).then_some(())
        });
    }

    /// Starts the daemon without waiting.
    pub fn launch_unready(&mut self) {
        let run = [coherd(), "run".to_owned(), "--config".to_owned(), self.config().display().to_string()];
        let command = ["env".to_owned()].into_iter().chain(self.environment.clone());
        let command: Vec<String> = command.chain(self.wrapper.clone()).chain(run).collect();
        self.server = Some(Server::start(&command, &self.dir.path().join("coherd.log")));
    }

    /// Sets an environment variable, from the next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push(format!("{name}={value}"));
    }

    /// Prefixes another command, which must exec the daemon, from the next start on.
    pub fn wrap(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&word| word.to_owned()).collect();
    }

    /// A second daemon with the same configuration but its own admin port; not started.
    pub fn twin(&self) -> Daemon {
        let (dir, admin) = (tempfile::tempdir().expect("temp dir"), free_port());
        let config = std::fs::read_to_string(self.config()).expect("configuration");
        let config = config.replace(&format!("127.0.0.1:{}", self.admin), &format!("127.0.0.1:{admin}"));
        std::fs::write(dir.path().join("coherd.yaml"), config).expect("configuration");
        Daemon { server: None, dir, admin, environment: Vec::new(), wrapper: Vec::new() }
    }

    /// Replaces a part of the configuration. Panics if it is missing.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("configuration");
        assert!(text.contains(from), "{from} is not in\n{text}");
        std::fs::write(self.config(), text.replace(from, to)).expect("configuration");
    }

    /// The path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("coherd.yaml")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// Whether the daemon has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.server.as_ref().is_none_or(Server::has_ended)
    }

    /// Ends the daemon with a signal and returns its exit code.
    pub fn stop(&mut self, signal: Signal) -> i32 {
        self.server.take().expect("it runs").stop(signal)
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        self.server.as_ref().expect("it runs").signal(signal);
    }

    /// The log of all runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("coherd.log")).unwrap_or_default()
    }

    /// Runs another command with the same configuration.
    pub fn command(&self, args: &[&str]) -> Output {
        let config = self.config();
        let output = Command::new(coherd()).args(args).arg("--config").arg(config).output().expect("coherd starts");
        planted::assert_no_secret(&format!("what coherd {args:?} prints"), &text(&output));
        output
    }

    /// The port of the admin server.
    pub fn admin(&self) -> u16 {
        self.admin
    }

    /// Sends a GET to the admin server. Returns status code and body; 0 if there is no answer.
    pub fn http(&self, path: &str) -> (u16, String) {
        let (code, body) = http_get(self.admin, path).unwrap_or_default();
        planted::assert_nothing(path, &body);
        (code, body)
    }

    /// `/status` as JSON.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.http("/status").1).unwrap_or_default()
    }
}

/// The program under test.
pub fn coherd() -> String {
    // Tests and benches are in target/PROFILE/deps; the demo is in the program's folder.
    let this = std::env::current_exe().expect("own path");
    let beside = this.ancestors().skip(1).take(2).map(|dir| dir.join("coherd"));
    let program =
        beside.into_iter().find(|program| program.exists()).expect("coherd is built: run `cargo build` first");
    program.display().to_string()
}

/// The output of a command, stdout then stderr.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A plain HTTP/1.1 GET.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(70))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        } else {
            planted::assert_nothing("the daemon's log", &self.log());
        }
    }
}
