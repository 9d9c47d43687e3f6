//! Arbitrary bytes through decoder, rules and transaction reader. Errors are fine, panics are not.
#![no_main]

use std::cell::RefCell;

use coherd::types::change::{Change, OldImage, Row};
use coherd::types::invalidation::{Action, KEY_BYTES_MAX, RuleId, Scope};
use coherd::pgoutput::{Message, decode};
use coherd::rules::config::{MissingOld, RawAction, RawRule, Rule, resolve};
use coherd::transaction::{Gather, Reader};
use libfuzzer_sys::fuzz_target;

/// Fewer keys than a long input makes, so that scopes replace keys.
const KEYS_MAX: u64 = 100;

struct Nowhere;

impl Gather for Nowhere {
    fn key(&mut self, _: RuleId, _: Action, key: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX);
    }

    fn scope(&mut self, _: RuleId, scope: &Scope) {
        assert!(!scope.keys.to_string().is_empty());
    }

    fn manual(&mut self, _: &[u8], _: Option<&[usize]>) {}
}

/// Rules for the tables of the seeds, with every `on_missing_old` and every filter.
fn rules() -> Vec<Rule> {
    let rule = |table: &str, keys: &[&str], on_missing_old, when_changed: &[&str]| RawRule {
        action: RawAction::Bump,
        when_changed: when_changed.iter().map(|&column| column.into()).collect(),
        on_missing_old,
        ..RawRule::of(table, keys)
    };
    let raw = [
        rule("users", &["user:{id}", "mail:{email|lower|trim|hex}"], MissingOld::Flush, &[]),
        rule("users", &["u:{id}:{note|upper|urlencode}"], MissingOld::Skip, &["email", "note"]),
        rule("sessions", &["session:{token|md5|sha1|sha256}"], MissingOld::Refuse, &["id"]),
        rule("prices", &["price:{sku}:{amount}", "at:{at}"], MissingOld::Refuse, &["amount"]),
        rule("pages", &["page:{id}:{body}"], MissingOld::Flush, &["body"]),
        rule("pages", &["in:{body->>a}:{body[]|default:x}:{id|pad:9|base64}"], MissingOld::Flush, &[]),
        rule("prices", &["day:{at|date:%Y-%m-%d@Europe/Berlin}"], MissingOld::Flush, &[]),
        rule("drafts", &["draft:{id}:{body}"], MissingOld::Refuse, &["title", "body"]),
        rule("events", &["event:{day}:{id}"], MissingOld::Refuse, &[]),
        rule("log", &["{schema}:{line}{gone}"], MissingOld::Refuse, &["gone"]),
    ];
    resolve(&raw, &["cache".into()]).expect("the rules above are right")
}

/// `decode` has checked the cells, so iterating returns as many as announced.
fn every_cell_is_there(change: &Change<'_>) {
    let whole = |row: &Row<'_>| assert_eq!(row.cells().count(), row.len());
    let (Change::Insert { new }
    | Change::Update { new, .. }
    | Change::Delete { old: OldImage::Key(new) | OldImage::Full(new) }) = change
    else {
        panic!("a DELETE without an old row was decoded");
    };
    whole(new);
    if let Change::Update { old: OldImage::Key(old) | OldImage::Full(old), .. } = change {
        whole(old);
    }
}

thread_local! {
    /// Created once: parsing the rules is not fuzzed here.
    static READER: RefCell<Reader> = RefCell::new(Reader::new(rules(), KEYS_MAX));
}

// The input is a sequence of messages, each after a length of two bytes, so that a Begin and a Relation can precede a
// row.
fuzz_target!(|data: &[u8]| {
    READER.with_borrow_mut(|reader| {
        reader.start_over();
        let mut rest = data;
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (message, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
            rest = after;
            let Ok(message) = decode(message) else { continue };
            match &message {
                Message::Change { change, .. } => every_cell_is_there(change),
                Message::Truncate(truncated) => assert!(truncated.relations().count() <= data.len() / 4),
                _ => {}
            }
            let _ = reader.read(message, &mut Nowhere);
        }
    });
});
