//! Flushing a scope: every key it covers, found by `SCAN`, at a pace that leaves the server to its other clients.
//!
//! `SCAN` returns every key that is there from its first call to its last (Redis manual, "SCAN", "guarantees"). A key
//! filled later was read from the database later, unless its reader holds a lease from before. So leases go first, all
//! of the scope's: what an old lease let in is then there before the keys' own sweep begins, and whoever is granted a
//! lease since reads the database since. With the keys first, an old lease could fill behind the sweep.

use std::num::NonZeroU32;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::Redis;
use super::bump::Script;
use super::connection::Connected;
use super::reply::{Step, Tally, broken, refused, unexpected};
use super::strike::{COMMAND_KEYS_MAX, LEASE_SUFFIX, Naming, POINTER_SUFFIX, Salvo, publish, unlink};
use crate::invalidation::{Action, Scope};
use crate::target::{Fault, FaultKind};

/// How many keys one `SCAN` looks at: about 0.3 ms of the server's time.
const SCAN_KEYS: u32 = 1000;

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

impl Redis {
    /// Flushes every scope, one after the other. An `Err` is a lost connection; refusals are in the tally.
    pub(super) async fn flush(&self, connected: &Connected, scopes: &[Scope], tally: &mut Tally) -> Result<(), Fault> {
        let mut pace = Pace::new(self.flush_keys_per_second);
        for Scope { action, pattern } in scopes {
            match action {
                Action::Delete => {
                    if self.leases {
                        for leases in [format!("{pattern}{LEASE_SUFFIX}"), format!("{{{pattern}}}{LEASE_SUFFIX}")] {
                            self.sweep(connected, &mut pace, &leases, Step::UnlinkLeases, tally).await?;
                        }
                    }
                    self.sweep(connected, &mut pace, pattern, Step::Unlink, tally).await?;
                }
                Action::Bump => {
                    let pointers = format!("{pattern}{POINTER_SUFFIX}");
                    self.sweep(connected, &mut pace, &pointers, Step::Bump, tally).await?;
                }
                Action::Publish => {
                    let command = publish(&self.scopes_channel, pattern.as_bytes());
                    self.ask(connected, Step::Publish, command, tally).await?;
                }
            }
        }
        Ok(())
    }

    async fn sweep(
        &self,
        connected: &Connected,
        pace: &mut Pace,
        pattern: &str,
        step: Step,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        let mut cursor = Vec::from(*b"0");
        // A pointer that cannot move must not keep the rest of the scope stale; any other refusal is one of everything.
        while tally.fault.as_ref().is_none_or(|fault| fault.kind == FaultKind::Rejected) {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_KEYS);
            let mut keys;
            (cursor, keys) = self.scan(connected, &scan).await?;
            // A scope may cover the record, which is no cached value and which the delivery ends with.
            keys.retain(|key| key != self.record_key.as_bytes());
            for keys in keys.chunks(pace.command_keys()) {
                pace.admit(keys.len()).await;
                let command = match step {
                    // Whole: a flush is rare, and the name may be unknown.
                    Step::Bump => Script::Unknown.call(keys, Naming::OfPointer, self.version_ttl_ms),
                    _ => unlink(keys),
                };
                self.ask(connected, step, command, tally).await?;
            }
            if cursor == b"0" {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn scan(&self, connected: &Connected, scan: &Cmd) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
        let reply = connected.connection.clone().send_packed_command(scan).await;
        let reply = reply.map_err(|error| broken(&self.line.place, Step::Scan.command(), &error))?;
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
