//! The steps of a new user: docs/install.md, from `make deb` to a proved manual fix, an upgrade and the removal. The
//! test runs every command of that page as it is written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use super::contents::package;
use super::machine::{Machine, has_user, mode, run, state};
use super::service::Service;
use crate::docs::{INSTALL, blocks_of};
use crate::support::daemon::text;
use crate::support::{Postgres, Redis};

/// The environment for the page's commands.
struct Desk {
    postgres: Arc<Postgres>,
    redis: Redis,
    /// A `systemctl` that records its arguments, and does what needs no systemd.
    shims: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk {
            postgres: Arc::new(Postgres::start("")),
            redis: Redis::start(),
            shims: tempfile::tempdir().unwrap(),
        };
        let asked = desk.asked_file().display().to_string();
        let shim = format!(
            "#!/bin/sh\necho \"$@\" >>{asked}\ncase \"$1\" in\nenable | disable) [ \"$2\" = --now ] && \
             exec /usr/bin/systemctl \"$1\" \"$3\" ;;\nesac\n"
        );
        let path = desk.shims.path().join("systemctl");
        std::fs::write(&path, shim).unwrap();
        assert!(run("chmod", &["755", &path.display().to_string()]).status.success());
        desk
    }

    fn asked_file(&self) -> PathBuf {
        self.shims.path().join("asked")
    }

    /// The calls of systemctl since the last time.
    fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.asked_file()).unwrap_or_default();
        let _ = std::fs::remove_file(self.asked_file());
        asked.lines().map(str::to_owned).collect()
    }

    /// Replaces the page's addresses with this test's.
    fn here(&self, text: &str) -> String {
        let text = text.replace("127.0.0.1:5432", &format!("127.0.0.1:{}", self.postgres.port()));
        let text = text.replace("127.0.0.1:6379", &format!("127.0.0.1:{}", self.redis.port()));
        text.replace("redis-cli ", &format!("redis-cli -p {} ", self.redis.port()))
    }

    fn shell(&self, commands: &str) -> Output {
        let path = format!("{}:{}", self.shims.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        // Variables that cargo sets for this test would make `make deb` rebuild everything.
        let ours =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "CARGO_CRATE_", "CARGO_PRIMARY_", "LD_LIBRARY_PATH"];
        for (name, _) in
            std::env::vars().filter(|(name, _)| ours.iter().any(|its| name.starts_with(its)) || name == "CARGO")
        {
            command.env_remove(name);
        }
        command
            .args(["-euc", &self.here(commands)])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", path)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.postgres.port().to_string())
            .env("PGUSER", "postgres")
            .env_remove("COHERD_CONFIG")
            .output()
            .unwrap()
    }

    /// Runs a part of the page, which must succeed.
    fn follow(&self, commands: &str) -> String {
        let ran = self.shell(commands);
        assert!(ran.status.success(), "{commands}\n{}", text(&ran));
        String::from_utf8(ran.stdout).unwrap()
    }
}

/// The page's command blocks, in order. Panics if one does not begin as expected.
fn page() -> Vec<&'static str> {
    let blocks = blocks_of(INSTALL, "sh");
    let begins = [
        "make deb\n",
        "psql -d app -f",
        "install -d -m 0700",
        "coherd setup",
        "systemctl daemon-reload",
        "systemctl status",
        "redis-cli SET",
        "coherd check --config-only",
        "systemctl disable --now",
    ];
    assert_eq!(blocks.len(), begins.len(), "{blocks:?}");
    for (block, begin) in blocks.iter().zip(begins) {
        assert!(block.starts_with(begin), "{block} does not begin with {begin}");
    }
    blocks
}

#[test]
fn the_page_is_what_the_test_follows() {
    assert_eq!(page().len(), 9);
}

#[test]
fn a_newcomers_path_from_the_sources_to_a_proved_fix_an_upgrade_and_the_end() {
    if package().is_none() {
        return;
    }
    let next = std::env::var("COHERD_PACKAGE_NEXT").expect("make package-test sets it");
    let [build, role, secrets, setup, start, status, prove, check, remove] = page()[..] else { panic!("nine") };
    let (_machine, desk) = (Machine::untouched(), Desk::new());
    desk.follow("psql -d postgres -c 'CREATE DATABASE app'");
    desk.follow(
        "psql -d app -c \"CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'Ann')\"",
    );

    desk.follow(build);
    installed(&desk);
    desk.follow(role);
    desk.follow(secrets);
    assert_eq!(mode("/etc/coherd/secrets/dsn"), "600 root root");
    let example = std::fs::read_to_string("/etc/coherd/coherd.yaml").unwrap();
    std::fs::write("/etc/coherd/coherd.yaml", blocks_of(INSTALL, "yaml")[0]).unwrap();
    assert_eq!(mode("/etc/coherd/coherd.yaml"), "640 root coherd", "an editor keeps that");
    assert_eq!(example, include_str!("../../config/coherd.yaml"));
    desk.follow(setup);

    desk.follow(start);
    assert_eq!(desk.asked(), ["daemon-reload", "enable --now coherd"]);
    assert!(Path::new("/etc/systemd/system/multi-user.target.wants/coherd.service").is_symlink());
    let mut service = Service::start();
    assert_eq!((service.user().as_str(), service.capabilities().as_str()), ("coherd", "0000000000000000"));
    assert!(desk.follow(status).contains("ready      yes"));
    assert_eq!(desk.follow(prove).lines().last(), Some("0"), "the key is still there");

    desk.follow(check.lines().next().unwrap());
    upgraded(&desk, &mut service, &next, prove);
    let (code, log) = service.stop();
    assert_eq!(code, 0, "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    assert!(!log.contains("PASSWORD"), "{log}");
    let _ = desk.asked();
    desk.follow(remove);
    gone(&desk);
}

/// After `dpkg -i`: all files are installed and nothing runs.
fn installed(desk: &Desk) {
    assert!(state().starts_with("install ok installed"), "{}", state());
    assert!(has_user(), "sysusers made no user");
    assert_eq!(mode("/etc/coherd"), "750 root coherd");
    assert_eq!(mode("/etc/coherd/coherd.yaml"), "640 root coherd");
    assert_eq!(desk.asked(), Vec::<String>::new(), "nothing is enabled or started");
    assert!(!Path::new("/etc/systemd/system/multi-user.target.wants/coherd.service").exists());
    let version = text(&run("/usr/bin/coherd", &["--version"]));
    assert_eq!(version.trim(), format!("coherd {}", env!("CARGO_PKG_VERSION")));
    for (program, arguments) in [("man", ["-w", "coherd"]), ("man", ["-w", "coherd.yaml"])] {
        let found = run(program, &arguments);
        assert!(found.status.success() || !crate::manual::has("man"), "{arguments:?}: {}", text(&found));
    }
    // The example configuration is valid. The database that it names does not exist.
    let read = run("/usr/bin/coherd", &["check", "--config-only"]);
    assert!(read.status.success(), "{}", text(&read));
}

/// Installs a newer package over a running daemon. The daemon keeps running, and the restart that postinst requests
/// starts the new program.
fn upgraded(desk: &Desk, service: &mut Service, next: &str, prove: &str) {
    let (before, ours) = (state(), std::fs::read_to_string("/etc/coherd/coherd.yaml").unwrap());
    desk.follow(&format!("dpkg -i {next}"));
    assert!(state().starts_with("install ok installed") && state() != before, "{before}, then {}", state());
    assert!(service.is_ready(), "the upgrade ended the daemon");
    assert_eq!(std::fs::read_to_string("/etc/coherd/coherd.yaml").unwrap(), ours, "the configuration has changed");
    assert_eq!(
        (mode("/etc/coherd"), mode("/etc/coherd/coherd.yaml")),
        ("750 root coherd".into(), "640 root coherd".into())
    );
    assert_eq!(service.stop().0, 0);
    // Commits made while the daemon is down are invalidated when it is up.
    desk.follow("redis-cli SET user:1 old; psql -d app -c \"UPDATE users SET name = 'Anna' WHERE id = 1\"");
    *service = Service::start();
    assert_eq!(desk.follow("coherd wait; redis-cli EXISTS user:1").lines().last(), Some("0"));
    assert_eq!(desk.follow(prove).lines().last(), Some("0"));
}

/// After the purge, nothing of the package is left, neither here nor in the database, except what the administrator
/// made.
fn gone(desk: &Desk) {
    assert_eq!(desk.asked(), ["disable --now coherd"]);
    assert_eq!(state(), "unknown");
    for path in
        ["/usr/bin/coherd", "/etc/coherd/coherd.yaml", "/usr/lib/systemd/system/coherd.service", "/usr/share/coherd"]
    {
        assert!(!Path::new(path).exists(), "{path} is left");
    }
    assert!(!Path::new("/etc/systemd/system/multi-user.target.wants/coherd.service").is_symlink());
    assert!(Path::new("/etc/coherd/secrets/dsn").exists(), "secrets are not ours to remove");
    let slots = desk.follow("psql -d app -Atc 'SELECT count(*) FROM pg_replication_slots'");
    assert_eq!(slots.trim(), "0");
}

#[test]
fn a_purge_without_a_disable_leaves_no_link_behind() {
    let Some(package) = package() else { return };
    let _machine = Machine::untouched();
    let package = package.display().to_string();
    assert!(run("dpkg", &["-i", &package]).status.success());
    assert!(run("systemctl", &["enable", "coherd"]).status.success());
    let removed = run("dpkg", &["--remove", "coherd"]);
    assert!(text(&removed).contains("coherd teardown --yes"), "{}", text(&removed));
    assert!(Path::new("/etc/coherd/coherd.yaml").exists(), "the configuration stays until the purge");
    assert!(run("dpkg", &["--purge", "coherd"]).status.success());
    assert!(!Path::new("/etc/systemd/system/multi-user.target.wants/coherd.service").is_symlink());
    assert!(!Path::new("/etc/coherd").exists());
    assert!(has_user(), "the user stays, as on every Debian");
}
