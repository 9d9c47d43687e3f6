//! Turns parameters as written into a [`Dsn`] that cannot be wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::parameter::{DsnError, Given};
use super::{
    ChannelBindingChoice, Dsn, FileChoice, Host, Keepalive, Place, RootChoice, SessionAttrs, SslMode, TlsChoice,
};

/// libpq leaves these to the operating system (two hours of silence): too long for a daemon that others wait for.
const KEEPALIVE: Keepalive = Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), count: 3 };
const TCP_USER_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The socket directory of Debian's and Red Hat's builds of Postgres.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

struct Reader<'a> {
    given: &'a Given,
    env: &'a dyn Fn(&str) -> Option<String>,
}

/// Completes `given` from the environment and libpq's defaults.
pub(super) fn resolve(given: &Given, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn, DsnError> {
    given.check_env(env)?;
    let reader = Reader { given, env };
    let user = reader.text("user")?.or_else(|| env("USER")).or_else(|| env("LOGNAME"));
    let user = user.ok_or_else(|| DsnError("user: not given, and the environment names no user either".to_owned()))?;
    let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let database = reader.text("dbname")?.unwrap_or_else(|| user.clone());
    let application_name = match reader.text("application_name")? {
        Some(name) => name,
        None => reader.text("fallback_application_name")?.unwrap_or_else(|| "coherd".to_owned()),
    };
    Ok(Dsn {
        hosts: reader.hosts()?,
        file: None,
        password: reader.text("password")?.map(SecretString::from),
        passfile: reader
            .text("passfile")?
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".pgpass"))),
        database,
        user,
        tls: reader.tls(home.as_deref())?,
        wanted: reader.session_attrs()?,
        shuffled: reader.choice("load_balance_hosts", false, &[("disable", false), ("random", true)])?,
        connect_timeout: reader.connect_timeout()?,
        keepalive: reader.keepalive()?,
        tcp_user_timeout: match reader.number("tcp_user_timeout")? {
            None => Some(TCP_USER_TIMEOUT),
            Some(0) => None,
            Some(ms) => Some(Duration::from_millis(ms.into())),
        },
        application_name,
        options: reader.text("options")?,
        channel_binding: reader.choice(
            "channel_binding",
            ChannelBindingChoice::Prefer,
            &[
                ("disable", ChannelBindingChoice::Disable),
                ("prefer", ChannelBindingChoice::Prefer),
                ("require", ChannelBindingChoice::Require),
            ],
        )?,
    })
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, DsnError> {
        self.given.or_env(name, self.env)
    }

    fn number(&self, name: &str) -> Result<Option<u32>, DsnError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.trim().parse::<i64>() {
            // libpq treats a negative number as zero.
            Ok(number) => Ok(Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))),
            Err(_) => Err(DsnError(format!("{name}: {text:?} is not a whole number"))),
        }
    }

    fn choice<T: Copy>(&self, name: &str, default: T, choices: &[(&str, T)]) -> Result<T, DsnError> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        let found = choices.iter().find(|(known, _)| *known == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
            DsnError(format!("{name}: {text:?} is not one of {}", known.join(", ")))
        })
    }

    fn list(&self, name: &str) -> Result<Vec<String>, DsnError> {
        Ok(self
            .text(name)?
            .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
            .unwrap_or_default())
    }

    fn hosts(&self) -> Result<Vec<Host>, DsnError> {
        let names = self.list("host")?;
        let addresses = self.list("hostaddr")?;
        let ports = self.list("port")?;
        if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
            return Err(DsnError(format!("host names {} servers, hostaddr {}", names.len(), addresses.len())));
        }
        let count = names.len().max(addresses.len()).max(1);
        if ports.len() > 1 && ports.len() != count {
            return Err(DsnError(format!("port gives {} ports for {count} hosts: give one, or one each", ports.len())));
        }
        let hosts = (0..count).map(|i| {
            let name = names.get(i).map(String::as_str).unwrap_or_default();
            let address = addresses.get(i).map(String::as_str).unwrap_or_default();
            let port = ports.get(i).or_else(|| ports.first().filter(|_| ports.len() == 1));
            host(name, address, port.map(String::as_str).unwrap_or_default())
        });
        hosts.collect()
    }

    fn session_attrs(&self) -> Result<SessionAttrs, DsnError> {
        let all = [
            SessionAttrs::Any,
            SessionAttrs::ReadWrite,
            SessionAttrs::ReadOnly,
            SessionAttrs::Primary,
            SessionAttrs::Standby,
            SessionAttrs::PreferStandby,
        ];
        self.choice("target_session_attrs", SessionAttrs::Any, &all.map(|attrs| (attrs.name(), attrs)))
    }

    fn connect_timeout(&self) -> Result<Option<Duration>, DsnError> {
        Ok(match self.number("connect_timeout")? {
            None => Some(CONNECT_TIMEOUT),
            Some(0) => None,
            // libpq rounds one second up to two.
            Some(seconds) => Some(Duration::from_secs(seconds.max(2).into())),
        })
    }

    fn keepalive(&self) -> Result<Option<Keepalive>, DsnError> {
        if self.number("keepalives")? == Some(0) {
            return Ok(None);
        }
        let seconds = |name, default| {
            let given = self.number(name)?.filter(|seconds| *seconds > 0);
            Ok::<_, DsnError>(given.map_or(default, |seconds| Duration::from_secs(seconds.into())))
        };
        Ok(Some(Keepalive {
            idle: seconds("keepalives_idle", KEEPALIVE.idle)?,
            interval: seconds("keepalives_interval", KEEPALIVE.interval)?,
            count: self.number("keepalives_count")?.filter(|count| *count > 0).unwrap_or(KEEPALIVE.count),
        }))
    }

    fn tls(&self, home: Option<&Path>) -> Result<TlsChoice, DsnError> {
        let file = |name, default: &str| {
            Ok::<_, DsnError>(match (self.text(name)?, home) {
                (Some(path), _) => FileChoice::Named(path.into()),
                (None, Some(home)) => FileChoice::IfThere(home.join(".postgresql").join(default)),
                (None, None) => FileChoice::None,
            })
        };
        let system = self.text("sslrootcert")?.as_deref() == Some("system");
        let all = [
            SslMode::Disable,
            SslMode::Allow,
            SslMode::Prefer,
            SslMode::Require,
            SslMode::VerifyCa,
            SslMode::VerifyFull,
        ];
        let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
        let mode = self.choice("sslmode", default, &all.map(|mode| (mode.name(), mode)))?;
        if system && mode != SslMode::VerifyFull {
            // Anybody can get a certificate from a public authority; only the name says whose it is.
            let text = format!("sslmode: {} is too weak with sslrootcert=system; use verify-full", mode.name());
            return Err(DsnError(text));
        }
        let direct = self.choice("sslnegotiation", false, &[("postgres", false), ("direct", true)])?;
        if direct && mode < SslMode::Require {
            let text = format!("sslmode: {} cannot go with sslnegotiation=direct; use require or more", mode.name());
            return Err(DsnError(text));
        }
        let versions = [("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", false), ("TLSv1.3", true)];
        Ok(TlsChoice {
            mode,
            root: if system { RootChoice::System } else { RootChoice::File(file("sslrootcert", "root.crt")?) },
            certificate: file("sslcert", "postgresql.crt")?,
            key: file("sslkey", "postgresql.key")?,
            name_indication: self.choice("sslsni", true, &[("1", true), ("0", false)])?,
            only_1_3: self.choice("ssl_min_protocol_version", false, &versions)?,
            direct,
        })
    }
}

fn host(name: &str, address: &str, port: &str) -> Result<Host, DsnError> {
    let port = match port {
        "" => 5432,
        // Never shows the value: in a URI with a slash in its password, the "port" is a part of the password.
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
            DsnError("port: not a number from 1 to 65535 (is there an unencoded slash in the password?)".to_owned())
        })?,
    };
    let place = match (name, address) {
        (_, address) if !address.is_empty() => Place::Address(
            address
                .parse()
                .map_err(|_| DsnError("hostaddr: not an IPv4 or IPv6 address; use host for a name".to_owned()))?,
        ),
        ("", _) if Path::new(SOCKET_DIRECTORY).is_dir() => Place::Directory(SOCKET_DIRECTORY.into()),
        ("", _) => Place::Name("localhost".to_owned()),
        (name, _) if name.starts_with('/') => Place::Directory(name.into()),
        (name, _) if name.starts_with('@') => {
            return Err(DsnError(
                "host: abstract unix sockets are not offered; give the socket's directory".to_owned(),
            ));
        }
        (name, _) => name.parse().map_or_else(|_| Place::Name(name.to_owned()), Place::Address),
    };
    let name = match (name, &place) {
        ("", Place::Directory(directory)) => directory.display().to_string(),
        ("", Place::Name(name)) => name.clone(),
        ("", Place::Address(address)) => address.to_string(),
        (name, _) => name.to_owned(),
    };
    Ok(Host { name, place, port })
}
