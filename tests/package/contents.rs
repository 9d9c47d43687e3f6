//! The contents of the package: as Cargo.toml lists them, and, in `make package-test`, as built.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::manual::has;
use crate::support::daemon::text;

/// The package that `make package-test` has built; `None` in other runs.
pub fn package() -> Option<PathBuf> {
    let path = std::env::var_os("COHERD_PACKAGE").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: no package was made; `make package-test` does that");
    }
    path
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let all: Value = serde_json::from_slice(&asked.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&asked)));
    all["packages"][0].clone()
}

#[test]
fn the_package_is_made_of_files_that_are_there() {
    let its = metadata();
    let deb = &its["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    assert!(assets.len() > 10);
    for asset in assets {
        let source = asset[0].as_str().unwrap();
        let folder = source.rsplit_once('/').map_or("", |(folder, _)| folder);
        let is_made = source.starts_with("target/");
        assert!(is_made || root().join(folder).exists(), "{source}");
        assert!(is_made || source.contains('*') || root().join(source).exists(), "{source}");
    }
    let find = |name: &str| assets.iter().find(|asset| asset[0] == name).unwrap_or_else(|| panic!("{name}"));
    let configuration = find("config/coherd.yaml");
    assert_eq!(configuration[2], "640", "people write passwords into it");
    assert_eq!(deb["conf-files"][0], format!("/{}", configuration[1].as_str().unwrap()));
    assert_eq!(format!("/{}", configuration[1].as_str().unwrap()), coherd::config::DEFAULT_PATH);
    for script in ["postinst", "prerm", "postrm"] {
        assert!(root().join(deb["maintainer-scripts"].as_str().unwrap()).join(script).exists());
    }
}

#[test]
fn the_newest_entry_of_the_packages_changelog_is_this_version() {
    let version = format!("coherd ({}-", env!("CARGO_PKG_VERSION"));
    let changelog = include_str!("../../packaging/debian/changelog");
    assert!(changelog.starts_with(&version), "{}", changelog.lines().next().unwrap());
    if has("dpkg-parsechangelog") {
        let read =
            Command::new("dpkg-parsechangelog").arg("-l").arg(root().join("packaging/debian/changelog")).output();
        let read = read.unwrap();
        assert!(read.status.success() && read.stderr.is_empty(), "{}", text(&read));
    }
}

/// Mode, owner and path of each file, as `dpkg-deb -c` prints them.
fn listing(package: &Path) -> Vec<(String, String, String)> {
    let listed = Command::new("dpkg-deb").arg("-c").arg(package).output().unwrap();
    assert!(listed.status.success(), "{}", text(&listed));
    let listed = text(&listed);
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.map(|words| (words[0].to_owned(), words[1].to_owned(), words[5].trim_start_matches('.').to_owned())).collect()
}

#[test]
fn the_package_holds_everything_with_the_right_modes() {
    let Some(package) = package() else { return };
    let files = listing(&package);
    let mode = |path: &str| files.iter().find(|its| its.2 == path).map_or("missing", |its| its.0.as_str());
    for (path, wanted) in [
        ("/usr/bin/coherd", "-rwxr-xr-x"),
        ("/etc/coherd/coherd.yaml", "-rw-r-----"),
        ("/usr/lib/systemd/system/coherd.service", "-rw-r--r--"),
        ("/usr/lib/sysusers.d/coherd.conf", "-rw-r--r--"),
        ("/usr/share/man/man1/coherd.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man1/coherd-check.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man5/coherd.yaml.5.gz", "-rw-r--r--"),
        ("/usr/share/bash-completion/completions/coherd", "-rw-r--r--"),
        ("/usr/share/zsh/vendor-completions/_coherd", "-rw-r--r--"),
        ("/usr/share/fish/vendor_completions.d/coherd.fish", "-rw-r--r--"),
        ("/usr/share/coherd/sql/role.sql", "-rw-r--r--"),
        ("/usr/share/coherd/coherd.schema.json", "-rw-r--r--"),
        ("/usr/share/doc/coherd/copyright", "-rw-r--r--"),
        ("/usr/share/doc/coherd/README.md", "-rw-r--r--"),
        ("/usr/share/doc/coherd/changelog.gz", "-rw-r--r--"),
        ("/usr/share/doc/coherd/changelog.Debian.gz", "-rw-r--r--"),
    ] {
        assert_eq!(mode(path), wanted, "{path} in\n{files:#?}");
    }
    assert!(files.iter().any(|its| its.2.starts_with("/usr/share/doc/coherd/docs/install.md")), "{files:#?}");
    for (mode, owner, path) in &files {
        // Names or numbers, depending on the archive.
        assert!(["root/root", "0/0"].contains(&owner.as_str()), "{owner} {path}");
        assert!(!mode[1..].contains(['s', 't']) && mode.as_bytes()[8] != b'w', "{mode} {path}");
        let ours = ["/usr/", "/etc/coherd/"].iter().any(|top| path.starts_with(top))
            || ["/", "/etc/"].contains(&path.as_str());
        assert!(ours, "{path} is none of ours");
    }
}

#[test]
fn the_package_says_what_it_needs_and_which_files_are_configuration() {
    let Some(package) = package() else { return };
    let folder = tempfile::tempdir().unwrap();
    let taken = Command::new("dpkg-deb").arg("-e").arg(&package).arg(folder.path()).output().unwrap();
    assert!(taken.status.success(), "{}", text(&taken));
    let part = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_else(|_| panic!("no {name}"));
    assert_eq!(part("conffiles").lines().collect::<Vec<_>>(), ["/etc/coherd/coherd.yaml"]);
    let control = part("control");
    let depends = control.lines().find(|line| line.starts_with("Depends:")).expect("Depends");
    assert!(depends.contains("libc6") && depends.contains("systemd"), "{depends}");
    for script in ["postinst", "prerm", "postrm"] {
        assert_eq!(part(script), std::fs::read_to_string(root().join("packaging/debian").join(script)).unwrap());
    }
}

#[test]
fn lintian_finds_no_error() {
    let Some(package) = package() else { return };
    if !has("lintian") {
        println!("skipped: lintian is not here");
        return;
    }
    let assessed = Command::new("lintian").args(["--fail-on", "error", "--allow-root"]).arg(&package).output().unwrap();
    assert!(assessed.status.success(), "{}", text(&assessed));
    println!("{}", text(&assessed));
}
