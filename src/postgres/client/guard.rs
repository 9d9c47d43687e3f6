//! Guards tokio-postgres, which allocates whatever length a server claims. Reads the headers of the frames that pass,
//! and ends the connection at one that is too large, before any of it is held.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use postgres_protocol::authentication::sasl::SCRAM_SHA_256_PLUS;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::socket::Socket;

/// Maximum bytes of one frame, and of all together, before the server is ready for queries: until then it has not
/// proved its identity.
const GREETING_BYTES_MAX: usize = 1 << 20;

/// The longest frame after that, usually a row.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Maximum bytes between two moments when the server is ready for queries, for our statements: an answer is held whole.
pub(in crate::postgres) const ANSWER_BYTES_MAX: usize = 32 << 20;

/// The same for a user's statements, where the user says how many rows.
pub(in crate::postgres) const USERS_ANSWER_BYTES_MAX: usize = 512 << 20;

/// Bytes of the header: a tag, and a length that counts itself but not the tag.
const HEADER_BYTES: usize = 5;

/// The most bytes of an authentication request that are kept.
const REQUEST_BYTES_MAX: usize = 256;

/// The server sent too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::postgres) struct TooMuch(String);

/// A socket whose incoming frames are bounded.
pub(in crate::postgres) struct Guarded {
    socket: Socket,
    watch: Watch,
}

impl Guarded {
    pub(in crate::postgres) fn new(socket: Socket, answer_max: usize) -> Guarded {
        Guarded { socket, watch: Watch::new(answer_max) }
    }

    /// The proof that the server asks for, once it has asked: tokio-postgres refuses some requests with texts that only
    /// a person can tell apart.
    pub(in crate::postgres) fn request(&self) -> Request {
        Request(Arc::clone(&self.watch.request))
    }
}

/// The first `AuthenticationRequest` of a connection (Postgres manual, "Message Formats").
pub(in crate::postgres) struct Request(Arc<Mutex<Vec<u8>>>);

impl Request {
    fn body(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its number: 3 is a password in clear, 5 MD5, 10 SASL, others are methods that coherd does not speak. 0 if the
    /// server has asked for nothing.
    pub(in crate::postgres) fn method(&self) -> u32 {
        self.body().first_chunk().map_or(0, |number| u32::from_be_bytes(*number))
    }

    /// The server offers channel binding.
    pub(in crate::postgres) fn offers_binding(&self) -> bool {
        let body = self.body();
        let mut names = body.get(4..).unwrap_or_default().split(|byte| *byte == 0);
        names.any(|name| name == SCRAM_SHA_256_PLUS.as_bytes())
    }
}

/// A position in the stream of frames.
#[derive(Debug, Default)]
struct Watch {
    answer_max: usize,
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have arrived.
    have: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    is_ready: bool,
    /// Bytes since the server was last ready.
    bytes: usize,
    /// Bytes of the parameters that the server reports, which are kept for as long as the connection lasts.
    reported: usize,
    /// See [`Request`].
    request: Arc<Mutex<Vec<u8>>>,
    /// How many requests have begun.
    requests: u64,
}

impl Watch {
    fn new(answer_max: usize) -> Watch {
        Watch { answer_max, ..Watch::default() }
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        while !bytes.is_empty() {
            let (inside, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.requested(inside);
            self.left -= inside.len();
            bytes = rest;
            while self.left == 0 && self.have < HEADER_BYTES {
                let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
                if let Some(place) = self.header.get_mut(self.have) {
                    *place = *first;
                }
                (self.have, bytes) = (self.have + 1, rest);
            }
            if self.have == HEADER_BYTES {
                self.have = 0;
                self.begun()?;
            }
        }
        Ok(())
    }

    /// Keeps the body of the first request, which may come in pieces.
    fn requested(&self, body: &[u8]) {
        if self.requests == 1 && self.header[0] == b'R' {
            let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
            let room = REQUEST_BYTES_MAX.saturating_sub(request.len());
            request.extend(body.iter().take(room));
        }
    }

    /// Checks a header that is complete.
    fn begun(&mut self) -> Result<(), TooMuch> {
        let [tag, length @ ..] = self.header;
        let claimed = u32::from_be_bytes(length);
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        let (frame_max, all_max) =
            if self.is_ready { (FRAME_BYTES_MAX, self.answer_max) } else { (GREETING_BYTES_MAX, GREETING_BYTES_MAX) };
        if !(HEADER_BYTES - 1..=frame_max).contains(&length) {
            return Err(TooMuch(format!(
                "the server sent a message {:?} of {claimed} bytes, where 4 to {frame_max} are possible here",
                char::from(tag)
            )));
        }
        self.left = length - (HEADER_BYTES - 1);
        self.bytes = self.bytes.saturating_add(length);
        if tag == b'R' {
            self.requests += 1;
        }
        if tag == b'S' {
            self.reported = self.reported.saturating_add(length);
        }
        if tag == b'Z' {
            (self.is_ready, self.bytes) = (true, 0);
        }
        if self.bytes > all_max || self.reported > ANSWER_BYTES_MAX {
            return Err(TooMuch(format!("the server's answer has more than {all_max} bytes; ask for less")));
        }
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Guarded { socket, watch } = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(socket).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(watch.read(new).map_err(|much| io::Error::new(io::ErrorKind::InvalidData, much)))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// Lets tokio-postgres bind its SCRAM exchange to our TLS session.
impl TlsStream for Guarded {
    fn channel_binding(&self) -> ChannelBinding {
        self.socket.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend(u32::try_from(length).unwrap().to_be_bytes());
        frame.resize(1 + length, 0);
        frame
    }

    #[test]
    fn what_is_too_large_is_refused_at_its_header_in_whatever_pieces_it_comes() {
        let good = [frame(b'R', 8), frame(b'Z', 5), frame(b'D', 4), frame(b'D', 3 << 20), frame(b'Z', 5)].concat();
        for piece in [1, 4, 5, 6, 1 << 16, good.len()] {
            let mut watch = Watch::new(ANSWER_BYTES_MAX);
            good.chunks(piece).for_each(|piece| watch.read(piece).unwrap());
            assert_eq!((watch.have, watch.left, watch.bytes), (0, 0, 0));
            assert!(watch.read(b"D\x7F\xFF\xFF\xFF").is_err());
        }
        for early in [&b"R\x7F\xFF\xFF\xFF"[..], b"S\x00\x10\x00\x01", b"N\0\0\0\x03"] {
            assert!(Watch::new(ANSWER_BYTES_MAX).read(early).is_err());
        }
    }

    #[test]
    fn the_first_request_is_read_in_whatever_pieces_it_comes() {
        let sasl = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0".as_slice();
        for piece in [1, 3, 7, 8, sasl.len()] {
            let mut watch = Watch::new(ANSWER_BYTES_MAX);
            sasl.chunks(piece).for_each(|piece| watch.read(piece).unwrap());
            let request = Request(Arc::clone(&watch.request));
            assert_eq!((request.method(), request.offers_binding()), (10, true), "in pieces of {piece}");
        }
    }

    #[test]
    fn an_answer_without_end_is_refused_and_so_are_parameters_without_end() {
        let mut watch = Watch::new(ANSWER_BYTES_MAX);
        watch.read(&frame(b'Z', 5)).unwrap();
        let row = frame(b'D', 1 << 20);
        assert_eq!((0..100).take_while(|_| watch.read(&row).is_ok()).count(), 32);
        let (mut watch, parameter) = (Watch::new(ANSWER_BYTES_MAX), [frame(b'S', 1 << 19), frame(b'Z', 5)].concat());
        assert_eq!((0..1_000).take_while(|_| watch.read(&parameter).is_ok()).count(), 64);
        let mut watch = Watch::new(ANSWER_BYTES_MAX);
        assert_eq!((0..1_000).take_while(|_| watch.read(&frame(b'N', 1 << 19)).is_ok()).count(), 2);
    }
}
