//! Reports on commits and watermarks: how long each stage takes, and how far each has come.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::Histogram;

use crate::admin::metrics::{Metrics, TableCounters};
use crate::admin::status::{Board, COMMITS_MAX, Sample, SettledCommit, Unsettled};
use crate::core::Watermarks;
use crate::pgoutput::PgTime;
use crate::rules::config::Rule;
use crate::transaction::{Made, Op, Reader, tables_of};
use crate::types::lsn::CommitLsn;

/// How often the board gets the state of the targets while the watermarks do not move.
const TELL_PACE: Duration = Duration::from_millis(100);

pub(crate) struct Commits {
    board: Board,
    tables: Vec<TableCounters>,
    commit_to_applied: Histogram,
    commit_to_settled: Histogram,
    /// The last commit of this turn.
    last: Option<Sample>,
    unsettled: Unsettled,
    /// The last settled commits, oldest first, and whether the board has them.
    settled: (VecDeque<SettledCommit>, bool),
    told: (Watermarks, Instant),
}

impl Commits {
    pub(crate) fn new(board: &Board, metrics: &Metrics, rules: &[Rule]) -> Commits {
        let tables = tables_of(rules);
        board.tables(tables.iter().map(|table| table.to_string().into()));
        Commits {
            board: board.clone(),
            tables: tables.iter().map(|table| metrics.table(table)).collect(),
            commit_to_applied: metrics.commit_to_applied(),
            commit_to_settled: metrics.commit_to_settled(),
            last: None,
            unsettled: Unsettled::new(),
            settled: (VecDeque::with_capacity(COMMITS_MAX), true),
            told: (Watermarks::default(), Instant::now()),
        }
    }

    /// Counts the rows that were read since the last call. Returns whether there were any.
    pub(crate) fn count(&self, reader: &mut Reader) -> bool {
        let mut has_rows = false;
        reader.take_counts(|table, op, n| {
            has_rows = true;
            let Some(counters) = self.tables.get(table) else { return };
            let counter = match op {
                Op::Insert => &counters.insert,
                Op::Update => &counters.update,
                Op::Delete => &counters.delete,
                Op::Truncate => &counters.truncate,
            };
            counter.inc_by(n);
        });
        has_rows
    }

    /// A commit was read that invalidates something.
    pub(crate) fn read(&mut self, end: CommitLsn, committed: PgTime, made: Made) {
        self.last = Some(Sample { end: end.end(), committed, made });
    }

    /// A delivery was confirmed. It counts once, with the time of the oldest commit in it.
    pub(crate) fn applied(&self, oldest_commit: Option<PgTime>) {
        if let Some(took) = oldest_commit.and_then(since) {
            self.commit_to_applied.observe(took.as_secs_f64());
        }
    }

    /// Forgets the commits that have not settled. The database is another one, or another instance was active for a
    /// time, so they may never settle.
    pub(crate) fn start_over(&mut self) {
        self.board.turned();
        self.unsettled = Unsettled::new();
    }

    /// Reports the watermarks after a turn. Returns whether it is time to report the targets too.
    pub(crate) fn moved(&mut self, watermarks: Watermarks, has_rows: bool) -> bool {
        let (told, told_at) = self.told;
        // Rows are a sign of life: a server that sends them without a pause sends no keepalive. One call reads the
        // clock for all rows of this turn.
        if has_rows || watermarks.decoded != told.decoded {
            self.board.read();
        }
        self.settle(&watermarks);
        if watermarks == told && told_at.elapsed() < TELL_PACE {
            self.board.turned();
            return false;
        }
        self.told = (watermarks, Instant::now());
        if !std::mem::replace(&mut self.settled.1, true) {
            self.board.settled(&self.settled.0);
        }
        self.board.moved(watermarks);
        true
    }

    /// Counts the commits that have settled. The last commit of this turn may be one of them, if its keys were sent
    /// while it was being read.
    pub(crate) fn settle(&mut self, watermarks: &Watermarks) {
        if let Some(sample) = self.last.take() {
            self.unsettled.add(sample);
        }
        let (last, is_known) = &mut self.settled;
        self.unsettled.settled(watermarks, |sample| {
            let Some(took) = since(sample.committed) else { return };
            self.commit_to_settled.observe(took.as_secs_f64());
            if last.len() == COMMITS_MAX {
                last.pop_front();
            }
            last.push_back(SettledCommit { end: sample.end, made: sample.made, took });
            *is_known = false;
        });
    }
}

/// The time from a commit, by the server's clock, to now, by the local clock. Never negative; `None` for a commit
/// before 1970.
fn since(committed: PgTime) -> Option<Duration> {
    let committed = u64::try_from(committed.unix_micros()).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(now.saturating_sub(Duration::from_micros(committed)))
}
