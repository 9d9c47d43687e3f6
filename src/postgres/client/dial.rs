//! Finds a server: tries host after host, address after address, with or without TLS, until one accepts the connection
//! and has the role that `target_session_attrs` asks for.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use postgres_protocol::message::frontend;
use secrecy::SecretString;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::dsn::{Dsn, Host, Place, SessionAttrs, SslMode};
use super::passfile;
use super::server_error::Doing;
use super::session::{Failure, lost};
use super::socket::Socket;
use super::tls::Tls;
use crate::postgres::{ErrorKind, SourceError};

/// The protocol that is spoken on the socket once it is open.
pub(in crate::postgres) trait Caller {
    /// A logged-in session.
    type Call;
    /// Whether the session is for replication.
    const REPLICATION: bool;

    /// Performs startup and authentication.
    fn open(
        &self,
        socket: Socket,
        dsn: &Dsn,
        password: Option<&SecretString>,
    ) -> impl Future<Output = Result<Self::Call, Failure>>;

    /// Asks the server for its role.
    fn standing(&self, call: &mut Self::Call) -> impl Future<Output = Result<Standing, Failure>>;
}

/// The facts that `target_session_attrs` checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Standing {
    pub(in crate::postgres) in_recovery: bool,
    pub(in crate::postgres) read_only: bool,
}

/// The query for [`Standing`]: two booleans, as Postgres prints them.
pub(in crate::postgres) const STANDING: &str =
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";

/// How one attempt to connect is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    IfOffered,
    Demanded,
}

/// Why coherd gave up a host.
struct Left {
    error: SourceError,
    /// Another host would answer the same, or the password would go to a host that it is not for.
    stop: bool,
}

/// Opens a session with the first suitable host.
pub(in crate::postgres) async fn dial<C: Caller>(dsn: &Dsn, caller: &C) -> Result<C::Call, SourceError> {
    let again = dsn.read_again()?;
    let dsn = again.as_ref().unwrap_or(dsn);
    let tls = (dsn.tls.mode != SslMode::Disable).then(|| Tls::new(&dsn.tls)).transpose()?;
    let mut hosts: Vec<&Host> = dsn.hosts.iter().collect();
    if dsn.shuffled {
        fastrand::shuffle(&mut hosts);
    }
    let passes: &[SessionAttrs] = match &dsn.wanted {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        wanted => std::slice::from_ref(wanted),
    };
    let mut reasons = Vec::new();
    for wanted in passes {
        reasons.clear();
        for &host in &hosts {
            match try_host(dsn, caller, tls.as_ref(), host, *wanted).await {
                Ok(call) => return Ok(call),
                Err(left) => {
                    reasons.push((host, left.error));
                    if left.stop {
                        return Err(summary(&reasons));
                    }
                }
            }
        }
    }
    Err(summary(&reasons))
}

/// One error that names every host and its reason. If any of them may pass by itself, so may this one.
fn summary(reasons: &[(&Host, SourceError)]) -> SourceError {
    let any = |kind| reasons.iter().any(|(_, error)| error.kind() == kind);
    let texts: Vec<String> = reasons.iter().map(|(host, error)| format!("{host}: {error}")).collect();
    let text = match texts.as_slice() {
        [one] => format!("Postgres at {one}"),
        several => format!("none of the {} servers is usable; {}", several.len(), several.join("; ")),
    };
    let by_hope = [ErrorKind::Lost, ErrorKind::Pooler, ErrorKind::Refused];
    SourceError::new(by_hope.into_iter().find(|kind| any(*kind)).unwrap_or(ErrorKind::Protocol), text)
}

async fn try_host<C: Caller>(
    dsn: &Dsn,
    caller: &C,
    tls: Option<&Tls>,
    host: &Host,
    wanted: SessionAttrs,
) -> Result<C::Call, Left> {
    let mut left = Left { error: SourceError::lost("its name has no address"), stop: false };
    let within = dsn.connect_timeout.unwrap_or(Duration::MAX);
    for place in places(host, within).await.map_err(|error| Left { error, stop: false })? {
        let attempt = try_place(dsn, caller, tls, host, place, wanted);
        match tokio::time::timeout(within, attempt).await {
            Ok(Ok(call)) => return Ok(call),
            Ok(Err(failed)) if failed.stop => return Err(failed),
            Ok(Err(failed)) => left = failed,
            Err(_) => {
                let text = format!("no answer within {} s (connect_timeout)", within.as_secs());
                left.error = SourceError::lost(text);
            }
        }
    }
    Err(left)
}

/// The addresses of a host; `None` is the unix socket.
async fn places(host: &Host, within: Duration) -> Result<Vec<Option<SocketAddr>>, SourceError> {
    match &host.place {
        Place::Directory(_) => Ok(vec![None]),
        Place::Address(address) => Ok(vec![Some((*address, host.port).into())]),
        Place::Name(name) => {
            let found = tokio::time::timeout(within, tokio::net::lookup_host((name.as_str(), host.port))).await;
            let timed_out = || SourceError::lost("the name service gives no answer");
            let found = found.map_err(|_| timed_out())?;
            let found = found.map_err(|error| SourceError::lost("its name cannot be resolved").caused_by(error))?;
            Ok(found.map(Some).collect())
        }
    }
}

async fn try_place<C: Caller>(
    dsn: &Dsn,
    caller: &C,
    tls: Option<&Tls>,
    host: &Host,
    place: Option<SocketAddr>,
    wanted: SessionAttrs,
) -> Result<C::Call, Left> {
    let ways: &[Encryption] = match (place, dsn.tls.mode) {
        // The kernel keeps others out of a unix socket, so sslmode has no effect on one, as in libpq.
        (None, _) | (_, SslMode::Disable) => &[Encryption::Plain],
        (_, SslMode::Allow) => &[Encryption::Plain, Encryption::Demanded],
        (_, SslMode::Prefer) => &[Encryption::IfOffered, Encryption::Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Demanded],
    };
    let mut left = Left { error: SourceError::lost("not tried"), stop: false };
    for way in ways {
        let socket = match open_socket(dsn, tls, host, place, *way).await {
            Ok(socket) => socket,
            Err(error) => {
                left = Left { error, stop: false };
                continue;
            }
        };
        let (encrypted, our_address) = (socket.is_encrypted(), socket.our_address());
        let password = passfile::password(dsn, host);
        match caller.open(socket, dsn, password.as_ref()).await {
            Ok(call) => return fits(caller, call, wanted, dsn).await.map_err(|error| Left { error, stop: false }),
            Err(Failure::Other(error)) => {
                let stop = error.policy().needs_person;
                return Err(Left { error, stop });
            }
            Err(Failure::Server(refusal)) => {
                let (user, database, replication) = (dsn.user(), dsn.database(), C::REPLICATION);
                let doing = Doing::Connecting { user, database, our_address, encrypted, replication };
                left = Left { error: refusal.explain(doing), stop: !refusal.is_passing() };
                // Only "no entry in pg_hba.conf" may depend on encryption.
                if !refusal.is_no_entry() {
                    break;
                }
            }
        }
    }
    Err(left)
}

async fn fits<C: Caller>(
    caller: &C,
    mut call: C::Call,
    wanted: SessionAttrs,
    dsn: &Dsn,
) -> Result<C::Call, SourceError> {
    if wanted == SessionAttrs::Any {
        return Ok(call);
    }
    let doing = Doing::Asking { what: "ask whether it is a standby", user: dsn.user() };
    let standing = caller.standing(&mut call).await.map_err(|failure| failure.explain(doing))?;
    let fits = match wanted {
        SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        SessionAttrs::ReadWrite => !standing.read_only && !standing.in_recovery,
        SessionAttrs::ReadOnly => standing.read_only || standing.in_recovery,
        SessionAttrs::Primary => !standing.in_recovery,
        SessionAttrs::Standby => standing.in_recovery,
    };
    if fits {
        return Ok(call);
    }
    let is = match (standing.in_recovery, standing.read_only) {
        (true, _) => "a standby",
        (false, true) => "a primary whose sessions are read-only",
        (false, false) => "a primary",
    };
    Err(SourceError::lost(format!("it is {is}, and target_session_attrs={} is wanted", wanted.name())))
}

async fn open_socket(
    dsn: &Dsn,
    tls: Option<&Tls>,
    host: &Host,
    place: Option<SocketAddr>,
    way: Encryption,
) -> Result<Socket, SourceError> {
    let Some(address) = place else {
        let unix = UnixStream::connect(host.socket_path()).await;
        return unix.map(Socket::Unix).map_err(unreachable);
    };
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    tune(&tcp, dsn).map_err(|error| SourceError::lost("the socket cannot be set up").caused_by(error))?;
    let Some(tls) = tls.filter(|_| way != Encryption::Plain) else { return Ok(Socket::Tcp(tcp)) };
    if dsn.tls.direct {
        return tls.connect(tcp, host).await;
    }
    match ask_for_tls(tcp).await? {
        (tcp, true) => tls.connect(tcp, host).await,
        (tcp, false) if way == Encryption::IfOffered => Ok(Socket::Tcp(tcp)),
        (_, false) => Err(SourceError::refused(format!(
            "the server does not offer TLS and sslmode={} demands it: set ssl = on there, with ssl_cert_file and \
             ssl_key_file",
            dsn.tls.mode.name()
        ))),
    }
}

/// Sends `SSLRequest`; the server answers with one unencrypted byte. More bytes before TLS begins could only come from
/// somebody in between (CVE-2021-23222).
async fn ask_for_tls(mut tcp: TcpStream) -> Result<(TcpStream, bool), SourceError> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(lost)?;
    let mut answer = [0_u8; 1];
    tcp.read_exact(&mut answer).await.map_err(lost)?;
    match answer {
        [b'S'] => {
            let mut more = [0_u8; 1];
            match tcp.try_read(&mut more) {
                Ok(1..) => Err(SourceError::protocol(
                    "unencrypted data came before the TLS handshake; is the connection intercepted?",
                )),
                _ => Ok((tcp, true)),
            }
        }
        [b'N'] => Ok((tcp, false)),
        // The server is too old to know the request, or it cannot fork.
        [b'E'] => Err(SourceError::lost("the server answers the request for TLS with an error")),
        [other] => Err(super::session::unexpected(other)),
    }
}

fn unreachable(error: std::io::Error) -> SourceError {
    SourceError::lost("cannot be reached").caused_by(error).remedy("Is Postgres running there, and listening?")
}

fn tune(tcp: &TcpStream, dsn: &Dsn) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    if let Some(keepalive) = dsn.keepalive {
        let parameters = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
        socket.set_tcp_keepalive(&parameters.with_retries(keepalive.count))?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(dsn.tcp_user_timeout)?;
    Ok(())
}
