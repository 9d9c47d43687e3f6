//! How to run an example, or why this is not possible here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The language of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Node,
    Go,
    Java,
    Ruby,
    Rust,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Node => "node",
            Language::Go => "go",
            Language::Java => "java",
            Language::Ruby => "ruby",
            Language::Rust => "rust",
        }
    }

    /// The command that starts the example, or the reason why it cannot be started.
    pub fn command(self) -> Result<Command, String> {
        let source = repository().join("docs/examples").join(self.name());
        let fetched = fetched().join(self.name());
        if self == Language::Rust {
            return rust();
        }
        if !fetched.with_extension("fetched").exists() {
            return Err(format!(
                "{0} or what docs/examples/{0} needs is not here: `make readers` fetches it into target/readers",
                self.name()
            ));
        }
        Ok(match self {
            Language::Python => command(fetched.join("bin/python"), [source.join("reader.py")]),
            Language::Node => command("node", [beside(&source, &fetched, "reader.js")]),
            Language::Go => go(&source, &fetched)?,
            Language::Java => java(&source, &fetched)?,
            Language::Ruby => {
                let mut ruby = command("ruby", [source.join("reader.rb")]);
                // The system's gems, unless some had to be fetched.
                if fetched.join("specifications").exists() {
                    ruby.env("GEM_PATH", &fetched);
                }
                ruby
            }
            Language::Rust => unreachable!("above"),
        })
    }
}

/// Reports a test that did not run. It bypasses the capture of test output.
pub fn skip(language: Language, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED the {} example: {reason}", language.name());
}

/// Python with the packages that its example needs, if they are installed.
pub fn python() -> Result<Command, String> {
    let mut python = Language::Python.command()?;
    python = Command::new(python.get_program());
    Ok(python)
}

fn rust() -> Result<Command, String> {
    let this = std::env::current_exe().expect("own path");
    let program = this.ancestors().nth(2).expect("target directory").join("examples/reader");
    if program.exists() {
        Ok(Command::new(program))
    } else {
        Err("run `cargo build --example reader` first".to_owned())
    }
}

fn go(source: &Path, fetched: &Path) -> Result<Command, String> {
    beside(source, fetched, "reader.go");
    let build = Command::new("go").args(["build", "-o", "reader", "."]).current_dir(fetched).output();
    let build = build.map_err(|error| format!("go: {error}"))?;
    assert!(build.status.success(), "go build: {}", String::from_utf8_lossy(&build.stderr));
    Ok(Command::new(fetched.join("reader")))
}

/// Compiles only if the source has changed.
fn java(source: &Path, fetched: &Path) -> Result<Command, String> {
    let (classes, source) = (fetched.join("classes"), source.join("Reader.java"));
    let (compiled, wanted) = (classes.join("Reader.java"), std::fs::read(&source).expect("the example"));
    if std::fs::read(&compiled).ok().as_ref() != Some(&wanted) {
        let javac =
            Command::new("javac").arg("-cp").arg(fetched.join("*")).arg("-d").arg(&classes).arg(&source).output();
        let javac = javac.map_err(|error| format!("javac: {error}"))?;
        assert!(javac.status.success(), "javac: {}", String::from_utf8_lossy(&javac.stderr));
        std::fs::write(&compiled, wanted).expect("a copy");
    }
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(format!("{}/*:{}", fetched.display(), classes.display()));
    java.arg("Reader");
    Ok(java)
}

/// Copies the file to the folder with the packages.
fn beside(source: &Path, fetched: &Path, file: &str) -> PathBuf {
    std::fs::copy(source.join(file), fetched.join(file)).expect("a copy");
    fetched.join(file)
}

fn command(program: impl AsRef<std::ffi::OsStr>, args: impl IntoIterator<Item = PathBuf>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn repository() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The folder that `tests/support/readers.sh` fills.
fn fetched() -> PathBuf {
    repository().join("target/readers")
}
