//! The package's maintainer scripts on a machine with systemd. They run unchanged in a mount namespace that looks as if
//! systemd were running. Shims replace the real programs and only record their arguments.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::daemon::text;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Every program that changes something.
const SHIMS: &[&str] =
    &["systemctl", "deb-systemd-invoke", "systemd-sysusers", "dpkg-statoverride", "chown", "chmod", "rm"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian").join(name)
}

/// The recorded calls of `script`, one per line. `None` if namespaces are not available.
fn asked(name: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for shim in SHIMS {
        let path = folder.path().join(shim);
        // dpkg-statoverride reports no override; all other programs succeed.
        let code = u8::from(*shim == "dpkg-statoverride");
        std::fs::write(
            &path,
            format!("#!/bin/sh\necho \"{shim} $*\" >>{}/asked\nexit {code}\n", folder.path().display()),
        )
        .unwrap();
        Command::new("chmod").arg("755").arg(&path).status().unwrap();
    }
    let inside =
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && script=$1 && shift && exec sh \"$script\" \"$@\"";
    let ran = namespace()?
        .args(["sh", "-c", inside, "sh"])
        .arg(script(name))
        .args(arguments)
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{name} {arguments:?}: {}", text(&ran));
    let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap_or_default();
    Some(asked.lines().map(str::to_owned).collect())
}

/// A command that runs its arguments in its own mount namespace.
fn namespace() -> Option<Command> {
    for arguments in [["-m", "--"].as_slice(), &["-r", "-m", "--"]] {
        let works = |its: &Output| its.status.success();
        let mount = ["mount", "-t", "tmpfs", "tmpfs", "/run"];
        if Command::new("unshare").args(arguments).args(mount).output().is_ok_and(|its| works(&its)) {
            let mut command = Command::new("unshare");
            command.args(arguments);
            return Some(command);
        }
    }
    println!("skipped: no mount namespaces here");
    None
}

#[test]
fn the_scripts_are_shell_and_refuse_what_they_do_not_know() {
    for name in SCRIPTS {
        let parsed = Command::new("sh").arg("-n").arg(script(name)).output().unwrap();
        assert!(parsed.status.success(), "{name}: {}", text(&parsed));
        let refused = Command::new("sh").arg(script(name)).arg("sing").output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{name}");
        assert!(text(&refused).contains("unknown argument 'sing'"), "{name}: {}", text(&refused));
    }
}

#[test]
fn a_first_install_makes_the_user_and_starts_nothing() {
    let Some(asked) = asked("postinst", &["configure", ""]) else { return };
    assert_eq!(asked.iter().filter(|line| line.starts_with("systemd-sysusers ")).count(), 1, "{asked:?}");
    assert!(asked.contains(&"chown root:coherd /etc/coherd/coherd.yaml".to_owned()), "{asked:?}");
    let manager: Vec<&String> =
        asked.iter().filter(|line| line.starts_with("systemctl ") || line.starts_with("deb-systemd-")).collect();
    assert_eq!(manager, ["systemctl --system daemon-reload"]);
}

#[test]
fn an_upgrade_restarts_a_daemon_at_work_and_leaves_the_files_as_they_are() {
    let Some(before) = asked("prerm", &["upgrade", "0.1.0-2"]) else { return };
    assert_eq!(before, Vec::<String>::new(), "the old daemon goes on");
    let after = asked("postinst", &["configure", "0.1.0-1"]).unwrap();
    let wanted = [
        "systemd-sysusers coherd.conf",
        "systemctl --system daemon-reload",
        // try-restart does not start a stopped service.
        "deb-systemd-invoke try-restart coherd.service",
    ];
    assert_eq!(after, wanted);
}

#[test]
fn a_removal_stops_the_daemon_and_a_purge_takes_its_link() {
    let Some(before) = asked("prerm", &["remove"]) else { return };
    assert_eq!(before, ["deb-systemd-invoke stop coherd.service"]);
    assert_eq!(asked("postrm", &["remove"]).unwrap(), ["systemctl --system daemon-reload"]);
    let purged = asked("postrm", &["purge"]).unwrap();
    let link = "rm -f /etc/systemd/system/multi-user.target.wants/coherd.service";
    assert_eq!(purged, [link, "systemctl --system daemon-reload"]);
}
