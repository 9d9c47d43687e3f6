//! A minimal blocking session with Postgres on one thread, so that the time at which a commit returns is known exactly
//! and a client costs next to nothing. It supports only trust authentication.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const INBOX_BYTES: usize = 256 * 1024;

/// A connection to `host:port`, or to the path of a unix socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn connect(address: &str) -> Socket {
        if address.starts_with('/') {
            return Socket::Unix(UnixStream::connect(address).expect("connects"));
        }
        let tcp = TcpStream::connect(address).expect("connects");
        tcp.set_nodelay(true).expect("nodelay");
        Socket::Tcp(tcp)
    }

    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => tcp.read(buffer),
            Socket::Unix(unix) => unix.read(buffer),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self {
            Socket::Tcp(tcp) => tcp.write_all(bytes),
            Socket::Unix(unix) => unix.write_all(bytes),
        }
        .expect("sends");
    }

    /// Reads time out after `pause`.
    pub(crate) fn wake_every(&self, pause: Duration) {
        match self {
            Socket::Tcp(tcp) => tcp.set_read_timeout(Some(pause)),
            Socket::Unix(unix) => unix.set_read_timeout(Some(pause)),
        }
        .expect("a time-out");
    }
}

/// Received bytes that are not yet consumed.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    /// The number of bytes in the last read.
    pub(crate) last_read: usize,
}

impl Inbox {
    /// The next message, if it is complete: its tag and its body.
    pub(crate) fn take(&mut self) -> Option<(u8, &[u8])> {
        let here = &self.bytes[self.begin..self.end];
        let (header, rest) = here.split_first_chunk::<5>()?;
        let body = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize - 4;
        if rest.len() < body {
            return None;
        }
        let begin = self.begin + 5;
        self.begin = begin + body;
        Some((header[0], &self.bytes[begin..begin + body]))
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, socket: &mut Socket) -> std::io::Result<usize> {
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        self.last_read = socket.read(&mut self.bytes[self.end..])?;
        self.end += self.last_read;
        Ok(self.last_read)
    }
}

/// A session as `postgres`.
pub(crate) struct Session {
    pub(crate) socket: Socket,
    pub(crate) inbox: Inbox,
}

impl Session {
    pub(crate) fn connect(address: &str, database: &str) -> Session {
        Session::connect_with(address, database, &[])
    }

    /// Connects with more parameters in the startup message.
    pub(crate) fn connect_with(address: &str, database: &str, parameters: &[(&str, &str)]) -> Session {
        let mut socket = Socket::connect(address);
        let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
        for (name, value) in [("user", "postgres"), ("database", database)].iter().chain(parameters) {
            startup.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        startup.push(0);
        let length = u32::try_from(startup.len()).expect("short");
        startup[..4].copy_from_slice(&length.to_be_bytes());
        socket.write(&startup);
        let inbox = Inbox { bytes: vec![0; INBOX_BYTES], begin: 0, end: 0, last_read: 0 };
        let mut session = Session { socket, inbox };
        session.until(b'Z', |_, _| ());
        session
    }

    /// Runs statements in one simple query. Panics on an error.
    pub(crate) fn run(&mut self, sql: &str) {
        self.send(sql);
        self.until(b'Z', |_, _| ());
    }

    /// The first column of every row.
    pub(crate) fn texts(&mut self, sql: &str) -> Vec<String> {
        let mut texts = Vec::new();
        self.send(sql);
        self.until(b'Z', |tag, body| {
            if tag == b'D' {
                let length = u32::from_be_bytes([body[2], body[3], body[4], body[5]]) as usize;
                texts.push(String::from_utf8_lossy(&body[6..6 + length]).into_owned());
            }
        });
        texts
    }

    pub(crate) fn send(&mut self, sql: &str) {
        let mut query = vec![b'Q'];
        query.extend_from_slice(&u32::try_from(sql.len() + 5).expect("short").to_be_bytes());
        query.extend_from_slice(sql.as_bytes());
        query.push(0);
        self.socket.write(&query);
    }

    /// Passes every message to `show`, up to one with the tag `last`.
    pub(crate) fn until(&mut self, last: u8, mut show: impl FnMut(u8, &[u8])) {
        loop {
            match self.inbox.take() {
                Some((b'E', body)) => panic!("{}", String::from_utf8_lossy(body)),
                Some((tag, body)) => {
                    show(tag, body);
                    if tag == last {
                        return;
                    }
                }
                None => {
                    let count = self.inbox.fill(&mut self.socket).expect("reads");
                    assert!(count > 0, "the server hung up");
                }
            }
        }
    }
}
