//! The listening socket. It holds no more connections than it may, so that a crowd of them cannot take the file
//! descriptors that Postgres and the targets need.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::WAITERS_MAX;

/// The most connections at a time; further ones wait to be accepted. Everybody who may wait, and probes beside them.
pub const CONNECTIONS_MAX: usize = WAITERS_MAX + 100;

/// The most connections that wait to be accepted; the system may allow less (`net.core.somaxconn`). Whoever comes beyond
/// tries again after a second, and a crowd of waiters comes at once: the usual 128 are too few.
const QUEUED_MAX: u32 = 4096;

/// File descriptors for everything else.
const OTHER_DESCRIPTORS: usize = 200;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (admin.listen): {error}{hint}")]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
    hint: &'static str,
}

/// The socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    free: Arc<Semaphore>,
}

/// Listens on `address`. Needs a runtime around it.
pub fn listen(address: SocketAddr) -> Result<Listener, ListenError> {
    let socket = bind(address).map_err(|error| ListenError {
        address,
        hint: match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process, perhaps a second coherd, has the port: end it or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
            io::ErrorKind::PermissionDenied => "; choose a port above 1023",
            _ => "",
        },
        error,
    })?;
    Ok(Listener { socket, free: Arc::new(Semaphore::new(connections_max())) })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port that was just in use can be taken at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUED_MAX)
}

/// How many connections the file descriptors of this process are enough for. Shells and systemd give 1024 to programs
/// that do not ask for more (`RLIMIT_NOFILE`), because of `select(2)`, which nothing here calls.
fn connections_max() -> usize {
    let wanted = (CONNECTIONS_MAX + OTHER_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    let may_have = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let has = limit.current.unwrap_or(wanted);
    let asked = || setrlimit(Resource::Nofile, Rlimit { current: Some(may_have), ..limit });
    let gets = if has < may_have && asked().is_ok() { may_have } else { has };
    usize::try_from(gets).unwrap_or(CONNECTIONS_MAX).saturating_sub(OTHER_DESCRIPTORS).clamp(1, CONNECTIONS_MAX)
}

impl Listener {
    /// The address, with the port that was given where port 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Never closed, so never an error.
            let permit = self.free.clone().acquire_owned().await.ok();
            let (stream, peer) = axum::serve::Listener::accept(&mut self.socket).await;
            if let Some(permit) = permit {
                return (Connection { stream, _permit: permit }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }
}

/// One connection; it gives its place back when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
