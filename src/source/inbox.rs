//! What has arrived and is not yet read: the frames of Postgres's protocol, in place.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::SourceError;
use super::socket::Socket;

/// The size that the buffer begins with and returns to: enough that a backlog is read in few system calls.
const INBOX_BYTES: usize = 256 * 1024;

/// The longest frame that is believed: Postgres itself makes no message longer than 1 GiB (`MaxAllocSize`).
pub(super) const FRAME_BYTES_MAX: usize = 1 << 30;

/// The longest frame before streaming begins; until then nobody has proved who he is.
pub(super) const GREETING_BYTES_MAX: usize = 1 << 20;

/// Bytes of the header: a tag and a length, which counts itself but not the tag.
const HEADER_BYTES: usize = 5;

/// One message of the server.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) tag: u8,
    /// Where its body stands; good until the next [`Inbox::poll_fill`].
    pub(super) body: Range<usize>,
}

/// A buffer between socket and reader.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    frame_bytes_max: usize,
}

impl Inbox {
    /// Believes frames up to `frame_bytes_max` bytes.
    pub(super) fn new(frame_bytes_max: usize) -> Inbox {
        Inbox { bytes: vec![0; INBOX_BYTES], begin: 0, end: 0, frame_bytes_max }
    }

    /// Believes frames up to `frame_bytes_max` bytes from now on.
    pub(super) fn believe(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The next message, where all of it is here.
    pub(super) fn take(&mut self) -> Result<Option<Message>, SourceError> {
        let Some((tag, length)) = self.header()? else { return Ok(None) };
        let body = self.begin + HEADER_BYTES..self.begin + 1 + length;
        if body.end > self.end {
            return Ok(None);
        }
        self.begin = body.end;
        Ok(Some(Message { tag, body }))
    }

    /// Whether all of the next message is here. A broken one counts: taking it tells.
    pub(super) fn has_message(&self) -> bool {
        match self.header() {
            Ok(Some((_, length))) => self.begin + 1 + length <= self.end,
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// The body of a message that was taken.
    pub(super) fn body(&self, message: &Message) -> &[u8] {
        self.bytes.get(message.body.clone()).unwrap_or_default()
    }

    /// Reads what the socket has, as far as there is room, and gives the number of bytes. The end of the stream is an
    /// error.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<io::Result<usize>> {
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
                Poll::Pending if total > 0 => return Poll::Ready(Ok(total)),
                Poll::Ready(Err(_)) if total > 0 => return Poll::Ready(Ok(total)),
                poll => ready!(poll)?,
            }
            self.end += count;
            total += count;
            match (count, total) {
                (0, 0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                // The end, or an error, shows again at the next call.
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
        match usize::try_from(claimed) {
            Ok(length) if (4..=self.frame_bytes_max).contains(&length) => Ok(Some((*tag, length))),
            _ => Err(SourceError::Protocol(format!(
                "the server sent a message {:?} of {claimed} bytes, where 4 to {} are possible; is it Postgres?",
                char::from(*tag),
                self.frame_bytes_max
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
        // What is left is a part of one message: moving it costs little beside reading the rest.
        if self.begin > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.bytes.len() {
            // Doubling, so that memory follows what has really arrived and not what a header claims.
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
    }
}
