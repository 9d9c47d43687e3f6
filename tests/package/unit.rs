//! The unit file: its settings, systemd's verdict on it, and whether the daemon can run under its restrictions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::manual::has;
use crate::support::daemon::{coherd, text};
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Redis, until};

pub const UNIT: &str = include_str!("../../systemd/coherd.service");

/// The highest exposure that the test accepts, in tenths.
const EXPOSURE_MAX: u32 = 15;

/// Every value of `key`, in order.
pub fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The one value of `key`.
pub fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let values = values(unit, key);
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0]
}

/// The unit with the path of the program under test, in a temporary folder: systemd checks that the program exists.
fn with_the_program_under_test() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coherd.service");
    assert!(UNIT.contains("/usr/bin/coherd "));
    std::fs::write(&path, UNIT.replace("/usr/bin/coherd ", &format!("{} ", coherd()))).unwrap();
    (folder, path)
}

fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    if !has("systemd-analyze") {
        println!("skipped: systemd-analyze is not here (Debian: systemd)");
        return None;
    }
    Some(Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap())
}

#[test]
fn systemd_finds_nothing_to_complain_of() {
    let (_folder, unit) = with_the_program_under_test();
    // The manual pages are in the package.
    let Some(verified) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit) else { return };
    assert!(verified.status.success() && text(&verified).is_empty(), "{}", text(&verified));
}

#[test]
fn systemd_sees_little_exposure() {
    let (_folder, unit) = with_the_program_under_test();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let Some(assessed) = analyze(&["security", "--offline=true", "--no-pager", &threshold], &unit) else { return };
    assert!(assessed.status.success(), "{}", text(&assessed));
    assert!(text(&assessed).contains("Overall exposure level for coherd.service"), "{}", text(&assessed));
    println!("{}", text(&assessed).lines().last().unwrap_or_default());
    // systemd rejects a unit without any restrictions, so the threshold works.
    let bare = unit.with_file_name("bare.service");
    std::fs::write(&bare, format!("[Service]\nExecStart={} run\n", coherd())).unwrap();
    let assessed = analyze(&["security", "--offline=true", "--no-pager", &threshold], &bare).unwrap();
    assert!(!assessed.status.success(), "{}", text(&assessed));
}

#[test]
fn the_unit_restarts_whatever_ended_it_but_for_a_wrong_configuration() {
    assert_eq!(value(UNIT, "Type"), "notify");
    assert_eq!(value(UNIT, "Restart"), "always");
    assert_eq!(value(UNIT, "StartLimitIntervalSec"), "0");
    assert_eq!(value(UNIT, "ExecReload"), "/bin/kill -HUP $MAINPID");
    // A database that is down must not make the start time out.
    assert_eq!(value(UNIT, "TimeoutStartSec"), "infinity");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("c.yaml");
    std::fs::write(&wrong, "source: {}\n").unwrap();
    let ended = Command::new(coherd()).args(["run", "--config"]).arg(&wrong).output().unwrap();
    assert_eq!(ended.status.code().unwrap().to_string(), value(UNIT, "RestartPreventExitStatus"));
}

#[test]
fn every_command_of_the_unit_is_one_that_the_program_has() {
    for line in values(UNIT, "ExecStart").iter().chain(&values(UNIT, "ExecStartPre")) {
        let words: Vec<&str> = line.trim_start_matches('-').split(' ').collect();
        let (program, arguments) = words.split_first().unwrap();
        assert_eq!(*program, "/usr/bin/coherd");
        let understood = Command::new(coherd()).args(arguments).arg("--help").output().unwrap();
        assert_eq!(understood.status.code(), Some(0), "{line}: {}", text(&understood));
    }
}

#[test]
fn the_user_of_the_unit_is_the_one_that_sysusers_makes() {
    let made = include_str!("../../systemd/coherd.sysusers").lines().find_map(|line| line.strip_prefix("u ")).unwrap();
    let name = made.split(' ').next().unwrap();
    assert_eq!((value(UNIT, "User"), value(UNIT, "Group")), (name, name));
    let asked = Command::new("systemd-sysusers").args(["--dry-run", "--inline", &format!("u {made}")]).output();
    match asked {
        Ok(asked) => assert!(asked.status.success(), "{}", text(&asked)),
        Err(_) => println!("skipped: systemd-sysusers is not here"),
    }
}

/// The system calls of a set, by systemd.
fn calls_of(set: &str) -> BTreeSet<String> {
    if !set.starts_with('@') {
        return [set.to_owned()].into();
    }
    let listed = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", set]).output().unwrap();
    let listed = text(&listed);
    let words = listed.lines().map(str::trim).filter(|line| !line.starts_with('#') && *line != set);
    words.filter(|line| !line.is_empty()).flat_map(calls_of).collect()
}

/// The system calls that the unit's filter allows: those listed first, minus those with a tilde.
fn allowed_calls() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in values(UNIT, "SystemCallFilter") {
        let (taken_away, sets) = line.strip_prefix('~').map_or((false, line), |sets| (true, sets));
        for call in sets.split(' ').flat_map(calls_of) {
            if taken_away {
                allowed.remove(&call)
            } else {
                allowed.insert(call)
            };
        }
    }
    // systemd always allows these, because it needs them itself before it executes the program.
    allowed.extend(["execve", "exit", "exit_group", "rt_sigreturn", "restart_syscall"].map(str::to_owned));
    allowed.extend(calls_of("@default"));
    allowed
}

const RULES: &str =
    "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n  - table: users\n    keys: [\"v:{id}\"]\n    action: bump\n";

#[test]
fn the_daemon_makes_no_system_call_that_the_unit_forbids() {
    if !has("strace") || !has("systemd-analyze") {
        println!("skipped: strace and systemd-analyze are not both here");
        return;
    }
    let (database, mut redis) = (Database::create(), Redis::start());
    database.run("CREATE TABLE users (id int PRIMARY KEY, n int); INSERT INTO users VALUES (1, 1)");
    let mut daemon = Daemon::configure(&database, &redis.url(), RULES);
    daemon.setup(&database);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    daemon.wrap(&["strace", "-D", "-f", "-q", "-o", &trace.display().to_string()]);
    daemon.set_env("NOTIFY_SOCKET", &folder.path().join("nobody").display().to_string());
    daemon.launch();
    let mut sql = database.client();
    let mut change = |n: u32| {
        sql.run(&format!("UPDATE users SET n = {n}"));
        assert_eq!(sql.one(&format!("SELECT coherd.wait(slot => '{}', timeout => '20s')", database.name)), "t");
    };
    // Exercises the daemon: a change, a cache that goes down and comes back, a waiting reader, the admin pages, the
    // shutdown.
    change(2);
    redis.kill();
    until("the cache is down", || (daemon.status()["targets"][0]["up"] == false).then_some(()));
    redis.restart();
    change(3);
    for page in ["/", "/metrics", "/wait?token=0/1000000", "/livez"] {
        assert_eq!(daemon.http(page).0, 200, "{page}");
    }
    let (pid, code) = (daemon.pid(), daemon.stop(Signal::Term));
    assert_eq!(code, 0);
    let trace = until("the trace is complete", || {
        let text = std::fs::read_to_string(&trace).unwrap();
        text.lines().any(|line| line.starts_with(&format!("{pid} ")) && line.contains("+++ exited")).then_some(text)
    });
    let (allowed, mut made) = (allowed_calls(), BTreeSet::new());
    for line in trace.lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let name: String = call.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if call.trim().starts_with(|c: char| c.is_ascii_lowercase()) {
            made.insert(name);
        }
        // MemoryDenyWriteExecute and RestrictAddressFamilies. glibc works without its netlink lookups.
        assert!(!call.contains("PROT_WRITE|PROT_EXEC"), "{line}");
        if let Some((_, family)) = call.split_once("socket(") {
            let family = family.split(',').next().unwrap();
            let families = format!("{} AF_NETLINK", value(UNIT, "RestrictAddressFamilies"));
            assert!(families.split(' ').any(|its| its == family), "{line}");
        }
    }
    assert!(made.len() > 20 && made.contains("epoll_wait") && made.contains("connect"), "{made:?}");
    let forbidden: Vec<&String> = made.iter().filter(|call| !allowed.contains(*call)).collect();
    assert!(forbidden.is_empty(), "the unit forbids {forbidden:?}");
}
