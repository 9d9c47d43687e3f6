//! A server that greets like Redis and then sends invalid or endless replies, which no real server can be made to send.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What the server sends after the greeting: a beginning, then a part that repeats.
#[derive(Debug, Clone, Copy)]
pub struct Payload {
    pub name: &'static str,
    pub first: &'static str,
    pub again: &'static str,
}

pub const PAYLOADS: &[Payload] = &[
    Payload { name: "a bulk string of 2 GiB", first: "$2147483648\r\n", again: "x" },
    Payload { name: "an array of 2,000,000,000", first: "*2000000000\r\n", again: ":1\r\n" },
    Payload { name: "arrays in arrays", first: "", again: "*1\r\n" },
    Payload { name: "many arrays in an array", first: "*60000\r\n", again: "*60000\r\n:1\r\n" },
    Payload { name: "a line without an end", first: "+", again: "x" },
    Payload { name: "an error without an end", first: "-ERR ", again: "x" },
    Payload { name: "an array of many strings", first: "*60000\r\n", again: STRING },
    Payload { name: "another protocol", first: "HTTP/1.1 400 Bad Request\r\n\r\n", again: "x" },
    // The first ones are replies, though wrong ones, to the client's commands.
    Payload { name: "replies without an end", first: "", again: ":1\r\n" },
];

const STRING: &str = "$300\r\n\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n";

/// The server gives up after this many bytes, so that a client without limits does not exhaust the machine.
const SENT_MAX: usize = 192 << 20;

/// A server that listens until it is dropped.
pub struct Hostile {
    port: u16,
    payload: Arc<Mutex<Payload>>,
    served: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Hostile {
    pub fn start() -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let payload = Arc::new(Mutex::new(PAYLOADS[0]));
        let (served, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let server =
            Hostile { port, payload: Arc::clone(&payload), served: Arc::clone(&served), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let payload = *payload.lock().expect("not poisoned");
                serve(stream, payload);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Sets the payload of every new connection.
    pub fn sends(&self, payload: Payload) {
        *self.payload.lock().expect("not poisoned") = payload;
    }

    /// The number of connections that have ended.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream, payload: Payload) {
    let _ = stream.set_write_timeout(Some(std::time::Duration::from_secs(10)));
    // Reads the client's greeting.
    if !matches!(stream.read(&mut [0; 512]), Ok(1..)) {
        return;
    }
    let again = payload.again.repeat((64 << 10) / payload.again.len());
    let mut sent = stream.write_all(format!("+OK\r\n{}", payload.first).as_bytes());
    let mut bytes = 0;
    while sent.is_ok() && bytes < SENT_MAX {
        sent = stream.write_all(again.as_bytes());
        bytes += again.len();
    }
    let _ = stream.shutdown(Shutdown::Both);
}
