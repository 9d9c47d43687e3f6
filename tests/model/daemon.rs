//! One process: coherd's own core, and the worker that talks to the cache. A crash loses all of it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use coherd::core::continuity::SlotOrigin;
use coherd::core::{Core, Event, Input, OnGap, Opening, Output, Policy, Replicas, Ticket};
use coherd::pgoutput::PgTime;
use coherd::rules::config::{RawRule, Rule, resolve};
use coherd::transaction::Gather;
use coherd::types::invalidation::{Action, Batch, RuleId};
use coherd::types::lsn::Lsn;
use coherd::types::observation::{HeldWal, Observation, TableSeen};
use coherd::types::record::{Answer, Delivery, Record, StoredRecord};
use coherd::types::server::System;
use coherd::types::snapshot::{ReplicaSeen, Snapshot};

use super::setup::{Broken, Setup};
use super::world::{Position, Postgres, commit, lsn, position};

/// The system identifier of the source.
pub const SYSTEM: u64 = 7;

/// Far from the clock's beginning, so that earlier times can be expressed.
static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_hours(100));

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(1));

static RULES_OF_TWO: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(2));

fn rules(targets: usize) -> Vec<Rule> {
    let targets: Vec<String> = (0..targets).map(|n| format!("cache-{n}")).collect();
    resolve(&[RawRule::of("t", &["k:{id}"])], &targets).unwrap()
}

/// Enough to remember some deliveries, but not all.
const RECENT_BYTES: usize = 400;

/// Bytes of log that the slot may hold back, in cells with a budget.
const BUDGET: u64 = 100;

const MAX_LAG: Duration = Duration::from_mins(10);

/// How much time passes before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Long enough for everything that is paced, and too short for an answer to be late.
    Moment,
    /// A missing answer is late.
    Late,
    /// A replica that has not reported is silent for too long.
    Long,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waits until the record has been reconciled.
    Waiting,
    Sent,
    /// Partly executed: the key is gone and its lease still exists ([`Broken::LeaseAfterKey`]), or a flush is done and
    /// its record not yet written.
    Halfway,
    /// The cache has executed it, and the answer is on its way. True if the cache has written the record.
    Done(bool),
    /// The cache has written the record and refused the invalidation.
    Refused,
}

/// A delivery, or a flush, which carries no record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flight {
    ticket: Ticket,
    batch: Batch,
    pub record: Option<Record>,
    pub stage: Stage,
}

impl Flight {
    pub fn invalidates(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Whether it flushes scopes.
    pub fn flushes(&self) -> bool {
        !self.batch.scopes().is_empty()
    }
}

/// Whether the worker may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The worker has to load the record first.
    Unread,
    /// The worker has sent the record to the core and waits for the core's decision.
    Asking,
    Working,
}

/// One process of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub struct Daemon {
    pub core: Core,
    pub is_open: bool,
    pub is_asked: bool,
    pub standing: Standing,
    /// Deliveries in flight, oldest first.
    pub flights: Vec<Flight>,
    pub flush: Option<Flight>,
    /// An early invalidation was sent.
    pub is_early: bool,
    /// The position that the core has acknowledged.
    pub acknowledging: Position,
    /// SQL treats the slot's position as settled.
    pub attests: bool,
    /// The daemon may no longer attest, and still does.
    pub takes_back: bool,
    /// Readers may rely on the replica.
    pub is_held: bool,
    pub is_up: bool,
    pub is_halted: bool,
    /// The flush for a replica that returned is confirmed but not executed. Only in a broken cell.
    pub skips_flush: bool,
}

/// Opens the stream at the slot's position, with a clock that is later than every sequence.
pub fn open(daemon: &mut Daemon, setup: &Setup, postgres: Postgres, clock: u64) {
    let start = lsn(postgres.acknowledged);
    let opening = Opening {
        system: System { id: SYSTEM, timeline: 1, wal_end: lsn(setup.commits), forks: Vec::new() },
        slot: SlotOrigin::Found { confirmed: start },
        start,
        walsender: 1,
    };
    daemon.is_open = true;
    daemon.acknowledging = postgres.acknowledged;
    daemon.step(setup, Wait::Moment, Input::StreamOpened(opening, clock));
}

impl Daemon {
    /// A new process.
    pub fn begin(setup: &Setup, postgres: Postgres) -> Daemon {
        // Recent deliveries matter only if the cache goes back in time. Without them the core flushes instead of
        // sending again.
        let recent_bytes = if setup.rolls_back > 0 && !setup.forgets && !setup.halts { RECENT_BYTES } else { 0 };
        let policy = Policy {
            pending_keys: 100,
            recent_bytes,
            wal_budget: setup.overspends.then_some(BUDGET),
            on_gap: if setup.halts { OnGap::Halt } else { OnGap::Flush },
            ..Policy::patient()
        };
        let rules = if setup.other_is_down { &*RULES_OF_TWO } else { &*RULES };
        let replicas = Replicas::new(usize::from(setup.is_waited_for()), MAX_LAG, *NOW);
        let mut daemon = Daemon {
            core: Core::new(1 + usize::from(setup.other_is_down), rules.clone(), "s", policy, replicas, *NOW)
                .with_early([setup.early]),
            is_open: false,
            is_asked: false,
            standing: Standing::Unread,
            flights: Vec::new(),
            flush: None,
            is_early: false,
            acknowledging: 0,
            attests: false,
            takes_back: false,
            is_held: false,
            is_up: false,
            is_halted: false,
            skips_flush: false,
        };
        daemon.looks(setup, postgres, None);
        daemon
    }

    /// The watcher looks at the server.
    pub fn looks(&mut self, setup: &Setup, postgres: Postgres, wal: Option<HeldWal>) {
        let stamp = Some(format!("{:?}", postgres.unpublished));
        let table = TableSeen { name: RULES[0].table.clone(), stamp, ..TableSeen::default() };
        let look = Observation {
            wal,
            log_end: lsn(postgres.written),
            catalogue_at: Instant::now(),
            snapshot: postgres.horizon(),
            tables: vec![table],
            database: None,
            holder: None,
            synchronous: None,
        };
        self.step(setup, Wait::Moment, Input::Observed(&look, &[]));
    }

    /// Two looks, between which the log grows beyond the budget.
    pub fn overspends(&mut self, setup: &Setup, postgres: Postgres) {
        let end = |more: u64| Lsn::new(lsn(postgres.written).as_u64() + more);
        for (end, retained) in [(end(BUDGET), 1), (end(3 * BUDGET), 2 * BUDGET)] {
            self.looks(setup, postgres, Some(HeldWal { end, retained, safe: None, segment: 1 }));
        }
    }

    /// A user flushes the table, through the log.
    pub fn flushed_manually(&mut self, setup: &Setup) {
        self.core.flushed_manually(&RULES[0].table);
        self.turn(setup, Wait::Moment);
    }

    /// Passes an input to the core and performs the outputs.
    pub fn step(&mut self, setup: &Setup, wait: Wait, input: Input<'_>) {
        let later = match wait {
            Wait::Moment => Duration::from_millis(50),
            Wait::Late => Duration::from_secs(2),
            Wait::Long => MAX_LAG * 2,
        };
        self.core.step(*NOW + later, input);
        let mut outputs = Vec::new();
        self.core.take_outputs(&mut outputs);
        for output in outputs {
            self.perform(setup, output);
        }
        self.core.rest(*NOW);
    }

    fn perform(&mut self, setup: &Setup, output: Output) {
        match output {
            // The second target never answers.
            Output::LoadRecord(1) => {}
            Output::Probe => self.is_asked = true,
            Output::Early { .. } => self.is_early = true,
            Output::Send { ticket, delivery: Delivery { batch, record }, .. } => {
                let stage = if self.standing == Standing::Working { Stage::Sent } else { Stage::Waiting };
                self.flights.push(Flight { ticket, batch, record: Some(record), stage });
            }
            Output::Flush { ticket, batch, .. } => {
                let stage = if self.standing == Standing::Working { Stage::Sent } else { Stage::Waiting };
                self.flush = Some(Flight { ticket, batch, record: None, stage });
            }
            Output::LoadRecord(_) | Output::LoadAgain(_) => self.ground(),
            Output::Reconciled(_, answer) => self.reconciled(&answer),
            Output::Acknowledge(at) => self.acknowledging = self.acknowledging.max(position(at.lsn())),
            Output::Attest(walsender) => {
                self.takes_back = walsender.is_none() && self.attests;
                self.attests |= walsender.is_some();
            }
            Output::Reopen(_) | Output::Park => self.is_open = false,
            Output::Event(Event::Halted(..)) => self.is_halted = true,
            Output::Event(Event::Released(_)) => self.is_halted = false,
            Output::Event(Event::ReplicaHeld(_, is_held)) => self.is_held = is_held,
            Output::Event(Event::ReplicaReturned(_)) => self.skips_flush = setup.is(Broken::NoFlushOnReturn),
            Output::PollReplicas(_) | Output::Unpark | Output::Event(_) => {}
        }
    }

    /// Resets every flight, so that the record can be loaded.
    fn ground(&mut self) {
        self.standing = Standing::Unread;
        self.flights.iter_mut().chain(&mut self.flush).for_each(|flight| flight.stage = Stage::Waiting);
    }

    fn reconciled(&mut self, answer: &Answer) {
        self.standing = Standing::Working;
        self.flights.iter_mut().chain(&mut self.flush).for_each(|flight| flight.stage = Stage::Sent);
        self.flights.iter_mut().filter_map(|flight| flight.record.as_mut()).for_each(|record| answer.correct(record));
    }

    /// Whether a log that ends at `end` has more to decode.
    pub fn can_decode(&self, end: Position) -> bool {
        self.is_open && position(self.core.decoded()) < end && self.core.has_room()
    }

    /// Decodes the next commit from the slot.
    pub fn decode(&mut self, setup: &Setup, postgres: Postgres) {
        let next = position(self.core.decoded()) + 1;
        if postgres.unpublished == Some(next) {
            self.core.idle(lsn(next));
        } else {
            self.core.begun(commit(next), PgTime(0));
            self.core.key(RuleId(0), Action::Delete, b"k:1");
            self.core.committed(lsn(next));
        }
        self.step(setup, Wait::Moment, Input::Decoded(false));
    }

    pub fn answered(&mut self, setup: &Setup, snapshot: Snapshot) {
        self.is_asked = false;
        self.step(setup, Wait::Moment, Input::Snapshot(1, snapshot));
    }

    /// Lets the core do what is due.
    pub fn turn(&mut self, setup: &Setup, wait: Wait) {
        self.step(setup, wait, Input::Read(false));
    }

    /// The replica reports how far it has replayed.
    pub fn hears_replica(&mut self, setup: &Setup, replayed: Position) {
        let replayed = Some(lsn(replayed));
        let seen = ReplicaSeen { system_id: SYSTEM, timeline: 1, replayed, run: 1 };
        self.step(setup, Wait::Moment, Input::ReplicaReported(0, seen));
    }

    /// The worker has loaded the record.
    pub fn loads(&mut self, setup: &Setup, record: Record) {
        self.standing = Standing::Asking;
        let stored = StoredRecord { record: Some(record), empty: false, written: None };
        self.step(setup, Wait::Moment, Input::RecordLoaded(0, stored));
        if self.standing == Standing::Working && self.flights.is_empty() {
            self.up(setup);
        }
    }

    fn up(&mut self, setup: &Setup) {
        if !std::mem::replace(&mut self.is_up, true) {
            self.step(setup, Wait::Moment, Input::Up(0));
        }
    }

    /// The cache has answered the oldest delivery.
    pub fn hears(&mut self, setup: &Setup) {
        let flight = self.flights.remove(0);
        if flight.stage != Stage::Done(true) {
            self.flights.insert(0, flight.clone());
            return self.fails(setup, flight.stage == Stage::Done(false));
        }
        let Flight { ticket, batch, record, .. } = flight;
        let Some(record) = record else { return };
        self.step(setup, Wait::Moment, Input::Confirmed(0, ticket, Delivery { batch, record }));
        self.up(setup);
    }

    /// The flush is complete.
    pub fn hears_of_flush(&mut self, setup: &Setup) {
        let Some(Flight { ticket, batch, .. }) = self.flush.take() else { return };
        self.step(setup, Wait::Moment, Input::Flushed(0, ticket, batch));
        self.up(setup);
    }

    /// A delivery is refused, or the connection is lost. After a lost connection the cache may be another one.
    pub fn fails(&mut self, setup: &Setup, may_have_changed: bool) {
        self.is_up = false;
        self.step(setup, Wait::Moment, Input::Trouble(0, may_have_changed));
        if may_have_changed {
            return self.ground();
        }
        for flight in &mut self.flights {
            flight.stage = Stage::Sent;
        }
    }

    /// The position that readers may take for settled.
    pub fn settled(&self) -> Position {
        position(self.core.watermarks().settled)
    }
}
