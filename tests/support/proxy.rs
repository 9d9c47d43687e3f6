//! A TCP proxy that forwards bytes, and injects network faults on request.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::until;

/// How many bytes are forwarded at once: fewer than most messages of a busy stream, so that faults hit the middle of a
/// message.
const CHUNK_BYTES: usize = 4096;
/// A server that sends nothing for this long, while it gets no new request, has answered every request.
const QUIET: Duration = Duration::from_millis(30);

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

#[derive(Debug, Default)]
struct Weather {
    /// New connections are closed at once.
    refusing: bool,
    /// The delay before each chunk, in both directions.
    delay: Duration,
    /// Whether the direction is stalled, by [`Way`].
    stalled: [bool; 2],
    /// By [`Way`]: how many more bytes pass before the connection that carries the next one is cut.
    left: [Option<usize>; 2],
    /// Live connections, by number.
    links: Vec<(u64, Arc<Link>)>,
    opened: u64,
    /// How often all connections have been cut.
    cuts: u64,
    /// The port that new connections go to.
    server_port: u16,
    /// Clients are kept waiting, even if their servers close.
    holding: bool,
    /// When a server last sent something.
    heard: Option<Instant>,
    closing: bool,
}

#[derive(Debug)]
struct Link {
    client: TcpStream,
    /// The connection to the server, and the number of previous ones.
    server: Mutex<(Arc<TcpStream>, u64)>,
}

impl Link {
    fn server(&self) -> (Arc<TcpStream>, u64) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cut(&self) {
        // Ignore errors: the other side may have closed the connection already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server().0.shutdown(Shutdown::Both);
    }

    /// Connects the client to another server without the client's notice.
    fn swap(&self, server: TcpStream) {
        let mut held = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut held.0, Arc::new(server));
        held.1 += 1;
        drop(held);
        let _ = before.shutdown(Shutdown::Both);
    }
}

#[derive(Debug, Default)]
struct Shared {
    weather: Mutex<Weather>,
    changed: Condvar,
}

impl Shared {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy in front of one server. Dropping it ends its threads.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for connections to `server_port` there.
    pub fn start(server_port: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        shared.weather().server_port = server_port;
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&shared, &listener)
        });
        Proxy { shared, address }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Drops every connection.
    pub fn cut(&self) {
        let mut weather = self.shared.weather();
        weather.cuts += 1;
        // Removed as well, so that a stalled connection notices.
        weather.links.drain(..).for_each(|(_, link)| link.cut());
        drop(weather);
        self.shared.changed.notify_all();
    }

    /// Sends new connections to another server, as after a DNS change, and drops the existing ones.
    pub fn lead_to(&self, server_port: u16) {
        self.shared.weather().server_port = server_port;
        self.cut();
    }

    /// Changes the server behind open connections, as a proxy does that fails over and keeps its clients. Clients are
    /// held until every request is answered. Then `meanwhile` runs, and they continue with the server at `server_port`,
    /// which does not know them.
    pub fn swap_to(&self, server_port: u16, meanwhile: impl FnOnce()) {
        self.shared.weather().holding = true;
        let held = Instant::now();
        until("the servers have answered what they were asked", || {
            let last = self.shared.weather().heard.map_or(held, |heard| heard.max(held));
            (last.elapsed() >= QUIET).then_some(())
        });
        meanwhile();
        let links: Vec<Arc<Link>> = self.shared.weather().links.iter().map(|(_, link)| Arc::clone(link)).collect();
        for link in links {
            link.swap(dial(server_port).expect("the other server is there"));
        }
        let mut weather = self.shared.weather();
        (weather.server_port, weather.holding) = (server_port, false);
        drop(weather);
        self.shared.changed.notify_all();
    }

    /// Starts or stops closing new connections at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.weather().refusing = refusing;
    }

    /// Delays every chunk by `delay`.
    pub fn delay(&self, delay: Duration) {
        self.shared.weather().delay = delay;
    }

    /// Stalls or resumes one direction; the connection stays open.
    pub fn stall(&self, way: Way, stalled: bool) {
        self.shared.weather().stalled[way as usize] = stalled;
        self.shared.changed.notify_all();
    }

    /// Lets `bytes` more pass in one direction, then cuts the connection, even within a message.
    pub fn truncate_after(&self, way: Way, bytes: usize) {
        self.shared.weather().left[way as usize] = Some(bytes);
    }

    /// Ends all faults. Stalled connections continue.
    pub fn behave(&self) {
        let mut weather = self.shared.weather();
        (weather.refusing, weather.delay, weather.stalled, weather.left) = Default::default();
        drop(weather);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.weather().closing = true;
        self.cut();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if shared.weather().closing {
            return;
        }
        let (refusing, server_port, cuts) = shared.weather().ways_in();
        if refusing {
            continue;
        }
        // The server is down. Closing the connection is all that a proxy can do.
        let Ok(server) = dial(server_port) else { continue };
        client.set_nodelay(true).expect("a live socket");
        let link = Arc::new(Link { client, server: Mutex::new((Arc::new(server), 0)) });
        let mut weather = shared.weather();
        if weather.ways_in() != (false, server_port, cuts) {
            // A cut happened before this connection was listed.
            link.cut();
            continue;
        }
        weather.opened += 1;
        let number = weather.opened;
        weather.links.push((number, Arc::clone(&link)));
        drop(weather);
        for way in [Way::ToServer, Way::ToClient] {
            let (shared, link) = (Arc::clone(shared), Arc::clone(&link));
            std::thread::spawn(move || {
                pump(&shared, &link, way, number);
                link.cut();
                shared.weather().links.retain(|(its, _)| *its != number);
                shared.changed.notify_all();
            });
        }
    }
}

fn dial(server_port: u16) -> std::io::Result<TcpStream> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port))?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// Forwards one direction until either side closes or the connection is cut.
fn pump(shared: &Shared, link: &Link, way: Way, number: u64) {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let (server, generation) = link.server();
        let (mut from, of_server) = match way {
            Way::ToServer => (&link.client, false),
            Way::ToClient => (&*server, true),
        };
        let count = match from.read(&mut chunk) {
            Ok(0) | Err(_) if of_server && is_swapped(shared, link, generation, number) => continue,
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let delay = shared.weather().delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let Some(allowed) = admit(shared, way, number, count) else { return };
        // The server may have changed during the wait.
        let server = link.server().0;
        let mut to = if of_server { &link.client } else { &*server };
        if to.write_all(&chunk[..allowed]).is_err() || allowed < count {
            return;
        }
    }
}

/// Called when the server's side has closed. Waits while clients are held. Returns whether another server has taken
/// over.
fn is_swapped(shared: &Shared, link: &Link, generation: u64, number: u64) -> bool {
    let mut weather = shared.weather();
    while weather.holding && weather.is_linked(number) {
        weather = shared.changed.wait(weather).unwrap_or_else(PoisonError::into_inner);
    }
    weather.is_linked(number) && link.server().1 != generation
}

impl Weather {
    /// Whether the connection has not been cut.
    fn is_linked(&self, number: u64) -> bool {
        !self.closing && self.links.iter().any(|(its, _)| *its == number)
    }

    /// The state for a new connection: whether it is refused, its server's port, and the number of cuts so far.
    fn ways_in(&self) -> (bool, u16, u64) {
        (self.refusing, self.server_port, self.cuts)
    }

    fn holds(&self, way: Way) -> bool {
        self.stalled[way as usize] || (self.holding && way == Way::ToServer)
    }
}

/// Waits while stalled. Returns how many of `count` bytes may pass: fewer than all if the connection must be cut after
/// them, `None` if it has been cut.
fn admit(shared: &Shared, way: Way, number: u64, count: usize) -> Option<usize> {
    let mut weather = shared.weather();
    if way == Way::ToClient {
        weather.heard = Some(Instant::now());
    }
    while weather.holds(way) && weather.is_linked(number) {
        weather = shared.changed.wait(weather).unwrap_or_else(PoisonError::into_inner);
    }
    if !weather.is_linked(number) {
        return None;
    }
    let left = &mut weather.left[way as usize];
    match *left {
        Some(bytes) if bytes < count => {
            *left = None;
            Some(bytes)
        }
        Some(bytes) => {
            *left = Some(bytes - count);
            Some(count)
        }
        None => Some(count),
    }
}

#[test]
fn a_proxy_forwards_stalls_truncates_and_cuts() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::start(server.local_addr().unwrap().port());
    let connect = || {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        (client, server.accept().unwrap().0)
    };
    let mut buffer = [0; 5];
    let (mut client, mut other) = connect();
    client.write_all(b"hello").unwrap();
    other.read_exact(&mut buffer).unwrap();
    proxy.stall(Way::ToClient, true);
    other.write_all(b"later").unwrap();
    assert!(client.read(&mut buffer).is_err(), "nothing comes through");
    proxy.behave();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"later");
    proxy.truncate_after(Way::ToClient, 2);
    other.write_all(b"never").unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"ne");
    let (mut client, _other) = connect();
    proxy.cut();
    assert!(matches!(client.read(&mut buffer), Ok(0) | Err(_)));
    proxy.refuse(true);
    let mut refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    assert!(matches!(refused.read(&mut buffer), Ok(0) | Err(_)));
}

#[test]
fn a_proxy_changes_the_server_behind_a_connection_that_stays() {
    let servers = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [first, second] = [0, 1].map(|one: usize| servers[one].local_addr().unwrap().port());
    let proxy = Proxy::start(first);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let mut here = servers[0].accept().unwrap().0;
    let mut buffer = [0; 5];
    client.write_all(b"hello").unwrap();
    here.read_exact(&mut buffer).unwrap();
    // The first server may also end before the second one starts.
    proxy.swap_to(second, || {
        drop(here);
        client.write_all(b"later").unwrap();
    });
    let mut there = servers[1].accept().unwrap().0;
    there.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"later");
    there.write_all(b"again").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"again");
    drop(there);
    assert!(matches!(client.read(&mut buffer), Ok(0) | Err(_)));
}
