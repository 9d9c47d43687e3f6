//! Parses a libpq connection string, as a URI or as `key=value` words, into a [`Dsn`]: where the database is and how to
//! log in. The `PG*` environment completes it (Postgres manual, chapter "libpq", "Database Connection Control
//! Functions").

mod parameter;
mod resolve;
mod uri;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use parameter::DsnError;
use parameter::Given;

use crate::postgres::SourceError;

/// A parsed connection string. Its `Debug` and `Display` hold no credential.
#[derive(Clone)]
pub struct Dsn {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) password: Option<SecretString>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) database: String,
    pub(super) tls: TlsChoice,
    pub(super) wanted: SessionAttrs,
    /// Try the hosts in a random order (`load_balance_hosts=random`).
    pub(super) shuffled: bool,
    /// Time limit for one address: TCP, TLS and authentication together. `None` waits for ever.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged before the kernel gives up the connection.
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) application_name: String,
    pub(super) options: Option<String>,
    pub(super) channel_binding: ChannelBindingChoice,
    /// The file from which the string was read, and which coherd reads again at each connect.
    pub(super) file: Option<PathBuf>,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The name as written, which certificates and the password file use.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) port: u16,
}

/// How to reach a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A host name for the resolver.
    Name(String),
    /// An address (`hostaddr`, or a host that is one).
    Address(IpAddr),
    /// The directory of a unix socket.
    Directory(PathBuf),
}

/// `sslmode` and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsChoice {
    pub(super) mode: SslMode,
    pub(super) root: RootChoice,
    pub(super) certificate: FileChoice,
    pub(super) key: FileChoice,
    /// Send the host name in the clear, for proxies that route by it (`sslsni`).
    pub(super) name_indication: bool,
    /// `ssl_min_protocol_version=TLSv1.3`.
    pub(super) only_1_3: bool,
    /// Start TLS at once, without asking first (`sslnegotiation=direct`, Postgres 17).
    pub(super) direct: bool,
}

/// A file that was named, or libpq's default path, where there may be none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileChoice {
    Named(PathBuf),
    IfThere(PathBuf),
    None,
}

/// Whose signature on the server's certificate is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootChoice {
    File(FileChoice),
    /// `sslrootcert=system`.
    System,
}

/// Time limit for each host where `connect_timeout` sets none.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelBindingChoice {
    Disable,
    Prefer,
    Require,
}

/// TCP keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
}

impl Dsn {
    /// Parses `text` in either form. `env` completes what it leaves out: `PGHOST` and the like, `USER` and `HOME`.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn, DsnError> {
        let text = text.trim();
        let mut given = Given::default();
        match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => uri::read(rest, &mut given)?,
            None => words::read(text, &mut given)?,
        }
        resolve::resolve(&given, env)
    }

    /// Sets the file from which the string was read. coherd reads it again at each connect, so that a rotated password
    /// takes effect.
    #[must_use]
    pub fn from_file(self, file: Option<PathBuf>) -> Self {
        Dsn { file, ..self }
    }

    /// Parses the file again; `None` if the string comes from no file.
    pub(super) fn read_again(&self) -> Result<Option<Dsn>, SourceError> {
        let Some(file) = &self.file else { return Ok(None) };
        let name = file.display();
        // Somebody may be about to replace the file, so this error may pass by itself.
        let text = std::fs::read_to_string(file).map_err(|error| {
            SourceError::lost(format!("the connection string cannot be read from {name}")).caused_by(error)
        })?;
        if text.trim().is_empty() {
            return Err(SourceError::lost(format!("the connection string cannot be read from {name}: it is empty")));
        }
        let dsn = Dsn::parse(&text, &|name| std::env::var(name).ok());
        let dsn = dsn.map_err(|error| SourceError::refused(name.to_string()).caused_by(error))?;
        Ok(Some(dsn.named(&self.application_name).from_file(Some(file.clone()))))
    }

    /// Time limit of connecting in all; where `connect_timeout` is set, that limit alone applies.
    pub(in crate::postgres) fn connect_max(&self) -> Duration {
        let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        if self.connect_timeout.is_some() { Duration::MAX } else { CONNECT_MAX.saturating_mul(hosts) }
    }

    /// Name of the role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The first host, as written.
    pub fn host(&self) -> &str {
        self.hosts.first().map_or("", |host| &host.name)
    }

    /// The name under which the server lists the connection.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The connection parameters in the form that libpq's programs take, without credentials.
    pub fn libpq(&self) -> String {
        let each = |part: &dyn Fn(&Host) -> String| self.hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let place = |host: &Host| match &host.place {
            Place::Directory(directory) => directory.display().to_string(),
            Place::Name(_) | Place::Address(_) => host.name.clone(),
        };
        let words = [
            ("host", each(&place)),
            ("port", each(&|host| host.port.to_string())),
            ("dbname", self.database.clone()),
            ("user", self.user.clone()),
            ("sslmode", self.tls.mode.name().to_owned()),
            ("target_session_attrs", self.wanted.name().to_owned()),
        ];
        let default = |(name, value): &(&str, String)| *name == "target_session_attrs" && value == "any";
        let word = |(name, value): (&str, String)| {
            let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
            let quoted = || format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
            format!("{name}={}", if plain { value.clone() } else { quoted() })
        };
        words.into_iter().filter(|given| !default(given)).map(word).collect::<Vec<_>>().join(" ")
    }

    /// The same connection under another `application_name`.
    #[must_use]
    pub fn named(mut self, application_name: &str) -> Self {
        application_name.clone_into(&mut self.application_name);
        self
    }
}

/// `user@host:port,host:port/database`.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (i, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if i > 0 { "," } else { "" })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self} {:?})", self.tls.mode)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(_) => write!(f, "{}", self.socket_path().display()),
            _ if self.name.contains(':') => write!(f, "[{}]:{}", self.name, self.port),
            _ => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

impl Host {
    /// The file of the unix socket; empty if the host is not one.
    pub(super) fn socket_path(&self) -> PathBuf {
        match &self.place {
            Place::Directory(directory) => directory.join(format!(".s.PGSQL.{}", self.port)),
            Place::Name(_) | Place::Address(_) => PathBuf::new(),
        }
    }
}

impl SslMode {
    /// As libpq spells it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

impl SessionAttrs {
    /// As libpq spells it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            SessionAttrs::Any => "any",
            SessionAttrs::ReadWrite => "read-write",
            SessionAttrs::ReadOnly => "read-only",
            SessionAttrs::Primary => "primary",
            SessionAttrs::Standby => "standby",
            SessionAttrs::PreferStandby => "prefer-standby",
        }
    }
}

#[cfg(test)]
mod tests;
