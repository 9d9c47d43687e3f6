//! The listening socket. It holds no more connections than it may, so that a crowd of them cannot take the file
//! descriptors that Postgres and the targets need. Where there are as many, whoever has been silent for longest makes
//! room.

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

/// The most connections at a time. Everybody who may wait, and probes beside them.
pub const CONNECTIONS_MAX: usize = WAITERS_MAX + 100;

/// The most connections that wait to be accepted; the system may allow less (`net.core.somaxconn`). Whoever comes beyond
/// tries again after a second, and a crowd of waiters comes at once: the usual 128 are too few.
const QUEUED_MAX: u32 = 4096;

/// The most connections that are kept for others than those who wait; a tenth where there are few.
const FOR_PROBES: usize = 100;

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
    most: usize,
    guests: Guests,
    hosts: Vec<String>,
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
    let most = connections_max();
    Ok(Listener { socket, free: Arc::new(Semaphore::new(most)), most, guests: Guests::default(), hosts: Vec::new() })
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

    /// Answers to these names too, besides addresses and names that nobody can register.
    #[must_use]
    pub fn answering_to(self, hosts: &[String]) -> Listener {
        Listener { hosts: hosts.to_vec(), ..self }
    }

    pub(super) fn hosts(&self) -> Arc<[String]> {
        self.hosts.clone().into()
    }

    /// How many of its connections may wait at a time.
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
                // Where all ask something, one of them has to end first.
                self.guests.evict_one();
            }
            // Never closed, so never an error.
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

/// One connection; it gives its place back when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    guest: Guest,
    /// Runs out when it has been silent for too long.
    wake: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// An error once it has to leave; `cx` is woken then.
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
            // The first bytes of a head have another deadline.
            self.may_stay(cx)?;
        }
        poll
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Who does not take its answer has to make room too.
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
