//! Consumers of a slot, as processes.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::Cache;
use crate::meter::Usage;
use crate::options::Transport;
use crate::support::Database;
use crate::support::daemon::{coherd, http_get};
use crate::support::postgres::Client;
use crate::support::process::{Server, free_port};
use crate::support::wait::until_within;

/// A running coherd or floor.
pub(crate) struct Follower {
    server: Server,
    dir: TempDir,
    admin: u16,
}

/// The servers and the slot to follow.
pub(crate) struct Place<'a> {
    pub(crate) database: &'a Database,
    pub(crate) transport: Transport,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
}

impl Place<'_> {
    /// The DSN for clients that use libpq's syntax.
    pub(crate) fn dsn(&self) -> String {
        let server = &self.database.server;
        match self.transport {
            Transport::Tcp => self.database.dsn(),
            Transport::Unix => format!(
                "host={} port={} dbname={} user=postgres",
                server.socket_dir(),
                server.port(),
                self.database.name
            ),
        }
    }

    fn address(&self) -> String {
        let server = &self.database.server;
        match self.transport {
            Transport::Tcp => format!("127.0.0.1:{}", server.port()),
            Transport::Unix => format!("{}/.s.PGSQL.{}", server.socket_dir(), server.port()),
        }
    }
}

impl Follower {
    /// Starts `coherd run` for `caches`; `rest` is the configuration after source and targets. `program` is another
    /// build.
    pub(crate) fn coherd(place: &Place, caches: &[Cache], rest: &str, program: Option<&Path>) -> Follower {
        let (dir, admin) = (tempfile::tempdir().expect("temp dir"), free_port());
        let target =
            |(i, cache): (usize, &Cache)| format!("  cache{i}: {{ url: \"{}\" }}\n", cache.url(place.transport));
        let text = format!(
            "source: {{ dsn: \"{}\", slot: {}, publication: {} }}\ntargets:\n{}admin: {{ listen: \"127.0.0.1:{admin}\" }}\n{rest}",
            place.dsn(),
            place.slot,
            place.publication,
            caches.iter().enumerate().map(target).collect::<String>(),
        );
        let config = dir.path().join("coherd.yaml");
        std::fs::write(&config, text).expect("configuration");
        let program = program.map_or_else(coherd, |path| path.display().to_string());
        let command = [program, "run".into(), "--config".into(), config.display().to_string()];
        let server = Server::start(&command, &dir.path().join("log"));
        Follower { server, dir, admin }
    }

    /// Starts this program as one of the consumers that it has in it, `floor`, `crate` or `notify`.
    pub(crate) fn bare(word: &str, place: &Place, cache: &Cache) -> Follower {
        let dir = tempfile::tempdir().expect("temp dir");
        let this = std::env::current_exe().expect("own path").display().to_string();
        let (address, database) = (place.address(), place.database.name.clone());
        let (slot, publication) = (place.slot.to_owned(), place.publication.to_owned());
        let redis = cache.address(place.transport);
        let command = [this, word.to_owned(), address, database, slot, publication, redis];
        let server = Server::start(&command, &dir.path().join("log"));
        Follower { server, dir, admin: 0 }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.pid()).unwrap_or_else(|| panic!("it ended: {}", self.server.output()))
    }

    /// Everything that the process has printed.
    pub(crate) fn output(&self) -> String {
        self.server.output()
    }

    /// Panics with the process's output if it has ended.
    pub(crate) fn must_live(&self) {
        assert!(!self.server.has_ended(), "it ended: {}", self.server.output());
    }

    /// Waits until coherd has settled everything up to `end`.
    pub(crate) fn settled(&self, end: &str) {
        let wait = format!("/wait?token={end}&timeout=60s");
        until_within(Duration::from_mins(10), "coherd has settled the backlog", || {
            self.must_live();
            http_get(self.admin, &wait).filter(|(code, _)| *code == 200)
        });
    }

    /// The sum of a metric of coherd over its labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        metric(&self.metrics()?, name)
    }

    /// All metrics of coherd.
    pub(crate) fn metrics(&self) -> Option<String> {
        http_get(self.admin, "/metrics").map(|(_, text)| text)
    }

    /// The process's directory, for more files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// `pg_recvlogical` into /dev/null up to `end`, with options of pgoutput (`proto_version=1`).
pub(crate) fn pg_recvlogical(place: &Place, end: &str, options: &[&str]) -> Child {
    let mut command = Command::new("pg_recvlogical");
    command.args(["-d", &place.dsn(), "--slot", place.slot, "--start", "--no-loop", "-f", "/dev/null", "-F", "0"]);
    command.args(["--endpos", end, "-o", &format!("publication_names={}", place.publication)]);
    command.args(options.iter().flat_map(|option| ["-o", option]));
    command.spawn().expect("pg_recvlogical")
}

/// Waits until a walsender holds the slot. Returns its process id and the time. `None` if `ended` returns true first.
pub(crate) fn begun(sql: &mut Client, slot: &str, mut ended: impl FnMut() -> bool) -> Option<(u32, Instant)> {
    let ask = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    until_within(Duration::from_mins(1), "somebody follows the slot", || {
        let pid = sql.one(&ask).parse().ok().map(|pid| Some((pid, Instant::now())));
        pid.or_else(|| ended().then_some(None))
    })
}

/// The sum of a metric over its labels.
pub(crate) fn metric(metrics: &str, name: &str) -> Option<f64> {
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let values: Vec<f64> =
        metrics.lines().filter(is_it).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
