//! Redis and Valkey: a single primary, over TCP, TLS or a unix socket.
//!
//! A delivery is a few pipelines on one connection: `UNLINK` with many keys per command, one script call for many
//! version pointers, `PUBLISH` for each key to publish, and, at the end of the last pipeline, a script that writes
//! the record. A delivery is confirmed only after every reply of every pipeline has been checked.
//!
//! At `maxmemory`, a server that evicts nothing (`noeviction`) refuses `HSET` and `SET`, but not `UNLINK`.
//! Invalidations free memory there, so the two scripts continue on a full server (`lua/record.lua`, `lua/bump.lua`).
//!
//! The keys of `publish` rules go to the target's channel. To flush a whole scope, coherd publishes its glob on the
//! same channel with `:scopes` appended.
//!
//! The user in the URL needs only
//!
//! ```text
//! ACL SETUSER coherd on >PASSWORD ~* &coherd:* +client|setname +select +hset +hget +hgetall +dbsize +unlink +scan
//!     +info +eval +evalsha
//!     +time +get +set +publish +multi +discard
//!     +function|list +function|load
//!     +pttl
//! ```
//!
//! `+info` is for `coherd check`. The third line is for `bump` and `publish` rules (`+multi +discard` for `coherd
//! check` alone), the fourth for the function library (Redis 7 and Valkey), the fifth for the commands that show what
//! is cached (`coherd keys`, `explain`). `~*` can be narrowed to the patterns of the rules, of their leases
//! (`~PATTERN:lease`, `~{PATTERN}:lease`) and version pointers (`~PATTERN:version`), and to `~coherd:*`. `&coherd:*`
//! (Redis 6.2 and later) is the channel.

mod bounds;
mod script;
mod chain;
mod connection;
mod dial;
mod flush;
mod library;
pub mod lua;
mod peek;
mod record;
mod reply;
mod invalidation;
mod survey;

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use redis::{RedisResult, Value};
use tokio::sync::{Mutex, MutexGuard};
use tracing::warn;

use super::config::{Library, TargetConfig};
use super::{
    Capabilities, Delivered, Delivery, Early, Exactness, Fault, FaultKind, Kind, OpenError, Pending, Record, Replaced,
    StoredRecord, Target,
};
use crate::types::invalidation::{Action, Batch};
use chain::Chain;
use connection::{Connected, Line};
use invalidation::{Manner, Salvo};
use library::Loader;
use record::Unreadable;
use reply::{Step, Tally, broken, refused, unexpected};

/// The entry in the registry of kinds.
pub(super) const KIND: Kind = Kind {
    schemes: &["redis", "rediss", "redis+unix", "unix", "valkey", "valkeys", "valkey+unix"],
    about: "Redis 6 or later, or Valkey: redis://user:password@host:6379/0, rediss://… for TLS, redis+unix:///path?db=0",
    capabilities: Capabilities {
        leases: true,
        actions: &[Action::Delete, Action::Bump, Action::Publish],
        early: true,
        scopes: Exactness::Pattern,
    },
    open: |config| Ok(Arc::new(Redis::open(config)?)),
    peek: |config| Ok(Arc::new(Redis::open(config)?)),
    survey: survey::survey,
};

/// One Redis primary.
struct Redis {
    line: Line,
    /// Held while a delivery's pipelines are handed to the connection, so that no later record gets between them.
    turn: Mutex<()>,
    record_key: String,
    /// The slot that the record names as its writer's.
    slot: String,
    chain: Chain,
    channel: String,
    scopes_channel: String,
    version_ttl_ms: u64,
    flush_keys_per_second: NonZeroU32,
    /// How many keys one `SCAN` examines.
    scan_keys: AtomicU32,
    /// Whether a `delete` also ends the key's lease.
    leases: bool,
    /// Loads the function library; `None` if coherd leaves it alone.
    loader: Option<Loader>,
    /// The record's key held something else, and a warning was logged.
    record_is_spoilt: AtomicBool,
}

impl Target for Redis {
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(self.carry_out(delivery))
    }

    fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(self.flush_aside(batch))
    }

    fn early(&self) -> Option<&dyn Early> {
        Some(self)
    }

    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>> {
        Box::pin(async {
            let connected = self.line.connected().await?;
            let outcome = self.meet(&connected).await;
            self.keep_or_lose(&connected, outcome).await
        })
    }
}

impl Early for Redis {
    /// Takes no turn: an invalidation that comes early may come in any order.
    fn invalidate<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Delivered> {
        Box::pin(async {
            let Some(connected) = self.line.present().await else { return Delivered::default() };
            let mut tally = Tally::default();
            let manner = self.manner(&connected);
            let mut invalidations = invalidation::invalidations(batch);
            while !invalidations.are_spent() {
                let shot = Shot::fire(&connected, invalidations.load(&manner)).await;
                if shot.land(&self.line.place, &mut tally).await.is_err() {
                    break;
                }
            }
            Delivered { hit: tally.hit, replaced: Replaced { keys: tally.gave_way, scopes: Vec::new() } }
        })
    }
}

impl Redis {
    fn manner(&self, connected: &Connected) -> Manner<'_> {
        let (bump, _) = connected.scripts();
        Manner { bump, version_ttl_ms: self.version_ttl_ms, channel: &self.channel, leases: self.leases }
    }

    fn open(config: &TargetConfig) -> Result<Self, OpenError> {
        Ok(Redis {
            line: Line::new(config)?,
            turn: Mutex::new(()),
            record_key: config.record_key.clone(),
            slot: config.slot.clone(),
            chain: Chain::default(),
            channel: config.channel.clone(),
            scopes_channel: format!("{}:scopes", config.channel),
            version_ttl_ms: u64::try_from(config.version_ttl.as_millis()).unwrap_or(u64::MAX).max(1),
            flush_keys_per_second: config.flush_keys_per_second,
            leases: config.leases,
            loader: (config.library == Library::Load).then(Loader::default),
            record_is_spoilt: AtomicBool::new(false),
            scan_keys: AtomicU32::new(flush::SCAN_KEYS),
        })
    }

    async fn carry_out(&self, delivery: &Delivery) -> Result<Delivered, Fault> {
        let turn = self.turn.lock().await;
        let connected = self.line.connected().await?;
        let mut outcome = self.invalidation(&connected, turn, delivery).await;
        if let Ok(Tally { script_unknown: true, .. }) = outcome {
            // SCRIPT FLUSH, or another server behind the same connection: send everything again, with the whole
            // scripts.
            connected.forgot_scripts();
            outcome = self.invalidation(&connected, self.turn.lock().await, delivery).await;
        }
        let outcome = outcome.and_then(|tally| self.delivered(tally));
        if outcome.is_ok() {
            self.chain.confirmed(delivery.record.sequence);
        }
        self.keep_or_lose(&connected, outcome).await
    }

    /// Flushes while deliveries continue: nothing in a flush depends on their order.
    async fn flush_aside(&self, batch: &Batch) -> Result<Delivered, Fault> {
        let connected = self.line.connected().await?;
        let mut tally = Tally::default();
        let mut outcome = self.sweep_scopes(&connected, batch.scopes(), &mut tally).await;
        if outcome.is_ok() && tally.script_unknown {
            connected.forgot_scripts();
            tally = Tally::default();
            outcome = self.sweep_scopes(&connected, batch.scopes(), &mut tally).await;
        }
        let outcome = outcome.and_then(|()| self.delivered(tally));
        self.keep_or_lose(&connected, outcome).await
    }

    fn delivered(&self, tally: Tally) -> Result<Delivered, Fault> {
        if tally.record_replaced {
            self.spoilt("it is of another type");
        }
        if tally.record_changed {
            return Err(self.changed());
        }
        if let Some(fault) = tally.fault {
            return Err(fault);
        }
        self.record_is_spoilt.store(false, Ordering::Relaxed);
        let replaced = Replaced { keys: tally.gave_way, scopes: tally.scopes_gave_way };
        Ok(Delivered { hit: tally.hit, replaced })
    }

    async fn invalidation(
        &self,
        connected: &Connected,
        turn: MutexGuard<'_, ()>,
        delivery: &Delivery,
    ) -> Result<Tally, Fault> {
        // Called in the order of the deliveries, whether or not this one succeeds.
        let expected = self.chain.next(delivery.record.sequence);
        let mut tally = Tally::default();
        self.sweep_scopes(connected, delivery.batch.scopes(), &mut tally).await?;
        let ((_, record), manner) = (connected.scripts(), self.manner(connected));
        let mut invalidations = invalidation::invalidations(&delivery.batch);
        let mut ahead: Option<Shot> = None;
        let mut bumped = false;
        loop {
            let mut salvo = invalidations.load(&manner);
            let last = invalidations.are_spent();
            if last && tally.fault.is_none() {
                let mut write = record::write(record, &self.record_key, &delivery.record, &expected);
                write.arg("slot").arg(&self.slot);
                salvo.push(Step::WriteRecord, write);
            }
            bumped |= salvo.steps.contains(&Step::Bump);
            let shot = Shot::fire(connected, salvo).await;
            if let Some(earlier) = ahead.replace(shot) {
                earlier.land(&self.line.place, &mut tally).await?;
            }
            if last {
                break;
            }
        }
        drop(turn);
        if let Some(shot) = ahead {
            shot.land(&self.line.place, &mut tally).await?;
        }
        if tally.fault.is_none() {
            connected.confirmed(bumped);
        }
        Ok(tally)
    }

    /// Loads the record, then the function library: a server that has lost one may have lost the other.
    async fn meet(&self, connected: &Connected) -> Result<StoredRecord, Fault> {
        let stored = self.look(connected).await?;
        if let Some(loader) = &self.loader {
            loader.call(&self.line.place, connected).await?;
        }
        Ok(stored)
    }

    async fn look(&self, connected: &Connected) -> Result<StoredRecord, Fault> {
        let place = &self.line.place;
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(&self.record_key).cmd("DBSIZE");
        let replies = connected.connection.clone().send_packed_commands(&pipeline, 0, 2).await;
        let replies = replies.map_err(|error| broken(place, "reading the record", &error))?;
        let (hash, keys) = match replies.as_slice() {
            [Value::ServerError(error), Value::Int(keys)] if error.code() == "WRONGTYPE" => (&Value::Nil, *keys),
            [Value::ServerError(error), _] => return Err(refused(place, Step::ReadRecord, error)),
            [_, Value::ServerError(error)] => return Err(refused(place, Step::Count, error)),
            [hash, Value::Int(keys)] => (hash, *keys),
            _ => return Err(unexpected(place, Step::Count)),
        };
        self.chain.begin(record::identity(hash));
        let record = match record::read(hash) {
            Ok(record) => record,
            Err(Unreadable::Shape) if *hash != Value::Nil => return Err(unexpected(place, Step::ReadRecord)),
            Err(Unreadable::Shape) => Some(self.spoilt("it is of another type")),
            Err(Unreadable::Field(field)) => Some(self.spoilt(&format!("it has no usable field {field}"))),
        };
        // The record itself is a key, but not one that can be stale.
        let empty = keys <= i64::from(record.is_some());
        let written = record.as_ref().filter(|record| !record.is_unreadable()).and_then(|_| record::written(hash));
        Ok(StoredRecord { record, empty, written })
    }

    fn changed(&self) -> Fault {
        let (place, key) = (&self.line.place, &self.record_key);
        let message = format!(
            "{place}: the record {key} is not what this connection wrote last. Something else changed it or the data \
             (FLUSHALL, SWAPDB, a restore, a proxy that failed over), or another coherd writes it. coherd reads it \
             again and reconciles the target"
        );
        Fault { kind: FaultKind::Changed, message }
    }

    /// Logs that the record's key holds something else: once, until a delivery or a flush succeeds.
    fn spoilt(&self, why: &str) -> Record {
        if !self.record_is_spoilt.swap(true, Ordering::Relaxed) {
            let (place, key) = (&self.line.place, &self.record_key);
            warn!(
                "{place}: what stands at {key} is no record of coherd ({why}), so something else writes this key. coherd \
                 replaces it; give coherd a key of its own as record, or look for the other writer"
            );
        }
        Record::UNREADABLE
    }

    /// Drops a connection that failed, or that leads to a server that is no longer a primary. The next one resolves the
    /// name again.
    async fn keep_or_lose<T>(&self, connected: &Connected, outcome: Result<T, Fault>) -> Result<T, Fault> {
        let outcome = outcome.map_err(|fault| self.line.explain(&connected.ended, fault));
        if let Err(Fault { kind: FaultKind::Connection | FaultKind::Timeout | FaultKind::ReadOnly, .. }) = outcome {
            self.line.lose(connected).await;
        }
        outcome
    }
}

type Replies = RedisResult<Vec<Value>>;

/// A pipeline that was sent.
struct Shot {
    steps: Vec<Step>,
    flight: Result<Pin<Box<dyn Future<Output = Replies> + Send>>, Replies>,
}

impl Shot {
    /// Hands the pipeline to the connection, which sends in the order of these calls. Does not wait for replies.
    async fn fire(connected: &Connected, salvo: Salvo) -> Shot {
        let Salvo { pipeline, steps } = salvo;
        if steps.is_empty() {
            return Shot { steps, flight: Err(Ok(Vec::new())) };
        }
        let mut connection = connected.connection.clone();
        // Unconstrained: with a spent coop budget, the first poll would return before the pipeline is handed over.
        let flight =
            tokio::task::unconstrained(
                async move { connection.send_packed_commands(&pipeline, 0, pipeline.len()).await },
            );
        let mut flight: Pin<Box<dyn Future<Output = Replies> + Send>> = Box::pin(flight);
        let early = poll_fn(|context| match flight.as_mut().poll(context) {
            Poll::Ready(replies) => Poll::Ready(Some(replies)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        Shot { steps, flight: early.map_or(Ok(flight), Err) }
    }

    /// Waits for the replies and reads them.
    async fn land(self, place: &str, tally: &mut Tally) -> Result<(), Fault> {
        let replies = match self.flight {
            Ok(flight) => flight.await,
            Err(landed) => landed,
        };
        let tried = self.steps.first().map_or("nothing", |step| step.command());
        let replies = replies.map_err(|error| broken(place, tried, &error))?;
        tally.read(place, &self.steps, &replies);
        Ok(())
    }
}
