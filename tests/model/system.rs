//! All of it together: the states, what may happen in each, and what must hold.

use stateright::{Model, Property};

use super::daemon::{Daemon, Delivery, Stage};
use super::reader::{Place, Reader, Step};
use super::setup::{Broken, Pointer, Protocol, Setup, Source};
use super::world::{Cache, Position, Postgres, Row, Snapshot, Token};
use coherd::lsn::Lsn;
use coherd::sight::Sight;

/// No reader is served from the cache what is older than what had settled when it began.
pub const CACHE: &str = "no reader is served from the cache what is older than what had settled when it began";
/// The same for those who fall back to the database.
pub const DATABASE: &str = "no reader is served by the database what is older than what had settled when it began";
/// Without this the others would say nothing.
pub const SETTLES: &str = "everything settles, is acknowledged and is served from the cache";
/// The race that is won.
pub const OUTRUN: &str = "a reader is outrun: what it has still to read will not be stored";

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub postgres: Postgres,
    pub daemon: Daemon,
    /// A delivery of a process that died, which the cache may still carry out.
    pub stray: Option<Delivery>,
    pub cache: Cache,
    pub snapshot: Option<Snapshot>,
    pub has_rolled_back: bool,
    /// The replica is not waited for: what it had replayed when it left.
    pub left: Option<Position>,
    /// The replica has been away, and what its readers may have stored is not made up for: nothing is promised.
    pub is_excused: bool,
    /// In ascending order: who is who does not matter.
    pub readers: Vec<Reader>,
    /// What readers may know to be settled: from the daemon's watermark or from the record, the higher of both.
    pub promised: Position,
}

/// One step of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Commit,
    Show(Position),
    Replay,
    Decode,
    Ask,
    Answer,
    Late,
    Send,
    CarryOut,
    Refuse,
    Hear,
    Acknowledge,
    Disconnect,
    Crash,
    Judge,
    LandStray,
    EvictEntry(Token),
    EvictToken,
    Save,
    RollBack,
    Leave,
    Return,
    Reader(usize, Step),
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let idle = Reader::Idle;
        vec![State {
            postgres: Postgres::default(),
            daemon: Daemon::begin(0),
            stray: None,
            cache: Cache::default(),
            snapshot: None,
            has_rolled_back: false,
            left: None,
            is_excused: false,
            readers: vec![idle; usize::from(self.readers)],
            promised: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.misled().is_some() {
            return;
        }
        self.steps_of_postgres(state, actions);
        self.steps_of_daemon(state, actions);
        self.steps_of_cache(state, actions);
        for (index, reader) in state.readers.iter().enumerate() {
            // Of readers in the same place one is enough.
            if index == 0 || state.readers[index - 1] != *reader {
                actions.extend(reader.steps(self.reads).into_iter().map(|step| Action::Reader(index, step)));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.step(&mut state, action)?;
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
                let all = [state.promised, state.postgres.acknowledged] == [setup.commits; 2];
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
        }
        actions.extend((1..=postgres.written).filter(|n| postgres.visible.lacks(*n)).map(Action::Show));
        if self.has_replica() && postgres.replayed < postgres.written {
            actions.push(Action::Replay);
            if self.lags && state.left.is_none() {
                actions.push(Action::Leave);
            }
        }
        if state.left.is_some() && state.daemon.is_judged {
            actions.push(Action::Return);
        }
    }

    fn steps_of_daemon(&self, state: &State, actions: &mut Vec<Action>) {
        let daemon = &state.daemon;
        if !daemon.is_judged {
            actions.push(Action::Judge);
        }
        if daemon.can_decode(state.postgres.written) {
            actions.push(Action::Decode);
        }
        if daemon.visibility.is_probing() {
            actions.push(Action::Answer);
        }
        if self.faults && daemon.can_be_late() {
            actions.push(Action::Late);
        }
        actions.extend([Action::Ask, Action::Send]);
        match &daemon.delivery {
            Some(Delivery { stage: Stage::Sent | Stage::Halfway, upto, .. }) => {
                actions.push(Action::CarryOut);
                if self.faults && upto.is_some() {
                    actions.push(Action::Refuse);
                }
            }
            Some(_) => actions.push(Action::Hear),
            None => {}
        }
        if self.faults && daemon.delivery.is_some() {
            actions.push(Action::Disconnect);
        }
        if daemon.acknowledgeable(self) > state.postgres.acknowledged {
            actions.push(Action::Acknowledge);
        }
        if self.crashes {
            actions.push(Action::Crash);
        }
        if state.stray.is_some() {
            actions.push(Action::LandStray);
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
        if self.rolls_back && !state.has_rolled_back {
            actions.push(if state.snapshot.is_some() { Action::RollBack } else { Action::Save });
        }
    }

    fn has_replica(&self) -> bool {
        self.is_listed || self.source == Source::Standby
    }

    /// Takes the step; `None` where it turns out to be none.
    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        let State { postgres, daemon, .. } = state;
        match action {
            Action::Commit => postgres.written += 1,
            Action::Show(n) => postgres.visible.0 |= 1 << (n - 1),
            Action::Replay => postgres.replayed += 1,
            Action::Decode => daemon.decode(self),
            Action::Ask => return daemon.ask().then_some(()),
            Action::Answer => daemon.answered(self, self.sight(*postgres)),
            Action::Late => daemon.is_late(self),
            Action::Send => {
                let is_waited_for = self.is_listed && state.left.is_none();
                let replayed = if is_waited_for { postgres.replayed } else { Position::MAX };
                return daemon.send(self, replayed).then_some(());
            }
            Action::CarryOut => self.carry_out(state, true),
            Action::Refuse => self.carry_out(state, false),
            Action::Hear => {
                daemon.hears(false);
                if let Some(snapshot) = &mut state.snapshot {
                    snapshot.cache.record.is_older |= snapshot.is_behind;
                }
            }
            Action::Acknowledge => postgres.acknowledged = daemon.acknowledgeable(self),
            Action::Disconnect => {
                daemon.hears(true);
            }
            Action::Crash => self.crash(state),
            Action::Judge => daemon.judge(self, *postgres, &state.cache),
            Action::LandStray => {
                let stray = state.stray.take()?;
                self.strike(state, &stray);
                state.cache.record.is_older = state.daemon.is_acquainted();
            }
            Action::EvictEntry(name) => state.cache.remove(name),
            Action::EvictToken => state.cache.token = None,
            Action::Save => state.snapshot = Some(Snapshot { cache: state.cache.clone(), is_behind: false }),
            Action::RollBack => {
                state.cache = state.snapshot.take()?.cache;
                state.has_rolled_back = true;
                (state.stray, state.promised) = (None, state.cache.record.settled);
                daemon.hears(true);
                daemon.is_judged = self.is(Broken::NoHealing);
            }
            Action::Leave => (state.left, state.is_excused) = (Some(postgres.replayed), true),
            Action::Return => {
                let since = state.left.take()?;
                if !self.is(Broken::NoFlushOnReturn) {
                    daemon.make_up(self, since);
                }
            }
            Action::Reader(index, step) => self.step_of_reader(state, index, step),
        }
        Some(())
    }

    fn sight(&self, postgres: Postgres) -> Sight {
        match self.source {
            Source::Primary => postgres.snapshot(),
            Source::Standby => Sight::Standby(Lsn::new(u64::from(postgres.replayed) * 10)),
        }
    }

    fn crash(&self, state: &mut State) {
        if self.strays {
            state.stray = state.daemon.delivery.filter(|delivery| delivery.stage == Stage::Sent).or(state.stray);
        }
        state.daemon = Daemon::begin(state.postgres.acknowledged);
        // Which replicas a record vouches for stands in it. Another one is taken to have been away from the beginning.
        state.left = (state.is_excused && !self.is(Broken::ForgetsWhoLeft)).then_some(0);
    }

    /// The cache does what the delivery says.
    fn carry_out(&self, state: &mut State, obeys: bool) {
        let Some(mut delivery) = state.daemon.delivery else { return };
        let in_halves = self.is(Broken::LeaseAfterKey) && delivery.upto.is_some();
        delivery.stage = match (obeys, delivery.stage) {
            (false, _) => Stage::Refused,
            (true, Stage::Sent) if in_halves => Stage::Halfway,
            (true, _) => Stage::Done,
        };
        match delivery.stage {
            Stage::Halfway => state.cache.remove(0),
            Stage::Done if in_halves => (state.cache.token, state.cache.record) = (None, delivery.record),
            Stage::Refused => state.cache.record = delivery.record,
            _ => self.strike(state, &delivery),
        }
        state.daemon.delivery = Some(delivery);
        if let Some(snapshot) = &mut state.snapshot {
            snapshot.is_behind = true;
        }
    }

    fn strike(&self, state: &mut State, delivery: &Delivery) {
        if let Some(upto) = delivery.upto {
            match self.protocol {
                Protocol::Plain => state.cache.remove(0),
                Protocol::Lease => {
                    state.cache.remove(0);
                    state.cache.token = state.cache.token.filter(|_| self.is(Broken::LeaseStays));
                }
                Protocol::Pointer(Pointer::Advances) => state.cache.token = Some(state.unused_token()),
                Protocol::Pointer(Pointer::ToCommit) => {
                    state.cache.token = state.cache.token.max(Some(upto));
                }
            }
        }
        state.cache.record = delivery.record;
    }

    fn step_of_reader(&self, state: &mut State, index: usize, step: Step) {
        let settled = if state.is_excused { 0 } else { state.promised };
        let reader = state.readers[index];
        state.readers[index] = match (reader, step) {
            (Reader::Idle, Step::Begin) => match self.protocol {
                Protocol::Pointer(_) => Reader::Knows { pointer: self.lease_or_pointer(state), settled },
                Protocol::Plain | Protocol::Lease => self.look(state, 0, settled),
            },
            (Reader::Knows { pointer, settled }, Step::Look) => self.look(state, pointer, settled),
            (Reader::Missed { token, settled }, Step::Read(place)) => {
                let replica = Row::at(state.postgres.replayed);
                let row = if place == Place::Replica { replica } else { state.postgres.visible };
                if row.is_older_than(settled) { Reader::Misled(place) } else { Reader::has_read(token, row) }
            }
            (Reader::Holds { token, row }, Step::Store) => {
                match self.protocol {
                    Protocol::Lease if state.cache.token != Some(token) => {}
                    Protocol::Plain | Protocol::Lease => state.cache.put(0, row),
                    Protocol::Pointer(_) => state.cache.put(token, row),
                }
                Reader::Idle
            }
            _ => Reader::Idle,
        };
    }

    fn look(&self, state: &mut State, under: Token, settled: Position) -> Reader {
        match state.cache.get(under) {
            Some(row) if row.is_older_than(settled) => Reader::Misled(Place::Cache),
            Some(_) => Reader::Idle,
            None => {
                let token = if self.protocol == Protocol::Lease { self.lease_or_pointer(state) } else { under };
                Reader::Missed { token: Some(token), settled }
            }
        }
    }

    /// The lease that stands, or the pointer; made where there is none. A follower gets the lease of the first.
    fn lease_or_pointer(&self, state: &mut State) -> Token {
        let from_the_bottom = self.is(Broken::PointerReborn) || self.protocol == Protocol::Pointer(Pointer::ToCommit);
        let new = if from_the_bottom { 0 } else { state.unused_token() };
        *state.cache.token.get_or_insert(new)
    }
}

impl State {
    /// Where a reader got what it should not have.
    pub fn misled(&self) -> Option<Place> {
        self.readers.iter().find_map(|reader| if let Reader::Misled(place) = reader { Some(*place) } else { None })
    }

    /// A token that nobody can take for another: a nonce, or a pointer's clock.
    fn unused_token(&self) -> Token {
        let is_used = |token: &Token| self.stands(*token) || self.cache.get(*token).is_some();
        let is_held = |token: &Token| self.readers.iter().any(|reader| reader.token() == Some(*token));
        (0..=Token::MAX).find(|token| !is_used(token) && !is_held(token)).unwrap_or_default()
    }

    /// Whether the token stands in the cache, or may again.
    fn stands(&self, token: Token) -> bool {
        let saved = self.snapshot.as_ref().and_then(|snapshot| snapshot.cache.token);
        [self.cache.token, saved].contains(&Some(token))
    }

    /// Notes what readers may know by now, and brings states that nobody can tell apart into one form.
    fn tidy(&mut self, setup: &Setup) {
        if self.daemon.is_judged {
            self.promised = self.promised.max(self.daemon.settled());
        }
        self.promised = self.promised.max(self.cache.record.settled);
        if self.is_excused && self.left.is_none() && self.daemon.is_judged {
            self.is_excused = self.daemon.settled() < self.promised;
        }
        if setup.protocol != Protocol::Plain && !setup.is(Broken::PointerReborn) {
            self.forget_dead_tokens(setup.protocol);
        }
        if setup.protocol == Protocol::Pointer(Pointer::Advances) && !setup.is(Broken::PointerReborn) {
            self.rename_pointers();
        }
        self.readers.sort_unstable();
    }

    /// What is stored under a token that neither stands nor is known to somebody who has still to look is never read.
    fn forget_dead_tokens(&mut self, protocol: Protocol) {
        let saved = self.snapshot.as_ref().and_then(|snapshot| snapshot.cache.token);
        let known = self.readers.iter().filter_map(|reader| reader.known());
        let counting: Vec<Token> = known.chain(self.cache.token).chain(saved).collect();
        for reader in &mut self.readers {
            if reader.token().is_some_and(|token| !counting.contains(&token)) {
                *reader = reader.bereft();
            }
        }
        if protocol != Protocol::Lease {
            self.cache.entries.retain(|(name, _)| counting.contains(name));
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.cache.entries.retain(|(name, _)| counting.contains(name));
            }
        }
    }

    /// The values of pointers matter only in so far as they are the same: the one that stands is 0, the one that was
    /// saved follows, then the others, ordered by what is stored under them and who knows them.
    fn rename_pointers(&mut self) {
        let saved = self.snapshot.as_ref().map(|snapshot| &snapshot.cache);
        let mut names: Vec<Token> = self.readers.iter().filter_map(|reader| reader.token()).collect();
        names.extend([self.cache.token, saved.and_then(|cache| cache.token)].into_iter().flatten());
        names.sort_unstable();
        names.dedup();
        names.sort_by_cached_key(|name| {
            let known = self.readers.iter().filter(|reader| reader.token() == Some(*name));
            let mut known: Vec<Reader> = known.map(|reader| reader.renamed(|_| 0)).collect();
            known.sort_unstable();
            let stands = [self.cache.token, saved.and_then(|cache| cache.token)].map(|token| token != Some(*name));
            (stands, self.cache.get(*name), saved.and_then(|cache| cache.get(*name)), known)
        });
        let rename =
            |name: Token| (0..).zip(&names).find_map(|(new, old)| (*old == name).then_some(new)).unwrap_or(name);
        for cache in
            [Some(&mut self.cache), self.snapshot.as_mut().map(|snapshot| &mut snapshot.cache)].into_iter().flatten()
        {
            cache.token = cache.token.map(rename);
            cache.entries.iter_mut().for_each(|(name, _)| *name = rename(*name));
            cache.entries.sort_unstable();
        }
        self.readers.iter_mut().for_each(|reader| *reader = reader.renamed(rename));
    }
}
