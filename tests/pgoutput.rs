//! The decoder on the messages of a real server: `tests/fixtures/pgoutput.txt`, from Postgres 15, has one message per
//! line in hex, grouped by the step that caused it. `cargo test --test coherd pgoutput::capture -- --ignored` rewrites
//! that file and the fuzzer's seeds.

mod script;
mod told;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use coherd::pgoutput::{Message, decode};
use coherd::rules::config::RawRule;
use coherd::transaction::{Gather, Reader, Step};
use coherd::types::change::{Change, OldImage};
use coherd::types::invalidation::{Action, RuleId, Scope};
use coherd::types::lsn::Lsn;

use crate::catalog::rules;
use crate::postgres::{Followed, Got, own_server};
use crate::support::Database;

/// One step, and the messages that the server sent for it.
#[derive(Debug, PartialEq, Eq)]
struct Captured {
    done: String,
    messages: Vec<Vec<u8>>,
}

/// Runs the script on a server of its own, so that object ids, transaction ids and the origin are the same in every
/// run.
fn stream_the_script() -> Vec<Captured> {
    let database = Database::create_on(own_server(""));
    database.run(script::BEFORE);
    let mut followed = Followed::on(database, Database::dsn);
    followed.database.run("ALTER PUBLICATION p SET (publish_via_partition_root = true)");
    let step = |(done, sql): &(&str, &str)| {
        followed.database.run(sql);
        let end: Lsn = followed.database.client().one("SELECT pg_current_wal_flush_lsn()").parse().unwrap();
        let got = followed
            .read_until("the end of the step", |got| matches!(got.last(), Some(Got::Position(at)) if *at >= end));
        let data = |got| match got {
            Got::Data(data) => Some(data),
            Got::Position(_) => None,
        };
        Captured { done: (*done).to_owned(), messages: got.into_iter().filter_map(data).collect() }
    };
    script::STEPS.iter().map(step).collect()
}

fn fixture() -> Vec<Captured> {
    let mut steps: Vec<Captured> = Vec::new();
    for line in include_str!("fixtures/pgoutput.txt").lines() {
        match line.strip_prefix("# ") {
            Some(done) => steps.push(Captured { done: done.to_owned(), messages: Vec::new() }),
            None => steps.last_mut().expect("a heading").messages.push(from_hex(line)),
        }
    }
    steps
}

fn from_hex(line: &str) -> Vec<u8> {
    let (pairs, []) = line.as_bytes().as_chunks::<2>() else { panic!("half a byte: {line}") };
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn to_text(steps: &[Captured]) -> String {
    let mut text = String::new();
    for step in steps {
        writeln!(text, "# {}", step.done).unwrap();
        for message in &step.messages {
            for byte in message {
                write!(text, "{byte:02x}").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

/// The fuzzer's seeds: each step in the format of the fuzz target, with every relation described before its first
/// change.
fn seeds(steps: &[Captured]) -> BTreeMap<String, Vec<u8>> {
    let mut relations: BTreeMap<u32, &[u8]> = BTreeMap::new();
    let mut seeds = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        let mut seed = Vec::new();
        let mut described: Vec<u32> = Vec::new();
        let mut put = |message: &[u8]| {
            seed.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
            seed.extend(message);
        };
        for message in &step.messages {
            let named = match decode(message).unwrap() {
                Message::Relation(relation) => {
                    relations.insert(relation.oid, message);
                    described.push(relation.oid);
                    vec![]
                }
                Message::Change { relation, .. } => vec![relation],
                Message::Truncate(truncated) => truncated.relations().collect(),
                _ => vec![],
            };
            for oid in named.into_iter().filter(|oid| !described.contains(oid)).collect::<Vec<_>>() {
                put(relations[&oid]);
                described.push(oid);
            }
            put(message);
        }
        seeds.insert(format!("{number:02}"), seed);
    }
    seeds
}

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

#[test]
#[ignore = "writes the fixture and the fuzzer's seeds anew, from a real server"]
fn capture() {
    let steps = stream_the_script();
    std::fs::write(path("tests/fixtures/pgoutput.txt"), to_text(&steps)).unwrap();
    let dir = path("fuzz/seeds/pgoutput");
    std::fs::create_dir_all(&dir).unwrap();
    for old in std::fs::read_dir(&dir).unwrap() {
        std::fs::remove_file(old.unwrap().path()).unwrap();
    }
    for (name, seed) in seeds(&steps) {
        std::fs::write(dir.join(name), seed).unwrap();
    }
}

#[test]
fn every_message_of_the_fixture_is_decoded() {
    insta::assert_snapshot!("fixture", told::told(&fixture()));
}

/// Drops repeated descriptions of a relation: how often a server repeats them after DDL differs between versions.
fn without_repeats(mut steps: Vec<Captured>) -> Vec<Captured> {
    let mut described = BTreeMap::new();
    for step in &mut steps {
        step.messages.retain(|message| match decode(message).unwrap() {
            Message::Relation(its) => described.insert(its.oid, its.clone()) != Some(its),
            _ => true,
        });
    }
    steps
}

#[test]
fn a_live_server_says_the_same_as_the_fixture() {
    let told = |steps| told::told(&without_repeats(steps));
    let (live, fixture) = (told(stream_the_script()), told(fixture()));
    let differs = live.lines().zip(fixture.lines()).find(|(live, fixture)| live != fixture);
    assert_eq!(differs, None, "(live, fixture); the whole of live:\n{live}");
    assert_eq!(live.lines().count(), fixture.lines().count(), "{live}");
}

#[test]
fn positions_times_and_transaction_ids_are_read_from_their_places() {
    let (mut last, mut last_xid, mut open) = (Lsn::ZERO, 0, None);
    // 2020-01-01 and 2100-01-01.
    let plausible = 1_577_836_800_000_000..4_102_444_800_000_000;
    for message in fixture().iter().flat_map(|step| &step.messages) {
        match decode(message).unwrap() {
            Message::Begin { final_lsn, commit_time, xid } => {
                assert!(final_lsn >= last && xid > last_xid && xid < 10_000, "{final_lsn} {xid}");
                assert!(plausible.contains(&commit_time.unix_micros()), "{commit_time:?}");
                (last_xid, open) = (xid, Some((final_lsn, commit_time)));
            }
            Message::Commit { end, commit_time } => {
                let (final_lsn, begun) = open.take().unwrap();
                assert_eq!(commit_time, begun);
                last = end.end();
                assert!(last.bytes_since(final_lsn) > 0 && last.bytes_since(final_lsn) < 1000);
            }
            _ => {}
        }
    }
}

#[test]
fn a_message_of_the_fixture_that_is_cut_or_longer_is_refused() {
    for message in fixture().iter().flat_map(|step| &step.messages) {
        for cut in 0..message.len() {
            assert!(decode(&message[..cut]).is_err(), "{} cut at {cut}", message[0].escape_ascii());
        }
        let longer = [message, &[0][..]].concat();
        assert!(decode(&longer).is_err(), "{} with one more byte", message[0].escape_ascii());
    }
}

#[test]
fn the_fixture_has_every_kind_of_message_and_every_kind_of_old_row() {
    let mut seen = BTreeMap::new();
    for message in fixture().iter().flat_map(|step| &step.messages) {
        let old = match decode(message).unwrap() {
            Message::Change { change: Change::Update { old, .. } | Change::Delete { old }, .. } => match old {
                OldImage::Absent => "-",
                OldImage::Key(_) => "K",
                OldImage::Full(_) => "O",
            },
            _ => "",
        };
        *seen.entry(format!("{}{old}", char::from(message[0]))).or_insert(0) += 1;
    }
    let kinds: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["B", "C", "DK", "DO", "I", "M", "O", "R", "T", "U-", "UK", "UO", "Y"]);
}

#[test]
fn the_fuzzer_begins_with_the_fixture() {
    for (name, seed) in seeds(&fixture()) {
        let file = path("fuzz/seeds/pgoutput").join(&name);
        assert!(std::fs::read(&file).is_ok_and(|kept| kept == seed), "{} is stale; capture anew", file.display());
    }
}

/// What a step invalidates, as text.
#[derive(Default)]
struct Invalidated(Vec<String>);

impl Gather for Invalidated {
    fn key(&mut self, _: RuleId, _: Action, key: &[u8]) {
        self.0.push(String::from_utf8(key.to_vec()).unwrap());
    }

    fn scope(&mut self, _: RuleId, scope: &Scope) {
        self.0.push(format!("everything in {}", scope.keys));
    }

    fn manual(&mut self, key: &[u8], _: Option<&[usize]>) {
        self.0.push(format!("{} by hand", String::from_utf8_lossy(key)));
    }
}

#[test]
fn the_rules_make_the_right_keys_of_the_fixture() {
    let rules = rules(&[
        RawRule::of("users", &["user:{id}", "mail:{email|lower}"]),
        RawRule::of("sessions", &["session:{token|urlencode}"]),
        RawRule::of("prices", &["price:{sku}:{amount}", "at:{at}"]),
        RawRule::of("log", &["line:{line|md5}"]),
        RawRule::of("pages", &["page:{id}", "body:{body|md5}"]),
        RawRule::of("drafts", &["draft:{id}", "body:{body|md5}"]),
        RawRule::of("typed", &["t:{id}:{mood}:{home}", "t:{mail}:{tags}:{raw}:{doc}:{ok}"]),
        RawRule::of("events", &["event:{day}:{id}"]),
        RawRule::of("parents", &["parent:{id}"]),
        RawRule::of("children", &["child:{id}"]),
        RawRule::of("\"Odd \"\"Schema\"\"\".\"Tä ble\"", &["odd:{\"Key {1}\"}:{\"a\"\"b\"}:{\"select\"}"]),
    ]);
    let mut reader = Reader::new(rules, 1000);
    let mut text = String::new();
    for step in fixture() {
        writeln!(text, "# {}", step.done).unwrap();
        let mut invalidated = Invalidated::default();
        for message in &step.messages {
            let read = reader.read(decode(message).unwrap(), &mut invalidated).unwrap();
            assert!(matches!(read, Step::Within | Step::Committed { .. }), "{read:?}");
        }
        assert!(!reader.is_open(), "{}", step.done);
        invalidated.0.sort();
        invalidated.0.dedup();
        for line in invalidated.0 {
            writeln!(text, "{line}").unwrap();
        }
    }
    insta::assert_snapshot!("keys", text);
}
