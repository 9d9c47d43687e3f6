//! An example as a child process: each request is a line on its stdin, each answer a line on its stdout.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::runtime::Language;
use crate::e2e::Shop;
use crate::support::wait::PATIENCE;

/// Ends with the test, because that closes its stdin.
pub struct Reader {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Reader {
    pub fn start(mut command: Command, shop: &Shop, language: Language) -> Reader {
        let database = shop.database.dsn();
        let database = match language {
            // The driver takes the user as a parameter.
            Language::Java => database.replace("postgresql://postgres@", "jdbc:postgresql://") + "&user=postgres",
            _ => database,
        };
        let mut child = command
            .env("DATABASE_URL", database)
            .env("REDIS_URL", shop.redis.url())
            .env("COHERD_RECORD", format!("coherd:{}", shop.database.name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let requests = child.stdin.take().expect("piped");
        let (sender, answers) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Reader { child, requests, answers }
    }

    pub fn send(&mut self, request: &str) {
        writeln!(self.requests, "{request}").expect("the example listens");
    }

    #[track_caller]
    pub fn answer(&mut self) -> String {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(why) => panic!("no answer ({why}); the example wrote: {}", self.complaint()),
        }
    }

    #[track_caller]
    pub fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.answer()
    }

    fn complaint(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut text));
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
