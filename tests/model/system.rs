//! The whole system: the states, the possible steps in each, and the properties that must hold.

use coherd::core::Input;
use coherd::types::record::{NEW, Record};
use coherd::types::snapshot::Snapshot;
use stateright::{Model, Property};

use super::daemon::{self, Daemon, Flight, SYSTEM, Stage, Standing, Wait};
use super::form::SEQUENCES_APART;
use super::reader::{Place, Reader, Step};
use super::setup::{Broken, Pointer, Protocol, Setup, Source, Strategy};
use super::world::{Cache, Position, Postgres, Row, Token, Writer, lsn, position};

/// The cache serves no reader a value older than what had settled when the reader began.
pub const CACHE: &str = "no reader is served from the cache what is older than what had settled when it began";
/// The same for readers that fall back to the database.
pub const DATABASE: &str = "no reader is served by the database what is older than what had settled when it began";
/// Without this, the other properties could hold vacuously.
pub const SETTLES: &str = "everything settles, is acknowledged and is served from the cache";
/// The case in which a reader loses the race and its late value is not stored.
pub const OUTRUN: &str = "a reader is outrun: what it has still to read will not be stored";

/// The commit that is not in the stream, and the commits that are visible.
pub type Look = (Option<Position>, Row);

/// One state of the whole system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub struct State {
    pub postgres: Postgres,
    pub daemon: Daemon,
    /// Deliveries of a process that died or was replaced. The cache may still execute them, oldest first.
    pub strays: Vec<Flight>,
    pub cache: Cache,
    /// Early invalidations were sent that the cache may still execute. All of them do the same.
    pub is_early: bool,
    /// An earlier state that the cache may go back to: a file on its disk, or a replica of it that lags behind.
    pub snapshot: Option<Cache>,
    pub rolls_back_left: u8,
    /// The record that the connection has read, while it has written none since. The connection does not notice a
    /// different cache with an equal record.
    pub loaded: Option<Record>,
    /// How many faults may still happen, by kind.
    pub crashes_left: u8,
    pub faults_left: u8,
    pub leaves_left: u8,
    pub overspends_left: u8,
    /// What the catalogue showed at the last look.
    pub looked: Look,
    /// A commit that only the catalogue shows has settled before the look at the catalogue. This is possible for a
    /// second, and nothing is promised from then on.
    pub is_too_late: bool,
    /// The cache has gone back, and the daemon has not loaded its record since.
    pub is_swapped: bool,
    /// The cache has gone back, and the daemon has not withdrawn its earlier attestation.
    pub is_attested_wrongly: bool,
    /// The replica does not answer.
    pub is_away: bool,
    /// The replica has been away, and readers may not rely on it yet. Nothing is promised.
    pub is_excused: bool,
    /// In ascending order, because readers are interchangeable.
    pub readers: Vec<Reader>,
    /// The highest position that readers may know to be settled: from the daemon's watermark, from the record, or from
    /// the slot's position while the daemon attests it.
    pub promised: Position,
}

/// One step of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Commit,
    CommitUnpublished,
    Show(Position),
    Replay,
    Open,
    Decode,
    Answer,
    Turn,
    Late,
    Load,
    CarryOut,
    Refuse,
    Hear,
    Flush,
    HearOfFlush,
    TakeBack,
    Disconnect,
    Close,
    Crash,
    LandStray,
    LandEarly,
    EvictEntry(Token),
    EvictToken,
    Save,
    RollBack,
    Leave,
    Return,
    Look,
    Overspend,
    FlushManually,
    Reader(usize, Step),
}

/// The record that a process leaves after it has followed the log for a while.
fn first_record(setup: &Setup) -> Record {
    let (applied, confirmed, settled) = (lsn(0), lsn(0), lsn(0));
    let rules = Some(NEW.into());
    let new = Record { applied, confirmed, settled, system_id: SYSTEM, timeline: 1, sequence: 0, commit: None, rules };
    let mut before = Daemon::begin(setup, Postgres::default());
    daemon::open(&mut before, setup, Postgres::default(), 0);
    before.loads(setup, new.clone());
    before.turn(setup, Wait::Moment);
    let rules = before.flights.first().and_then(|flight| flight.record.as_ref()?.rules.clone());
    assert!(rules.is_some(), "the first record lists the rules");
    Record { rules, ..new }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let idle = Reader::Idle;
        let cache = Cache { entries: Vec::new(), token: None, record: first_record(self), writer: Writer::Earlier };
        let mut state = State {
            postgres: Postgres::default(),
            daemon: Daemon::begin(self, Postgres::default()),
            strays: Vec::new(),
            cache,
            is_early: false,
            snapshot: None,
            rolls_back_left: self.rolls_back,
            loaded: None,
            crashes_left: self.crashes,
            faults_left: self.faults,
            leaves_left: u8::from(self.lags),
            overspends_left: u8::from(self.overspends),
            looked: (None, Row::default()),
            is_too_late: false,
            is_swapped: false,
            is_attested_wrongly: false,
            is_away: false,
            is_excused: false,
            readers: vec![idle; usize::from(self.readers)],
            promised: 0,
        };
        daemon::open(&mut state.daemon, self, state.postgres, SEQUENCES_APART);
        state.tidy(self);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.misled().is_some() {
            return;
        }
        self.steps_of_postgres(state, actions);
        self.steps_of_daemon(state, actions);
        Self::steps_of_worker(state, actions);
        self.steps_of_cache(state, actions);
        for (index, reader) in state.readers.iter().enumerate() {
            // Readers in the same state are interchangeable, so one is enough.
            if index == 0 || state.readers[index - 1] != *reader {
                actions.extend(reader.steps(self.reads).into_iter().map(|step| Action::Reader(index, step)));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.step(&mut state, action)?;
        state.is_early |= std::mem::take(&mut state.daemon.is_early);
        state.tidy(self);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(CACHE, |_, state: &State| state.misled() != Some(Place::Cache)),
            Property::always(DATABASE, |_, state: &State| matches!(state.misled(), None | Some(Place::Cache))),
            Property::sometimes(SETTLES, |setup: &Setup, state: &State| {
                let under = if let Protocol::Pointer(_) = setup.protocol { state.cache.token } else { Some(0) };
                let entry = under.and_then(|under| state.cache.get(under));
                // The second target holds the slot, or its record proves the gap beyond the end of this log.
                let holds_slot = setup.other_is_down;
                let acknowledged = if holds_slot { setup.commits } else { state.postgres.acknowledged };
                let all = [state.promised, acknowledged] == [setup.commits; 2];
                all && entry == Some(Row::at(setup.commits))
            }),
            Property::sometimes(OUTRUN, |_, state: &State| {
                let is_outrun = |settled| settled < state.promised;
                let is_reading =
                    |reader: &Reader| matches!(reader, Reader::Missed { token: None, settled } if is_outrun(*settled));
                state.readers.iter().any(is_reading)
            }),
        ]
    }
}

impl Setup {
    fn steps_of_postgres(&self, state: &State, actions: &mut Vec<Action>) {
        let postgres = &state.postgres;
        let may_overlap = self.overlap || postgres.visible == Row::at(postgres.written);
        if postgres.written < self.commits && may_overlap {
            actions.push(Action::Commit);
            if self.drifts && postgres.unpublished.is_none() {
                actions.push(Action::CommitUnpublished);
            }
        }
        actions.extend((1..=postgres.written).filter(|n| postgres.visible.lacks(*n)).map(Action::Show));
        if self.has_replica() && postgres.replayed < postgres.written {
            actions.push(Action::Replay);
        }
        if state.is_away {
            actions.push(Action::Return);
        } else if state.leaves_left > 0 && self.is_waited_for() {
            actions.push(Action::Leave);
        }
    }

    fn steps_of_daemon(&self, state: &State, actions: &mut Vec<Action>) {
        let daemon = &state.daemon;
        if !daemon.is_open {
            actions.push(Action::Open);
        }
        if daemon.can_decode(state.postgres.written) {
            actions.push(Action::Decode);
        }
        let shows_all =
            state.postgres.visible.0 & Row::at(state.postgres.replayed).0 == Row::at(state.postgres.written).0;
        // An answer that does not show every commit makes the core invalidate early, and once more later.
        if daemon.is_asked && daemon.is_open && (self.strategy != Strategy::Once || shows_all) {
            actions.push(Action::Answer);
        }
        if self.pipelines || daemon.flights.is_empty() {
            actions.push(Action::Turn);
            if state.faults_left > 0 {
                actions.push(Action::Late);
            }
        }
        if self.drifts && state.looked != state.look() {
            actions.push(Action::Look);
        }
        if state.overspends_left > 0 && (self.other_is_down || !daemon.flights.is_empty()) {
            actions.push(Action::Overspend);
        }
        if daemon.is_halted {
            actions.push(Action::FlushManually);
        }
        if daemon.takes_back {
            actions.push(Action::TakeBack);
        }
        if self.reopens && state.faults_left > 0 && daemon.is_open {
            actions.push(Action::Close);
        }
        if state.crashes_left > 0 {
            actions.push(Action::Crash);
        }
    }

    fn steps_of_worker(state: &State, actions: &mut Vec<Action>) {
        let daemon = &state.daemon;
        if daemon.standing == Standing::Unread {
            actions.push(Action::Load);
        }
        if daemon.flights.iter().any(|flight| matches!(flight.stage, Stage::Sent | Stage::Halfway)) {
            actions.push(Action::CarryOut);
            if state.faults_left > 0 && daemon.flights.first().is_some_and(Flight::invalidates) {
                actions.push(Action::Refuse);
            }
        }
        if daemon.flights.first().is_some_and(|first| matches!(first.stage, Stage::Done(_) | Stage::Refused)) {
            actions.push(Action::Hear);
        }
        match daemon.flush.as_ref().map(|flush| flush.stage) {
            Some(Stage::Sent) => actions.push(Action::Flush),
            Some(Stage::Done(_)) => actions.push(Action::HearOfFlush),
            _ => {}
        }
        if state.faults_left > 0
            && (!daemon.flights.is_empty() || daemon.flush.is_some())
            && daemon.standing == Standing::Working
        {
            actions.push(Action::Disconnect);
        }
        if !state.strays.is_empty() {
            actions.push(Action::LandStray);
        }
        if state.is_early {
            actions.push(Action::LandEarly);
        }
    }

    fn steps_of_cache(&self, state: &State, actions: &mut Vec<Action>) {
        if self.evicts {
            actions.extend(state.cache.entries.iter().map(|(name, _)| Action::EvictEntry(*name)));
            let evicts_token = self.protocol != Protocol::Pointer(Pointer::ToCommit);
            if state.cache.token.is_some() && evicts_token {
                actions.push(Action::EvictToken);
            }
        }
        if state.rolls_back_left > 0 {
            actions.push(if state.snapshot.is_some() { Action::RollBack } else { Action::Save });
        }
    }

    fn has_replica(&self) -> bool {
        self.is_listed || self.source == Source::Standby
    }

    /// Takes the step. Returns `None` if it turns out to be impossible.
    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        let clock = state.latest_sequence() + SEQUENCES_APART;
        state.uses_up(action);
        let State { postgres, daemon, .. } = state;
        match action {
            Action::Commit => postgres.written += 1,
            Action::CommitUnpublished => {
                postgres.written += 1;
                postgres.unpublished = Some(postgres.written);
            }
            Action::Look => {
                daemon.looks(self, *postgres, None);
                state.looked = state.look();
            }
            Action::Overspend => daemon.overspends(self, *postgres),
            Action::FlushManually => daemon.flushed_manually(self),
            Action::Show(n) => postgres.visible.0 |= 1 << (n - 1),
            Action::Replay => postgres.replayed += 1,
            Action::Open => daemon::open(daemon, self, *postgres, clock),
            Action::Decode => daemon.decode(self, *postgres),
            Action::Answer => daemon.answered(self, self.snapshot(*postgres)),
            Action::Turn => self.turn(state, Wait::Moment),
            Action::Late => self.turn(state, Wait::Late),
            Action::Load => self.load(state),
            Action::CarryOut => self.carry_out(state, true),
            Action::Refuse => self.carry_out(state, false),
            Action::Hear => daemon.hears(self),
            Action::Flush => {
                if !std::mem::take(&mut daemon.skips_flush) {
                    self.invalidate(state);
                }
                state.daemon.flush.as_mut()?.stage = Stage::Done(true);
            }
            Action::HearOfFlush => daemon.hears_of_flush(self),
            Action::TakeBack => {
                (daemon.attests, daemon.takes_back) = (false, false);
                daemon.step(self, Wait::Moment, Input::Attested(None));
            }
            Action::Disconnect => daemon.fails(self, true),
            Action::Close => {
                (daemon.is_open, daemon.is_asked) = (false, false);
                daemon.step(self, Wait::Moment, Input::StreamClosed);
            }
            Action::Crash => self.crash(state),
            Action::LandStray => self.land(state),
            Action::LandEarly => {
                state.is_early = false;
                self.invalidate(state);
            }
            Action::EvictEntry(name) => state.cache.remove(name),
            Action::EvictToken => state.cache.token = None,
            Action::Save => state.snapshot = Some(state.cache.clone()),
            Action::RollBack => self.roll_back(state)?,
            Action::Leave => {
                (state.is_away, state.is_excused) = (true, true);
                daemon.turn(self, Wait::Long);
            }
            Action::Return => {
                state.is_away = false;
                let replayed = if self.is(Broken::OneFlushOnReturn) { postgres.written } else { postgres.replayed };
                daemon.hears_replica(self, replayed);
            }
            Action::Reader(index, step) => self.step_of_reader(state, index, step),
        }
        Some(())
    }

    /// The core runs. It knows how far the replica has replayed.
    fn turn(&self, state: &mut State, wait: Wait) {
        if self.is_waited_for() && !state.is_away {
            state.daemon.hears_replica(self, state.postgres.replayed);
        }
        state.daemon.turn(self, wait);
        // Otherwise the attestation is being withdrawn.
        state.is_attested_wrongly &= state.is_swapped || state.daemon.takes_back;
    }

    fn snapshot(&self, postgres: Postgres) -> Snapshot {
        let both = Row(postgres.visible.0 & Row::at(postgres.replayed).0);
        match self.source {
            Source::Primary if self.is_ungated() => postgres.snapshot(Row::at(postgres.written)),
            Source::Primary if self.strategy == Strategy::Once => postgres.snapshot(both),
            Source::Primary => postgres.snapshot(postgres.visible),
            Source::Standby => Snapshot::Standby(lsn(postgres.replayed)),
        }
    }

    fn crash(&self, state: &mut State) {
        if self.strays {
            let sent = state.daemon.flights.drain(..).filter(|flight| flight.stage == Stage::Sent).collect::<Vec<_>>();
            state.strays = if sent.is_empty() { std::mem::take(&mut state.strays) } else { sent };
        }
        state.daemon = Daemon::begin(self, state.postgres);
        state.looked = state.look();
        let clock = state.latest_sequence() + SEQUENCES_APART;
        daemon::open(&mut state.daemon, self, state.postgres, clock);
        if self.is(Broken::ForgetsWhoLeft) {
            state.cache.record.rules = Some(NEW.into());
        }
    }

    /// The worker loads the record, and its connection becomes the record's writer.
    fn load(&self, state: &mut State) {
        let mut record = state.cache.record.clone();
        if self.is(Broken::ReconciledByApplied) {
            (record.confirmed, record.settled) = (record.applied, record.applied);
        }
        (state.cache.writer, state.is_swapped) = (Writer::Present, false);
        state.loaded = Some(state.cache.record.clone());
        // Earlier writers may no longer write, not even to the state that may be restored.
        state.strays.iter_mut().for_each(|stray| stray.record = None);
        state.strays.retain(Flight::invalidates);
        if let Some(snapshot) = &mut state.snapshot {
            snapshot.writer = Writer::Earlier;
        }
        state.daemon.loads(self, record);
    }

    /// The cache executes the next delivery.
    fn carry_out(&self, state: &mut State, obeys: bool) {
        let next = |flight: &Flight| matches!(flight.stage, Stage::Sent | Stage::Halfway);
        let Some(place) = state.daemon.flights.iter().position(next) else { return };
        let mut flight = state.daemon.flights[place].clone();
        let in_halves = self.is(Broken::LeaseAfterKey) && flight.invalidates();
        if obeys && in_halves && flight.stage == Stage::Sent {
            state.daemon.flights[place].stage = Stage::Halfway;
            return state.cache.remove(0);
        }
        // A flush takes long, and the record is written after it.
        let flushes = flight.flushes();
        if obeys && flushes && flight.stage == Stage::Sent {
            state.daemon.flights[place].stage = Stage::Halfway;
            return self.invalidate(state);
        }
        match (obeys, in_halves) {
            (true, _) if flushes => {}
            (true, true) => state.cache.token = None,
            (true, false) if flight.invalidates() => self.invalidate(state),
            (true | false, _) => {}
        }
        let is_written = self.write(state, flight.record.as_ref());
        flight.stage = if obeys || !is_written { Stage::Done(is_written) } else { Stage::Refused };
        state.daemon.flights[place] = flight;
    }

    /// Writes the record if its connection has read it. Returns whether it did.
    fn write(&self, state: &mut State, record: Option<&Record>) -> bool {
        let Some(record) = record else { return true };
        let is_known = state.cache.writer == Writer::Present || state.loaded.as_ref() == Some(&state.cache.record);
        if !is_known && !self.is(Broken::NoComparison) && !self.is(Broken::NoRepair) {
            return false;
        }
        if state.loaded.take().is_some() && state.cache.writer == Writer::Earlier {
            // The cache went back unnoticed.
            (state.cache.writer, state.is_swapped) = (Writer::Present, false);
        }
        let before = std::mem::replace(&mut state.cache.record, record.clone());
        let now = &mut state.cache.record;
        now.commit = now.commit.or(before.commit);
        now.rules = now.rules.take().or(before.rules);
        if self.is(Broken::RecordAheadOfItself) {
            (now.confirmed, now.settled) = (now.applied, now.applied);
        }
        true
    }

    /// The cache executes what a dead process had sent.
    fn land(&self, state: &mut State) {
        let stray = state.strays.remove(0);
        if stray.invalidates() {
            self.invalidate(state);
        }
        self.write(state, stray.record.as_ref());
    }

    fn invalidate(&self, state: &mut State) {
        match self.protocol {
            Protocol::Plain => state.cache.remove(0),
            Protocol::Lease => {
                state.cache.remove(0);
                state.cache.token = state.cache.token.filter(|_| self.is(Broken::LeaseStays));
            }
            Protocol::Pointer(Pointer::Advances) => state.cache.token = Some(state.unused_token()),
            Protocol::Pointer(Pointer::ToCommit) => {
                let upto = position(state.daemon.core.decoded());
                state.cache.token = state.cache.token.max(Some(upto));
            }
        }
    }
}
