//! Flushing scopes: every key they cover, found by `SCAN`, at a pace that leaves the server to its other clients.
//!
//! A pass over the keyspace costs as much for forty scopes as for one, because what matches is decided here ([`Stars`]). So
//! all scopes of a delivery share one pass, and a second one before it where readers hold leases.
//!
//! `SCAN` returns every key that is there from its first call to its last (Redis manual, "SCAN", "guarantees"). A key
//! filled later was read from the database later, unless its reader holds a lease from before. So leases go first, those of
//! all scopes: what an old lease let in is then there before the keys' own pass begins, and whoever is granted a lease since
//! reads the database since. In one pass for both, an old lease could fill behind the sweep.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::Redis;
use super::connection::Connected;
use super::invalidation::{COMMAND_KEYS_MAX, LEASE_SUFFIX, Naming, POINTER_SUFFIX, Salvo, publish, unlink};
use super::reply::{Step, Tally, broken, refused, unexpected};
use super::script::Script;
use super::stars::{Stars, beginning};
use crate::targets::Fault;
use crate::types::invalidation::{Action, Scope};

/// How many keys one `SCAN` looks at: about 0.3 ms of the server's time. Fewer where keys are so long that the reply is
/// more than coherd takes (`bounds`).
pub(super) const SCAN_KEYS: u32 = 1000;

/// Keeps to a number of keys a second.
struct Pace {
    began: Instant,
    keys: u64,
    keys_per_second: NonZeroU32,
}

impl Pace {
    fn new(keys_per_second: NonZeroU32) -> Self {
        Pace { began: Instant::now(), keys: 0, keys_per_second }
    }

    /// The most keys of one command: a twentieth of a second's, so that a slow pace is even too.
    fn command_keys(&self) -> usize {
        usize::try_from(self.keys_per_second.get() / 20).unwrap_or(COMMAND_KEYS_MAX).clamp(1, COMMAND_KEYS_MAX)
    }

    /// Waits until `more` keys may follow those before.
    async fn admit(&mut self, more: usize) {
        let due = Duration::from_nanos(self.keys.saturating_mul(1_000_000_000) / u64::from(self.keys_per_second.get()));
        tokio::time::sleep_until(self.began + due).await;
        self.keys += more as u64;
    }
}

/// What a pass looks for.
struct Aim {
    /// The scope's place in the batch.
    scope: usize,
    pattern: Vec<u8>,
    /// `None` where only Redis can tell.
    stars: Option<Stars>,
    step: Step,
}

impl Aim {
    fn new(scope: usize, step: Step, pattern: String) -> Aim {
        let pattern = pattern.into_bytes();
        Aim { scope, stars: Stars::read(&pattern), pattern, step }
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.stars.as_ref().is_some_and(|stars| stars.cover(key))
    }
}

/// The leases of `scopes`, and what is removed or moved after them.
fn aims(scopes: &[Scope], leases: bool) -> [Vec<Aim>; 2] {
    let [mut first, mut then] = [Vec::new(), Vec::new()];
    for (place, Scope { action, pattern }) in scopes.iter().enumerate() {
        match action {
            Action::Delete => {
                if leases {
                    let of_either_form = [format!("{pattern}{LEASE_SUFFIX}"), format!("{{{pattern}}}{LEASE_SUFFIX}")];
                    first.extend(of_either_form.map(|leases| Aim::new(place, Step::UnlinkLeases, leases)));
                }
                then.push(Aim::new(place, Step::Unlink, pattern.to_string()));
            }
            Action::Bump => then.push(Aim::new(place, Step::Bump, format!("{pattern}{POINTER_SUFFIX}"))),
            Action::Publish => {}
        }
    }
    // A pointer that a scope removes need not move.
    then.sort_by_key(|aim| aim.step == Step::Bump);
    [first, then]
}

impl Redis {
    /// Flushes every scope. An `Err` is a lost connection; refusals are in the tally.
    pub(super) async fn sweep_scopes(
        &self,
        connected: &Connected,
        scopes: &[Scope],
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        for Scope { pattern, .. } in scopes.iter().filter(|scope| scope.action == Action::Publish) {
            let command = publish(&self.scopes_channel, pattern.as_bytes());
            self.ask(connected, Step::Publish, command, tally).await?;
        }
        let mut pace = Pace::new(self.flush_keys_per_second);
        for aims in aims(scopes, self.leases) {
            let (alone, together): (Vec<Aim>, Vec<Aim>) = aims.into_iter().partition(|aim| aim.stars.is_none());
            for aim in alone {
                let pattern = aim.pattern.clone();
                self.sweep(connected, &mut pace, &[aim], Some(&pattern), tally).await?;
            }
            let common = match together.as_slice() {
                [] => continue,
                [only] => Some(only.pattern.clone()),
                many => beginning(many.iter().filter_map(|aim| aim.stars.as_ref()).map(Stars::prefix)),
            };
            self.sweep(connected, &mut pace, &together, common.as_deref(), tally).await?;
        }
        Ok(())
    }

    /// One pass over the keys that `matching` lets through. Where there is one aim only, those are its keys.
    async fn sweep(
        &self,
        connected: &Connected,
        pace: &mut Pace,
        aims: &[Aim],
        matching: Option<&[u8]>,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        let mut cursor = Vec::from(*b"0");
        // Of either kind, with the places of their scopes; never more than one SCAN brings and one command takes.
        let (mut removed, mut moved) = (Vec::new(), (Vec::new(), Vec::new()));
        let remove = aims.first().map_or(Step::Unlink, |aim| aim.step);
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(&cursor);
            if let Some(matching) = matching {
                scan.arg("MATCH").arg(matching);
            }
            scan.arg("COUNT").arg(self.scan_keys.load(Ordering::Relaxed));
            let keys;
            (cursor, keys) = self.scan(connected, &scan).await?;
            // A scope may cover the record, which is no cached value and which the delivery ends with.
            for key in keys.into_iter().filter(|key| key != self.record_key.as_bytes()) {
                match aims.iter().find(|aim| aims.len() == 1 || aim.covers(&key)) {
                    Some(Aim { step: Step::Bump, scope, .. }) => {
                        moved.0.push(key);
                        moved.1.push(*scope);
                    }
                    Some(_) => removed.push(key),
                    None => {}
                }
            }
            let is_over = cursor == b"0";
            let most = pace.command_keys();
            while removed.len() >= most || (is_over && !removed.is_empty()) {
                let keys: Vec<Vec<u8>> = removed.drain(..most.min(removed.len())).collect();
                pace.admit(keys.len()).await;
                self.ask(connected, remove, unlink(&keys), tally).await?;
            }
            while moved.0.len() >= most || (is_over && !moved.0.is_empty()) {
                let now = most.min(moved.0.len());
                let keys: Vec<Vec<u8>> = moved.0.drain(..now).collect();
                let scopes: Vec<usize> = moved.1.drain(..now).collect();
                pace.admit(keys.len()).await;
                self.bump_pointers(connected, &keys, &scopes, tally).await?;
            }
            if is_over || tally.fault.is_some() {
                return Ok(());
            }
        }
    }

    /// Moves the pointers of a flush on; `scopes` are the places of their scopes.
    async fn bump_pointers(
        &self,
        connected: &Connected,
        pointers: &[Vec<u8>],
        scopes: &[usize],
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        // Whole: a flush is rare, and the name may be unknown.
        let command = Script::Unknown.call(pointers, Naming::OfPointer, self.version_ttl_ms);
        self.ask(connected, Step::Bump, command, tally).await?;
        // The places are those in this command, and not in the batch.
        tally.bumps = 0;
        for place in std::mem::take(&mut tally.gave_way) {
            if let Some(scope) = scopes.get(place)
                && !tally.scopes_gave_way.contains(scope)
            {
                tally.scopes_gave_way.push(*scope);
            }
        }
        Ok(())
    }

    pub(super) async fn scan(&self, connected: &Connected, scan: &Cmd) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
        let reply = connected.connection.clone().send_packed_command(scan).await;
        let reply = reply.map_err(|error| {
            if connected.ended.get().is_some() {
                let fewer = |keys: u32| Some((keys / 4).max(1));
                let _ = self.scan_keys.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
            }
            broken(&self.line.place, Step::Scan.command(), &error)
        })?;
        if let Value::ServerError(error) = &reply {
            return Err(refused(&self.line.place, Step::Scan, error));
        }
        redis::from_redis_value(reply).map_err(|_| unexpected(&self.line.place, Step::Scan))
    }

    /// One command, its reply looked at.
    async fn ask(&self, connected: &Connected, step: Step, command: Cmd, tally: &mut Tally) -> Result<(), Fault> {
        let mut salvo = Salvo::default();
        salvo.push(step, command);
        let replies = connected.connection.clone().send_packed_commands(&salvo.pipeline, 0, 1).await;
        let replies = replies.map_err(|error| broken(&self.line.place, step.command(), &error))?;
        tally.read(&self.line.place, &salvo.steps, &replies);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_kept_whatever_the_size_of_the_commands() {
        for keys_per_second in [10, 50_000] {
            let mut pace = Pace::new(NonZeroU32::new(keys_per_second).unwrap());
            let began = Instant::now();
            let mut keys = 0;
            while keys < keys_per_second as usize * 10 {
                let more = pace.command_keys();
                pace.admit(more).await;
                keys += more;
            }
            let took = began.elapsed().as_secs_f64();
            assert!((9.5..=10.1).contains(&took), "{keys_per_second} a second took {took} s for ten seconds' keys");
        }
    }
}
