//! Holds one connection at a time: dials it when it is needed and drops it on the first sign of trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, Value,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::bounds::Ended;
use super::dial;
use super::invalidation::Salvo;
use super::reply::{Step, broken, refused};
use super::script::Script;
use crate::targets::config::{TargetConfig, TlsFiles};
use crate::targets::{Fault, FaultKind, OpenError};

/// Where the server is, and the connection to it.
pub(super) struct Line {
    /// `Redis at host:6379`: how every fault begins.
    pub(super) place: String,
    pub(super) address: ConnectionAddr,
    /// The URL's user, or `default`.
    pub(super) user: String,
    pub(super) database: i64,
    greeting: Salvo,
    tls: TlsFiles,
    connect_timeout: Duration,
    reply_timeout: Duration,
    /// The configuration, if the URL is in a file that may change.
    from_file: Option<Box<TargetConfig>>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    connection: Option<Connected>,
    dialled: u64,
}

/// A connection that answered the greeting.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// Its number among the line's connections.
    number: u64,
    known: Arc<KnownScripts>,
    /// Why coherd ended it, if the server sent too much.
    pub(super) ended: Ended,
    /// Dropped with the last user of the connection.
    _driver: Arc<Driver>,
}

/// The task that reads and writes the socket. It ends with the connection, which must not wait for a server that has
/// stalled.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Which scripts the server has confirmed.
#[derive(Default)]
struct KnownScripts {
    bump: AtomicBool,
    record: AtomicBool,
}

impl Connected {
    /// Whether the server knows the bump script, and whether it knows the record's.
    pub(super) fn scripts(&self) -> (Script, Script) {
        let of = |known: &AtomicBool| if known.load(Ordering::Relaxed) { Script::Known } else { Script::Unknown };
        (of(&self.known.bump), of(&self.known.record))
    }

    /// Notes that a call of the record's script was confirmed and, if `bumped`, one of the bump script.
    pub(super) fn confirmed(&self, bumped: bool) {
        self.known.record.store(true, Ordering::Relaxed);
        self.known.bump.fetch_or(bumped, Ordering::Relaxed);
    }

    /// Notes that the server has forgotten the scripts.
    pub(super) fn forgot_scripts(&self) {
        self.known.record.store(false, Ordering::Relaxed);
        self.known.bump.store(false, Ordering::Relaxed);
    }
}

impl Line {
    pub(super) fn new(config: &TargetConfig) -> Result<Self, OpenError> {
        let info = parse(config)?;
        check_tls(config, &info)?;
        let settings = info.redis_settings().clone();
        Ok(Line {
            place: format!("Redis at {}", info.addr()),
            user: settings.username().unwrap_or("default").to_owned(),
            database: settings.db(),
            greeting: greeting(&settings, &config.slot),
            address: info.addr().clone(),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            reply_timeout: config.reply_timeout,
            from_file: config.url_file.is_some().then(|| Box::new(config.clone())),
            held: Mutex::default(),
        })
    }

    /// Returns the connection; dials if there is none.
    pub(super) async fn connected(&self) -> Result<Connected, Fault> {
        let mut held = self.held.lock().await;
        if let Some(connected) = &held.connection {
            return Ok(connected.clone());
        }
        let ended = Ended::default();
        let (connection, driver) = self.dial(&ended).await.map_err(|fault| self.explain(&ended, fault))?;
        held.dialled += 1;
        let (number, driver) = (held.dialled, Arc::new(driver));
        let connected = Connected { connection, number, known: Arc::default(), ended, _driver: driver };
        held.connection = Some(connected.clone());
        Ok(connected)
    }

    /// The connection, if there is one.
    pub(super) async fn present(&self) -> Option<Connected> {
        self.held.lock().await.connection.clone()
    }

    /// Drops `connected`, so that the next call dials again. A connection that has been dialled since stays.
    pub(super) async fn lose(&self, connected: &Connected) {
        let mut held = self.held.lock().await;
        if held.connection.as_ref().is_some_and(|now| now.number == connected.number) {
            held.connection = None;
        }
    }

    /// Returns the fault, or one that says what the server sent if that is why the connection ended.
    pub(super) fn explain(&self, ended: &Ended, fault: Fault) -> Fault {
        let (Some(excess), FaultKind::Connection | FaultKind::Timeout) = (ended.get(), fault.kind) else {
            return fault;
        };
        let message = format!(
            "{}: the server sent {excess}; coherd closed the connection. Either this is no Redis, or something in between is \
             broken: look at what answers at the address in the url",
            self.place
        );
        Fault { kind: FaultKind::Connection, message }
    }

    async fn dial(&self, ended: &Ended) -> Result<(MultiplexedConnection, Driver), Fault> {
        let again = self.read_again()?;
        let line = again.as_ref().unwrap_or(self);
        let wire = dial::dial(&line.address, &line.tls, self.connect_timeout, ended);
        let wire = wire.await.map_err(|error| error.fault(&self.place))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.reply_timeout));
        // The crate's own greeting is empty, because the crate reports every refusal of it as "authentication failed".
        let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
        let opened = MultiplexedConnection::new_with_config(&bare, wire, config).await;
        let (mut connection, driver) = opened.map_err(|error| broken(&self.place, "connecting", &error))?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        let Salvo { pipeline, steps } = &line.greeting;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let replies = replies.map_err(|error| broken(&self.place, "greeting", &error))?;
        // The last command, CLIENT SETNAME, has no step: a user that may not name its connection may still use it.
        for (step, reply) in steps.iter().zip(&replies) {
            if let Value::ServerError(error) = reply {
                return Err(refused(&self.place, *step, error));
            }
        }
        Ok((connection, driver))
    }

    /// The line as the URL's file describes it now; `None` if the URL is not in a file.
    fn read_again(&self) -> Result<Option<Line>, Fault> {
        let Some((config, file)) = self.from_file.as_ref().and_then(|config| Some((config, config.url_file.as_ref()?)))
        else {
            return Ok(None);
        };
        // The file may be about to be replaced, so a missing or empty one is a fault that passes by itself.
        let bad = |kind, reason: String| Fault { kind, message: format!("{}: {reason}", self.place) };
        let text = std::fs::read_to_string(file)
            .map_err(|error| bad(FaultKind::Connection, format!("reading {}: {error}", file.display())))?;
        let url = text.trim_end_matches(['\r', '\n']).to_owned();
        if url.is_empty() {
            return Err(bad(FaultKind::Connection, format!("{} is empty", file.display())));
        }
        let config = TargetConfig { url: url.into(), url_file: None, ..(**config).clone() };
        Line::new(&config).map(Some).map_err(|error| bad(FaultKind::Denied, error.to_string()))
    }
}

/// `AUTH` and `SELECT` if the URL asks for them, and a name for `CLIENT LIST`.
fn greeting(settings: &RedisConnectionInfo, slot: &str) -> Salvo {
    let mut salvo = Salvo::default();
    if let Some(password) = settings.password() {
        let mut auth = Cmd::new();
        auth.arg("AUTH");
        if let Some(user) = settings.username() {
            auth.arg(user);
        }
        auth.arg(password);
        salvo.push(Step::Authenticate, auth);
    }
    if settings.db() != 0 {
        let mut select = Cmd::new();
        select.arg("SELECT").arg(settings.db());
        salvo.push(Step::SelectDatabase, select);
    }
    salvo.pipeline.cmd("CLIENT").arg("SETNAME").arg(format!("coherd:{slot}"));
    salvo
}

fn parse(config: &TargetConfig) -> Result<ConnectionInfo, OpenError> {
    let bad = |reason: String| OpenError::BadUrl { target: config.name.clone(), reason };
    let url = config.url.expose_secret();
    let info = url.into_connection_info().map_err(|error| {
        // The crate's texts contain at most the value of `?protocol=`. Its details are left out nevertheless.
        let what = error.to_string();
        let what = what.split(" - ").next().unwrap_or("it cannot be read");
        bad(format!(
            "{what}; give it as redis://user:password@host:6379/0, rediss://… for TLS, or \
             redis+unix:///path/to/redis.sock?db=0; in user and password, write / ? # % @ : as %2F %3F %23 %25 %40 %3A"
        ))
    })?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(bad("#insecure is not supported: name the certificate to trust as ca_file".to_owned()));
    }
    Ok(info)
}

/// Finds at startup what would otherwise fail at each connect.
fn check_tls(config: &TargetConfig, info: &ConnectionInfo) -> Result<(), OpenError> {
    let bad = |field, reason| OpenError::BadFile { target: config.name.clone(), field, reason };
    let TlsFiles { ca_file, cert_file, key_file } = &config.tls;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return dial::client_config(&config.tls).map(drop).map_err(|(field, reason)| bad(field, reason));
    }
    match ca_file.as_ref().or(cert_file.as_ref()).or(key_file.as_ref()) {
        Some(_) => Err(bad("ca_file, cert_file, key_file", "they need TLS: give the url as rediss://…".to_owned())),
        None => Ok(()),
    }
}
