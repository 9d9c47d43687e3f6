//! Watches the server beside its log, over its own SQL connection: how much log the slot holds back, which transactions
//! have ended, and everything in the catalogue that can make changes of the rules' tables be missed.

mod known;
mod looks;
mod sql;
mod tables;
mod attest;

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_postgres::{Client, Row, Statement};

use super::synchronous::{STANDBYS, counted};
use super::{SourceError, Watched};
use crate::backoff::Backoff;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::session::answered_within;
use crate::postgres::client::sql::{connect, explain};
use crate::types::observation::{HeldWal, Observation, TableSeen};
use crate::types::table::TableName;
use attest::Attestation;
use looks::{Catalogue, Looks};

/// How often coherd looks at the server.
pub const WATCH_PACE: Duration = Duration::from_secs(1);

/// How often, at least, while the log that the slot holds back grows fast.
const HURRIED_PACE: Duration = Duration::from_millis(200);
/// Growth in bytes per second that counts as fast: a budget of 10 GiB then lasts five minutes.
const HURRY_BYTES_PER_SECOND: u128 = 32 << 20;

/// Time limit of one answer. A server that hangs does not enforce its statement_timeout either. Connecting has its own
/// limit, connect_timeout, for each host.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// For every this many tables, a look at the catalogue gets another [`ANSWER_MAX`]. It must end even where it is slow,
/// because the next look would begin from the start.
const TABLES_ANSWERED: u32 = 500;
/// The first pause between attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const RETRY_MOST: Duration = Duration::from_secs(5);

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// Where to connect.
    pub dsn: Dsn,
    /// Name of the slot.
    pub slot: String,
    /// Name of the publication.
    pub publication: String,
    /// The rules' tables, each one once.
    pub tables: Vec<TableName>,
    /// How often to look; [`WATCH_PACE`], except in tests.
    pub pace: Duration,
}

/// Watches until the receiver is gone. A look begins only when there is room for its result, so that a slow receiver
/// gets few observations and no old ones. Each failure is reported once, and followed by a pause and a new connection.
///
/// `attest` says which walsender's stream `coherd.wait()` may rely on.
pub async fn watch(config: WatchConfig, attest: Receiver<Option<u32>>, observations: Sender<Watched>) {
    tokio::select! {
        () = observations.closed() => {}
        () = keep_watching(&config, &attest, &observations) => {}
    }
}

/// Looks once over the caller's own session, within its transaction. Returns the tables, and the first transaction that
/// had not begun. `since` is that transaction of an earlier look, since which the server is known to have stayed up.
pub async fn look_once(
    client: &Client,
    config: &WatchConfig,
    since: Option<u64>,
) -> Result<(Vec<TableSeen>, u64), SourceError> {
    let looked = looks::once(client, config, since).await;
    looked.map_err(|error| failed(&error, config))
}

async fn keep_watching(config: &WatchConfig, attest: &Receiver<Option<u32>>, observations: &Sender<Watched>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let attest = Attestation::new(attest.clone());
        let Err(error) = watch_once(config, attest, observations, &mut backoff).await else { return };
        if observations.send(Watched::Away(error)).await.is_err() {
            return;
        }
        tokio::time::sleep(backoff.next(fastrand::u32(..))).await;
    }
}

/// Runs one connection. `Ok` means that the receiver is gone.
async fn watch_once(
    config: &WatchConfig,
    mut attest: Attestation,
    observations: &Sender<Watched>,
    backoff: &mut Backoff,
) -> Result<(), SourceError> {
    let client = connect(&config.dsn).await?;
    let mut watcher = Watcher::new(config, client).await?;
    let mut last: Option<(Instant, u64)> = None;
    loop {
        let Ok(room) = observations.reserve().await else { return Ok(()) };
        let began = Instant::now();
        let seen = watcher.look().await?;
        backoff.reset();
        let retained = seen.wal.map_or(0, |wal| wal.retained);
        let pause = last.map_or(config.pace, |(before, held)| {
            pause(config.pace, retained.saturating_sub(held), began.duration_since(before))
        });
        last = Some((began, retained));
        room.send(Watched::Seen(seen));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => break,
                () = attest.wants_answer() => {}
            }
            let held = watcher.attest(&mut attest).await?;
            if observations.send(Watched::Attested(held)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The pause between looks after the slot's log has grown by `grown` bytes in `time`.
fn pause(pace: Duration, grown: u64, time: Duration) -> Duration {
    let hurried = u128::from(grown) * 1000 > HURRY_BYTES_PER_SECOND * time.as_millis();
    if hurried { pace.min(HURRIED_PACE) } else { pace }
}

async fn in_time<T>(limit: Duration, asking: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    answered_within(limit, "watch the server", asking).await
}

/// Runs one short query.
async fn ask<T>(
    config: &WatchConfig,
    asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SourceError> {
    in_time(ANSWER_MAX, async { asking.await.map_err(|error| failed(&error, config)) }).await
}

/// A connection, and what its last look showed.
struct Watcher<'a> {
    config: &'a WatchConfig,
    client: Client,
    server: Statement,
    log_end: Statement,
    catalogue: Looks,
}

impl<'a> Watcher<'a> {
    async fn new(config: &'a WatchConfig, client: Client) -> Result<Watcher<'a>, SourceError> {
        let prepared = ask(config, async {
            client.batch_execute(sql::SETTINGS).await?;
            let (server, log_end) = (client.prepare(sql::SERVER).await?, client.prepare(sql::LOG_END).await?);
            Ok((server, log_end, Looks::new(&client).await?))
        });
        let (server, log_end, catalogue) = prepared.await?;
        Ok(Watcher { config, client, server, log_end, catalogue })
    }

    async fn look(&mut self) -> Result<Observation, SourceError> {
        let Watcher { config, client, .. } = &*self;
        let asked = Instant::now();
        let glance = async { Glance::read(&client.query_one(&self.server, &[&config.slot]).await?) };
        let glance = ask(config, glance).await?;
        let synchronous = self.synchronous(&glance).await?;
        let Watcher { config, client, log_end, catalogue, .. } = self;
        catalogue.glanced(&glance);
        let mut seen = Catalogue::default();
        if catalogue.may_differ(&glance, asked) && catalogue.is_due(config) {
            let tables = u32::try_from(config.tables.len()).unwrap_or(u32::MAX);
            seen = in_time(ANSWER_MAX * (1 + tables / TABLES_ANSWERED), catalogue.look(client, config)).await?;
        }
        let holder = ask(config, catalogue.holder(client)).await?;
        let log_end = async { client.query_one(log_end, &[]).await?.try_get::<_, Option<String>>(0) };
        let log_end = ask(config, log_end).await?.and_then(|text| text.parse().ok()).unwrap_or_default();
        let snapshot = catalogue.horizon();
        let catalogue_at = catalogue.known_at().unwrap_or(asked).into_std();
        let Catalogue { tables, database } = seen;
        Ok(Observation { wal: glance.wal, log_end, catalogue_at, snapshot, tables, database, holder, synchronous })
    }

    /// [`Observation::synchronous`]. Reads the setting and not `pg_stat_replication`, whose `sync_priority` only
    /// `pg_monitor` sees.
    async fn synchronous(&self, glance: &Glance) -> Result<Option<String>, SourceError> {
        let Glance { in_recovery, standby_names, application_name, .. } = glance;
        if *in_recovery || counted(standby_names, application_name, &[]).is_none() {
            return Ok(None);
        }
        let standbys = ask(self.config, async {
            let rows = self.client.query(STANDBYS, &[]).await?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()
        });
        Ok(counted(standby_names, application_name, &standbys.await?).map(|counted| counted.to_string()))
    }

    async fn attest(&self, attest: &mut Attestation) -> Result<Option<u32>, SourceError> {
        ask(self.config, attest.take(&self.client)).await
    }
}

/// The result of [`sql::SERVER`].
struct Glance {
    in_recovery: bool,
    /// `pg_current_snapshot()`.
    snapshot: String,
    /// `synchronous_standby_names`.
    standby_names: String,
    /// Our own name, which the stream has too.
    application_name: String,
    wal: Option<HeldWal>,
}

impl Glance {
    fn read(row: &Row) -> Result<Glance, tokio_postgres::Error> {
        // Sizes are never negative.
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        let segment = unsigned(row.try_get(2)?);
        let wal = match row.try_get::<_, Option<i64>>(3)? {
            Some(retained) => Some(HeldWal {
                end: row.try_get::<_, &str>(5)?.parse().unwrap_or_default(),
                retained: unsigned(retained),
                safe: row.try_get::<_, Option<i64>>(4)?.map(unsigned),
                segment,
            }),
            None => None,
        };
        Ok(Glance {
            in_recovery: row.try_get(0)?,
            snapshot: row.try_get(1)?,
            standby_names: row.try_get(6)?,
            application_name: row.try_get(7)?,
            wal,
        })
    }
}

fn failed(error: &tokio_postgres::Error, config: &WatchConfig) -> SourceError {
    explain(error, "watch the slot and the tables", &config.dsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_more_often_while_the_log_grows_fast() {
        let (second, mib) = (Duration::from_secs(1), 1 << 20);
        assert_eq!(pause(second, 32 * mib, second), second);
        assert_eq!(pause(second, 33 * mib, second), HURRIED_PACE);
        // The same rate, seen over a shorter time: it does not fall back.
        assert_eq!(pause(second, 7 * mib, HURRIED_PACE), HURRIED_PACE);
        assert_eq!(pause(second, 6 * mib, HURRIED_PACE), second);
        assert_eq!(pause(second, 0, Duration::ZERO), second);
        assert_eq!(pause(HURRIED_PACE / 2, u64::MAX, second), HURRIED_PACE / 2);
    }
}
