//! The configuration file: from YAML to values that cannot be wrong. Every error is reported at once.
//!
//! YAML becomes a tree with positions and with environment variables expanded ([`tree`]). The tree becomes raw structs
//! ([`raw`], read by [`read`]), and those become [`Config`] ([`resolve`]).

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
use crate::rules::case::Case;
use crate::rules::config::Rule;
pub use crate::transaction::manual::ManualKeys;
pub use crate::types::database::Publish;

/// The file that is read if neither an option nor the environment names one.
pub const DEFAULT_PATH: &str = "/etc/coherd/coherd.yaml";

/// The address on which the daemon listens if `admin.listen` is left out.
pub const ADMIN_LISTEN: &str = "127.0.0.1:9871";

/// The largest file that is read, in bytes; ten thousand rules fit easily.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub source: SourceConfig,
    /// The caches, in the order of the file, at least one. A rule's targets are indexes into it.
    pub targets: Vec<TargetSettings>,
    /// At least one.
    pub rules: Vec<Rule>,
    /// What `coherd test` runs.
    pub cases: Vec<Case>,
    /// What to do when continuity is broken.
    pub on_gap: OnGap,
    /// What to do at the first start, when there is neither a slot nor a record.
    pub on_first_start: OnFirstStart,
    /// The pause after which every invalidation is repeated; zero means never.
    pub repeat_after: Duration,
    /// Which keys may be invalidated manually.
    pub manual_keys: ManualKeys,
    /// Limits of memory and speed.
    pub limits: Limits,
    /// The HTTP server.
    pub admin: Admin,
    /// The log.
    pub log: Log,
}

/// `source:`
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// A libpq URI or key=value text; not parsed here.
    pub dsn: SecretString,
    /// The file that held it; it is read again at each connect.
    pub dsn_file: Option<PathBuf>,
    /// A valid slot name.
    pub slot: String,
    /// The publication's name, unquoted.
    pub publication: String,
    /// How much of a table's rows the publication sends.
    pub publish: Publish,
    /// Replicas from which readers may fill caches, each a libpq URI or key=value text; not parsed here.
    pub replicas: Vec<SecretString>,
    /// How far behind a replica may be before the settled watermark stops waiting for it; at least a second.
    pub max_replica_lag: Duration,
    /// Bytes of log that the slot may hold back before coherd suspends the targets that do not keep up. `None` means
    /// any amount; never 0.
    pub wal_budget: Option<u64>,
    /// How long decoding may fail at one position before coherd replaces the slot with a new one; at least a second.
    pub decoding_timeout: Duration,
    /// How long creating a slot may wait for running transactions; above 0.
    pub slot_create_timeout: Duration,
    /// Whether coherd acts on the messages of `coherd.invalidate()`, `coherd.touch()` and `coherd.flush()`.
    pub messages: bool,
}

/// One entry of `targets:`
#[derive(Debug, Clone)]
pub struct TargetSettings {
    /// Its name in rules, metrics and logs.
    pub name: String,
    /// The URL's scheme, one of those that the target kinds register.
    pub scheme: String,
    /// The URL; only its scheme has been parsed.
    pub url: SecretString,
    /// The file that held it; it is read again at each connect.
    pub url_file: Option<PathBuf>,
    /// How long a version pointer lives after it last moved; above 0.
    pub version_ttl: Duration,
    /// How long a reply may take; above 0.
    pub reply_timeout: Duration,
    /// How long connecting may take; above 0.
    pub connect_timeout: Duration,
    /// The key that holds the target's record.
    pub record: String,
    /// The channel on which `publish` rules publish.
    pub channel: String,
    /// Whether readers use leases; only true for kinds that support them.
    pub leases: bool,
    /// CA certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, PEM; comes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client certificate's key, PEM.
    pub key_file: Option<PathBuf>,
}

/// `limits:`, each value above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Keys that may wait for one target; above this, coherd flushes rules instead.
    pub max_pending_keys: usize,
    /// Keys that one transaction may hold; above this, coherd flushes its rules instead.
    pub max_keys_per_transaction: usize,
    /// Keys that a flush removes per second, for each target.
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
    /// Host names to which it answers, besides IP addresses and private names.
    pub hosts: Vec<String>,
    /// The lag above which the daemon is not ready; above 0.
    pub ready_max_lag: Duration,
}

/// `log:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines are formatted.
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
    /// Plain lines with syslog priorities and without a time, which the journal adds.
    Journald,
    /// Lines with a time; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// The valid sections of a file that is not valid as a whole. A daemon that was started with an earlier version of the
/// file may still be running, and these sections help to reach it.
#[derive(Debug, Default)]
pub struct Part {
    /// `source:`, if it has no error.
    pub source: Option<SourceConfig>,
    /// `admin:`, if it has no error.
    pub admin: Option<Admin>,
}

impl Part {
    /// Reads the file at `path`. A file that cannot be read yields no section.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Part {
        let is_small = std::fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
        let Some(text) = is_small.then(|| std::fs::read_to_string(path).ok()).flatten() else { return Part::default() };
        let folder = path.parent().unwrap_or(Path::new(""));
        // For `admin:`, an unset variable matters only if that section names it.
        let set = |name: &str| env(name).or_else(|| Some(String::new()));
        let source = tree::Node::parse(&text, env).ok().and_then(|root| resolve::source(&root, folder));
        let admin = tree::Node::parse(&text, &set).ok().and_then(|root| resolve::admin(&root, folder));
        Part { source, admin }
    }
}

/// The sections of a file that `coherd test` needs. It runs where there is no database and where no secret is set.
#[derive(Debug)]
pub struct Tested {
    /// At least one.
    pub rules: Vec<Rule>,
    /// At least one.
    pub cases: Vec<Case>,
}

impl Tested {
    /// Reads the file at `path`. An environment variable that is not set counts as empty. The error lists every fault of
    /// the two sections.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Tested, ConfigError> {
        let text = read_file(path)?;
        let set = |name: &str| env(name).or_else(|| Some(String::new()));
        let read = tree::Node::parse(&text, &set).and_then(|root| resolve::tested(&root));
        let (rules, cases) = read.map_err(|faults| ConfigError { file: path.to_owned(), faults })?;
        Ok(Tested { rules, cases })
    }
}

/// Reads the file at `path`, if it is not too large.
fn read_file(path: &Path) -> Result<String, ConfigError> {
    let fail =
        |reason: String| ConfigError { file: path.to_owned(), faults: vec![Fault::new(Place::default(), "", reason)] };
    let told = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no such file; write one, or name another with --config FILE or COHERD_CONFIG ({error})")
        }
        _ => format!("it cannot be read: {error}"),
    };
    let size = std::fs::metadata(path).map_err(|error| fail(told(&error)))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fail(format!("it has {size} bytes, and more than {FILE_BYTES_MAX} are not read")));
    }
    std::fs::read_to_string(path).map_err(|error| fail(told(&error)))
}

impl Config {
    /// Reads the file at `path`. `env` looks up environment variables. The error lists every fault.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = read_file(path)?;
        Config::parse(&text, path, env)
    }

    /// Reads `text`, the content of the file at `path`. Errors name that file, and file names in the text are relative
    /// to its folder.
    pub fn parse(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        tree::Node::parse(text, env)
            .and_then(|root| resolve::resolve(&root, folder))
            .map_err(|faults| ConfigError { file: path.to_owned(), faults })
    }
}
