//! Runs the installed unit without systemd: with the same user, environment and commands. Of the unit's restrictions it
//! applies only privileges, as far as `setpriv` can. `unit.rs` checks the rest.

use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::machine::run;
use super::unit::{value, values};
use crate::support::Manager;
use crate::support::daemon::text;
use crate::support::process::{Server, Signal};

const UNIT: &str = "/usr/lib/systemd/system/coherd.service";
const DROP_IN: &str = "/etc/systemd/system/coherd.service.d/secrets.conf";

/// The running service.
pub struct Service {
    server: Option<Server>,
    manager: Manager,
    /// Holds the credentials and the log.
    folder: TempDir,
}

impl Service {
    /// Runs the installed unit's commands as its user, and waits until the service is ready.
    pub fn start() -> Service {
        let unit = std::fs::read_to_string(UNIT).expect("the unit is installed");
        let mut service = Service {
            server: None,
            manager: Manager::start_for_everybody(),
            folder: tempfile::Builder::new().prefix("coherd-service").tempdir().expect("temp dir"),
        };
        let credentials = service.credentials(&unit);
        let log = service.folder.path().join("log");
        let its = std::fs::File::create(&log).and_then(|file| file.metadata()).expect("a log");
        let mut command = as_user(&unit);
        command.extend(["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin"].map(str::to_owned));
        command.push(format!("NOTIFY_SOCKET={}", service.manager.address()));
        command.push(format!("WATCHDOG_USEC={}", seconds(value(&unit, "WatchdogSec")) * 1_000_000));
        command.push(format!("CREDENTIALS_DIRECTORY={credentials}"));
        // The log file stands in for the journal's socket.
        command.push(format!("JOURNAL_STREAM={}:{}", its.dev(), its.ino()));
        for before in values(&unit, "ExecStartPre") {
            let line = before.strip_prefix('-').unwrap_or(before);
            let ran = run(&command[0], &words(&command[1..], line).iter().map(String::as_str).collect::<Vec<_>>());
            assert!(ran.status.success(), "{line}: {}", text(&ran));
        }
        let command = words(&command, value(&unit, "ExecStart"));
        service.server = Some(Server::start(&command, &log));
        service.manager.until_heard("READY=1");
        service
    }

    /// Writes the credentials of the drop-in's `LoadCredential=`, readable only for the service's user.
    fn credentials(&self, unit: &str) -> String {
        let folder = self.folder.path().join("credentials");
        std::fs::create_dir(&folder).expect("a folder");
        let drop_in = std::fs::read_to_string(DROP_IN).expect("a drop-in");
        let loaded = values(&drop_in, "LoadCredential");
        assert!(!loaded.is_empty(), "{drop_in}");
        for (name, file) in loaded.iter().filter_map(|line| line.split_once(':')) {
            std::fs::copy(file, folder.join(name)).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        let path = folder.display().to_string();
        assert!(run("chown", &["-R", value(unit, "User"), &path]).status.success());
        assert!(run("chmod", &["-R", "u=rX,go=", &path]).status.success());
        assert!(run("chmod", &["711", &self.folder.path().display().to_string()]).status.success());
        path
    }

    /// The notifications that the service has sent to systemd.
    pub fn heard(&self) -> Vec<String> {
        self.manager.heard()
    }

    /// Whether the service has not ended and has reported that it is ready.
    pub fn is_ready(&self) -> bool {
        let ended = self.server.as_ref().is_none_or(Server::has_ended);
        !ended && self.heard().contains(&"READY=1".to_owned())
    }

    /// The process's user, as the kernel sees it.
    pub fn user(&self) -> String {
        let pid = self.server.as_ref().expect("it runs").pid();
        text(&run("stat", &["-c", "%U", &format!("/proc/{pid}")])).trim().to_owned()
    }

    /// The process's effective capabilities, in hexadecimal.
    pub fn capabilities(&self) -> String {
        let pid = self.server.as_ref().expect("it runs").pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        line.expect("CapEff").trim().to_owned()
    }

    /// Stops the service as systemd does. Returns its exit code and its log.
    pub fn stop(&mut self) -> (i32, String) {
        let server = self.server.take().expect("it runs");
        let code = server.stop(Signal::Term);
        (code, std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            println!("the service's log:\n{log}\nit told systemd: {:?}", self.heard());
        }
    }
}

fn as_user(unit: &str) -> Vec<String> {
    let (user, group) = (value(unit, "User"), value(unit, "Group"));
    assert_eq!((value(unit, "NoNewPrivileges"), value(unit, "CapabilityBoundingSet")), ("yes", ""));
    let user = [format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".to_owned()];
    let rest = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"].map(str::to_owned);
    ["setpriv".to_owned()].into_iter().chain(user).chain(rest).collect()
}

fn words(command: &[String], line: &str) -> Vec<String> {
    command.iter().cloned().chain(line.split(' ').map(str::to_owned)).collect()
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}
