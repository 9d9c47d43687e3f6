//! The configuration file: YAML to values that cannot be wrong, with every fault told at once.
//!
//! YAML becomes a tree with places and the environment put in ([`tree`]), the tree becomes raw structs ([`raw`], read by
//! [`read`]), and those become [`Config`] ([`resolve`]).

mod error;
mod expand;
mod raw;
mod read;
mod resolve;
mod scalar;
pub mod schema;
#[cfg(test)]
mod tests;
mod tree;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

pub use error::{ConfigError, Fault, Place};
pub use scalar::{check_slot, parse_duration, parse_size};

pub use crate::core::{OnFirstStart, OnGap};
use crate::rules::config::Rule;
pub use crate::transaction::manual::ManualKeys;
pub use crate::types::database::Publish;

/// Where the file is looked for when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/coherd/coherd.yaml";

/// Where the daemon answers when `admin.listen` is left out.
pub const ADMIN_LISTEN: &str = "127.0.0.1:9871";

/// The largest file that is read, in bytes: ten thousand rules fit well.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// A configuration that can be worked with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub source: SourceConfig,
    /// The caches, in the order of the file, at least one. A rule's targets are indexes into it.
    pub targets: Vec<TargetSettings>,
    /// At least one.
    pub rules: Vec<Rule>,
    /// What to do where continuity is broken.
    pub on_gap: OnGap,
    /// What to do with a cache that has no record yet.
    pub on_first_start: OnFirstStart,
    /// The pause after which every invalidation is repeated; zero: not at all.
    pub repeat_after: Duration,
    /// Which keys count that are named manually.
    pub manual_keys: ManualKeys,
    /// Bounds of memory and of speed.
    pub limits: Limits,
    /// The HTTP server.
    pub admin: Admin,
    /// The log.
    pub log: Log,
}

/// `source:`
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// A libpq URI or key=value text, not looked into here.
    pub dsn: SecretString,
    /// The file it was read from, which is read again at each connect.
    pub dsn_file: Option<PathBuf>,
    /// A valid slot name.
    pub slot: String,
    /// The publication's name, unquoted.
    pub publication: String,
    /// What the publication sends of a table.
    pub publish: Publish,
    /// Replicas that caches may be filled from, each a libpq URI or key=value text, not looked into here.
    pub replicas: Vec<SecretString>,
    /// How far behind a replica may be before the settled watermark does not wait for it; at least a second.
    pub max_replica_lag: Duration,
    /// Bytes of log that the slot may hold back before it is abandoned; `None` for any amount, never 0.
    pub wal_budget: Option<u64>,
    /// How long decoding may fail at one position before a new slot replaces the old one; at least a second.
    pub decoding_timeout: Duration,
    /// How long making a slot may wait for the transactions that are running; above 0.
    pub slot_create_timeout: Duration,
    /// Whether the messages of `coherd.invalidate()` and friends count.
    pub messages: bool,
}

/// One entry of `targets:`
#[derive(Debug, Clone)]
pub struct TargetSettings {
    /// Its name in rules, metrics and logs.
    pub name: String,
    /// The URL's scheme, one that a kind of target has.
    pub scheme: String,
    /// The URL, of which only the scheme was looked at.
    pub url: SecretString,
    /// The file it was read from, which is read again at each connect.
    pub url_file: Option<PathBuf>,
    /// How long a version pointer lives; above 0.
    pub version_ttl: Duration,
    /// How long a reply may take; above 0.
    pub reply_timeout: Duration,
    /// How long connecting may take; above 0.
    pub connect_timeout: Duration,
    /// The key that holds the target's record.
    pub record: String,
    /// The channel on which `publish` rules send.
    pub channel: String,
    /// Whether its readers hold leases; only where its kind has them.
    pub leases: bool,
    /// Certificates of authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, PEM; comes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
}

/// `limits:`, each above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Keys that may wait for one target; beyond, rules are flushed instead.
    pub max_pending_keys: usize,
    /// Keys that one transaction may hold; beyond, its rules are flushed instead.
    pub max_keys_per_transaction: usize,
    /// Keys that a flush removes per second and target.
    pub flush_keys_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_pending_keys: 1_000_000, max_keys_per_transaction: 1_000_000, flush_keys_per_second: 50_000 }
    }
}

/// `admin:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// Names by which it may be asked, besides addresses and private names.
    pub hosts: Vec<String>,
    /// The lag beyond which the daemon is not ready; above 0.
    pub ready_max_lag: Duration,
}

/// `log:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A level, or directives such as `info,coherd::targets=debug`.
    pub level: String,
}

/// `log.format:`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `journald` under systemd, `text` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// Plain lines with syslog priorities and without time, which the journal adds.
    Journald,
    /// Lines with time, in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// What can be used of a file that cannot be used as a whole: a daemon that was started with an earlier one may run.
#[derive(Debug, Default)]
pub struct Part {
    /// `source:`, if nothing in it is wrong.
    pub source: Option<SourceConfig>,
    /// `admin:`, if nothing in it is wrong.
    pub admin: Option<Admin>,
}

impl Part {
    /// Reads the file at `path`; one that cannot be read has no part that can be used.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Part {
        let is_small = std::fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
        let Some(text) = is_small.then(|| std::fs::read_to_string(path).ok()).flatten() else { return Part::default() };
        let folder = path.parent().unwrap_or(Path::new(""));
        // A variable that is not set is of no concern to the sections that do not name it.
        let set = |name: &str| env(name).or_else(|| Some(String::new()));
        let source = tree::Node::parse(&text, env).ok().and_then(|root| resolve::source(&root, folder));
        let admin = tree::Node::parse(&text, &set).ok().and_then(|root| resolve::admin(&root, folder));
        Part { source, admin }
    }
}

impl Config {
    /// Reads the file at `path`. `env` gives environment variables.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let fail = |reason: String| ConfigError {
            file: path.to_owned(),
            faults: vec![Fault::new(Place::default(), "", reason)],
        };
        let told = |error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "there is no such file; write one, or name another with --config FILE or COHERD_CONFIG ({error})"
            ),
            _ => format!("it cannot be read: {error}"),
        };
        let size = std::fs::metadata(path).map_err(|error| fail(told(&error)))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fail(format!("it has {size} bytes, and more than {FILE_BYTES_MAX} are not read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(told(&error)))?;
        Config::parse(&text, path, env)
    }

    /// Reads `text`, which stands in the file at `path`: errors name it, and files named in the text are relative to
    /// its folder.
    pub fn parse(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        tree::Node::parse(text, env)
            .and_then(|root| resolve::resolve(&root, folder))
            .map_err(|faults| ConfigError { file: path.to_owned(), faults })
    }
}
