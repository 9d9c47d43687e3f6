//! A TCP connection that can be left alone for a while.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The poller reports edges: each arrival on a socket wakes the process, also where nobody is about to read, and the
/// sender pays for a part of that. Left alone, the socket is out of the poller, and what arrives piles up in silence.
pub(super) struct Tcp(State);

enum State {
    Polled(TcpStream),
    Alone(std::net::TcpStream),
    /// It could not be put into the poller or taken out.
    Broken,
}

impl Tcp {
    pub(super) fn new(tcp: TcpStream) -> Tcp {
        Tcp(State::Polled(tcp))
    }

    /// Nothing that arrives wakes anybody, until the next read or write.
    pub(super) fn leave_alone(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, State::Broken) {
            State::Polled(tcp) => State::Alone(tcp.into_std()?),
            other => other,
        };
        Ok(())
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            State::Polled(tcp) => tcp.local_addr(),
            State::Alone(tcp) => tcp.local_addr(),
            State::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn polled(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Alone(_) = &self.0
            && let State::Alone(tcp) = std::mem::replace(&mut self.0, State::Broken)
        {
            self.0 = State::Polled(TcpStream::from_std(tcp)?);
        }
        match &mut self.0 {
            State::Polled(tcp) => Ok(Pin::new(tcp)),
            State::Alone(_) | State::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.polled()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.polled()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.polled()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.polled()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_arrives_while_it_is_left_alone_is_read_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut ours, mut theirs) = (Tcp::new(ours.unwrap()), theirs.unwrap().0);
        for round in 0..3_u8 {
            ours.leave_alone().unwrap();
            ours.leave_alone().unwrap();
            assert_eq!(ours.local_addr().unwrap().ip(), address.ip());
            theirs.write_all(&[round; 3]).await.unwrap();
            let mut got = [0; 3];
            tokio::time::timeout(Duration::from_secs(10), ours.read_exact(&mut got)).await.unwrap().unwrap();
            assert_eq!(got, [round; 3]);
        }
        ours.leave_alone().unwrap();
        ours.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), b'x');
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
