//! The listening socket. It limits its connections, so that many of them cannot use up the file descriptors that
//! Postgres and the targets need. At the limit, the connection that has been silent longest makes room.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::guests::{Guest, Guests, Leave};
use crate::admin::status::WAITERS_MAX;

/// The most connections at a time: all callers that may wait, and probes in addition.
pub const CONNECTIONS_MAX: usize = WAITERS_MAX + 100;

/// The most connections that wait to be accepted; the system may allow fewer (`net.core.somaxconn`). A client beyond
/// that retries after a second. Many waiting callers connect at once, so the usual 128 are too few.
const QUEUED_MAX: u32 = 4096;

/// The most connections that are reserved for callers that do not wait; a tenth of the connections if there are few.
const FOR_PROBES: usize = 100;

/// File descriptors reserved for everything else.
const OTHER_DESCRIPTORS: usize = 200;

/// The error for an address that coherd cannot listen on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (admin.listen): {error}{hint}")]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
    hint: &'static str,
}

/// The listening socket, with its limit of connections.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    free: Arc<Semaphore>,
    most: usize,
    guests: Guests,
    hosts: Vec<String>,
}

/// Listens on `address`. Call it inside a Tokio runtime.
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
    let most = connections_max();
    Ok(Listener { socket, free: Arc::new(Semaphore::new(most)), most, guests: Guests::default(), hosts: Vec::new() })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows binding to a port that was in use a moment ago.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUED_MAX)
}

/// How many connections the process's file descriptors allow. Shells and systemd give 1024 to programs that do not ask
/// for more (`RLIMIT_NOFILE`), because of `select(2)`, which nothing here calls.
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
    /// The bound address; if port 0 was requested, with the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Also answers to these names, besides addresses and names that nobody can register.
    #[must_use]
    pub fn answering_to(self, hosts: &[String]) -> Listener {
        Listener { hosts: hosts.to_vec(), ..self }
    }

    pub(super) fn hosts(&self) -> Arc<[String]> {
        self.hosts.clone().into()
    }

    /// How many of its connections may wait at the same time.
    pub(super) fn waits_max(&self) -> usize {
        self.most.saturating_sub((self.most / 10).clamp(1, FOR_PROBES)).clamp(1, WAITERS_MAX)
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = axum::serve::Listener::accept(&mut self.socket).await;
            if self.free.available_permits() == 0 {
                // If every connection has a request, one of them must end first.
                self.guests.evict_one();
            }
            // The semaphore is never closed, so this never fails.
            if let Ok(permit) = self.free.clone().acquire_owned().await {
                let guest = self.guests.admit();
                return (Connection { stream, guest, wake: None, _permit: permit }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }
}

/// One connection. Dropping it frees its place.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    guest: Guest,
    /// Fires when the connection has been silent for too long.
    wake: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// An error once the connection must close. Wakes `cx` when that may be the case.
    fn may_stay(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some(deadline) = self.guest.deadline(cx.waker()).map_err(leave)? {
            let deadline = deadline.into();
            let wake = self.wake.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if wake.deadline() != deadline {
                wake.as_mut().reset(deadline);
            }
            if wake.as_mut().poll(cx).is_pending() {
                break;
            }
        }
        Ok(())
    }
}

fn leave(why: Leave) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guest.left();
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.may_stay(cx)?;
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.guest.said(buf.filled().len() - before).map_err(leave)?;
        if poll.is_pending() {
            // The first bytes of a request head start another deadline.
            self.may_stay(cx)?;
        }
        poll
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // A client that does not read its answer must make room too.
        self.may_stay(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
