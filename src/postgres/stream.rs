//! A replication stream in its `CopyBoth` phase (Postgres manual, "Streaming Replication Protocol"). Frames come out,
//! and acknowledgements go in; it sends status updates by itself.

mod backlog;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use backlog::Backlog;
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{Frame, Intake, SourceError, Stream};
use crate::backoff::Throttle;
use crate::core::AckLsn;
use crate::pgoutput::{self, PgTime};
use crate::postgres::client::inbox::{Holding, Inbox, Message};
use crate::postgres::client::notices::log_notice;
use crate::postgres::client::server_error::{Doing, ServerError};
use crate::postgres::client::session::{Session, lost, unexpected};
use crate::postgres::client::socket::Socket;
use crate::types::lsn::Lsn;

/// coherd sends the server a status update at least this often.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// A standby's walsender sleeps for seconds unless it receives something.
const STATUS_EVERY_ON_STANDBY: Duration = Duration::from_millis(50);

/// A server that shuts down waits until everything is acknowledged, and asks again after each answer. Any other server
/// never asks twice in a row, because status updates arrive long before it asks. So after this many requests coherd
/// answers with the next status update only, and after this time it disconnects: a target that is down must not keep
/// Postgres from stopping.
const REQUESTS_IN_A_ROW: u32 = 3;
const SHUTDOWN_HELD: Duration = Duration::from_secs(5);

/// After this much silence coherd asks the server for an answer.
const SILENCE_ASK: Duration = Duration::from_secs(10);

/// After this much silence the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often coherd logs that the server waits for a standby. The server says so with every message from coherd.
const WAIT_TOLD_EVERY: Duration = Duration::from_mins(1);

/// How long [`Stream::finish`] waits for the server's answer.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Microseconds from the Unix epoch to Postgres's, 2000-01-01.
const POSTGRES_EPOCH_MICROS: u128 = 946_684_800_000_000;

/// Bytes before the payload of an `XLogData` message: start, end and the server's clock.
const XLOG_DATA_HEADER_BYTES: usize = 24;

/// What a stream needs besides its session.
#[derive(Debug, Clone)]
pub(super) struct StreamSettings {
    pub(super) slot: String,
    pub(super) publication: String,
    /// The slot's `confirmed_flush_lsn`.
    pub(super) confirmed: Lsn,
    /// `wal_sender_timeout`; zero means no timeout.
    pub(super) wal_sender_timeout: Duration,
    pub(super) standby: bool,
    /// Which frames the inbox holds whole.
    pub(super) holding: Holding,
}

/// The stream of one slot.
pub struct PostgresStream {
    socket: Socket,
    inbox: Inbox,
    outbox: BytesMut,
    unflushed: bool,
    /// Sending has failed. The server's last message may still be on its way and say why, so the stream waits for it
    /// until the next status update is due.
    send_error: Option<io::Error>,
    status_due: bool,
    /// Never behind the slot: before Postgres 17.6, a status with an older position moves the slot back.
    acknowledged: Lsn,
    heartbeat: Interval,
    silence: Silence,
    backlog: Backlog,
    requests: Requests,
    walsender: u32,
    /// Limits how often coherd logs that the server waits for a standby.
    standby_wait: Throttle,
    slot: String,
    publication: String,
}

/// Consecutive requests for a reply.
struct Requests {
    count: u32,
    since: Instant,
}

/// How long the server has been silent. coherd asks an idle server for an answer, to distinguish one that hangs, or a
/// network that drops everything, from one that has nothing to send.
struct Silence {
    since: Instant,
    asked: bool,
}

impl Silence {
    fn new() -> Silence {
        Silence { since: Instant::now(), asked: false }
    }

    /// Runs at each heartbeat. While coherd reads nothing, it cannot hear anything, so the silence starts again.
    fn tick(&mut self, intake: Intake) -> Result<(), SourceError> {
        if intake == Intake::Closed {
            *self = Silence::new();
        }
        if self.since.elapsed() < SILENCE_MAX {
            return Ok(());
        }
        let seconds = SILENCE_MAX.as_secs();
        Err(SourceError::lost(format!(
            "the server has sent nothing for {seconds} s, and has not answered a keepalive request"
        )))
    }

    /// Whether this status update asks for an answer: once per silence, because more would only slow the server.
    fn ask(&mut self) -> bool {
        let ask = !self.asked && self.since.elapsed() >= SILENCE_ASK;
        self.asked |= ask;
        ask
    }
}

impl PostgresStream {
    /// Takes over a session that has answered `START_REPLICATION` with `CopyBothResponse`.
    pub(super) fn new(session: Session, settings: StreamSettings) -> PostgresStream {
        let Session { socket, mut inbox, backend_pid: walsender, .. } = session;
        inbox.hold(settings.holding);
        let mut every = if settings.standby { STATUS_EVERY_ON_STANDBY } else { STATUS_EVERY };
        if !settings.wal_sender_timeout.is_zero() {
            every = every.min(settings.wal_sender_timeout / 3).max(Duration::from_millis(1));
        }
        let mut heartbeat = tokio::time::interval(every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let backlog = Backlog::new(socket.is_tcp());
        PostgresStream {
            socket,
            inbox,
            outbox: BytesMut::with_capacity(256),
            unflushed: false,
            send_error: None,
            status_due: true,
            acknowledged: settings.confirmed,
            heartbeat,
            backlog,
            silence: Silence::new(),
            requests: Requests { count: 0, since: Instant::now() },
            walsender,
            standby_wait: Throttle::new(WAIT_TOLD_EVERY),
            slot: settings.slot,
            publication: settings.publication,
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>, intake: Intake) -> Poll<Result<(), SourceError>> {
        // Answering Postgres comes first.
        while self.heartbeat.poll_tick(cx).is_ready() {
            self.status_due = true;
            self.silence.tick(intake)?;
            if let Some(error) = self.send_error.take() {
                return Poll::Ready(Err(lost(error)));
            }
        }
        if self.send_error.is_none() {
            self.send_error = self.poll_send(cx).err();
        }
        if intake == Intake::Closed {
            return self.send_error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(lost(error))));
        }
        while !self.inbox.has_message() {
            self.backlog.pause();
            let count = ready!(self.inbox.poll_fill(cx, &mut self.socket)).map_err(lost)?;
            self.backlog.read(count);
            self.silence = Silence::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends as much as the socket takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.outbox.is_empty() && self.status_due {
                self.write_status();
                self.heartbeat.reset();
            }
            if self.outbox.is_empty() {
                if self.unflushed && Pin::new(&mut self.socket).poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                return Ok(());
            }
            match Pin::new(&mut self.socket).poll_write(cx, &self.outbox)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.outbox.advance(count),
                Poll::Pending => return Ok(()),
            }
            self.unflushed = true;
        }
    }

    /// Writes a standby status update. What coherd has acknowledged counts as written, flushed and applied.
    fn write_status(&mut self) {
        self.status_due = false;
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let position = self.acknowledged.as_u64();
        self.outbox.put_u8(b'd');
        self.outbox.put_u32(4 + 1 + 3 * 8 + 8 + 1);
        self.outbox.put_u8(b'r');
        for _written_flushed_applied in 0..3 {
            self.outbox.put_u64(position);
        }
        self.outbox.put_u64(u64::try_from(micros.saturating_sub(POSTGRES_EPOCH_MICROS)).unwrap_or(0));
        self.outbox.put_u8(u8::from(self.silence.ask()));
    }

    /// Reads the header of a `CopyData` message.
    fn copied(&mut self, message: &Message) -> Result<Copied, SourceError> {
        let mut body = self.inbox.body(message);
        match body.try_get_u8() {
            Ok(b'w') if body.len() >= XLOG_DATA_HEADER_BYTES => {
                self.requests.count = 0;
                Ok(Copied::Data)
            }
            Ok(b'k') => {
                let position = body.try_get_u64();
                let (Ok(position), Ok(_clock), Ok(reply)) = (position, body.try_get_u64(), body.try_get_u8()) else {
                    return Err(unexpected(b'k'));
                };
                self.requested(reply != 0)?;
                Ok(Copied::Position(Lsn::new(position)))
            }
            Ok(tag) => Err(unexpected(tag)),
            Err(_) => Err(unexpected(b'd')),
        }
    }

    fn requested(&mut self, reply: bool) -> Result<(), SourceError> {
        if !reply {
            self.requests.count = 0;
            return Ok(());
        }
        if self.requests.count == 0 {
            self.requests.since = Instant::now();
        }
        self.requests.count = self.requests.count.saturating_add(1);
        if self.requests.count <= REQUESTS_IN_A_ROW {
            self.status_due = true;
        } else if self.requests.since.elapsed() > SHUTDOWN_HELD {
            return Err(SourceError::lost(
                "the server is shutting down and waits for acknowledgements. coherd disconnects to let it stop; the \
                 server resends the rest later",
            ));
        }
        Ok(())
    }

    fn notice(&mut self, message: &Message) -> Result<(), SourceError> {
        let notice = ServerError::read(self.inbox.body(message));
        if notice.waits_for_standby() {
            if self.standby_wait.is_due(Instant::now().into_std()) {
                tracing::warn!(
                    hint = notice.hint,
                    "Postgres sends nothing from the slot {} until a standby confirms the log: {}",
                    self.slot,
                    notice.message
                );
            }
            return Ok(());
        }
        // Postgres 18 continues without a publication that has been dropped, and leaves out its changes. No other
        // warning of this class comes from decoding, so a translated text counts as well.
        if notice.code == "55000" {
            return Err(SourceError::gap(format!(
                "Postgres skips changes on the slot {}: {}. What was written meanwhile cannot be read any more.",
                self.slot, notice.message
            )));
        }
        log_notice(&notice);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), SourceError> {
        self.write_status();
        self.outbox.put_slice(b"c\0\0\0\x04");
        let outbox = std::mem::take(&mut self.outbox);
        self.socket.write_all(&outbox).await.map_err(lost)?;
        self.socket.flush().await.map_err(lost)?;
        loop {
            match self.inbox.take()? {
                // The slot is free once the command is complete.
                Some(message) if message.tag == b'Z' => break,
                Some(message) if message.tag == b'E' => {
                    let error = ServerError::read(self.inbox.body(&message));
                    return Err(self.explain(&error));
                }
                Some(_) => {}
                None => {
                    let fill = poll_fn(|cx| self.inbox.poll_fill(cx, &mut self.socket));
                    fill.await.map_err(lost)?;
                }
            }
        }
        // Terminate. The server closes the connection; nothing depends on that.
        let _ = self.socket.write_all(b"X\0\0\0\x04").await;
        let _ = self.socket.shutdown().await;
        Ok(())
    }

    fn explain(&self, error: &ServerError) -> SourceError {
        error.explain(Doing::Streaming { slot: &self.slot, publication: &self.publication })
    }
}

enum Copied {
    Data,
    Position(Lsn),
}

impl Stream for PostgresStream {
    async fn ready(&mut self, intake: Intake) -> Result<(), SourceError> {
        poll_fn(|cx| self.poll_ready(cx, intake)).await
    }

    fn next(&mut self) -> Result<Option<Frame<'_>>, SourceError> {
        while let Some(message) = self.inbox.take()? {
            match message.tag {
                b'd' => {
                    return Ok(Some(match self.copied(&message)? {
                        Copied::Position(position) => Frame::Position(position),
                        Copied::Data => {
                            let body = self.inbox.body(&message);
                            let (header, data) = body.split_at_checked(1 + XLOG_DATA_HEADER_BYTES).unwrap_or_default();
                            if let (Some(at), Some(sent)) = (pgoutput::commit_time(data), header.last_chunk()) {
                                self.backlog.committed(at, PgTime(i64::from_be_bytes(*sent)));
                            }
                            Frame::Data(data)
                        }
                    }));
                }
                b'N' => self.notice(&message)?,
                b'E' => {
                    let error = ServerError::read(self.inbox.body(&message));
                    return Err(self.explain(&error));
                }
                b'c' | b'C' | b'Z' => {
                    return Err(SourceError::lost("the server ended the stream (is it shutting down?)"));
                }
                b'S' | b'A' => {}
                tag => return Err(unexpected(tag)),
            }
        }
        Ok(None)
    }

    fn is_behind(&self) -> bool {
        self.backlog.is_here()
    }

    fn walsender(&self) -> u32 {
        self.walsender
    }

    fn acknowledge(&mut self, at: AckLsn) {
        if at.lsn() > self.acknowledged {
            self.acknowledged = at.lsn();
            self.status_due = true;
        }
    }

    async fn finish(mut self) -> Result<(), SourceError> {
        let ended = tokio::time::timeout(FINISH_WITHIN, self.end()).await;
        ended.unwrap_or_else(|_| {
            let text = format!("the server did not confirm the end of the stream within {} s", FINISH_WITHIN.as_secs());
            Err(SourceError::lost(text))
        })
    }
}

#[cfg(test)]
mod tests;
