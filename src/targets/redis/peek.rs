//! Looks up keys without changing them. `PTTL` does not count as an access to the key, so it does not influence
//! eviction.

use std::time::Duration;

use redis::{Cmd, ToRedisArgs, Value};
use tokio::time::Instant;

use super::Redis;
use super::connection::Connected;
use super::invalidation::{LEASE_SUFFIX, Lease, Naming, POINTER_SUFFIX, Pointer, Salvo};
use super::reply::{Step, broken, refused, unexpected};
use crate::targets::peek::{Held, KeySeen, Peek, Peeked, ScopeSeen};
use crate::targets::{Fault, Pending};
use crate::types::invalidation::{Action, Batch, Scope};

/// The most keys in one pipeline.
const PIPELINE_KEYS: usize = 512;

/// How many keys one `SCAN` looks at.
const SCAN_KEYS: u32 = 1000;

impl Peek for Redis {
    fn peek<'a>(&'a self, batch: &'a Batch, patience: Duration) -> Pending<'a, Result<Peeked, Fault>> {
        Box::pin(async move {
            let connected = self.line.connected().await?;
            let outcome = self.look_at(&connected, batch, patience).await;
            self.keep_or_lose(&connected, outcome).await
        })
    }
}

/// What a reply says about its key.
#[derive(Debug, Clone, Copy)]
enum Part {
    Held,
    Lease,
    Version,
}

impl Redis {
    async fn look_at(&self, connected: &Connected, batch: &Batch, patience: Duration) -> Result<Peeked, Fault> {
        let items: Vec<(Action, &[u8])> = batch.items().map(|(_, action, key)| (action, key)).collect();
        let mut peeked = Peeked::default();
        for items in items.chunks(PIPELINE_KEYS) {
            self.look_at_keys(connected, items, &mut peeked.keys).await?;
        }
        let until = Instant::now() + patience;
        for scope in batch.scopes() {
            peeked.scopes.push(self.count(connected, scope, until).await?);
        }
        Ok(peeked)
    }

    async fn look_at_keys(
        &self,
        connected: &Connected,
        items: &[(Action, &[u8])],
        seen: &mut Vec<KeySeen>,
    ) -> Result<(), Fault> {
        let (mut salvo, mut parts) = (Salvo::default(), Vec::new());
        let first = seen.len();
        for (index, &(action, key)) in items.iter().enumerate() {
            seen.push(KeySeen::default());
            let mut ask = |part, step, command| {
                salvo.push(step, command);
                parts.push((first + index, part));
            };
            match action {
                Action::Delete => {
                    ask(Part::Held, Step::TimeToLive, asking("PTTL", key));
                    if self.leases {
                        ask(Part::Lease, Step::TimeToLive, asking("PTTL", Lease(key)));
                    }
                }
                Action::Bump => {
                    ask(Part::Held, Step::TimeToLive, asking("PTTL", Pointer(key, Naming::OfKey)));
                    ask(Part::Version, Step::ReadPointer, asking("GET", Pointer(key, Naming::OfKey)));
                }
                Action::Publish => {}
            }
        }
        if salvo.steps.is_empty() {
            return Ok(());
        }
        let place = &self.line.place;
        let count = salvo.pipeline.len();
        let replies = connected.connection.clone().send_packed_commands(&salvo.pipeline, 0, count).await;
        let replies = replies.map_err(|error| broken(place, "looking for keys", &error))?;
        for ((index, part), (step, reply)) in parts.into_iter().zip(salvo.steps.iter().zip(&replies)) {
            let Some(key) = seen.get_mut(index) else { continue };
            match (part, reply) {
                // The value in the pointer's place is not a string, so there is no number to show.
                (Part::Version, Value::ServerError(error)) if error.code() == "WRONGTYPE" => {}
                (_, Value::ServerError(error)) => return Err(refused(place, *step, error)),
                (Part::Held, Value::Int(left)) => key.held = held(*left),
                (Part::Lease, Value::Int(left)) => key.lease = held(*left),
                (Part::Version, Value::Nil) => {}
                (Part::Version, Value::BulkString(bytes)) => {
                    key.version = Some(String::from_utf8_lossy(bytes).into_owned());
                }
                _ => return Err(unexpected(place, *step)),
            }
        }
        Ok(())
    }

    /// Counts the keys of a scope. `SCAN` may return a key twice while the server resizes its table, so the count is
    /// approximate.
    async fn count(&self, connected: &Connected, scope: &Scope, until: Instant) -> Result<ScopeSeen, Fault> {
        let pattern = match scope.action {
            Action::Delete => scope.keys.to_string(),
            Action::Bump => format!("{}{POINTER_SUFFIX}", scope.keys),
            Action::Publish => return Ok(ScopeSeen { keys: None, whole: true }),
        };
        let mut cursor = Vec::from(*b"0");
        let mut count = 0;
        while Instant::now() < until {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
            let keys;
            (cursor, keys) = self.scan(connected, &scan).await?;
            // Neither the record nor a lease is a cached value.
            let is_value =
                |key: &&Vec<u8>| **key != self.record_key.as_bytes() && !key.ends_with(LEASE_SUFFIX.as_bytes());
            count += keys.iter().filter(is_value).count() as u64;
            if cursor == b"0" {
                return Ok(ScopeSeen { keys: Some(count), whole: true });
            }
        }
        Ok(ScopeSeen { keys: Some(count), whole: false })
    }
}

fn asking(command: &str, key: impl ToRedisArgs) -> Cmd {
    let mut asking = Cmd::new();
    asking.arg(command).arg(key);
    asking
}

/// Reads the reply to `PTTL`: -2 if there is no such key, -1 if it does not expire, otherwise milliseconds.
fn held(left: i64) -> Held {
    match left {
        -2 => Held::Absent,
        left => Held::Here(u64::try_from(left).ok().map(Duration::from_millis)),
    }
}
