//! Decides whether every change that concerns a rule is in the stream, and was all the time since a target's record
//! was written.
//!
//! A table that is taken out of the publication and put back leaves no trace in the stream. Its catalogue entries do
//! change, row versions included. So each look is compared with the one before, and the first look of a process with
//! the *marks* in the targets' records.
//!
//! Whether a change is published is decided when it is written, and it is seen when its transaction commits. So the
//! flush that repairs a break is repeated once every transaction has ended that was running when the break was found.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::uncounted::Uncounted;
use crate::rules::audit::audit;
use crate::rules::config::Rule;
use crate::types::database::Database;
use crate::types::finding::{Finding, Severity};
use crate::types::invalidation::RuleId;
use crate::types::observation::{Horizon, LeafSeen, Observation, TableSeen};
use crate::types::table::TableName;

/// What a look shows to have changed for one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// Changes are missing from the stream, all or some of them. The text says why, and gives the SQL that fixes it.
    Uncovered(RuleId, String),
    /// The rule cannot be kept as configured: every change is in the stream, but causes flushes of more than its keys.
    Faulty(RuleId, String),
    /// The rule is neither uncovered nor faulty any more. If it was uncovered, [`Drift::Broken`] follows.
    Covered(RuleId),
    /// Changes may have been missed. All changes are in the stream again, except those of transactions that are still
    /// running.
    Broken(RuleId),
    /// None of those transactions is still running.
    Repaired(RuleId),
}

/// All rules, and their state in the catalogue at the last look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coverage {
    rules: Uncounted<Arc<[Rule]>>,
    kept: Vec<Kept>,
    /// The rules of each table, as indexes.
    places: Uncounted<Arc<HashMap<TableName, Vec<usize>>>>,
    /// Rules that are not whole, as indexes.
    unsound: BTreeSet<usize>,
    horizon: Option<Horizon>,
    /// `xmax` of the first look. Later transactions see the publication as that look did, or a later look finds the
    /// change.
    since: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Kept {
    table: TableSeen,
    /// A hash of the rule and the table.
    mark: u64,
    standing: Standing,
    /// An event has reported that the rule is uncovered or faulty.
    is_told: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
enum Standing {
    #[default]
    Whole,
    /// Whole once every transaction below this id has ended.
    Repairing {
        below: u64,
    },
    Uncovered,
}

impl Coverage {
    /// Coverage before the first look.
    pub fn new(rules: Vec<Rule>) -> Self {
        let kept = rules.iter().map(|_| Kept::default()).collect();
        let mut places: HashMap<TableName, Vec<usize>> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            places.entry(rule.table.clone()).or_default().push(place);
        }
        let (rules, places) = (Uncounted(rules.into()), Uncounted(Arc::new(places)));
        Coverage { rules, kept, places, unsound: BTreeSet::new(), horizon: None, since: 0 }
    }

    /// Whether there has been a look.
    pub fn is_known(&self) -> bool {
        self.horizon.is_some()
    }

    /// Takes in a look, and returns what has changed, in the order in which to act on it. The cost is proportional to
    /// what changed and to the rules that are not whole. The tables of `reinherited` rules have other children than
    /// before, whose changes are read from now on.
    pub fn looked(&mut self, look: &Observation, reinherited: &[RuleId]) -> Vec<Drift> {
        let first = self.horizon.replace(look.snapshot).is_none();
        if first {
            self.since = look.snapshot.xmax;
        }
        let seen: HashMap<usize, &TableSeen> = look
            .tables
            .iter()
            .flat_map(|table| self.places.get(&table.name).into_iter().flatten().map(move |place| (*place, table)))
            .collect();
        let mut concerned: Vec<usize> =
            if first { (0..self.rules.len()).collect() } else { seen.keys().chain(&self.unsound).copied().collect() };
        concerned.sort_unstable();
        concerned.dedup();
        let described: HashSet<&TableName> = look.database.iter().flat_map(|database| &database.asked).collect();
        let mut drifts = Vec::new();
        for place in concerned {
            let (Some(rule), Some(kept)) = (self.rules.get(place), self.kept.get_mut(place)) else { continue };
            let table = seen.get(&place);
            let differs = !first && table.is_some_and(|now| kept.table.is_broken_by(now));
            if let Some(now) = table {
                kept.table.clone_from(now);
            }
            if first || table.is_some() {
                kept.mark = mark(rule, &kept.table);
            }
            let is_described = |table: &&TableSeen| table.stamp.is_none() || described.contains(&table.name);
            let catalogue = match &look.database {
                Some(database) if first || table.is_some_and(is_described) => held_against(rule, database),
                _ => Catalogue::AsBefore,
            };
            kept.move_on(rule.id, differs, catalogue, look.snapshot, &mut drifts);
            if differs && reinherited.contains(&rule.id) {
                kept.wait_for_the_next_look();
                drifts.retain(|drift| *drift != Drift::Repaired(rule.id));
            }
            if kept.standing == Standing::Whole {
                self.unsound.remove(&place);
            } else {
                self.unsound.insert(place);
            }
        }
        drifts
    }

    /// The tables of the rules that `rules` selects.
    pub fn tables(&self, rules: impl Fn(&Rule) -> bool) -> BTreeSet<TableName> {
        self.rules.iter().filter(|rule| rules(rule)).map(|rule| rule.table.clone()).collect()
    }

    /// Whether all rules that `rules` selects are covered and repaired.
    pub fn is_whole(&self, rules: impl Fn(&Rule) -> bool) -> bool {
        self.rules.iter().zip(&self.kept).all(|(rule, kept)| !rules(rule) || kept.standing == Standing::Whole)
    }

    /// The marks of the whole rules that `rules` selects, in the form that a record stores.
    pub fn marks(&self, rules: impl Fn(&Rule) -> bool) -> String {
        let mut marks = String::new();
        for (rule, kept) in self.rules.iter().zip(&self.kept) {
            if rules(rule) && kept.standing == Standing::Whole {
                let space = if marks.is_empty() { "" } else { " " };
                // Writing to a string does not fail.
                let _ = write!(marks, "{space}{:x}", kept.mark);
            }
        }
        marks
    }

    /// The rules that `rules` selects and `marks` does not list.
    pub fn missing(&self, marks: &str, rules: impl Fn(&Rule) -> bool) -> Vec<RuleId> {
        let held: HashSet<u64> = marks.split(' ').filter_map(|mark| u64::from_str_radix(mark, 16).ok()).collect();
        let unknown = |(rule, kept): &(&Rule, &Kept)| rules(rule) && !held.contains(&kept.mark);
        self.rules.iter().zip(&self.kept).filter(unknown).map(|(rule, _)| rule.id).collect()
    }

    /// Other tables came to inherit from the rule's table after the rules were read and before the first look.
    pub fn reinherited(&mut self, rule: RuleId) {
        if let Some(kept) = self.kept.get_mut(usize::from(rule.0)) {
            kept.wait_for_the_next_look();
            self.unsound.insert(usize::from(rule.0));
        }
    }

    /// A target's record does not list the rule, so it may have been broken before the first look. Returns whether one
    /// flush repairs it.
    pub fn doubt(&mut self, rule: RuleId) -> bool {
        let Some((kept, horizon)) = self.kept.get_mut(usize::from(rule.0)).zip(self.horizon) else { return true };
        if kept.standing == Standing::Whole && horizon.xmin < self.since {
            kept.standing = Standing::Repairing { below: self.since };
            self.unsound.insert(usize::from(rule.0));
        }
        kept.standing == Standing::Whole
    }
}

impl Kept {
    /// Transactions that began after this look may have been read before coherd acted on it.
    fn wait_for_the_next_look(&mut self) {
        if self.standing != Standing::Uncovered {
            self.standing = Standing::Repairing { below: u64::MAX };
        }
    }

    fn move_on(&mut self, rule: RuleId, differs: bool, catalogue: Catalogue, now: Horizon, drifts: &mut Vec<Drift>) {
        match catalogue {
            Catalogue::Hides(text) => {
                if self.standing != Standing::Uncovered {
                    self.standing = Standing::Uncovered;
                    self.is_told = true;
                    drifts.push(Drift::Uncovered(rule, text));
                }
                return;
            }
            Catalogue::AsBefore if self.standing == Standing::Uncovered => return,
            Catalogue::Fails(text) if !std::mem::replace(&mut self.is_told, true) => {
                drifts.push(Drift::Faulty(rule, text));
            }
            Catalogue::HasItAll if std::mem::take(&mut self.is_told) => drifts.push(Drift::Covered(rule)),
            Catalogue::AsBefore | Catalogue::Fails(_) | Catalogue::HasItAll => {}
        }
        let was_uncovered = self.standing == Standing::Uncovered;
        if was_uncovered || differs {
            drifts.push(Drift::Broken(rule));
            self.standing = Standing::Repairing { below: now.xmax };
        }
        if let Standing::Repairing { below } = &mut self.standing {
            // Transaction ids decrease when a database goes back in time.
            *below = (*below).min(now.xmax);
            if now.xmin >= *below {
                self.standing = Standing::Whole;
                drifts.push(Drift::Repaired(rule));
            }
        }
    }
}

/// The result of checking a rule against the catalogue.
enum Catalogue {
    AsBefore,
    HasItAll,
    /// Why the rule cannot be kept as configured.
    Fails(String),
    /// Why changes that concern the rule are missing from the stream.
    Hides(String),
}

fn held_against(rule: &Rule, database: &Database) -> Catalogue {
    let findings = audit(std::slice::from_ref(rule), database);
    let errors: Vec<_> = findings.into_iter().filter(|its| its.severity == Severity::Error).collect();
    let hides = errors.iter().any(|its| its.hides_changes);
    let texts: Vec<String> = errors.into_iter().map(|its| text(rule, its)).collect();
    match texts.join("\n") {
        text if text.is_empty() => Catalogue::HasItAll,
        text if hides => Catalogue::Hides(text),
        text => Catalogue::Fails(text),
    }
}

/// The text that continues "the rule is not covered: ".
fn text(rule: &Rule, finding: Finding) -> String {
    let Finding { subject, message, remedy, .. } = finding;
    let message = match subject.strip_prefix(&rule.subject()) {
        Some("") => message,
        Some(heir) => format!("{}: {message}", heir.trim_start_matches(", ")),
        None => format!("{subject}: {message}"),
    };
    [vec![message], remedy].concat().join("\n    ")
}

/// A hash of the rule as configured and of its table as published. A collision hides a change with a probability of
/// 2⁻⁶⁴. Only an earlier look can show that a change is harmless, and a new process has none. So the hash includes the
/// row versions of the name and the columns, and a file only if nothing else would show the change.
fn mark(rule: &Rule, table: &TableSeen) -> u64 {
    let mut text = rule.signature();
    let leaf = |leaf: &LeafSeen| match leaf.child {
        None => (leaf.oid, leaf.file.node, leaf.joined, 0),
        Some(named) => (leaf.oid, named.version, leaf.joined, leaf.file.columns),
    };
    let leaves: Vec<(u32, u32, i64, i64)> = table.leaves.iter().map(leaf).collect();
    let parts: Vec<(i64, i64)> = table.parts.iter().map(|part| (part.id, part.version)).collect();
    let TableSeen { stamp, named, file, .. } = table;
    let _ = write!(text, "{stamp:?} {leaves:?} {} {} {parts:?}", named.version, file.columns);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::config::{RawRule, resolve};
    use crate::types::lsn::Lsn;
    use crate::types::observation::{FileSeen, LeafSeen};

    fn rules(keys: &[&str]) -> Vec<Rule> {
        resolve(&keys.iter().map(|&key| RawRule::of("users", &[key])).collect::<Vec<_>>(), &["cache".to_owned()])
            .unwrap()
    }

    /// A look at the table with this stamp, while transactions from `xmin` on are running.
    fn look(stamp: &str, xmin: u64, xmax: u64) -> Observation {
        let name = rules(&["user:{id}"])[0].table.clone();
        let table = TableSeen { name, stamp: Some(stamp.to_owned()), ..TableSeen::default() };
        Observation {
            wal: None,
            log_end: Lsn::ZERO,
            catalogue_at: std::time::Instant::now(),
            snapshot: Horizon { xmin, xmax },
            tables: vec![table],
            database: None,
            holder: None,
            synchronous: None,
        }
    }

    fn leaves(leaves: &[(u32, u32, bool)]) -> Observation {
        let mut look = look("a", 9, 9);
        let file = |node| FileSeen { node, ..FileSeen::default() };
        look.tables[0].leaves = leaves
            .iter()
            .map(|&(oid, node, born_here)| LeafSeen { oid, file: file(node), born_here, joined: 0, child: None })
            .collect();
        look
    }

    const RULE: RuleId = RuleId(0);

    #[test]
    fn a_changed_stamp_is_repaired_when_the_transactions_of_that_moment_have_ended() {
        let mut coverage = Coverage::new(rules(&["user:{id}"]));
        assert_eq!(coverage.looked(&look("a", 5, 9), &[]), []);
        let whole = coverage.marks(|_| true);
        assert_eq!(coverage.looked(&look("a", 5, 10), &[]), []);
        assert_eq!(coverage.looked(&look("b", 5, 10), &[]), [Drift::Broken(RULE)]);
        assert_eq!(coverage.marks(|_| true), "", "no record lists it meanwhile");
        assert_eq!(coverage.looked(&look("b", 9, 20), &[]), []);
        assert_eq!(coverage.looked(&look("b", 10, 20), &[]), [Drift::Repaired(RULE)]);
        assert_ne!(coverage.marks(|_| true), whole);
        assert_eq!(
            coverage.looked(&look("c", 20, 20), &[]),
            [Drift::Broken(RULE), Drift::Repaired(RULE)],
            "nothing ran"
        );
    }

    #[test]
    fn where_a_child_comes_the_transactions_until_the_next_look_are_waited_for_too() {
        let mut coverage = Coverage::new(rules(&["user:{id}"]));
        coverage.looked(&look("a", 9, 9), &[]);
        assert_eq!(
            coverage.looked(&look("b", 10, 10), &[RULE]),
            [Drift::Broken(RULE)],
            "10 may come before its children"
        );
        assert_eq!(coverage.looked(&look("b", 10, 12), &[]), [], "11 may have");
        assert_eq!(coverage.looked(&look("b", 11, 30), &[]), []);
        assert_eq!(coverage.looked(&look("b", 12, 30), &[]), [Drift::Repaired(RULE)]);
        assert_eq!(coverage.looked(&look("b", 12, 30), &[RULE]), [], "nothing came of it");
        let mut first = Coverage::new(rules(&["user:{id}"]));
        first.looked(&look("a", 9, 9), &[]);
        first.reinherited(RULE);
        assert_eq!(first.looked(&look("a", 9, 12), &[]), []);
        assert_eq!(first.looked(&look("a", 12, 12), &[]), [Drift::Repaired(RULE)]);
    }

    #[test]
    fn transaction_ids_that_go_back_do_not_leave_a_rule_unrepaired_for_ever() {
        let mut coverage = Coverage::new(rules(&["user:{id}"]));
        coverage.looked(&look("a", 90, 90), &[]);
        assert_eq!(coverage.looked(&look("b", 90, 95), &[]), [Drift::Broken(RULE)]);
        assert_eq!(coverage.looked(&look("b", 50, 60), &[]), []);
        assert_eq!(coverage.looked(&look("b", 60, 61), &[]), [Drift::Repaired(RULE)]);
    }

    #[test]
    fn a_second_change_while_the_first_is_repaired_begins_again() {
        let mut coverage = Coverage::new(rules(&["user:{id}"]));
        coverage.looked(&look("a", 5, 9), &[]);
        coverage.looked(&look("b", 5, 10), &[]);
        assert_eq!(coverage.looked(&look("c", 10, 30), &[]), [Drift::Broken(RULE)]);
        assert_eq!(coverage.looked(&look("c", 29, 30), &[]), []);
        assert_eq!(coverage.looked(&look("c", 30, 30), &[]), [Drift::Repaired(RULE)]);
    }

    #[test]
    fn a_record_lists_the_rules_and_tables_that_it_was_written_with() {
        let mut coverage = Coverage::new(rules(&["user:{id}", "u:{id}"]));
        coverage.looked(&look("a", 9, 9), &[]);
        let marks = coverage.marks(|_| true);
        assert_eq!(coverage.missing(&marks, |_| true), []);
        assert_eq!(coverage.missing("", |_| true), [RuleId(0), RuleId(1)]);
        assert_eq!(coverage.missing("", |rule| rule.id == RULE), [RULE]);
        assert_eq!(coverage.missing("what is this", |_| true).len(), 2);
        coverage.looked(&look("b", 9, 9), &[]);
        assert_eq!(coverage.missing(&marks, |_| true).len(), 2, "the publication has changed");
        let mut other = Coverage::new(rules(&["user:{id}", "person:{id}"]));
        other.looked(&look("a", 9, 9), &[]);
        assert_eq!(other.missing(&marks, |_| true), [RuleId(1)], "the rule has changed");
    }

    #[test]
    fn a_doubted_rule_waits_for_the_transactions_that_run() {
        let mut coverage = Coverage::new(rules(&["user:{id}"]));
        assert!(!coverage.is_known());
        coverage.looked(&look("a", 9, 12), &[]);
        assert!(!coverage.doubt(RULE));
        assert_eq!(coverage.looked(&look("a", 11, 13), &[]), []);
        assert_eq!(coverage.looked(&look("a", 12, 14), &[]), [Drift::Repaired(RULE)]);
        assert!(coverage.doubt(RULE), "what ran at the first look has ended, one flush is enough");
    }

    #[test]
    fn a_new_partition_is_no_loss_but_one_that_goes_or_is_emptied_or_is_attached_is() {
        let drifts = [Drift::Broken(RULE), Drift::Repaired(RULE)];
        for (before, now, is_loss) in [
            (&[(1, 1, true)][..], &[(1, 1, true), (2, 2, true)][..], false),
            (&[(1, 1, true), (2, 2, true)], &[(2, 2, true)], true),
            (&[(1, 1, true)], &[(1, 7, true)], true),
            (&[(1, 1, true)], &[(1, 1, true), (2, 2, false)], true),
            (&[(1, 1, true)], &[(1, 1, true), (2, 7, true)], true),
        ] {
            let mut coverage = Coverage::new(rules(&["user:{id}"]));
            coverage.looked(&leaves(before), &[]);
            let marks = coverage.marks(|_| true);
            let expected = if is_loss { &drifts[..] } else { &[] };
            assert_eq!(coverage.looked(&leaves(now), &[]), expected, "{before:?} {now:?}");
            assert_ne!(coverage.marks(|_| true), marks, "the record follows either way");
        }
    }
}
