//! The floor: the least that a consumer can do. One thread, std only, no TLS, no record, no gate, no retries. It reads
//! pgoutput, renders `item:<id>` for a row of `items`, sends UNLINK and acknowledges. coherd's cost beyond it is the
//! price of its promises.
//!
//! The bench executes itself: `bench floor POSTGRES DATABASE SLOT PUBLICATION REDIS`, where an address is `host:port`
//! or the path of a unix socket. It follows the slot until it is killed.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::session::{Session, Socket};

/// The most keys of one UNLINK.
const KEYS_MAX: usize = 256;

/// A consumer is behind if it has read `BEHIND_BYTES` within `WINDOW`. Over TCP it then sleeps before each read, so
/// that the socket fills. Over a unix socket, whose buffer is small, reading at once is faster.
const PAUSE: Duration = Duration::from_micros(200);
const BEHIND_BYTES: usize = 4 * 1024;
const WINDOW: Duration = Duration::from_millis(2);

const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(100);

/// Follows the slot for ever.
pub(crate) fn run(args: &[String]) -> ! {
    let [postgres, database, slot, publication, redis] = args else { panic!("floor: five arguments") };
    let mut postgres = Session::connect_with(postgres, database, &[("replication", "database")]);
    postgres.send(&format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{publication}\"')"
    ));
    postgres.until(b'W', |_, _| ());
    postgres.socket.wake_every(ACKNOWLEDGE_EVERY);
    let mut floor = Floor {
        postgres,
        cache: Cache::connect(redis),
        relations: HashMap::new(),
        read: 0,
        acknowledged: 0,
        acknowledged_at: Instant::now(),
        reply_wanted: false,
    };
    floor.follow()
}

struct Floor {
    postgres: Session,
    cache: Cache,
    relations: Relations,
    /// The end of the last commit that was read.
    read: u64,
    acknowledged: u64,
    acknowledged_at: Instant,
    reply_wanted: bool,
}

impl Floor {
    fn follow(&mut self) -> ! {
        let coalesce = self.postgres.socket.is_tcp();
        let (mut began, mut bytes) = (Instant::now(), 0);
        loop {
            while let Some((tag, body)) = self.postgres.inbox.take() {
                match (tag, body.first()) {
                    (b'd', Some(b'w')) => {
                        let message = &body[25..];
                        if message[0] == b'C' {
                            self.read = u64::from_be_bytes(message[10..18].try_into().expect("8 bytes"));
                        }
                        rows(message, &mut self.relations, |prefix, id| self.cache.unlink(prefix, id));
                    }
                    (b'd', Some(b'k')) => self.reply_wanted |= body[17] != 0,
                    (b'E', _) => panic!("{}", String::from_utf8_lossy(body)),
                    _ => {}
                }
            }
            if began.elapsed() > WINDOW {
                (began, bytes) = (Instant::now(), 0);
            }
            bytes += self.postgres.inbox.last_read;
            let behind = bytes >= BEHIND_BYTES;
            self.cache.send();
            if !behind {
                self.cache.confirmed();
            }
            self.acknowledge();
            if behind && coalesce {
                std::thread::sleep(PAUSE);
            }
            match self.postgres.inbox.fill(&mut self.postgres.socket) {
                Ok(0) => panic!("the server ended the stream"),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.postgres.inbox.last_read = 0;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Acknowledges now and then what Redis has confirmed.
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
        self.postgres.socket.write(&status);
    }
}

/// The prefix of a relation's keys, and the index of its column `id`.
pub(crate) type Relations = HashMap<u32, (Vec<u8>, usize)>;

/// Reads one message of pgoutput (Postgres manual, "Logical Replication Message Formats"), and passes on the prefix and the
/// `id` of each row in it.
pub(crate) fn rows(message: &[u8], relations: &mut Relations, mut each: impl FnMut(&[u8], &[u8])) {
    match message[0] {
        b'R' => {
            let (id, relation) = relation(&message[1..]);
            relations.insert(id, relation);
        }
        b'I' | b'U' | b'D' => {
            let (prefix, column) = &relations[&number(&message[1..])];
            let mut rest = &message[5..];
            // An old row, a new row, or both. If the key has not changed, there is only one.
            while let Some((_kind, row)) = rest.split_first() {
                let (value, after) = value(row, *column);
                each(prefix, value);
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

/// The text of column `wanted` of a row, and the bytes after the row.
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

/// UNLINK commands for Redis.
pub(crate) struct Cache {
    redis: Socket,
    /// The arguments of the UNLINK that is being built.
    keys: Vec<u8>,
    count: usize,
    /// Complete commands.
    commands: Vec<u8>,
    complete: usize,
    unanswered: usize,
    replies: Vec<u8>,
}

impl Cache {
    pub(crate) fn connect(address: &str) -> Cache {
        let redis = Socket::connect(address);
        let (keys, commands, replies) = (Vec::new(), Vec::new(), vec![0; 16 * 1024]);
        Cache { redis, keys, count: 0, commands, complete: 0, unanswered: 0, replies }
    }

    /// Adds a key.
    pub(crate) fn unlink(&mut self, prefix: &[u8], value: &[u8]) {
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

    /// Sends the queued commands, after Redis has confirmed the previous ones.
    pub(crate) fn send(&mut self) {
        self.complete();
        if self.complete > 0 {
            self.confirmed();
            self.redis.write(&self.commands);
            self.commands.clear();
            self.unanswered = std::mem::take(&mut self.complete);
        }
    }

    /// Waits for the replies: one number per line.
    pub(crate) fn confirmed(&mut self) {
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
