//! Brings states that no step can tell apart into one form, and computes what readers may know in each.

use coherd::types::record::Record;

use super::reader::{Place, Reader};
use super::setup::{Broken, FOR_EVER, Pointer, Protocol, Setup};
use super::system::{Action, Look, State};
use super::world::{Token, position};

/// The distance between two sequences, so that new ones can lie between those that are known.
pub const SEQUENCES_APART: u64 = 16;

impl State {
    /// Where a reader got a value that is too old.
    pub fn misled(&self) -> Option<Place> {
        self.readers.iter().find_map(|reader| if let Reader::Misled(place) = reader { Some(*place) } else { None })
    }

    /// A token that no reader can confuse with another: a nonce, or a pointer's clock.
    pub fn unused_token(&self) -> Token {
        let is_used = |token: &Token| self.stands(*token) || self.cache.get(*token).is_some();
        let is_held = |token: &Token| self.readers.iter().any(|reader| reader.token() == Some(*token));
        (0..=Token::MAX).find(|token| !is_used(token) && !is_held(token)).unwrap_or_default()
    }

    /// Whether the token exists in the cache, or may exist again.
    fn stands(&self, token: Token) -> bool {
        let saved = self.snapshot.as_ref().and_then(|snapshot| snapshot.token);
        [self.cache.token, saved].contains(&Some(token))
    }

    /// What the catalogue shows at present.
    pub fn look(&self) -> Look {
        (self.postgres.unpublished, self.postgres.visible)
    }

    pub fn uses_up(&mut self, action: Action) {
        let left = match action {
            Action::Crash => &mut self.crashes_left,
            Action::Late | Action::Refuse | Action::Disconnect | Action::Close => &mut self.faults_left,
            Action::Leave => &mut self.leaves_left,
            Action::Overspend => &mut self.overspends_left,
            _ => return,
        };
        if *left < FOR_EVER {
            *left = left.saturating_sub(1);
        }
    }

    fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        let flights = self.daemon.flights.iter_mut().chain(&mut self.strays);
        let caches = [&mut self.cache].into_iter().chain(&mut self.snapshot);
        let records = flights.filter_map(|flight| flight.record.as_mut()).chain(caches.map(|cache| &mut cache.record));
        records.chain(&mut self.loaded)
    }

    pub fn latest_sequence(&mut self) -> u64 {
        let records = self.records_mut().map(|record| record.sequence).max();
        let known = self.daemon.core.sequences_mut().map(|sequence| *sequence).filter(|its| *its < u64::MAX).max();
        records.max(known).unwrap_or(0)
    }

    /// Renumbers the sequences. Only their order matters.
    fn renumber(&mut self) {
        let mut known: Vec<u64> = self.daemon.core.sequences_mut().map(|sequence| *sequence).collect();
        known.extend(self.records_mut().map(|record| record.sequence));
        known.retain(|sequence| ![0, u64::MAX].contains(sequence));
        known.sort_unstable();
        known.dedup();
        let number = |sequence: &mut u64| {
            if let Ok(place) = known.binary_search(sequence) {
                *sequence = (place as u64 + 1) * SEQUENCES_APART;
            }
        };
        self.daemon.core.sequences_mut().for_each(number);
        self.records_mut().for_each(|record| number(&mut record.sequence));
    }

    /// Records what readers may know by now, and normalizes the state.
    pub fn tidy(&mut self, setup: &Setup) {
        self.postgres.acknowledged = self.postgres.acknowledged.max(self.daemon.acknowledging);
        if setup.is(Broken::AcknowledgesEarly) {
            self.postgres.acknowledged = position(self.daemon.core.decoded());
        }
        self.is_attested_wrongly = self.daemon.attests && (self.is_attested_wrongly || self.is_swapped);
        if !self.is_swapped {
            self.promised = self.promised.max(self.daemon.settled());
            if self.daemon.attests && !self.is_attested_wrongly {
                self.promised = self.promised.max(self.postgres.acknowledged);
            }
        }
        self.promised = self.promised.max(position(self.cache.record.settled));
        let is_unseen = self.postgres.unpublished.filter(|_| self.looked.0 != self.postgres.unpublished);
        self.is_too_late |= is_unseen.is_some_and(|unseen| self.promised >= unseen);
        self.is_excused &= self.is_away || !self.daemon.is_held;
        self.renumber();
        if setup.protocol != Protocol::Plain && !setup.is(Broken::PointerReborn) {
            self.forget_dead_tokens(setup.protocol);
        }
        if setup.protocol == Protocol::Pointer(Pointer::Advances) && !setup.is(Broken::PointerReborn) {
            self.rename_pointers();
        }
        self.readers.sort_unstable();
    }
    /// Drops entries that no reader can reach: the token neither exists nor is known to a reader that has yet to look.
    fn forget_dead_tokens(&mut self, protocol: Protocol) {
        let saved = self.snapshot.as_ref().and_then(|snapshot| snapshot.token);
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
                snapshot.entries.retain(|(name, _)| counting.contains(name));
            }
        }
    }

    /// Renames the pointers, because only their equality matters. The present one becomes 0, the saved one follows,
    /// then the others, ordered by what is stored under them and by the readers that know them.
    fn rename_pointers(&mut self) {
        let saved = self.snapshot.as_ref();
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
        for cache in [Some(&mut self.cache), self.snapshot.as_mut()].into_iter().flatten() {
            cache.token = cache.token.map(rename);
            cache.entries.iter_mut().for_each(|(name, _)| *name = rename(*name));
            cache.entries.sort_unstable();
        }
        self.readers.iter_mut().for_each(|reader| *reader = reader.renamed(rename));
    }
}
