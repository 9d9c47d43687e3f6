//! Looks at the catalogue, one after the other. A look costs in proportion to what has changed since the last one. The
//! few look-ups by oid that it needs for every table run less often where there are many tables.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Error, Row, Statement, ToStatement};

use super::known::{Kind, Known, Thing, Touched};
use super::tables::{Described, read};
use super::{Glance, WatchConfig, failed, sql};
use crate::postgres::{SourceError, catalog};
use crate::types::database::Database;
use crate::types::observation::{Horizon, TableSeen};
use crate::types::table::TableName;

/// With more tables than this, coherd looks at the catalogue only once every [`SLOW_PACES`] paces. A look then takes
/// about 4 µs of a core for each table (measured with 10,000), which is less than a hundredth of the time either way.
const MANY_TABLES: usize = 1_000;
const SLOW_PACES: u32 = 5;

/// How long a transaction may be the oldest one before coherd reports it.
const LONG: Duration = Duration::from_secs(5);

/// Maximum number of tables that one statement describes, so that it stays well below its statement_timeout.
const CHUNK: usize = 200;

/// The result of one look.
#[derive(Default)]
pub(super) struct Catalogue {
    /// Tables that differ from the last look.
    pub(super) tables: Vec<TableSeen>,
    /// The catalogue, with only those tables whose change affects how rules bind to them.
    pub(super) database: Option<Box<Database>>,
}

/// Prepared statements, and what the last look showed.
pub(super) struct Looks {
    touched: Statement,
    look: Statement,
    last: Option<Last>,
    /// The time as of which the catalogue is known.
    known_at: Option<Instant>,
    known: Known,
    /// The first transaction whose command numbers can be trusted; see `BORN_HERE`.
    since: Option<u64>,
    /// The oldest transaction that runs in this database, and since when it has been the oldest.
    oldest: Option<(u64, Instant)>,
}

struct Last {
    began: Instant,
    snapshot: String,
    horizon: Horizon,
    /// What [`sql::touched`] says of the publication.
    publication: Option<String>,
}

/// The answer to [`sql::touched`].
struct Answer {
    snapshot: String,
    horizon: Horizon,
    publication: Option<String>,
    touched: Touched,
}

impl Looks {
    /// Prepares the statements, in a session with [`sql::SETTINGS`].
    pub(super) async fn new(client: &Client) -> Result<Looks, Error> {
        let version = version(client).await?;
        let touched = client.prepare(&sql::touched(version)).await?;
        let look = client.prepare(&sql::look(version)).await?;
        Ok(Looks { touched, look, last: None, known_at: None, known: Known::default(), since: None, oldest: None })
    }

    /// Whether the next look is due.
    pub(super) fn is_due(&self, config: &WatchConfig) -> bool {
        let paces = if config.tables.len() > MANY_TABLES { SLOW_PACES } else { 1 };
        // Half a pace early rather than half a pace late.
        let rest = (config.pace * paces).saturating_sub(config.pace / 2);
        self.last.as_ref().is_none_or(|last| last.began.elapsed() >= rest)
    }

    /// Takes an answer of the server, which has stayed up since its first answer.
    pub(super) fn glanced(&mut self, glance: &Glance) {
        if !glance.in_recovery {
            self.since.get_or_insert(horizon(&glance.snapshot).xmax);
        }
    }

    /// Whether the catalogue may differ from the last look, given `glance`, which the server was asked for at `asked`.
    /// If the snapshot is the same, no transaction has ended that could have changed anything. A standby's snapshot
    /// does not list what runs.
    pub(super) fn may_differ(&mut self, glance: &Glance, asked: Instant) -> bool {
        let differs = glance.in_recovery || self.last.as_ref().is_none_or(|last| last.snapshot != glance.snapshot);
        if !differs {
            self.known_at = Some(asked);
        }
        differs
    }

    /// [`Observation::catalogue_at`](crate::types::observation::Observation::catalogue_at).
    pub(super) fn known_at(&self) -> Option<Instant> {
        self.known_at
    }

    /// The transactions as of the last look.
    pub(super) fn horizon(&self) -> Horizon {
        self.last.as_ref().map_or(Horizon { xmin: 0, xmax: 0 }, |last| last.horizon)
    }

    /// Who runs the oldest transaction of this database, described for people, if it has been the oldest for at least
    /// [`LONG`].
    pub(super) async fn holder(&mut self, client: &Client) -> Result<Option<String>, Error> {
        let Horizon { xmin, xmax } = self.horizon();
        let (oldest, since) = *self.oldest.get_or_insert_with(|| (xmin, Instant::now()));
        if oldest != xmin {
            self.oldest = Some((xmin, Instant::now()));
        }
        if oldest != xmin || xmin >= xmax || since.elapsed() < LONG {
            return Ok(None);
        }
        client.query_one(sql::HOLDER, &[&short_xid(xmin)]).await?.try_get(0)
    }

    /// Looks, and describes what differs from the last look.
    pub(super) async fn look(&mut self, client: &Client, config: &WatchConfig) -> Result<Catalogue, SourceError> {
        let began = Instant::now();
        let failed = |error: Error| failed(&error, config);
        if let Some(last) = &self.last {
            let answer = self.ask(client, config).await.map_err(failed)?;
            if self.places(&answer, config).is_empty() {
                let publication = last.publication.clone();
                let Answer { snapshot, horizon, .. } = answer;
                (self.last, self.known_at) = (Some(Last { began, snapshot, horizon, publication }), Some(began));
                return Ok(Catalogue::default());
            }
        }
        // The descriptions and the catalogue must be of one moment.
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
        let answer = self.ask(client, config).await.map_err(failed)?;
        let places = self.places(&answer, config);
        let described = describe(client, &self.look, config, &names(config, &places), self.since).await;
        let (tables, footprints): (Vec<_>, Vec<_>) =
            described.map_err(failed)?.into_iter().map(|described| (described.table, described.footprint)).unzip();
        let reshaped = self.known.replace(places.into_iter().zip(footprints).collect());
        let reshaped: Vec<TableName> = names(config, &reshaped).into_iter().cloned().collect();
        let mut database = None;
        if !reshaped.is_empty() || self.last.is_none() {
            let looked = catalog::look(client, &config.slot, &config.publication, &reshaped).await;
            database = Some(Box::new(looked.map_err(|error| SourceError::lost(error.to_string()))?));
        }
        client.batch_execute("COMMIT").await.map_err(failed)?;
        let Answer { snapshot, horizon, publication, .. } = answer;
        (self.last, self.known_at) = (Some(Last { began, snapshot, horizon, publication }), Some(began));
        Ok(Catalogue { tables, database })
    }

    /// All tables at the first look and when the publication itself has changed; otherwise those that `answer` touches.
    fn places(&self, answer: &Answer, config: &WatchConfig) -> Vec<usize> {
        match &self.last {
            Some(last) if last.publication == answer.publication => self.known.places(&answer.touched),
            _ => (0..config.tables.len()).collect(),
        }
    }

    async fn ask(&self, client: &Client, config: &WatchConfig) -> Result<Answer, Error> {
        let since = self.horizon().xmin;
        let oids = |kind| self.known.oids(kind);
        let (schemas, names) = self.known.missing(&config.tables);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            &config.publication,
            &short_xid(since),
            &oids(Kind::Class),
            &oids(Kind::Entry),
            &oids(Kind::Index),
            &oids(Kind::Enum),
            &oids(Kind::Bare),
            &oids(Kind::Unentered),
            &schemas,
            &names,
        ];
        Answer::read(&client.query_one(&self.touched, &parameters).await?)
    }
}

impl Answer {
    fn read(row: &Row) -> Result<Answer, Error> {
        let mut things = Vec::new();
        for (column, kind) in (2..).zip([Kind::Class, Kind::Entry, Kind::Index, Kind::Enum]) {
            things.extend(row.try_get::<_, Vec<u32>>(column)?.into_iter().map(|oid| Thing { kind, oid }));
        }
        let touched = Touched { things, found: row.try_get(6)? };
        let snapshot: String = row.try_get(0)?;
        let mut horizon = horizon(&snapshot);
        if let Some(oldest) = row.try_get::<_, Option<i64>>(7)? {
            horizon.xmin = u64::try_from(oldest).unwrap_or_default();
        }
        Ok(Answer { snapshot, horizon, publication: row.try_get(1)?, touched })
    }
}

/// [`look_once`](super::look_once).
pub(super) async fn once(
    client: &Client,
    config: &WatchConfig,
    since: Option<u64>,
) -> Result<(Vec<TableSeen>, u64), Error> {
    let look = client.prepare(&sql::look(version(client).await?)).await?;
    let snapshot: String = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await?.try_get(0)?;
    let names: Vec<&TableName> = config.tables.iter().collect();
    let described = describe(client, &look, config, &names, since).await?;
    Ok((described.into_iter().map(|described| described.table).collect(), horizon(&snapshot).xmax))
}

async fn describe<T: ?Sized + ToStatement>(
    client: &Client,
    look: &T,
    config: &WatchConfig,
    tables: &[&TableName],
    since: Option<u64>,
) -> Result<Vec<Described>, Error> {
    let mut all = Vec::with_capacity(tables.len());
    for tables in tables.chunks(CHUNK) {
        let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        let rows = client.query(look, &[&schemas, &names, &config.publication, &since.map(short_xid)]).await?;
        all.extend(read(&rows, tables)?);
    }
    Ok(all)
}

fn names<'a>(config: &'a WatchConfig, places: &[usize]) -> Vec<&'a TableName> {
    places.iter().filter_map(|place| config.tables.get(*place)).collect()
}

async fn version(client: &Client) -> Result<i32, Error> {
    client.query_one(sql::VERSION, &[]).await?.try_get(0)
}

/// A transaction id in the form of type xid: the lower 32 bits.
fn short_xid(xid: u64) -> String {
    (xid & u64::from(u32::MAX)).to_string()
}

/// Reads `xmin:xmax:running`.
fn horizon(snapshot: &str) -> Horizon {
    let mut numbers = snapshot.split(':').map(|number| number.parse().unwrap_or_default());
    Horizon { xmin: numbers.next().unwrap_or_default(), xmax: numbers.next().unwrap_or_default() }
}
