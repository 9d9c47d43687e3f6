//! Messages in, invalidations out.

use super::*;
use crate::rules::config::{RawAction, RawRule, resolve};
use crate::types::change::{Column, OldImage, ReplicaIdentity};
use crate::types::lsn::Lsn;
use crate::types::table::Table;

#[derive(Default)]
struct Seen(Vec<String>);

impl Gather for Seen {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.0.push(format!("{} {} {}", rule.0, action.name(), String::from_utf8_lossy(key)));
    }
    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.0.push(format!("{} flush {}", rule.0, scope.keys));
    }
    fn manual(&mut self, key: &[u8], targets: Option<&[usize]>) {
        let to = targets.map(|targets| format!(" to {targets:?}")).unwrap_or_default();
        self.0.push(format!("hand {}{to}", String::from_utf8_lossy(key)));
    }
}

fn reader(keys_max: u64) -> Reader {
    let bump = RawRule { action: RawAction::Bump, ..RawRule::of("products", &["product:{id}"]) };
    let raw = [RawRule::of("users", &["user:{id}"]), bump];
    Reader::new(resolve(&raw, &["cache".into()]).unwrap(), keys_max)
}

fn relation(oid: u32, name: &str) -> Message<'static> {
    let columns = vec![Column { name: "id".into(), type_oid: 23, in_identity: true }];
    let identity = ReplicaIdentity::Default;
    Message::Relation(Relation { oid, schema: "public".into(), name: name.into(), identity, columns })
}

fn begin() -> Message<'static> {
    Message::Begin { final_lsn: Lsn::new(90), commit_time: PgTime(0), xid: 7 }
}

fn commit() -> Message<'static> {
    Message::Commit { end: CommitLsn::from_end(Lsn::new(100)), commit_time: PgTime(5) }
}

const ROW: &[u8] = b"t\0\0\0\x011";

fn insert(relation: u32) -> Message<'static> {
    Message::Change { relation, change: Change::Insert { new: Row::new(1, ROW) } }
}

fn logical(content: &str) -> Message<'_> {
    Message::Logical { transactional: true, at: Lsn::new(80), prefix: "coherd", content: content.as_bytes() }
}

fn gathered(reader: &mut Reader, messages: impl IntoIterator<Item = Message<'static>>) -> Vec<String> {
    let mut seen = Seen::default();
    for message in messages {
        reader.read(message, &mut seen).unwrap();
    }
    seen.0
}

#[test]
fn a_transaction_gathers_its_keys_and_ends_with_its_commit() {
    let mut reader = reader(10);
    let keys = gathered(&mut reader, [begin(), relation(1, "users"), insert(1), relation(2, "products"), insert(2)]);
    assert_eq!(keys, ["0 delete user:1", "1 bump product:1"]);
    assert!(reader.is_open());
    let step = reader.read(commit(), &mut Seen::default());
    // Table bits are in the order of the tables' names.
    let made = Made { keys: 2, tables: 0b11 };
    assert_eq!(step, Ok(Step::Committed { end: CommitLsn::from_end(Lsn::new(100)), commit_time: PgTime(5), made }));
    assert!(!reader.is_open());
}

#[test]
fn a_transaction_of_too_many_keys_flushes_each_rule_once() {
    let mut reader = reader(2);
    let mut messages = vec![begin(), relation(1, "users"), relation(2, "products")];
    messages.extend((0..5).map(|_| insert(1)));
    messages.extend((0..3).map(|_| insert(2)));
    let keys = gathered(&mut reader, messages);
    assert_eq!(keys, ["0 delete user:1", "0 delete user:1", "0 flush user:*", "1 flush product:*"]);
    let next = gathered(&mut reader, [commit(), begin(), insert(1)]);
    assert_eq!(next, ["0 delete user:1"], "the next transaction is counted anew");
}

#[test]
fn an_emptied_table_flushes_its_scopes() {
    let mut reader = reader(10);
    let bytes = [0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let mut truncate = vec![b'T'];
    truncate.extend(bytes);
    let mut seen = Seen::default();
    for message in [begin(), relation(1, "users"), relation(2, "products"), crate::pgoutput::decode(&truncate).unwrap()]
    {
        reader.read(message, &mut seen).unwrap();
    }
    assert_eq!(seen.0, ["0 flush user:*", "1 flush product:*"]);
}

#[test]
fn orders_manually_invalidation_keys_rows_and_tables() {
    let mut reader = reader(10).with_manual(ManualKeys::Any);
    let mut seen = Seen::default();
    for content in [
        r#"{"v":1,"do":"invalidate","keys":["x","product:9"]}"#,
        r#"{"v":1,"do":"touch","schema":"public","table":"users","columns":["id"],"rows":[["4"],[null]]}"#,
        r#"{"v":1,"do":"touch","schema":"public","table":"users","columns":["other"],"rows":[["4"]]}"#,
    ] {
        assert!(matches!(reader.read(logical(content), &mut seen), Ok(Step::Within | Step::Flushed(_))), "{content}");
    }
    let flush = logical(r#"{"v":1,"do":"flush","schema":"public","table":"users"}"#);
    let table = TableName { schema: "public".into(), name: "users".into() };
    assert_eq!(reader.read(flush, &mut seen), Ok(Step::Flushed(table)));
    let expected =
        ["hand x", "hand product:9", "1 bump product:9", "0 delete user:4", "0 flush user:*", "0 flush user:*"];
    assert_eq!(seen.0, expected);
}

#[test]
fn a_key_that_no_rule_covers_is_counted_and_left_alone_and_another_goes_where_its_rules_go() {
    let only_b = RawRule { targets: Some(vec!["b".into()]), ..RawRule::of("users", &["user:{id}"]) };
    let raw = [only_b, RawRule::of("products", &["product:{id}"])];
    let mut reader = Reader::new(resolve(&raw, &["a".into(), "b".into()]).unwrap(), 10);
    let mut seen = Seen::default();
    let content = r#"{"v":1,"do":"invalidate","keys":["session:x","user:1","product:9"]}"#;
    assert_eq!(reader.read(logical(content), &mut seen), Ok(Step::Within));
    assert_eq!(seen.0, ["hand user:1 to [1]", "hand product:9 to [0, 1]"]);
    assert_eq!((reader.take_ignored(), reader.take_ignored()), (1, 0));
}

#[test]
fn an_order_that_cannot_be_read_flushes_everything() {
    let mut reader = reader(10);
    let mut seen = Seen::default();
    assert!(matches!(reader.read(logical("{"), &mut seen), Ok(Step::Unreadable(_))));
    assert_eq!(seen.0, ["0 flush user:*", "1 flush product:*"]);
    let mut seen = Seen::default();
    let content = format!(r#"{{"v":1,"do":"invalidate","keys":[{}"x"]}}"#, r#""x","#.repeat(300_000));
    let large = Ok(Step::Unreadable(UnreadableManual::TooLarge));
    assert_eq!(reader.read(logical(&content), &mut seen), large);
    assert_eq!(seen.0, ["0 flush user:*", "1 flush product:*"]);
    let other = Message::Logical { transactional: false, at: Lsn::new(80), prefix: "app", content: b"{" };
    assert_eq!(reader.read(other, &mut seen), Ok(Step::Within), "not ours");
}

#[test]
fn somebody_who_waits_is_heard_of_outside_of_transactions_only() {
    let mut reader = reader(10);
    let mut seen = Seen::default();
    let awaited = |transactional| {
        let prefix = "coherd.wait";
        Message::Logical { transactional, at: Lsn::new(80), prefix, content: b"" }
    };
    assert_eq!(reader.read(awaited(false), &mut seen), Ok(Step::Awaited(Lsn::new(80))));
    assert_eq!(reader.read(awaited(true), &mut seen), Ok(Step::Within));
    reader.read(begin(), &mut seen).unwrap();
    assert_eq!(reader.read(awaited(false), &mut seen), Ok(Step::Within));
    assert!(seen.0.is_empty() && reader.is_open());
}

#[test]
fn messages_out_of_order_are_errors() {
    let mut reader = reader(10);
    let mut seen = Seen::default();
    assert_eq!(reader.read(insert(1), &mut seen), Err(OutOfOrder::NotBegun("row change")));
    assert_eq!(reader.read(commit(), &mut seen), Err(OutOfOrder::NotBegun("commit")));
    reader.read(begin(), &mut seen).unwrap();
    assert_eq!(reader.read(insert(1), &mut seen), Err(OutOfOrder::NotDescribed(1)));
    assert_eq!(reader.read(begin(), &mut seen), Err(OutOfOrder::BegunTwice));
    reader.start_over();
    assert!(!reader.is_open());
}

#[test]
fn changes_are_counted_by_table_and_kind() {
    let mut reader = reader(10);
    let old = OldImage::Key(Row::new(1, ROW));
    let delete = Message::Change { relation: 1, change: Change::Delete { old } };
    gathered(
        &mut reader,
        [begin(), relation(1, "users"), relation(3, "other"), insert(1), insert(1), delete, insert(3)],
    );
    let mut counts = Vec::new();
    let names: Vec<String> = tables_of(&reader.rules).iter().map(|table| table.name.clone()).collect();
    reader.take_counts(|table, op, n| counts.push((names[table].as_str(), op, n)));
    assert_eq!(counts, [("users", Op::Insert, 2), ("users", Op::Delete, 1)]);
    reader.take_counts(|_, _, _| panic!("counted twice"));
}

#[test]
fn a_partition_that_logs_less_than_its_root_promises_is_known_by_the_order_of_messages() {
    let mut reader = reader(10);
    let described = |oid, name: &str, in_identity| {
        let columns = vec![Column { name: "id".into(), type_oid: 23, in_identity }];
        let identity = if in_identity { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        Message::Relation(Relation { oid, schema: "public".into(), name: name.into(), identity, columns })
    };
    let delete = |cells| {
        let old = OldImage::Full(Row::new(1, cells));
        Message::Change { relation: 1, change: Change::Delete { old } }
    };
    let root = || described(1, "users", true);
    let deleted = gathered(&mut reader, [begin(), root(), described(2, "leaf", true), delete(b"n"), delete(ROW)]);
    assert_eq!(deleted, ["0 delete user:1"], "a NULL is a NULL");
    let deleted = gathered(&mut reader, [root(), described(3, "weak", false), delete(b"n"), delete(ROW)]);
    assert_eq!(deleted, ["0 flush user:*", "0 delete user:1"], "a NULL may be a hole");
    let deleted = gathered(&mut reader, [root(), delete(b"n"), root(), described(3, "weak", true), delete(b"n")]);
    assert_eq!(deleted, ["0 flush user:*"], "until the partition is fixed");
}

#[test]
fn a_child_keeps_the_rules_of_its_parents_from_the_look_that_shows_it_to_the_one_that_does_not() {
    let name = |name: &str| TableName { schema: "public".into(), name: name.into() };
    let parent = || Table { oid: 1, name: name("users"), ..Table::default() };
    let child = || Table { oid: 4, name: name("child"), parents: vec![name("users")], ..Table::default() };
    let of = |tables| Database { asked: vec![name("users")], tables, ..Database::default() };
    let mut reader = reader(10);
    assert_eq!(gathered(&mut reader, [begin(), relation(4, "renamed"), insert(4)]), [""; 0]);
    assert_eq!(reader.looked(&of(vec![child(), parent()])), [RuleId(0)]);
    assert_eq!(gathered(&mut reader, [insert(4)]), ["0 delete user:1"], "what is described already is bound anew");
    assert_eq!(gathered(&mut reader, [relation(4, "child"), insert(4)]), ["0 delete user:1"]);
    let mut counts = Vec::new();
    reader.take_counts(|table, op, n| counts.push((table, op, n)));
    let users = tables_of(&reader.rules).iter().position(|table| table.name == "users").unwrap();
    assert_eq!(counts, [(users, Op::Insert, 2)], "they count as the parent's");
    let mut flushed = Seen::default();
    let flush = r#"{"v":1,"do":"flush","schema":"public","table":"child"}"#;
    reader.read(logical(flush), &mut flushed).unwrap();
    assert_eq!(flushed.0, ["0 flush user:*"]);
    assert_eq!(reader.looked(&of(vec![parent()])), [RuleId(0)]);
    assert_eq!(gathered(&mut reader, [insert(4)]), [""; 0]);
    assert_eq!(reader.looked(&of(vec![parent()])), []);
}
