//! Limits what a server may send. Everything is measured before it is parsed, so that a hostile or broken server costs
//! a bounded amount of memory and not what it announces. Only RESP2 frames are accepted (Redis manual, "Redis
//! serialization protocol specification"), because coherd asks for no other protocol.
//!
//! The limits apply to a reply, and to everything that arrives between two writes of coherd's: the replies to one
//! pipeline are in memory together. The largest replies that coherd asks for are those to SCAN, about a thousand keys
//! each, and INFO.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one reply, and of everything that arrives between two writes.
const BYTES_MAX: u64 = 8 << 20;

/// Elements that arrays announce, and replies: each takes memory of its own.
const ELEMENTS_MAX: u64 = 1 << 16;

/// Bytes of a simple string or an error.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of an integer or a length, its carriage return included: a sign and 19 digits, or 20 digits.
const NUMBER_BYTES_MAX: usize = 21;

/// Nesting depth of arrays.
const DEPTH_MAX: usize = 8;

/// Why what a server sent cannot be a reply to coherd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// A reply of this many bytes was announced, or arrived.
    Bytes(u64),
    /// Arrays of this many elements were announced, or this many replies arrived.
    Elements(u64),
    /// A line that is too long.
    Line,
    /// Arrays that are nested too deep.
    Depth,
    /// A byte that begins no reply, or a length or integer that is not a number.
    NoReply,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Bytes(bytes) => write!(f, "a reply of {bytes} bytes (coherd accepts {BYTES_MAX})"),
            Excess::Elements(count) => write!(f, "a reply of {count} elements (coherd accepts {ELEMENTS_MAX})"),
            Excess::Line => write!(f, "a line of more than {LINE_BYTES_MAX} bytes"),
            Excess::Depth => write!(f, "arrays in arrays, more than {DEPTH_MAX} deep"),
            Excess::NoReply => f.write_str("bytes that are not a RESP2 reply"),
        }
    }
}

impl std::error::Error for Excess {}

/// The position of the next byte in a reply.
#[derive(Debug, Clone, Copy)]
enum At {
    /// At the type of a reply, or of an element.
    Type,
    /// In the text of a simple string or an error.
    Text { bytes: u64 },
    /// In an integer, or in the length of what follows.
    Number { of: u8, bytes: usize, value: u64, negative: bool },
    /// In a bulk string; this many bytes are left, its line break included.
    Bulk { left: u64 },
}

/// Measures what is read.
#[derive(Debug)]
pub(super) struct Gauge {
    at: At,
    /// The elements that are still to come, for each open array.
    open: Vec<u64>,
    reply_bytes: u64,
    bytes: u64,
    elements: u64,
}

impl Gauge {
    pub(super) fn new() -> Gauge {
        Gauge { at: At::Type, open: Vec::with_capacity(DEPTH_MAX), reply_bytes: 0, bytes: 0, elements: 0 }
    }

    /// Notes that coherd has sent something, to which replies may come.
    pub(super) fn sent(&mut self) {
        self.bytes = 0;
        self.elements = 0;
    }

    /// Measures the bytes that were read.
    pub(super) fn read(&mut self, mut fresh: &[u8]) -> Result<(), Excess> {
        while let Some((&byte, after)) = fresh.split_first() {
            if let At::Bulk { left } = self.at {
                let taken = left.min(fresh.len() as u64);
                self.count(taken)?;
                if taken == left {
                    self.end_of_value();
                } else {
                    self.at = At::Bulk { left: left - taken };
                }
                fresh = fresh.get(usize::try_from(taken).unwrap_or(fresh.len())..).unwrap_or_default();
            } else {
                self.count(1)?;
                self.step(byte)?;
                fresh = after;
            }
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), Excess> {
        match (self.at, byte) {
            (At::Type, b'+' | b'-') => self.at = At::Text { bytes: 0 },
            (At::Type, b':' | b'$' | b'*') => {
                self.at = At::Number { of: byte, bytes: 0, value: 0, negative: false };
            }
            (At::Type, _) => return Err(Excess::NoReply),
            (At::Text { .. }, b'\n') => self.end_of_value(),
            (At::Text { bytes: LINE_BYTES_MAX.. }, _) => return Err(Excess::Line),
            (At::Text { bytes }, _) => self.at = At::Text { bytes: bytes + 1 },
            (At::Number { of, value, negative, .. }, b'\n') => self.number(of, value, negative)?,
            (At::Number { bytes: NUMBER_BYTES_MAX.., .. }, _) => return Err(Excess::NoReply),
            (At::Number { of, bytes, value, negative }, _) => {
                let (value, negative) = match byte {
                    b'0'..=b'9' => (value.saturating_mul(10).saturating_add(u64::from(byte - b'0')), negative),
                    b'-' | b'+' if bytes == 0 => (value, byte == b'-'),
                    b'\r' => (value, negative),
                    _ => return Err(Excess::NoReply),
                };
                self.at = At::Number { of, bytes: bytes + 1, value, negative };
            }
            (At::Bulk { .. }, _) => {}
        }
        Ok(())
    }

    /// Handles the end of a number.
    fn number(&mut self, of: u8, value: u64, negative: bool) -> Result<(), Excess> {
        match of {
            // -1 is the null bulk string, and the null array.
            b'$' if !negative => {
                if value > BYTES_MAX {
                    return Err(Excess::Bytes(value));
                }
                self.at = At::Bulk { left: value + 2 };
            }
            b'*' if !negative && value > 0 => {
                self.elements(value)?;
                if self.open.len() == DEPTH_MAX {
                    return Err(Excess::Depth);
                }
                self.open.push(value);
                self.at = At::Type;
            }
            _ => self.end_of_value(),
        }
        Ok(())
    }

    /// Handles the end of a value, and of the arrays whose last element it is.
    fn end_of_value(&mut self) {
        self.at = At::Type;
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
        self.reply_bytes = 0;
        self.elements += 1;
    }

    fn count(&mut self, bytes: u64) -> Result<(), Excess> {
        self.bytes += bytes;
        self.reply_bytes += bytes;
        if self.bytes.max(self.reply_bytes) > BYTES_MAX {
            return Err(Excess::Bytes(BYTES_MAX + 1));
        }
        self.elements(0)
    }

    fn elements(&mut self, more: u64) -> Result<(), Excess> {
        self.elements = self.elements.saturating_add(more);
        if self.elements > ELEMENTS_MAX { Err(Excess::Elements(self.elements)) } else { Ok(()) }
    }
}

/// Why a stream was ended. The crate reports it only to callers that wait for a reply at that moment.
pub(super) type Ended = Arc<OnceLock<Excess>>;

/// A stream that fails when more arrives than a reply can be.
pub(super) struct Bounded<S> {
    stream: S,
    gauge: Gauge,
    ended: Ended,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, ended: &Ended) -> Self {
        Bounded { stream, gauge: Gauge::new(), ended: Arc::clone(ended) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Bounded { stream, gauge, ended } = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(stream).poll_read(context, buf);
        if let Poll::Ready(Ok(())) = polled {
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if let Err(excess) = gauge.read(fresh) {
                let _ = ended.set(excess);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, excess)));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Bounded { stream, gauge, .. } = self.get_mut();
        let polled = Pin::new(stream).poll_write(context, bytes);
        if polled.is_ready() {
            gauge.sent();
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the gauge says, which must be the same however the bytes are split.
    fn measured(bytes: &[u8]) -> Result<(), Excess> {
        let of = |size: usize| {
            let mut gauge = Gauge::new();
            bytes.chunks(size).try_for_each(|piece| gauge.read(piece))
        };
        let whole = of(bytes.len().max(1));
        assert_eq!([of(1), of(3), of(4096)], [whole; 3]);
        whole
    }

    #[test]
    fn replies_of_every_type_pass_one_after_the_other() {
        let replies = "+OK\r\n-ERR no\r\n:-5\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n$5\r\na\r\nbc\r\n\
            *2\r\n$1\r\n0\r\n*3\r\n$1\r\na\r\n:1\r\n*1\r\n+x\r\n:9223372036854775807\r\n";
        for times in [1, 2, 1000] {
            assert_eq!(measured(replies.repeat(times).as_bytes()), Ok(()), "{times} times");
        }
    }

    #[test]
    fn what_is_announced_is_refused_before_it_comes() {
        assert_eq!(measured(b"$2147483648\r\n"), Err(Excess::Bytes(2_147_483_648)));
        assert_eq!(measured(b"*2\r\n$1\r\n0\r\n$8388609\r\n"), Err(Excess::Bytes(8_388_609)));
        assert_eq!(measured(b"*2000000000\r\n"), Err(Excess::Elements(2_000_000_000)));
        assert_eq!(measured(b"$99999999999999999999\r\n"), Err(Excess::Bytes(u64::MAX)));
        let nested = b"*60000\r\n*60000\r\n";
        assert_eq!(measured(nested), Err(Excess::Elements(120_000)));
        assert_eq!(measured("*1\r\n".repeat(8).as_bytes()), Ok(()));
        assert_eq!(measured("*1\r\n".repeat(9).as_bytes()), Err(Excess::Depth));
    }

    #[test]
    fn what_comes_without_an_end_is_refused_at_its_limit() {
        let line = [b"+".as_slice(), &vec![b'x'; 64 << 10]].concat();
        assert_eq!(measured(&line), Ok(()));
        assert_eq!(measured(&[line.as_slice(), b"x"].concat()), Err(Excess::Line));
        assert_eq!(measured(":1\r\n".repeat(1 << 16).as_bytes()), Ok(()));
        assert_eq!(measured(":1\r\n".repeat((1 << 16) + 2).as_bytes()), Err(Excess::Elements((1 << 16) + 1)));
        let bulk = [b"$1000000\r\n".as_slice(), &vec![b'x'; 1_000_000], b"\r\n"].concat();
        assert_eq!(measured(&bulk.repeat(8)), Ok(()));
        assert!(matches!(measured(&bulk.repeat(9)), Err(Excess::Bytes(_))));
    }

    #[test]
    fn what_is_sent_makes_room_for_replies_but_not_for_an_endless_one() {
        let mut gauge = Gauge::new();
        for _ in 0..1000 {
            gauge.sent();
            gauge.read(b"$4\r\nabcd\r\n:1\r\n").unwrap();
        }
        gauge.sent();
        gauge.read(b"*60000\r\n").unwrap();
        let endless = (0..10_000).try_for_each(|_| {
            gauge.sent();
            gauge.read(&[b"$1000\r\n".as_slice(), &[b'x'; 1000], b"\r\n"].concat())
        });
        assert!(matches!(endless, Err(Excess::Bytes(_))), "{endless:?}");
    }

    #[test]
    fn what_is_no_resp2_is_refused() {
        for bytes in
            ["HTTP/1.1 400 Bad Request\r\n", "%1\r\n", "$x\r\n", ":1-\r\n", "*1\r\n\r\n", ":1111111111111111111111\r\n"]
        {
            assert_eq!(measured(bytes.as_bytes()), Err(Excess::NoReply), "{bytes:?}");
        }
    }
}
