//! Arbitrary bytes through decoder, rules and transaction reader: errors are fine, panics are not.
#![no_main]

use coherd::invalidation::{Action, RuleId, Scope};
use coherd::pgoutput::decode;
use coherd::rules::config::{MissingOld, RawAction, RawRule, resolve};
use coherd::transaction::{Gather, Reader};
use libfuzzer_sys::fuzz_target;

struct Nowhere;

impl Gather for Nowhere {
    fn key(&mut self, _: RuleId, _: Action, _: &[u8]) {}
    fn scope(&mut self, _: RuleId, _: &Scope) {}
    fn by_hand(&mut self, _: &[u8]) {}
}

// The input is cut into messages, so that a Begin and a Relation can come before a row.
fuzz_target!(|data: &[u8]| {
    let rule = RawRule {
        table: "a.b".into(),
        keys: vec!["k:{c|lower|hex}:{d}".into()],
        action: RawAction::Delete,
        when_changed: vec!["c".into()],
        targets: None,
        on_missing_old: MissingOld::Refuse,
        scope: None,
    };
    let Ok(rules) = resolve(&[rule], &["cache".into()]) else { return };
    let mut reader = Reader::new(rules, 100);
    let mut rest = data;
    while let Some((length, after)) = rest.split_first() {
        let (message, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        if let Ok(message) = decode(message) {
            let _ = reader.read(message, &mut Nowhere);
        }
    }
});
