//! Ordinary SQL: tokio-postgres over the same hosts, TLS and passwords as the replication connection.

use std::future::{Ready, poll_fn, ready};

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, SimpleQueryMessage, SimpleQueryRow};

use super::dial::{Caller, STANDING, Standing, dial};
use super::dsn::{ChannelBindingChoice, Dsn};
use super::guard::{ANSWER_BYTES_MAX, Guarded, TooMuch, USERS_ANSWER_BYTES_MAX};
use super::handshake;
use super::notices::log_notice;
use super::server_error::{Doing, ServerError};
use super::session::Failure;
use super::socket::Socket;
use crate::postgres::{ErrorKind, SourceError};

/// Opens a session with the same text output as the replication stream, in which `pg_catalog` alone is searched for
/// names without a schema. A task on the current runtime drives the session and ends with it.
pub async fn connect(dsn: &Dsn) -> Result<Client, SourceError> {
    dial(dsn, &Sql { path: Path::Ours }).await
}

/// Like [`connect`], for a session that also runs a user's own SQL. It begins with our search path;
/// [`THEIR_SEARCH_PATH`] gives the user's statements the path that the role has in any other session.
pub async fn connect_for_user(dsn: &Dsn) -> Result<Client, SourceError> {
    dial(dsn, &Sql { path: Path::Theirs }).await
}

/// In a transaction of [`connect_for_user`]: the statements that follow are the user's.
pub const THEIR_SEARCH_PATH: &str = "SET LOCAL search_path TO DEFAULT";

/// In a transaction of [`connect_for_user`]: the statements that follow are ours.
pub const OUR_SEARCH_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// What an error of a statement means. `what` completes "could not".
pub fn explain(error: &tokio_postgres::Error, what: &str, dsn: &Dsn) -> SourceError {
    match failure(error) {
        Failure::Other(error) if error.kind() == ErrorKind::Lost => {
            SourceError::lost(format!("could not {what}")).caused_by(error)
        }
        failure => failure.explain(Doing::Asking { what, user: dsn.user() }),
    }
}

/// A statement must end on the server when its caller gives up; otherwise each attempt leaves a session behind. Callers
/// that need longer set their own timeout.
const TIMEOUTS: [(&str, &str); 2] = [("statement_timeout", "15s"), ("lock_timeout", "5s")];

struct Sql {
    path: Path,
}

/// Where `RESET search_path` leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Ours,
    Theirs,
}

/// The socket already speaks TLS, or does not have to: tokio-postgres takes it as it is.
struct AsItIs;

impl TlsConnect<Guarded> for AsItIs {
    type Stream = Guarded;
    type Error = std::io::Error;
    type Future = Ready<Result<Guarded, std::io::Error>>;

    fn connect(self, socket: Guarded) -> Self::Future {
        ready(Ok(socket))
    }
}

impl Caller for Sql {
    type Call = Client;
    const REPLICATION: bool = false;

    async fn open(&self, socket: Socket, dsn: &Dsn, password: Option<&SecretString>) -> Result<Client, Failure> {
        let mut config = Config::new();
        config.user(dsn.user()).dbname(dsn.database()).application_name(&dsn.application_name);
        // "Direct" means TLS without asking first, which leaves the handshake to `AsItIs`.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        config.channel_binding(match dsn.channel_binding {
            ChannelBindingChoice::Disable => ChannelBinding::Disable,
            ChannelBindingChoice::Prefer => ChannelBinding::Prefer,
            ChannelBindingChoice::Require => ChannelBinding::Require,
        });
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        // Not with SET, which would stay in a pooler's connection and affect others.
        let search_path = (self.path == Path::Ours).then_some(("search_path", handshake::SEARCH_PATH));
        let ours = handshake::TEXT_OUTPUT.into_iter().chain(TIMEOUTS).chain(search_path);
        config.options(handshake::options(dsn, ours));
        let why_no_binding = match (socket.is_encrypted(), socket.end_point()) {
            (true, None) => handshake::NO_HASH,
            _ => handshake::NOT_OFFERED,
        };
        let answer_max = match self.path {
            Path::Ours => ANSWER_BYTES_MAX,
            Path::Theirs => USERS_ANSWER_BYTES_MAX,
        };
        let has_end_point = socket.end_point().is_some();
        let guarded = Guarded::new(socket, answer_max);
        let request = guarded.request();
        let requires_binding = dsn.channel_binding == ChannelBindingChoice::Require;
        let can_bind = |method| method == 10 && has_end_point && request.offers_binding();
        let (client, mut connection) = match config.connect_raw(guarded, AsItIs).await {
            Ok(connected) => connected,
            Err(error) => {
                return Err(match (failure(&error), request.method()) {
                    (Failure::Other(error), _) if error.kind() != ErrorKind::Refused => error.into(),
                    (Failure::Other(_), method) if requires_binding && !can_bind(method) => {
                        handshake::no_binding(why_no_binding).into()
                    }
                    (Failure::Other(_), 3 | 5 | 10) if password.is_none() => handshake::no_password(dsn.user()).into(),
                    (Failure::Other(_), method @ (1..=2 | 4 | 6..=9)) => handshake::unsupported(method).into(),
                    (failure, _) => failure,
                });
            }
        };
        tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => log_notice(&ServerError::of(&notice)),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an SQL session ended");
                        return;
                    }
                    None => return,
                }
            }
        });
        // SET and SHOW look up no function.
        let first = match self.path {
            Path::Ours => "",
            Path::Theirs => "SET search_path = pg_catalog, pg_temp; ",
        };
        let shown = first_row(&client, &format!("{first}SHOW search_path")).await.map_err(|error| failure(&error))?;
        handshake::require_search_path(shown.as_ref().and_then(|row| row.get(0)).unwrap_or_default())?;
        Ok(client)
    }

    async fn standing(&self, client: &mut Client) -> Result<Standing, Failure> {
        let row = client.query_one(STANDING, &[]).await.map_err(|error| failure(&error))?;
        Ok(Standing { in_recovery: row.get(0), read_only: row.get::<_, &str>(1) == "on" })
    }
}

/// The first row that the statements return, in text form. They take no parameters.
pub(in crate::postgres) async fn first_row(
    client: &Client,
    sql: &str,
) -> Result<Option<SimpleQueryRow>, tokio_postgres::Error> {
    let mut messages = client.simple_query(sql).await?.into_iter();
    Ok(messages.find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None }))
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        return Failure::Server(ServerError::of(said));
    }
    let cause = std::error::Error::source(error);
    if let Some(io) = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        return match io.get_ref().and_then(|inner| inner.downcast_ref::<TooMuch>()) {
            Some(much) => Failure::Other(SourceError::protocol(much.to_string())),
            None => Failure::Other(super::session::lost(std::io::Error::new(io.kind(), io.to_string()))),
        };
    }
    if error.is_closed() {
        return Failure::Other(SourceError::lost("the server closed the connection"));
    }
    let refused = SourceError::refused(error.to_string());
    Failure::Other(match cause {
        Some(cause) => refused.caused_by(cause.to_string()),
        None => refused,
    })
}
