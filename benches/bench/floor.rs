//! The floor: the least that a consumer can do. One thread, std only, no TLS, no record, no gate, no retries: reads
//! pgoutput, renders `item:<id>` for a row of `items`, sends UNLINK, acknowledges. What coherd costs beyond it is the
//! price of its promises.
//!
//! The bench executes itself: `bench floor POSTGRES DATABASE SLOT PUBLICATION REDIS`, where an address is `host:port` or
//! the path of a unix socket. It follows the slot until it is killed.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Keys of one UNLINK.
const KEYS_MAX: usize = 256;

/// Behind, over TCP, it sleeps before each read, so that the socket fills; over a unix socket, whose buffer is small,
/// reading at once is faster. Behind is who has just read this much.
const PAUSE: Duration = Duration::from_micros(200);
const BEHIND_BYTES: usize = 4 * 1024;

const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(100);

const INBOX_BYTES: usize = 256 * 1024;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &str) -> Socket {
        if address.starts_with('/') {
            return Socket::Unix(UnixStream::connect(address).expect("connects"));
        }
        let tcp = TcpStream::connect(address).expect("connects");
        tcp.set_nodelay(true).expect("nodelay");
        Socket::Tcp(tcp)
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => tcp.read(buffer),
            Socket::Unix(unix) => unix.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self {
            Socket::Tcp(tcp) => tcp.write_all(bytes),
            Socket::Unix(unix) => unix.write_all(bytes),
        }
        .expect("sends");
    }

    fn wake_every(&self, pause: Duration) {
        match self {
            Socket::Tcp(tcp) => tcp.set_read_timeout(Some(pause)),
            Socket::Unix(unix) => unix.set_read_timeout(Some(pause)),
        }
        .expect("a time-out");
    }
}

/// Follows the slot for ever.
pub(crate) fn run(args: &[String]) -> ! {
    let [postgres, database, slot, publication, redis] = args else { panic!("floor: five arguments") };
    let mut floor = Floor::connect(postgres, database, redis);
    let start = format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"')"
    );
    floor.start(&start);
    floor.follow()
}

struct Floor {
    postgres: Socket,
    inbox: Inbox,
    cache: Cache,
    /// Prefix of a relation's keys and place of its column `id`.
    relations: HashMap<u32, (Vec<u8>, usize)>,
    /// The end of the last commit that was read.
    read: u64,
    acknowledged: u64,
    acknowledged_at: Instant,
    reply_wanted: bool,
}

impl Floor {
    fn connect(postgres: &str, database: &str, redis: &str) -> Floor {
        let mut socket = Socket::connect(postgres);
        let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
        for (name, value) in [("user", "postgres"), ("database", database), ("replication", "database")] {
            startup.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        startup.push(0);
        let length = u32::try_from(startup.len()).expect("short");
        startup[..4].copy_from_slice(&length.to_be_bytes());
        socket.write(&startup);
        Floor {
            postgres: socket,
            inbox: Inbox { bytes: vec![0; INBOX_BYTES], begin: 0, end: 0, last_read: 0 },
            cache: Cache::connect(redis),
            relations: HashMap::new(),
            read: 0,
            acknowledged: 0,
            acknowledged_at: Instant::now(),
            reply_wanted: false,
        }
    }

    fn start(&mut self, command: &str) {
        self.greeted(b'Z');
        let mut query = vec![b'Q'];
        query.extend_from_slice(&u32::try_from(command.len() + 5).expect("short").to_be_bytes());
        query.extend_from_slice(command.as_bytes());
        query.push(0);
        self.postgres.write(&query);
        self.greeted(b'W');
        self.postgres.wake_every(ACKNOWLEDGE_EVERY);
    }

    /// Reads up to a message `last`.
    fn greeted(&mut self, last: u8) {
        loop {
            match self.inbox.take() {
                Some((b'E', body)) => panic!("{}", String::from_utf8_lossy(body)),
                Some((tag, _)) if tag == last => return,
                Some(_) => {}
                None => {
                    self.inbox.fill(&mut self.postgres).expect("reads");
                }
            }
        }
    }

    fn follow(&mut self) -> ! {
        let coalesce = matches!(self.postgres, Socket::Tcp(_));
        loop {
            while let Some((tag, body)) = self.inbox.take() {
                match (tag, body.first()) {
                    (b'd', Some(b'w')) => change(&body[25..], &mut self.relations, &mut self.cache, &mut self.read),
                    (b'd', Some(b'k')) => self.reply_wanted |= body[17] != 0,
                    (b'E', _) => panic!("{}", String::from_utf8_lossy(body)),
                    _ => {}
                }
            }
            let behind = self.inbox.last_read >= BEHIND_BYTES;
            self.cache.send();
            if !behind {
                self.cache.confirmed();
            }
            self.acknowledge();
            if behind && coalesce {
                std::thread::sleep(PAUSE);
            }
            match self.inbox.fill(&mut self.postgres) {
                Ok(0) => panic!("the server ended the stream"),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.inbox.last_read = 0;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Tells the server what Redis has confirmed, now and then.
    fn acknowledge(&mut self) {
        let due = self.read > self.acknowledged && self.acknowledged_at.elapsed() >= ACKNOWLEDGE_EVERY;
        if !due && !self.reply_wanted {
            return;
        }
        self.cache.confirmed();
        (self.acknowledged, self.acknowledged_at, self.reply_wanted) = (self.read, Instant::now(), false);
        let mut status = vec![b'd', 0, 0, 0, 38, b'r'];
        for _written_flushed_applied in 0..3 {
            status.extend_from_slice(&self.acknowledged.to_be_bytes());
        }
        status.extend_from_slice(&[0; 9]);
        self.postgres.write(&status);
    }
}

/// What has arrived and is not yet read.
struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    last_read: usize,
}

impl Inbox {
    fn take(&mut self) -> Option<(u8, &[u8])> {
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

    fn fill(&mut self, socket: &mut Socket) -> std::io::Result<usize> {
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

/// One message of pgoutput (Postgres manual, "Logical Replication Message Formats").
fn change(message: &[u8], relations: &mut HashMap<u32, (Vec<u8>, usize)>, cache: &mut Cache, read: &mut u64) {
    match message[0] {
        b'C' => *read = u64::from_be_bytes(message[10..18].try_into().expect("8 bytes")),
        b'R' => {
            let (id, relation) = relation(&message[1..]);
            relations.insert(id, relation);
        }
        b'I' | b'U' | b'D' => {
            let (prefix, column) = &relations[&number(&message[1..])];
            let mut rest = &message[5..];
            // Old row, new row, or both; where the key has not changed there is only one.
            while let Some((_kind, row)) = rest.split_first() {
                let (value, after) = value(row, *column);
                cache.unlink(prefix, value);
                rest = after;
            }
        }
        _ => {}
    }
}

fn relation(body: &[u8]) -> (u32, (Vec<u8>, usize)) {
    let mut texts = body[4..].splitn(3, |byte| *byte == 0);
    let (_schema, name) = (texts.next(), texts.next().expect("a name"));
    let mut columns = &texts.next().expect("columns")[3..];
    let mut place = 0;
    loop {
        let length = columns[1..].iter().position(|byte| *byte == 0).expect("a name");
        if &columns[1..=length] == b"id" {
            break;
        }
        columns = &columns[1 + length + 1 + 8..];
        place += 1;
    }
    let mut prefix = name.strip_suffix(b"s").unwrap_or(name).to_vec();
    prefix.push(b':');
    (number(body), (prefix, place))
}

/// The text of column `wanted` of a row, and what follows the row.
fn value(row: &[u8], wanted: usize) -> (&[u8], &[u8]) {
    let columns = usize::from(u16::from_be_bytes([row[0], row[1]]));
    let (mut rest, mut found): (&[u8], &[u8]) = (&row[2..], &[]);
    for column in 0..columns {
        let length = if rest[0] == b't' { 4 + number(&rest[1..]) as usize } else { 0 };
        if column == wanted {
            found = rest.get(5..=length).unwrap_or_default();
        }
        rest = &rest[1 + length..];
    }
    (found, rest)
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

struct Cache {
    redis: Socket,
    /// The arguments of the UNLINK that gathers.
    keys: Vec<u8>,
    count: usize,
    /// Complete commands.
    commands: Vec<u8>,
    complete: usize,
    unanswered: usize,
    replies: Vec<u8>,
}

impl Cache {
    fn connect(address: &str) -> Cache {
        let redis = Socket::connect(address);
        let (keys, commands, replies) = (Vec::new(), Vec::new(), vec![0; 16 * 1024]);
        Cache { redis, keys, count: 0, commands, complete: 0, unanswered: 0, replies }
    }

    fn unlink(&mut self, prefix: &[u8], value: &[u8]) {
        self.keys.push(b'$');
        decimal(prefix.len() + value.len(), &mut self.keys);
        self.keys.extend_from_slice(b"\r\n");
        self.keys.extend_from_slice(prefix);
        self.keys.extend_from_slice(value);
        self.keys.extend_from_slice(b"\r\n");
        self.count += 1;
        if self.count == KEYS_MAX {
            self.complete();
        }
    }

    fn complete(&mut self) {
        if self.count > 0 {
            self.commands.push(b'*');
            decimal(self.count + 1, &mut self.commands);
            self.commands.extend_from_slice(b"\r\n$6\r\nUNLINK\r\n");
            self.commands.append(&mut self.keys);
            (self.count, self.complete) = (0, self.complete + 1);
        }
    }

    /// Sends what has gathered, once what was sent before is confirmed.
    fn send(&mut self) {
        self.complete();
        if self.complete > 0 {
            self.confirmed();
            self.redis.write(&self.commands);
            self.commands.clear();
            self.unanswered = std::mem::take(&mut self.complete);
        }
    }

    /// Waits for the replies: one number a line.
    fn confirmed(&mut self) {
        while self.unanswered > 0 {
            let count = self.redis.read(&mut self.replies).expect("Redis answers");
            assert!(count > 0, "Redis hung up");
            let lines = &self.replies[..count];
            assert!(!lines.contains(&b'-'), "{}", String::from_utf8_lossy(lines));
            self.unanswered -= lines.iter().filter(|byte| **byte == b'\n').count();
        }
    }
}

fn decimal(number: usize, into: &mut Vec<u8>) {
    if number >= 10 {
        decimal(number / 10, into);
    }
    into.push(b'0' + (number % 10) as u8);
}
