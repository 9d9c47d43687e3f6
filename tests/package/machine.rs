//! This machine. The tests install the package on it and remove it again.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::daemon::text;

const DROP_INS: &str = "/etc/systemd/system/coherd.service.d";
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/coherd.service";

/// All tests share one machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A machine without coherd. On drop it is restored to that state, even if the test fails.
pub struct Machine {
    had_user: bool,
    _one: MutexGuard<'static, ()>,
}

impl Machine {
    /// Panics if the test would touch existing files or users.
    pub fn untouched() -> Machine {
        let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let id = run("id", &["-u"]);
        assert_eq!(text(&id).trim(), "0", "installing takes root");
        assert!(!status("dpkg", &["-s", "coherd"]), "coherd is installed here: not touched, remove it first");
        for path in ["/etc/coherd", DROP_INS, ENABLED, "/etc/default/coherd"] {
            assert!(!Path::new(path).exists(), "{path} is there: not touched, remove it first");
        }
        Machine { had_user: has_user(), _one: one }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("dpkg").args(["--purge", "--force-all", "coherd"]).output();
        for path in ["/etc/coherd", DROP_INS] {
            let _ = std::fs::remove_dir_all(path);
        }
        let _ = std::fs::remove_file(ENABLED);
        if !self.had_user {
            let _ = Command::new("userdel").arg("coherd").output();
            let _ = Command::new("groupdel").arg("coherd").output();
        }
    }
}

/// Whether the user coherd exists.
pub fn has_user() -> bool {
    status("id", &["coherd"])
}

/// Runs a program, whatever its exit code.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn status(program: &str, arguments: &[&str]) -> bool {
    run(program, arguments).status.success()
}

/// Mode, owner and group: `640 root coherd`.
pub fn mode(path: &str) -> String {
    text(&run("stat", &["-c", "%a %U %G", path])).trim().to_owned()
}

/// The package's state in dpkg: `install ok installed` and the version.
pub fn state() -> String {
    let asked = run("dpkg-query", &["-W", "-f", "${Status} ${Version}", "coherd"]);
    if asked.status.success() { text(&asked) } else { "unknown".to_owned() }
}
