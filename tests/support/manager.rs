//! A service manager that receives a service's notifications: the socket of sd_notify(3).

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use super::wait::until;

/// The receiving end of `NOTIFY_SOCKET`.
pub struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
    heard: RefCell<Vec<String>>,
}

impl Manager {
    /// Starts to listen.
    pub fn start() -> Manager {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("a live socket");
        Manager { socket, dir, heard: RefCell::default() }
    }

    /// [`Manager::start`], for a service that runs as another user.
    pub fn start_for_everybody() -> Manager {
        use std::os::unix::fs::PermissionsExt;
        let manager = Manager::start();
        for (path, mode) in [(manager.dir.path().to_owned(), 0o755), (manager.dir.path().join("notify"), 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("own files");
        }
        manager
    }

    /// The value for `NOTIFY_SOCKET`.
    pub fn address(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// Every assignment received so far, in order.
    pub fn heard(&self) -> Vec<String> {
        let mut heard = self.heard.borrow_mut();
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            let text = std::str::from_utf8(&datagram[..length]).expect("UTF-8");
            heard.extend(text.lines().map(str::to_owned));
        }
        heard.clone()
    }

    /// Waits for an assignment that begins with `begin`, and returns its index.
    pub fn until_heard(&self, begin: &str) -> usize {
        until(&format!("the service says {begin}"), || self.heard().iter().position(|line| line.starts_with(begin)))
    }

    /// The last status line.
    pub fn status(&self) -> String {
        let lines = self.heard();
        let last = lines.iter().rev().find_map(|line| line.strip_prefix("STATUS="));
        last.unwrap_or_default().to_owned()
    }
}
