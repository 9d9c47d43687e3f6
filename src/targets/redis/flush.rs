//! Flushes scopes: finds every key that they cover with `SCAN`, at a pace that leaves time for the server's other
//! clients.
//!
//! A pass over the keyspace costs as much for forty scopes as for one, because coherd decides what matches
//! ([`Extent::covers`]). So all scopes of a delivery share one pass. If readers use leases, another pass precedes it.
//!
//! `SCAN` returns every key that exists from its first call to its last (Redis manual, "SCAN", "guarantees"). A key
//! that is filled later was read from the database later, unless its reader holds an older lease. So the first pass
//! removes the leases of all scopes. Values stored with an old lease then exist before the pass over the keys begins,
//! and readers with a new lease read the database after that point. In a single pass, an old lease could store a value
//! behind the sweep.

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
use crate::targets::Fault;
use crate::types::invalidation::{Action, Scope};
use crate::types::pattern::Extent;

/// How many keys one `SCAN` looks at: about 0.3 ms of the server's time. coherd lowers the number if keys are so long
/// that a reply exceeds its limit (`bounds`).
pub(super) const SCAN_KEYS: u32 = 1000;

/// Limits a flush to a number of keys per second.
struct Pace {
    began: Instant,
    keys: u64,
    keys_per_second: NonZeroU32,
}

impl Pace {
    fn new(keys_per_second: NonZeroU32) -> Self {
        Pace { began: Instant::now(), keys: 0, keys_per_second }
    }

    /// The most keys in one command: those of a twentieth of a second, so that a slow pace is steady too.
    fn command_keys(&self) -> usize {
        usize::try_from(self.keys_per_second.get() / 20).unwrap_or(COMMAND_KEYS_MAX).clamp(1, COMMAND_KEYS_MAX)
    }

    /// Waits until `more` keys are allowed.
    async fn admit(&mut self, more: usize) {
        let due = Duration::from_nanos(self.keys.saturating_mul(1_000_000_000) / u64::from(self.keys_per_second.get()));
        tokio::time::sleep_until(self.began + due).await;
        self.keys += more as u64;
    }
}

/// The keys that a pass looks for on behalf of one scope, and what it does to them.
struct Aim {
    /// The scope's place in the batch.
    scope: usize,
    keys: Extent,
    step: Step,
}

impl Aim {
    fn new(scope: usize, step: Step, glob: &str) -> Aim {
        Aim { scope, keys: Extent::read(glob), step }
    }
}

/// The aims of the two passes: first the leases of `scopes`, then the keys and the version pointers.
fn aims(scopes: &[Scope], leases: bool) -> [Vec<Aim>; 2] {
    let [mut first, mut then] = [Vec::new(), Vec::new()];
    for (place, Scope { action, keys }) in scopes.iter().enumerate() {
        match action {
            Action::Delete => {
                if leases {
                    let of_either_form = [format!("{keys}{LEASE_SUFFIX}"), format!("{{{keys}}}{LEASE_SUFFIX}")];
                    first.extend(of_either_form.map(|leases| Aim::new(place, Step::UnlinkLeases, &leases)));
                }
                then.push(Aim { scope: place, keys: keys.clone(), step: Step::Unlink });
            }
            Action::Bump => then.push(Aim::new(place, Step::Bump, &format!("{keys}{POINTER_SUFFIX}"))),
            Action::Publish => {}
        }
    }
    // Removal comes first: a pointer that one scope removes need not be bumped for another.
    then.sort_by_key(|aim| aim.step == Step::Bump);
    [first, then]
}

impl Redis {
    /// Flushes every scope. An `Err` is a lost connection, or a `SCAN` that failed; other refusals are in the tally.
    pub(super) async fn sweep_scopes(
        &self,
        connected: &Connected,
        scopes: &[Scope],
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        for Scope { keys, .. } in scopes.iter().filter(|scope| scope.action == Action::Publish) {
            let command = publish(&self.scopes_channel, keys.to_string().as_bytes());
            self.ask(connected, Step::Publish, command, tally).await?;
        }
        let mut pace = Pace::new(self.flush_keys_per_second);
        for aims in aims(scopes, self.leases) {
            let common = match aims.as_slice() {
                [] => continue,
                [only] => Some(only.keys.to_string().into_bytes()),
                many => beginning(many.iter().map(|aim| aim.keys.prefix())),
            };
            self.sweep(connected, &mut pace, &aims, common.as_deref(), tally).await?;
        }
        Ok(())
    }

    /// One pass over the keys that `matching` matches. If there is only one aim, all of them are its keys.
    async fn sweep(
        &self,
        connected: &Connected,
        pace: &mut Pace,
        aims: &[Aim],
        matching: Option<&[u8]>,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        let mut cursor = Vec::from(*b"0");
        // Keys to remove, and pointers to bump with the places of their scopes. Each list is at most one SCAN plus one
        // command.
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
            // A scope may cover the record, which is not a cached value: the delivery writes it at the end.
            for key in keys.into_iter().filter(|key| key != self.record_key.as_bytes()) {
                match aims.iter().find(|aim| aims.len() == 1 || aim.keys.covers(&key)) {
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

    /// Bumps version pointers for a flush. `scopes` are the places of their scopes in the batch.
    async fn bump_pointers(
        &self,
        connected: &Connected,
        pointers: &[Vec<u8>],
        scopes: &[usize],
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        // Sends the script's source: a flush is rare, and the server may not know the script's hash.
        let command = Script::Unknown.call(pointers, Naming::OfPointer, self.version_ttl_ms);
        self.ask(connected, Step::Bump, command, tally).await?;
        // The places in this reply count within this command, not within the batch.
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

    /// Sends one command and adds its reply to the tally.
    async fn ask(&self, connected: &Connected, step: Step, command: Cmd, tally: &mut Tally) -> Result<(), Fault> {
        let mut salvo = Salvo::default();
        salvo.push(step, command);
        let replies = connected.connection.clone().send_packed_commands(&salvo.pipeline, 0, 1).await;
        let replies = replies.map_err(|error| broken(&self.line.place, step.command(), &error))?;
        tally.read(&self.line.place, &salvo.steps, &replies);
        Ok(())
    }
}

/// A glob for the longest prefix that all `prefixes` have in common; `None` if they have none.
fn beginning<'a>(prefixes: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let common = |one: &'a [u8], other: &'a [u8]| {
        let length = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        one.get(..length).unwrap_or_default()
    };
    let common = prefixes.into_iter().reduce(common).filter(|common| !common.is_empty())?;
    let mut glob = Vec::with_capacity(2 * common.len() + 1);
    for &byte in common {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            glob.push(b'\\');
        }
        glob.push(byte);
    }
    glob.push(b'*');
    Some(glob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_begin_with_is_found_and_means_itself() {
        let of = |prefixes: &[&str]| beginning(prefixes.iter().map(|prefix| prefix.as_bytes()));
        assert_eq!(of(&["user:", "user:by:", "us"]).as_deref(), Some(b"us*".as_slice()));
        assert_eq!(of(&["a*[x", "a*[y"]).as_deref(), Some(br"a\*\[*".as_slice()));
        assert_eq!((of(&["user:", "order:"]), of(&["user:", ""]), of(&[])), (None, None, None));
    }

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
