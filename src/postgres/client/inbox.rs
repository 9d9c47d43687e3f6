//! Buffers what has arrived and is not yet read, and returns the frames of Postgres's protocol in place.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::socket::Socket;
use crate::pgoutput::sieve::Sieve;
use crate::postgres::SourceError;
use crate::transaction::manual::CONTENT_BYTES_MAX;

/// The initial size of the buffer, to which it returns: large enough to read a backlog in few system calls.
const INBOX_BYTES: usize = 256 * 1024;

/// The longest frame that is accepted: Postgres itself makes no message longer than 1 GiB (`MaxAllocSize`).
const FRAME_BYTES_MAX: usize = 1 << 30;

/// The longest frame that is held whole. Of a longer one, coherd keeps only what somebody reads, while it passes:
/// anybody may write a logical message of hundreds of megabytes, and an application a row of that size.
const HELD_BYTES_MAX: usize = 1 << 20;

/// How much is kept of an error or a notice that is longer than that.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// Bytes before the pgoutput message in a `CopyData` message of XLogData: its kind, start, end, the server's clock.
const XLOG_DATA_BYTES: usize = 25;

/// Bytes of the header: a tag, and a length that counts itself but not the tag.
const HEADER_BYTES: usize = 5;

/// Which frames are held whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Holding {
    /// Frames up to [`HELD_BYTES_MAX`]; only an error or a notice may be longer. For the time before streaming, when
    /// the server has not proved its identity.
    Short,
    /// The same, and longer frames are read as they pass: for committed transactions that are streamed.
    Streamed,
    /// All frames: for transactions in progress, in a preview, whose messages have another layout.
    Whole,
}

/// One message from the server.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct Message {
    pub(in crate::postgres) tag: u8,
    /// The place of its body; valid until the next [`Inbox::take`] or [`Inbox::poll_fill`].
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Held(Range<usize>),
    /// In [`Inbox::kept`].
    Kept,
}

/// A buffer between socket and reader.
pub(in crate::postgres) struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    holding: Holding,
    /// The frame that is passing.
    passing: Option<Passing>,
    /// What is kept of the last frame that passed.
    kept: Vec<u8>,
}

/// A frame that is too long to be held.
struct Passing {
    tag: u8,
    /// Bytes of the frame that are still to come.
    left: usize,
    by: By,
}

enum By {
    Sieve(Sieve),
    /// Only the beginning is kept.
    Head(Vec<u8>),
}

impl Passing {
    fn of(tag: u8, left: usize, holding: Holding) -> Option<Passing> {
        let by = match (tag, holding) {
            (b'd', Holding::Streamed) => By::Sieve(Sieve::new(XLOG_DATA_BYTES, CONTENT_BYTES_MAX)),
            (b'E' | b'N', _) => By::Head(Vec::new()),
            _ => return None,
        };
        Some(Passing { tag, left, by })
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.left = self.left.saturating_sub(bytes.len());
        match &mut self.by {
            By::Sieve(sieve) => sieve.read(bytes).map_err(|unfit| {
                SourceError::protocol(format!("the server sent a message that is too large to hold, and {unfit}"))
            }),
            By::Head(head) => {
                let room = WORDS_BYTES_MAX.saturating_sub(head.len());
                head.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                Ok(())
            }
        }
    }
}

impl Inbox {
    /// An empty inbox, for a server that has not proved its identity.
    pub(in crate::postgres) fn new() -> Inbox {
        Inbox {
            bytes: vec![0; INBOX_BYTES],
            begin: 0,
            end: 0,
            holding: Holding::Short,
            passing: None,
            kept: Vec::new(),
        }
    }

    /// Sets which frames are held from now on.
    pub(in crate::postgres) fn hold(&mut self, holding: Holding) {
        self.holding = holding;
    }

    /// Returns the next message, if all of it has arrived or passed.
    pub(in crate::postgres) fn take(&mut self) -> Result<Option<Message>, SourceError> {
        if self.passing.is_none() {
            self.kept = Vec::new();
            let Some((tag, length)) = self.header()? else { return Ok(None) };
            if self.is_held(length) {
                let body = self.begin + HEADER_BYTES..self.begin + 1 + length;
                if body.end > self.end {
                    return Ok(None);
                }
                self.begin = body.end;
                return Ok(Some(Message { tag, place: Place::Held(body) }));
            }
            self.begin += HEADER_BYTES;
            self.passing = Passing::of(tag, length - (HEADER_BYTES - 1), self.holding);
        }
        let Some(passing) = &mut self.passing else { return Ok(None) };
        let here = self.bytes.get(self.begin..self.end).unwrap_or_default();
        let part = here.get(..passing.left.min(here.len())).unwrap_or_default();
        self.begin += part.len();
        passing.read(part)?;
        if passing.left > 0 {
            return Ok(None);
        }
        let tag = passing.tag;
        self.kept = match self.passing.take().map(|passing| passing.by) {
            Some(By::Sieve(sieve)) => sieve.finish(),
            Some(By::Head(head)) => head,
            None => Vec::new(),
        };
        Ok(Some(Message { tag, place: Place::Kept }))
    }

    fn is_held(&self, length: usize) -> bool {
        length <= HELD_BYTES_MAX || self.holding == Holding::Whole
    }

    /// Whether [`Inbox::take`] has something to do: all of the next message has arrived, or a part of one that passes.
    /// A broken message counts, because taking it reports the error.
    pub(in crate::postgres) fn has_message(&self) -> bool {
        if self.passing.is_some() {
            return self.begin < self.end;
        }
        match self.header() {
            Ok(Some((_, length))) => !self.is_held(length) || self.begin + 1 + length <= self.end,
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// The body of a message that [`Inbox::take`] returned.
    pub(in crate::postgres) fn body(&self, message: &Message) -> &[u8] {
        match &message.place {
            Place::Held(body) => self.bytes.get(body.clone()).unwrap_or_default(),
            Place::Kept => &self.kept,
        }
    }

    /// Reads what the socket has, as far as there is room, and returns the number of bytes. The end of the stream is an
    /// error.
    pub(in crate::postgres) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut total = 0;
        loop {
            let Some(room) = self.bytes.get_mut(self.end..).filter(|room| !room.is_empty()) else {
                return Poll::Ready(Ok(total));
            };
            let mut buf = ReadBuf::new(room);
            let poll = Pin::new(&mut *socket).poll_read(cx, &mut buf);
            let count = buf.filled().len();
            match poll {
                Poll::Pending | Poll::Ready(Err(_)) if total > 0 => return Poll::Ready(Ok(total)),
                poll => ready!(poll)?,
            }
            self.end += count;
            total += count;
            match (count, total) {
                (0, 0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                // The next call sees the end, or the error, again.
                (0, _) => return Poll::Ready(Ok(total)),
                _ => {}
            }
        }
    }

    /// Tag and length of the next message.
    fn header(&self) -> Result<Option<(u8, usize)>, SourceError> {
        let here = self.bytes.get(self.begin..self.end).unwrap_or_default();
        let Some(([tag, length @ ..], _)) = here.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let claimed = u32::from_be_bytes(*length);
        let may_pass = self.holding == Holding::Whole || Passing::of(*tag, 0, self.holding).is_some();
        let most = if may_pass { FRAME_BYTES_MAX } else { HELD_BYTES_MAX };
        match usize::try_from(claimed) {
            Ok(length) if (4..=most).contains(&length) => Ok(Some((*tag, length))),
            _ => Err(SourceError::protocol(format!(
                "the server sent a message {:?} of {claimed} bytes, where 4 to {most} are possible; is it Postgres?",
                char::from(*tag)
            ))),
        }
    }

    fn make_room(&mut self) {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            if self.bytes.len() > INBOX_BYTES {
                // One huge row must not hold its memory for ever.
                self.bytes = vec![0; INBOX_BYTES];
            }
        }
        // The rest is a part of one message: moving it costs little compared with reading what is missing.
        if self.begin > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.bytes.len() {
            // Doubles, so that memory follows what has arrived and not what a header claims.
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
    }
}
