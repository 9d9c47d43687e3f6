//! One connection at a time, dialled when it is needed and dropped on the first sign of trouble.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::bump::Script;
use super::reply::{Step, broken, refused};
use super::strike::Salvo;
use crate::target::config::{TargetConfig, TlsFiles};
use crate::target::{Fault, FaultKind, OpenError};

/// Where the server is and how to get there.
pub(super) struct Line {
    /// `Redis at host:6379`: how every fault begins.
    pub(super) place: String,
    pub(super) info: ConnectionInfo,
    /// The user of the URL, and the database; [`Line::info`] has neither.
    pub(super) user: String,
    pub(super) database: i64,
    /// Ours, because the crate folds every refusal of its own greeting into "authentication failed".
    greeting: Salvo,
    tls: TlsFiles,
    connect_timeout: Duration,
    reply_timeout: Duration,
    /// What it was made of, where the URL stands in a file that may change.
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
    /// Which of the line's connections it is.
    number: u64,
    script_known: Arc<AtomicBool>,
}

impl Connected {
    /// Whether the bump script has to be sent whole.
    pub(super) fn script(&self) -> Script {
        if self.script_known.load(Ordering::Relaxed) { Script::Known } else { Script::Unknown }
    }

    /// Notes what a reply said about it.
    pub(super) fn script_is(&self, script: Script) {
        self.script_known.store(script == Script::Known, Ordering::Relaxed);
    }
}

impl Line {
    pub(super) fn new(config: &TargetConfig) -> Result<Self, OpenError> {
        let info = parse(config)?;
        check_tls(config, &info)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let settings = info.redis_settings().clone();
        let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
        Ok(Line {
            place: format!("Redis at {}", info.addr()),
            user: settings.username().unwrap_or("default").to_owned(),
            database: settings.db(),
            greeting: greeting(&settings, &config.slot),
            info: info.set_tcp_settings(tcp).set_redis_settings(bare),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            reply_timeout: config.reply_timeout,
            from_file: config.url_file.is_some().then(|| Box::new(config.clone())),
            held: Mutex::default(),
        })
    }

    /// The connection; dials where there is none.
    pub(super) async fn connected(&self) -> Result<Connected, Fault> {
        let mut held = self.held.lock().await;
        if let Some(connected) = &held.connection {
            return Ok(connected.clone());
        }
        let connection = self.dial().await?;
        held.dialled += 1;
        let connected = Connected { connection, number: held.dialled, script_known: Arc::default() };
        held.connection = Some(connected.clone());
        Ok(connected)
    }

    /// Lets go of `connected`, so that the next call dials anew. One that has been dialled since stays.
    pub(super) async fn lose(&self, connected: &Connected) {
        let mut held = self.held.lock().await;
        if held.connection.as_ref().is_some_and(|now| now.number == connected.number) {
            held.connection = None;
        }
    }

    async fn dial(&self) -> Result<MultiplexedConnection, Fault> {
        let again = self.read_again()?;
        let line = again.as_ref().unwrap_or(self);
        let client = line.client()?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.reply_timeout));
        let unreachable = |error| {
            // However it failed, there is no connection yet.
            Fault { kind: FaultKind::Connection, ..broken(&self.place, "connecting", &error) }
        };
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)?;
        let Salvo { pipeline, steps } = &line.greeting;
        let replies = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        let replies = replies.map_err(|error| broken(&self.place, "greeting", &error))?;
        // The last one, CLIENT SETNAME, has no step: a user that may not name itself is welcome all the same.
        for (step, reply) in steps.iter().zip(&replies) {
            if let Value::ServerError(error) = reply {
                return Err(refused(&self.place, *step, error));
            }
        }
        Ok(connection)
    }

    /// What the file says now in which the URL stands; `None` where it stands in none.
    fn read_again(&self) -> Result<Option<Line>, Fault> {
        let Some((config, file)) = self.from_file.as_ref().and_then(|config| Some((config, config.url_file.as_ref()?)))
        else {
            return Ok(None);
        };
        // It may be about to be replaced.
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

    fn client(&self) -> Result<Client, Fault> {
        let bad = |reason: String| Fault { kind: FaultKind::Denied, message: format!("{}: {reason}", self.place) };
        let client = if matches!(self.info.addr(), ConnectionAddr::TcpTls { .. }) {
            let certificates = certificates(&self.tls).map_err(|(field, reason)| bad(format!("{field}: {reason}")))?;
            Client::build_with_tls(self.info.clone(), certificates)
        } else {
            Client::open(self.info.clone())
        };
        client.map_err(|error| bad(error.to_string()))
    }
}

/// `AUTH` and `SELECT` where the URL asks for them, and a name for `CLIENT LIST`.
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
        // The crate's texts hold at most the value of `?protocol=`; its details are left out all the same.
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

/// Finds out at start what would otherwise be found out at each connect.
fn check_tls(config: &TargetConfig, info: &ConnectionInfo) -> Result<(), OpenError> {
    let bad = |field, reason| OpenError::BadFile { target: config.name.clone(), field, reason };
    let TlsFiles { ca_file, cert_file, key_file } = &config.tls;
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return match ca_file.as_ref().or(cert_file.as_ref()).or(key_file.as_ref()) {
            Some(_) => Err(bad("ca_file, cert_file, key_file", "they need TLS: give the url as rediss://…".to_owned())),
            None => Ok(()),
        };
    }
    // rustls looks for the process's provider and panics where two are compiled in and none is chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = certificates(&config.tls).map_err(|(field, reason)| bad(field, reason))?;
    Client::build_with_tls(info.clone(), certificates).map(drop).map_err(|error| bad("ca_file", error.to_string()))
}

fn certificates(files: &TlsFiles) -> Result<TlsCertificates, (&'static str, String)> {
    let read = |field: &'static str, path: &Path| {
        std::fs::read(path).map_err(|error| (field, format!("reading {}: {error}", path.display())))
    };
    let client_tls = match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read("cert_file", cert)?, client_key: read("key_file", key)? })
        }
        (None, None) => None,
        (Some(_), None) => return Err(("key_file", "it is missing: cert_file needs it".to_owned())),
        (None, Some(_)) => return Err(("cert_file", "it is missing: key_file needs it".to_owned())),
    };
    let root_cert = files.ca_file.as_deref().map(|path| read("ca_file", path)).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}
