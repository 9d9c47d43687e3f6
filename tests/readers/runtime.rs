//! How an example is run, or why it cannot be here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of an example.
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

    /// What starts the example, or the reason why nothing can.
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
                // Gems of the system, unless some had to be fetched.
                if fetched.join("specifications").exists() {
                    ruby.env("GEM_PATH", &fetched);
                }
                ruby
            }
            Language::Rust => unreachable!("above"),
        })
    }
}

/// Tells of a test that did not run, past the capture of what tests print.
pub fn skip(language: Language, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED the {} example: {reason}", language.name());
}

/// Python with the packages that its example needs, where they are.
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

/// Compiled only where the source is another one than the last time.
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

/// The file, copied to where the packages are.
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

/// Where `tests/support/readers.sh` puts things.
fn fetched() -> PathBuf {
    repository().join("target/readers")
}
