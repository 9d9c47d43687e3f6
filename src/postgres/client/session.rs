//! A session with the server before streaming: single messages and simple queries.

use std::time::Duration;

use std::future::poll_fn;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

use super::inbox::{Inbox, Message};
use super::notices::log_notice;
use super::server_error::{Doing, ServerError};
use super::socket::Socket;
use crate::postgres::SourceError;

/// A replication connection that is not streaming.
pub(in crate::postgres) struct Session {
    pub(in crate::postgres) socket: Socket,
    pub(in crate::postgres) inbox: Inbox,
    /// Major version, e.g. 15.
    pub(in crate::postgres) major: u32,
    pub(in crate::postgres) backend_pid: u32,
    /// The server accepts a cancel request only with this key.
    pub(in crate::postgres) secret_key: u32,
}

/// Why something failed.
#[derive(Debug)]
pub(in crate::postgres) enum Failure {
    /// The server refused it.
    Server(ServerError),
    /// The server could not be asked.
    Other(SourceError),
}

/// Maximum size of an answer, in bytes; the longest is the history of a server's timelines.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Rows as text.
pub(in crate::postgres) type Rows = Vec<Vec<Option<String>>>;

impl Failure {
    /// What the failure means for `doing`.
    pub(in crate::postgres) fn explain(self, doing: Doing<'_>) -> SourceError {
        match self {
            Failure::Server(error) => error.explain(doing),
            Failure::Other(error) => error,
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Failure::Other(error)
    }
}

impl Session {
    /// A session on a fresh socket.
    pub(in crate::postgres) fn new(socket: Socket) -> Session {
        Session { socket, inbox: Inbox::new(), major: 0, backend_pid: 0, secret_key: 0 }
    }

    /// Sends what `write` writes.
    pub(in crate::postgres) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), SourceError> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|_| {
            SourceError::refused("a name, a password or an option holds a NUL character, which Postgres cannot take")
        })?;
        self.socket.write_all(&out).await.map_err(lost)?;
        self.socket.flush().await.map_err(lost)
    }

    /// The next message that is not purely informational. An `ErrorResponse` is a failure.
    pub(in crate::postgres) async fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            let Some(message) = self.inbox.take()? else {
                let fill = poll_fn(|cx| self.inbox.poll_fill(cx, &mut self.socket));
                fill.await.map_err(lost)?;
                continue;
            };
            match message.tag {
                b'E' => return Err(Failure::Server(ServerError::read(self.inbox.body(&message)))),
                b'N' => log_notice(&ServerError::read(self.inbox.body(&message))),
                b'S' => self.remember(&message),
                b'A' => {}
                _ => return Ok(message),
            }
        }
    }

    fn remember(&mut self, message: &Message) {
        let mut words = self.inbox.body(message).split(|byte| *byte == 0);
        if words.next() == Some(b"server_version") {
            let version = words.next().unwrap_or_default();
            let digits: String = version.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
            self.major = digits.parse().unwrap_or(0);
        }
    }

    /// Runs one statement or replication command and returns its rows. The session stays usable after the server
    /// refuses.
    pub(in crate::postgres) async fn query(&mut self, text: &str) -> Result<Rows, Failure> {
        self.send(|out| frontend::query(text, out)).await?;
        self.rows().await
    }

    /// The rows of the first query that was sent and is not yet answered.
    pub(in crate::postgres) async fn rows(&mut self) -> Result<Rows, Failure> {
        let mut rows = Rows::new();
        let mut bytes = 0;
        loop {
            let message = match self.receive().await {
                Ok(message) => message,
                Err(Failure::Server(error)) => {
                    self.until_ready().await?;
                    return Err(Failure::Server(error));
                }
                Err(other) => return Err(other),
            };
            match message.tag {
                b'D' => {
                    let body = self.inbox.body(&message);
                    // An empty row also takes memory.
                    bytes += body.len() + size_of::<Vec<Option<String>>>();
                    if bytes > ANSWER_BYTES_MAX {
                        let text =
                            format!("the server's answer has more than {ANSWER_BYTES_MAX} bytes; is it Postgres?");
                        return Err(SourceError::protocol(text).into());
                    }
                    rows.push(row(body).ok_or_else(|| unexpected(b'D'))?);
                }
                b'T' | b'C' | b'I' => {}
                b'Z' => return Ok(rows),
                tag => return Err(unexpected(tag).into()),
            }
        }
    }

    /// Sends `START_REPLICATION` and waits for `CopyBothResponse`, which ends the session: the stream takes over. The
    /// session stays usable after the server refuses.
    pub(in crate::postgres) async fn start(&mut self, command: &str) -> Result<(), Failure> {
        self.send(|out| frontend::query(command, out)).await?;
        match self.receive().await {
            Ok(message) if message.tag == b'W' => Ok(()),
            Ok(message) => Err(unexpected(message.tag).into()),
            Err(Failure::Server(error)) => {
                self.until_ready().await?;
                Err(Failure::Server(error))
            }
            Err(other) => Err(other),
        }
    }

    /// Skips messages up to `ReadyForQuery`.
    pub(in crate::postgres) async fn until_ready(&mut self) -> Result<(), SourceError> {
        loop {
            match self.receive().await {
                Ok(message) if message.tag == b'Z' => return Ok(()),
                Ok(_) => {}
                // When the server is shutting down, a FATAL follows an ERROR.
                Err(Failure::Server(error)) => {
                    return Err(SourceError::lost(format!("the server ended the connection: {}", error.message)));
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }
}

/// A `DataRow`: a count, then a length and bytes for each value; −1 is NULL.
fn row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (value, rest) = body.split_at_checked(length)?;
                body = rest;
                Some(String::from_utf8_lossy(value).into_owned())
            }
        });
    }
    Some(row)
}

/// An error of the socket.
pub(in crate::postgres) fn lost(error: std::io::Error) -> SourceError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => SourceError::lost("the server closed the connection"),
        _ => SourceError::lost("the connection to the server broke").caused_by(error),
    }
}

/// Gives up an exchange that takes longer than `most`. `what` completes "could not".
pub(in crate::postgres) async fn answered_within<T>(
    most: Duration,
    what: &str,
    asking: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(most, asking).await.unwrap_or_else(|_| {
        Err(SourceError::lost(format!("could not {what}: it has not answered within {} s", most.as_secs())))
    })
}

/// A message that the protocol does not allow here.
pub(in crate::postgres) fn unexpected(tag: u8) -> SourceError {
    SourceError::protocol(format!("the server sent an unexpected message {:?}; is it Postgres?", char::from(tag)))
}
