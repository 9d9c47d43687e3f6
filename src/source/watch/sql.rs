//! One look as one statement: one snapshot, one row a table, and no lock on any table of the application, so that it
//! waits for nobody and nobody for it.

use tokio_postgres::Row;

use crate::observation::{HeldWal, Horizon, LeafSeen, TableSeen};
use crate::table::TableName;

/// Each look-up goes by an index, however large the catalogue, by a plan that is made once: the planner's guesses at the
/// size of a partition tree would also set off JIT compilation, which takes longer than the look.
pub(super) const SETTINGS: &str = "SET statement_timeout = '5s'; SET jit = off; \
    SET plan_cache_mode = force_generic_plan; SET max_parallel_workers_per_gather = 0; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

pub(super) const VERSION: &str = "SELECT current_setting('server_version_num')::int";

/// What one run of [`look`] showed.
pub(super) struct Glance {
    pub(super) in_recovery: bool,
    /// `synchronous_standby_names`.
    pub(super) standby_names: String,
    /// Ours, which the stream has too.
    pub(super) application_name: String,
    pub(super) wal: Option<HeldWal>,
    pub(super) snapshot: Horizon,
    pub(super) tables: Vec<TableSeen>,
    /// A hash for each table, of its stamp and of all that the rules are bound to: columns, leaves, their identities.
    pub(super) shapes: Vec<i64>,
}

/// The columns of relation `c` that are its replica identity, as numbers. Not the index that holds them, which REINDEX
/// CONCURRENTLY replaces by another.
const IDENTITY: &str = "(
    SELECT string_agg(format('%s/%s', i.indkey, i.indnkeyatts), ',') FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)";

/// The row type's xmin moves when the table is renamed or put into another schema, also there and back, and when it gets
/// another owner; not, as pg_class.xmin does, with GRANT, CREATE INDEX or ANALYZE.
const TABLE_STAMP: &str = "format('table %s type %s file %s %s identity %s %s', c.oid,
    (SELECT t.xmin FROM pg_catalog.pg_type t WHERE t.oid = c.reltype), c.relfilenode, c.relpersistence,
    c.relreplident, {IDENTITY})";

const PUBLICATION_STAMP: &str = "(
    SELECT format('publication %s %s entry %s schema %s', p.oid, p.xmin,
        (SELECT format('%s %s', e.oid, e.xmin) FROM pg_catalog.pg_publication_rel e
         WHERE e.prpubid = p.oid AND e.prrelid = c.oid),
        {SCHEMA_ENTRY})
    FROM pg_catalog.pg_publication p WHERE p.pubname = $4)";

/// Postgres 15 and later.
const SCHEMA_ENTRY: &str = "(
    SELECT format('%s %s', e.oid, e.xmin) FROM pg_catalog.pg_publication_namespace e
    WHERE e.pnpubid = p.oid AND e.pnnspid = c.relnamespace)";

/// Whether the child of `i` was created as a partition and has been one ever since. ATTACH and DETACH write the row of
/// every column anew (attinhcount). So one that was never attached has a column whose row is still what the creation
/// wrote: in the transaction and the command that wrote the row of the system column ctid, which nothing writes again,
/// or in the next command, which sets the defaults. An INSERT is no sooner than that next command, and an ATTACH that
/// follows it is later.
///
/// Command numbers are not in the log: after a crash, and on a standby, they are 0. So what is older than `$5`, a
/// transaction from which on the server is known to have stayed up, counts as attached.
const BORN_HERE: &str = "CASE WHEN age(i.xmin) <= age($5::text::xid) THEN coalesce((
        SELECT true FROM pg_catalog.pg_attribute s JOIN pg_catalog.pg_attribute a ON a.attrelid = s.attrelid
        WHERE s.attrelid = i.inhrelid AND s.attnum = -1 AND s.xmax = 0
          AND a.attnum > 0 AND NOT a.attisdropped AND a.xmax = 0
          AND a.xmin = s.xmin AND a.cmin::text::int8 - s.cmin::text::int8 <= 1 LIMIT 1), false) ELSE false END";

/// `$1` slot, `$2` schemas and `$3` names of the tables, `$4` publication, `$5` see [`BORN_HERE`]. The tree is walked
/// here because pg_partition_tree() locks every partition and sees another snapshot.
const LOOK: &str = "
WITH RECURSIVE
server AS MATERIALIZED (
    SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, pg_catalog.pg_current_snapshot() AS snapshot,
           pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) AS segment,
           CASE WHEN pg_catalog.pg_is_in_recovery()
                THEN greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
                ELSE pg_catalog.pg_current_wal_lsn() END AS wal_end),
slot AS MATERIALIZED (
    SELECT greatest(0, pg_catalog.pg_wal_lsn_diff(server.wal_end, restart_lsn))::int8 AS retained, safe_wal_size
    FROM pg_catalog.pg_replication_slots CROSS JOIN server
    WHERE slot_name = $1 AND wal_status <> 'lost' AND restart_lsn IS NOT NULL),
wanted AS MATERIALIZED (
    SELECT w.place, c.oid, c.relkind, {PUBLICATION_STAMP} AS publication, {TABLE_STAMP} AS stamp
    FROM ROWS FROM (unnest($2::text[]), unnest($3::text[])) WITH ORDINALITY AS w (schema, name, place)
    LEFT JOIN (pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid)
        ON n.nspname = w.schema AND c.relname = w.name),
tree (root, relid, born_here) AS (
    SELECT oid, oid, true FROM wanted WHERE relkind = 'p'
    UNION ALL
    SELECT tree.root, i.inhrelid, tree.born_here AND {BORN_HERE}
    FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid WHERE NOT i.inhdetachpending),
leaves AS MATERIALIZED (
    SELECT tree.root, array_agg(c.oid ORDER BY c.oid) AS oids, array_agg(c.relfilenode ORDER BY c.oid) AS files,
           array_agg(tree.born_here ORDER BY c.oid) AS born_here,
           string_agg(concat_ws(' ', c.oid, c.relnamespace, c.relname, c.relkind, c.relfilenode, c.relpersistence,
                                c.relreplident, {IDENTITY}), ',' ORDER BY c.oid) AS shape
    FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.relid WHERE c.relkind <> 'p' GROUP BY tree.root)
SELECT server.in_recovery, pg_catalog.pg_snapshot_xmin(server.snapshot)::text::int8,
       pg_catalog.pg_snapshot_xmax(server.snapshot)::text::int8, server.segment, slot.retained, slot.safe_wal_size,
       CASE WHEN wanted.oid IS NOT NULL THEN concat_ws(' ', wanted.publication, wanted.stamp) END,
       hashtextextended(concat_ws('|', wanted.relkind, wanted.publication, wanted.stamp, leaves.shape,
           (SELECT string_agg(format('%s %s %s %s %s %s', a.attname, a.atttypid, a.atttypmod, a.attnotnull,
                                     a.attgenerated, a.attisdropped), ',' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = wanted.oid AND a.attnum > 0)), 0),
       leaves.oids, leaves.files, leaves.born_here, server.wal_end::text,
       current_setting('synchronous_standby_names'), current_setting('application_name')
FROM server LEFT JOIN slot ON true LEFT JOIN wanted ON true LEFT JOIN leaves ON leaves.root = wanted.oid
ORDER BY wanted.place";

/// The statement for a server of `version`, e.g. 150018.
pub(super) fn look(version: i32) -> String {
    let schema_entry = if version >= 150_000 { SCHEMA_ENTRY } else { "NULL" };
    LOOK.replace("{PUBLICATION_STAMP}", PUBLICATION_STAMP)
        .replace("{TABLE_STAMP}", TABLE_STAMP)
        .replace("{SCHEMA_ENTRY}", schema_entry)
        .replace("{BORN_HERE}", BORN_HERE)
        .replace("{IDENTITY}", IDENTITY)
}

/// A transaction id as type xid has it: the lower 32 bits.
pub(super) fn short_xid(xid: u64) -> String {
    (xid & u64::from(u32::MAX)).to_string()
}

/// Reads what [`look`] gave; the rows are in the order of `tables`. `None` where there are too few.
pub(super) fn read(rows: &[Row], tables: &[TableName]) -> Result<Option<Glance>, tokio_postgres::Error> {
    let Some(server) = rows.first().filter(|_| rows.len() >= tables.len()) else { return Ok(None) };
    // Sizes and transaction ids are never negative.
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    let segment = unsigned(server.try_get(3)?);
    let wal = match server.try_get::<_, Option<i64>>(4)? {
        Some(retained) => Some(HeldWal {
            end: server.try_get::<_, &str>(11)?.parse().unwrap_or_default(),
            retained: unsigned(retained),
            safe: server.try_get::<_, Option<i64>>(5)?.map(unsigned),
            segment,
        }),
        None => None,
    };
    let snapshot = Horizon { xmin: unsigned(server.try_get(1)?), xmax: unsigned(server.try_get(2)?) };
    let mut glance = Glance {
        in_recovery: server.try_get(0)?,
        standby_names: server.try_get(12)?,
        application_name: server.try_get(13)?,
        wal,
        snapshot,
        tables: Vec::new(),
        shapes: Vec::new(),
    };
    for (row, name) in rows.iter().zip(tables) {
        let seen = TableSeen { name: name.clone(), stamp: row.try_get(6)?, leaves: leaves(row)? };
        glance.tables.push(seen);
        glance.shapes.push(row.try_get(7)?);
    }
    Ok(Some(glance))
}

/// NULL where the table has no partitions.
fn leaves(row: &Row) -> Result<Vec<LeafSeen>, tokio_postgres::Error> {
    let numbers = |column| row.try_get::<_, Option<Vec<u32>>>(column).map(Option::unwrap_or_default);
    let (oids, files) = (numbers(8)?, numbers(9)?);
    let born_here: Vec<bool> = row.try_get::<_, Option<_>>(10)?.unwrap_or_default();
    let leaf = |((oid, file), born_here)| LeafSeen { oid, file, born_here };
    Ok(oids.into_iter().zip(files).zip(born_here).map(leaf).collect())
}
