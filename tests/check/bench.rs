//! A database, a cache and a configuration. Tests break something, find it, fix it exactly as printed, and check that
//! the finding is gone.

use std::cell::RefCell;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::support::daemon::coherd;
use crate::support::process::{Server, Signal, free_port};
use crate::support::{Database, Postgres, Redis, until};

/// A finding of `check`, from its JSON.
#[derive(Debug, Clone)]
pub struct Found {
    pub code: String,
    pub severity: String,
    pub subject: String,
    pub message: String,
    pub remedy: Vec<String>,
}

pub struct Bench {
    pub database: Database,
    pub redis: Redis,
    folder: tempfile::TempDir,
    /// The source's DSN.
    pub dsn: String,
    /// More fields of `source:`, each preceded by a comma.
    pub source: String,
    /// The cache's URL.
    pub url: String,
    /// More fields of the target.
    pub target: String,
    /// The lines below `rules:`.
    pub rules: Vec<String>,
    /// The lines of more targets.
    pub targets: String,
    admin: u16,
    /// The daemon that a remedy's `coherd run` started.
    running: RefCell<Option<Server>>,
}

impl Bench {
    /// On the shared server.
    pub fn new(rules: &[&str]) -> Bench {
        Bench::on(Database::create(), Redis::start(), rules)
    }

    /// On a server of its own.
    pub fn alone(settings: &str, rules: &[&str]) -> Bench {
        Bench::on(Database::create_on(Arc::new(Postgres::start(settings))), Redis::start(), rules)
    }

    pub fn on(database: Database, redis: Redis, rules: &[&str]) -> Bench {
        let (dsn, url) = (database.dsn(), redis.url());
        let rules = rules.iter().map(|&rule| rule.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let [source, target, targets] = [(); 3].map(|()| String::new());
        let (admin, running) = (free_port(), RefCell::default());
        Bench { database, redis, folder, dsn, source, url, target, rules, targets, admin, running }
    }

    /// Runs SQL as the superuser, with NAME replaced by the database's name.
    pub fn sql(&self, sql: &str) {
        self.database.run(&sql.replace("NAME", &self.database.name));
    }

    fn write(&self) -> std::path::PathBuf {
        let Bench { dsn, source, url, target, targets, admin, .. } = self;
        let name = &self.database.name;
        let rules: String = self.rules.iter().flat_map(|rule| ["  - ", rule, "\n"]).collect();
        let text = format!(
            "source: {{dsn: '{dsn}', slot: {name}, publication: {name}{source}}}\n\
             targets:\n  cache: {{url: '{url}'{target}}}\n{targets}admin: {{listen: '127.0.0.1:{admin}'}}\nrules:\n{rules}"
        );
        let path = self.folder.path().join("c.yaml");
        // Written with a rename, because a daemon may be reading it.
        let whole = self.folder.path().join("new.yaml");
        std::fs::write(&whole, text).unwrap();
        std::fs::rename(&whole, &path).unwrap();
        path
    }

    /// Runs a shell line, with `coherd` in its PATH and this configuration. Returns whether it succeeded, and its
    /// output.
    pub fn shell(&self, line: &str) -> (bool, String) {
        let program = coherd();
        let (folder, _) = program.rsplit_once('/').unwrap();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        let output = command.args(["-c", line]).env("PATH", path).env("COHERD_CONFIG", self.write()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout) + &text(output.stderr))
    }

    /// All findings of `coherd check`. Panics if its verdict does not match them.
    pub fn check(&self) -> Vec<Found> {
        let (fine, text) = self.shell("coherd check --json");
        let json: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect(&text);
        assert_eq!(json["fine"], fine, "{text}");
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let found = |its: &Value| Found {
            code: word(&its["code"]),
            severity: word(&its["severity"]),
            subject: word(&its["subject"]),
            message: word(&its["message"]),
            remedy: its["remedy"].as_array().unwrap().iter().map(word).collect(),
        };
        json["findings"].as_array().unwrap().iter().map(found).collect()
    }

    /// Waits until `check` has a finding with this code: settings take effect a moment after a reload.
    pub fn finds(&self, code: &str) -> Found {
        let of_code = |found: Vec<Found>| found.into_iter().find(|found| found.code == code);
        let first = self.check();
        let what = format!("check finds {code}, and not only {:?}", codes(&first));
        of_code(first).unwrap_or_else(|| until(&what, || of_code(self.check())))
    }

    /// Waits until `check` has no such finding.
    pub fn misses(&self, code: &str) {
        until(&format!("check finds no {code} any more"), || {
            self.check().iter().all(|found| found.code != code).then_some(())
        });
    }

    /// Finds `code`, carries out its remedy exactly as printed, and checks that the finding is gone.
    pub fn repairs(&self, code: &str) {
        let found = self.finds(code);
        assert!(!found.remedy.is_empty(), "{found:?}");
        self.carry_out(&found);
        self.misses(code);
        self.running.take();
    }

    /// Carries out a remedy. If it points to the statements of another finding of the same subject, runs those.
    pub fn carry_out(&self, found: &Found) {
        let pointer = found.remedy[0].strip_prefix("-- the statements for ");
        let with_statements =
            |other: &Found| other.subject == found.subject && !other.remedy[0].starts_with("-- the st");
        let lines = match pointer {
            None => found.remedy.clone(),
            Some(subject) => {
                assert_eq!(subject, found.subject);
                let all = self.check();
                let others = all.into_iter().filter(|other| !other.remedy.is_empty());
                others.filter(with_statements).flat_map(|other| other.remedy).collect()
            }
        };
        self.run(&lines);
    }

    /// Runs lines as a reader would: programs in a shell, everything else in psql.
    pub fn run(&self, lines: &[String]) {
        let mut sql = self.database.client();
        for line in lines {
            let is_shell = ["coherd ", "redis-cli ", "psql "].iter().any(|program| line.starts_with(program));
            if line.starts_with('#') {
                continue;
            }
            if line == "coherd run" {
                let command = [coherd(), "run".into(), "--config".into(), self.write().display().to_string()];
                self.running.replace(Some(Server::start(&command, &self.folder.path().join("run.log"))));
            } else if is_shell {
                let (fine, text) = self.shell(line);
                let refused = ["ERR", "NOPERM", "(error)"].iter().any(|word| text.starts_with(word));
                assert!(!refused && (fine || line.starts_with("coherd setup")), "{line}: {text}");
            } else if line.starts_with("-- then restart the server") {
                self.database.server.stop(Signal::Interrupt);
                self.database.server.launch();
                sql = self.database.client();
            } else {
                assert!(!line.starts_with("--"), "nobody can carry this out: {line}");
                sql.run(line);
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let (true, Some(running)) = (std::thread::panicking(), self.running.get_mut()) {
            println!("what runs here says:\n{}", running.output());
        }
    }
}

pub fn codes(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| found.code.as_str()).collect()
}

/// Something to break and fix: the codes that it covers, and the test.
pub struct Case {
    pub codes: &'static [&'static str],
    pub run: fn(),
}

/// Runs all cases, and prints the codes of each first, so that the output shows which one failed.
pub fn run_all(cases: &[Case]) {
    for Case { codes, run } in cases {
        println!("{}", codes.join(", "));
        run();
    }
}
