//! An open connection: TCP, unix socket, or TLS over TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::channel_binding::server_end_point;

/// rustls reads 4 KiB at a time, which would take a system call for every few changes.
pub(in crate::postgres) const TLS_READ_BYTES: usize = 64 * 1024;

/// A connection on which Postgres's protocol can start.
pub(in crate::postgres) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<BufReader<TcpStream>>>),
}

/// Where a connection leads.
#[derive(Debug, Clone)]
pub(in crate::postgres) enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Socket {
    /// The address of the server, for another connection to it.
    pub(in crate::postgres) fn peer(&self) -> Option<Peer> {
        match self {
            Socket::Unix(unix) => unix.peer_addr().ok()?.as_pathname().map(|path| Peer::Unix(path.to_owned())),
            Socket::Tcp(_) | Socket::Tls(_) => self.tcp()?.peer_addr().ok().map(Peer::Tcp),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Tcp(tcp) => Some(tcp),
            Socket::Unix(_) => None,
            Socket::Tls(tls) => Some(tls.get_ref().0.get_ref()),
        }
    }

    /// Whether the connection uses the network.
    pub(in crate::postgres) fn is_tcp(&self) -> bool {
        self.tcp().is_some()
    }

    /// Whether the connection uses TLS.
    pub(in crate::postgres) fn is_encrypted(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    /// Our own address, as this end of the connection knows it.
    pub(in crate::postgres) fn our_address(&self) -> Option<IpAddr> {
        self.tcp()?.local_addr().ok().map(|address| address.ip())
    }

    /// The data of `tls-server-end-point` (RFC 5929), if there is TLS.
    pub(in crate::postgres) fn end_point(&self) -> Option<Vec<u8>> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => None,
            Socket::Tls(tls) => server_end_point(tls.get_ref().1.peer_certificates()?.first()?),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// Lets tokio-postgres bind its SCRAM exchange to our TLS session.
impl TlsStream for Socket {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}
