//! A temporary redis-server.

use std::time::Duration;

use tempfile::TempDir;

use super::process::{Server, Signal, free_port};
use super::wait::until;

/// A redis-server on a free port and a unix socket, without persistence.
pub struct Redis {
    server: Option<Server>,
    dir: TempDir,
    port: u16,
    args: Vec<String>,
}

impl Redis {
    /// Starts it with the default configuration.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts it with extra command-line arguments: `["--requirepass", "secret"]`.
    pub fn start_with(args: &[&str]) -> Redis {
        let dir = tempfile::tempdir().expect("temp dir");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut redis = Redis { server: None, dir, port: free_port(), args };
        redis.launch();
        redis
    }

    fn launch(&mut self) {
        let dir = self.dir.path().display().to_string();
        let port = self.port.to_string();
        let socket = self.socket();
        // COHERD_TEST_REDIS selects another version than the system's.
        let program = std::env::var("COHERD_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
        let fixed = [
            program.as_str(),
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            &socket,
            "--dir",
            &dir,
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ];
        let command: Vec<String> = fixed.iter().map(|&arg| arg.to_owned()).chain(self.args.iter().cloned()).collect();
        let server = Server::start(&command, &self.dir.path().join("redis.log"));
        until("redis-server accepts connections", || {
            assert!(!server.has_ended(), "redis-server ended: {}", server.output());
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        self.server = Some(server);
    }

    /// TCP port on 127.0.0.1; the same after [`Redis::restart`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path of the unix socket.
    pub fn socket(&self) -> String {
        self.dir.path().join("redis.sock").display().to_string()
    }

    /// `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A blocking client connection as the default user, over the unix socket.
    pub fn client(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis+unix://{}", self.socket())).expect("url");
        until("redis answers", || {
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(5)).ok()?;
            redis::cmd("PING").query::<redis::Value>(&mut connection).ok()?;
            Some(connection)
        })
    }

    /// Sends a signal: SIGSTOP stops the server, SIGCONT continues it.
    pub fn signal(&self, signal: Signal) {
        self.server.as_ref().expect("runs").signal(signal);
    }

    /// kill -9. Its data is lost.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Restarts the server on the same port after [`Redis::kill`], empty.
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.dir.path().join("dump.rdb"));
        self.launch();
    }

    /// The contents as an RDB file's bytes.
    pub fn dump(&self) -> Vec<u8> {
        let () = redis::cmd("SAVE").query(&mut self.client()).expect("SAVE");
        std::fs::read(self.dir.path().join("dump.rdb")).expect("dump.rdb")
    }

    /// kill -9, then a start with the result of [`Redis::dump`]: the cache goes back in time.
    pub fn restore(&mut self, dump: &[u8]) {
        self.kill();
        std::fs::write(self.dir.path().join("dump.rdb"), dump).expect("dump.rdb");
        self.launch();
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.server.as_ref().map(Server::output).unwrap_or_default()
    }
}
