//! The statements of a look. None of them locks a table of the application, so a look waits for nobody and nobody waits
//! for it. Every look runs [`SERVER`], [`touched`] tells which tables may differ from the look before, and [`look`]
//! describes those.

/// Each look-up uses an index, however large the catalogue is, with a plan that is made once. The planner's guesses at
/// the number of tables and the size of a partition tree would also trigger JIT compilation, which takes longer than
/// the look.
pub(super) const SETTINGS: &str = "SET statement_timeout = '5s'; SET jit = off; \
    SET plan_cache_mode = force_generic_plan; SET max_parallel_workers_per_gather = 0; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

pub(super) const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int";

/// `$1` is the slot.
pub(super) const SERVER: &str = "
WITH server AS MATERIALIZED (
    SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, pg_catalog.pg_current_snapshot()::text AS snapshot,
           pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) AS segment,
           CASE WHEN pg_catalog.pg_is_in_recovery()
                THEN greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
                ELSE pg_catalog.pg_current_wal_lsn() END AS wal_end),
slot AS MATERIALIZED (
    SELECT greatest(0, pg_catalog.pg_wal_lsn_diff(server.wal_end, restart_lsn))::int8 AS retained, safe_wal_size
    FROM pg_catalog.pg_replication_slots CROSS JOIN server
    WHERE slot_name = $1 AND wal_status <> 'lost' AND restart_lsn IS NOT NULL)
SELECT server.in_recovery, server.snapshot, server.segment, slot.retained, slot.safe_wal_size, server.wal_end::text,
       current_setting('synchronous_standby_names'), current_setting('application_name')
FROM server LEFT JOIN slot ON true";

/// A position before which everything visible so far was written. Not the flush position: a commit with
/// `synchronous_commit = off` is visible before it is flushed. At the start of a page the insert position lies after
/// the page's header (24 bytes; 40 in the first page of a segment), and nothing confirms that position before the next
/// record.
pub(super) const LOG_END: &str = "
SELECT CASE
    WHEN pg_catalog.pg_is_in_recovery()
        THEN greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
    ELSE (SELECT e.at - CASE
                WHEN mod(e.at - '0/0'::pg_lsn, current_setting('wal_block_size')::numeric) = 24 THEN 24
                WHEN mod(e.at - '0/0'::pg_lsn, pg_catalog.pg_size_bytes(current_setting('wal_segment_size'))) = 40 THEN 40
                ELSE 0 END::numeric
          FROM (SELECT pg_catalog.pg_current_wal_insert_lsn() AS at) e) END::text";

/// Whether a row was written by a transaction that the last look may not have shown. A frozen row keeps its xmin; one
/// from two billion transactions ago counts as old.
macro_rules! fresh {
    ($row:literal) => {
        concat!("pg_catalog.age(", $row, ".xmin) BETWEEN 0 AND (SELECT pg_catalog.age($2::text::xid))")
    };
}

/// What may differ from the last look. A row that was written since shows that by its xmin, which no index holds. So
/// each row that the last look showed is looked up by its oid. That finds rows that are gone, too; new rows are looked
/// for only where there was none.
///
/// `$1` is the publication, `$2` a transaction before which all had ended at the last look; `$3` to `$6` are the
/// relations, entries of the publication, indexes and enums that it showed; `$7` relations without an index for their
/// identity, `$8` those without an entry; `$9` and `$10` schemas and names of tables that did not exist.
///
/// The last column is the oldest transaction that runs in this database or whose database is unknown; NULL on a
/// standby, which knows of none. Transactions of other databases write nothing here, and may run for ever.
///
/// A rename, a new schema and a new owner also write the relation's own row, so `pg_type` need not be read.
const TOUCHED: &str = concat!(
    "
WITH schemas AS MATERIALIZED (
    SELECT array_agg(fresh.oid) AS oids FROM (
        SELECT n.oid FROM pg_catalog.pg_namespace n WHERE ",
    fresh!("n"),
    " {FRESH_SCHEMA_ENTRIES}) fresh),
elsewhere (xid) AS MATERIALIZED (
    SELECT p.transaction::text::int8 FROM pg_catalog.pg_prepared_xacts p WHERE p.database <> current_database()
    UNION ALL
    SELECT a.backend_xid::text::int8 FROM pg_catalog.pg_stat_activity a
    WHERE a.backend_xid IS NOT NULL AND a.datname <> current_database())
SELECT pg_catalog.pg_current_snapshot()::text,
       (SELECT concat_ws(' ', p.oid, p.xmin) FROM pg_catalog.pg_publication p WHERE p.pubname = $1),
       ARRAY(SELECT k.oid FROM unnest($3::oid[]) AS k (oid) LEFT JOIN pg_catalog.pg_class c ON c.oid = k.oid
             WHERE c.oid IS NULL OR ",
    fresh!("c"),
    " OR c.relnamespace = ANY ((SELECT oids FROM schemas)::oid[])
                OR c.relhassubclass AND EXISTS (SELECT FROM pg_catalog.pg_inherits i
                                                WHERE i.inhparent = c.oid AND ",
    fresh!("i"),
    ")
             UNION ALL
             SELECT a.attrelid FROM unnest($3::oid[]) AS k (oid)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.oid AND a.attnum > 0 WHERE ",
    fresh!("a"),
    "
             UNION ALL
             SELECT i.indrelid FROM unnest($7::oid[]) AS k (oid)
             JOIN pg_catalog.pg_index i ON i.indrelid = k.oid WHERE ",
    fresh!("i"),
    "
             UNION ALL
             SELECT e.prrelid FROM unnest($8::oid[]) AS k (oid)
             JOIN pg_catalog.pg_publication p ON p.pubname = $1
             JOIN pg_catalog.pg_publication_rel e ON e.prrelid = k.oid AND e.prpubid = p.oid),
       ARRAY(SELECT k.oid FROM unnest($4::oid[]) AS k (oid)
             LEFT JOIN pg_catalog.pg_publication_rel e ON e.oid = k.oid {SCHEMA_ENTRIES}
             WHERE coalesce(e.oid, {SCHEMA_ENTRY_OID}) IS NULL OR ",
    fresh!("e"),
    "),
       ARRAY(SELECT k.oid FROM unnest($5::oid[]) AS k (oid)
             LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = k.oid
             WHERE i.indexrelid IS NULL OR ",
    fresh!("i"),
    "),
       ARRAY(SELECT k.oid FROM unnest($6::oid[]) AS k (oid)
             JOIN pg_catalog.pg_enum e ON e.enumtypid = k.oid WHERE ",
    fresh!("e"),
    "),
       ARRAY(SELECT w.place FROM ROWS FROM (unnest($9::text[]), unnest($10::text[]))
                 WITH ORDINALITY AS w (schema, name, place)
             JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
             CROSS JOIN LATERAL (SELECT FROM pg_catalog.pg_class c
                                 WHERE c.relnamespace = n.oid AND c.relname = w.name OFFSET 0) AS c),
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN coalesce(
           (SELECT min(running.xid::text::int8)
            FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) AS running (xid)
            WHERE running.xid::text::int8 & 4294967295 NOT IN (SELECT xid FROM elsewhere)),
           pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8) END"
);

/// Who runs transaction `$1`.
pub(super) const HOLDER: &str = "
SELECT coalesce(
    (SELECT format('prepared transaction %L of role %I, since %s', p.gid, p.owner, date_trunc('second', p.prepared))
     FROM pg_catalog.pg_prepared_xacts p WHERE p.transaction = $1::text::xid LIMIT 1),
    (SELECT format('process %s of role %I, since %s', a.pid, a.usename, date_trunc('second', a.xact_start))
     FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'transactionid' AND l.transactionid = $1::text::xid AND l.mode = 'ExclusiveLock' AND l.granted
     LIMIT 1))";

/// The columns of relation `c` that are its replica identity, as numbers, and the indexes that hold them. REINDEX
/// CONCURRENTLY replaces such an index with another.
const IDENTITY: &str = "(
    SELECT string_agg(format('%s/%s', i.indkey, i.indnkeyatts), ',') AS columns, array_agg(i.indexrelid) AS indexes
    FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)";

/// A hash of the row versions of the columns of relation `c`; see
/// [`FileSeen::columns`](crate::types::observation::FileSeen).
const COLUMN_ROWS: &str = "(SELECT hashtextextended(string_agg(a.xmin::text, ' ' ORDER BY a.attnum), 0)
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)";

/// Leaves out the file, which VACUUM FULL replaces, `pg_class.xmin`, which changes with GRANT, and the row type's xmin,
/// which changes with OWNER TO.
const TABLE_STAMP: &str = "format('table %s %s identity %s %s', c.oid, c.relpersistence, c.relreplident, \
                           identity.columns)";

const PUBLICATION_STAMP: &str = "
    SELECT concat('publication ', p.oid, ' ', p.xmin, ' entry ', e.oid, ' ', e.xmin, ' schema ', {SCHEMA_ENTRY_STAMP}) AS stamp,
           array_remove(ARRAY[e.oid, {SCHEMA_ENTRY_OID}], NULL) AS entries, e.oid IS NOT NULL AS is_entered
    FROM pg_catalog.pg_publication p
    LEFT JOIN pg_catalog.pg_publication_rel e ON e.prpubid = p.oid AND e.prrelid = c.oid {SCHEMA_ENTRY}
    WHERE p.pubname = $3";

/// Whether the child of `i` was created as a partition and has been one ever since. ATTACH and DETACH rewrite the row
/// of every column (attinhcount). So a child that was never attached has a column whose row is still what the creation
/// wrote: in the transaction and the command that wrote the row of the system column ctid, which nothing rewrites, or
/// in the next command, which sets the defaults. An INSERT comes no sooner than that next command, and an ATTACH that
/// follows it comes later.
///
/// Command numbers are not in the log: after a crash, and on a standby, they are 0. So whatever is older than `$4`, a
/// transaction since which the server is known to have stayed up, counts as attached.
const BORN_HERE: &str = "CASE WHEN age(i.xmin) <= age($4::text::xid) THEN coalesce((
        SELECT true FROM pg_catalog.pg_attribute s JOIN pg_catalog.pg_attribute a ON a.attrelid = s.attrelid
        WHERE s.attrelid = i.inhrelid AND s.attnum = -1 AND s.xmax = 0
          AND a.attnum > 0 AND NOT a.attisdropped AND a.xmax = 0
          AND a.xmin = s.xmin AND a.cmin::text::int8 - s.cmin::text::int8 <= 1 LIMIT 1), false) ELSE false END";

/// Smaller oids are the server's own types, which nobody alters.
const TYPES_OF_USERS: &str = "16384";

/// `$1` and `$2` are schemas and names of the tables, `$3` the publication; for `$4` see [`BORN_HERE`]. The statement
/// walks the tree itself, because `pg_partition_tree()` locks every partition and sees another snapshot. OFFSET 0 makes
/// Postgres look up the schema first: with one schema per tenant, thousands of tables share a name.
///
/// Parts are columns, identified by their number; labels of enums, by 2⁴⁸ and their oid; attributes of composite types,
/// by 2⁵⁰, their type and number. A domain, an array or a range counts as what it is made of.
const LOOK: &str = "
WITH RECURSIVE
wanted AS MATERIALIZED (
    SELECT w.place, c.*, identity.columns AS identity, identity.indexes, published.stamp AS publication,
           published.entries, published.is_entered, {TABLE_STAMP} AS stamp,
           CASE c.relkind WHEN 'r' THEN {COLUMN_ROWS} END AS column_rows
    FROM ROWS FROM (unnest($1::text[]), unnest($2::text[])) WITH ORDINALITY AS w (schema, name, place)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_class c
                        WHERE c.relnamespace = n.oid AND c.relname = w.name OFFSET 0) AS c
    CROSS JOIN LATERAL {IDENTITY} AS identity
    LEFT JOIN LATERAL ({PUBLICATION_STAMP}) AS published ON true),
tree (root, relid, born_here, joined) AS (
    SELECT oid, oid, true, 0::int8 FROM wanted WHERE relkind = 'p' OR relkind = 'r' AND relhassubclass
    UNION
    SELECT tree.root, i.inhrelid, tree.born_here AND {BORN_HERE},
           hashtextextended(concat_ws(' ', tree.joined, i.xmin), 0)
    FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid WHERE NOT i.inhdetachpending),
members AS MATERIALIZED (
    SELECT tree.root, tree.born_here, tree.joined, c.*, identity.columns AS identity, identity.indexes,
           CASE WHEN tree.root <> c.oid AND c.relkind <> 'p' THEN {COLUMN_ROWS} END AS column_rows,
           tree.root <> c.oid AND NOT c.relispartition AS is_child, published.entries, published.is_entered,
           concat_ws(' ', published.stamp, {TABLE_STAMP}) AS stamp
    FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.relid CROSS JOIN LATERAL {IDENTITY} AS identity
    LEFT JOIN LATERAL ({PUBLICATION_STAMP} AND NOT c.relispartition AND c.oid <> tree.root) AS published ON true
    WHERE tree.root = c.oid OR c.relpersistence <> 't'),
leaves AS MATERIALIZED (
    SELECT c.root, array_agg(c.oid ORDER BY c.oid) AS oids,
           array_agg(c.relfilenode ORDER BY c.oid) AS files,
           array_agg(c.column_rows ORDER BY c.oid) AS column_rows,
           array_agg(c.reltablespace ORDER BY c.oid) AS tablespaces,
           array_agg(c.reltuples > 0 ORDER BY c.oid) AS has_rows, array_agg(c.born_here ORDER BY c.oid) AS born_here,
           array_agg(CASE WHEN c.is_child THEN hashtextextended(concat_ws(' ', c.joined, c.stamp), 0) ELSE c.joined END
                     ORDER BY c.oid) AS joined,
           array_agg(CASE WHEN c.is_child THEN (SELECT t.xmin::text::int8 FROM pg_catalog.pg_type t
                                                WHERE t.oid = c.reltype) END ORDER BY c.oid) AS names,
           array_agg(c.relowner ORDER BY c.oid) AS owners,
           string_agg(concat_ws(' ', c.oid, c.relnamespace, c.relname, c.relkind, c.relpersistence, c.relreplident,
                                c.identity, CASE WHEN c.is_child THEN c.stamp END), ',' ORDER BY c.oid) AS shape
    FROM members c WHERE c.relkind <> 'p' AND c.oid <> c.root GROUP BY c.root),
bricks (root, oid) AS (
    SELECT wanted.oid, a.atttypid FROM wanted JOIN pg_catalog.pg_attribute a ON a.attrelid = wanted.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= {TYPES_OF_USERS}
    UNION
    SELECT bricks.root, inner_type.oid FROM bricks JOIN pg_catalog.pg_type t ON t.oid = bricks.oid
    CROSS JOIN LATERAL (
        SELECT t.typelem UNION ALL SELECT t.typbasetype
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
        UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE t.typtype = 'm' AND r.rngmultitypid = t.oid
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                  WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inner_type (oid) WHERE inner_type.oid >= {TYPES_OF_USERS}),
parts (root, id, version, fills_rows) AS (
    SELECT a.attrelid, a.attnum::int8,
           hashtextextended(concat_ws('|', a.attname, a.atttypid, a.atttypmod, a.attgenerated,
               CASE WHEN a.attgenerated <> '' THEN (SELECT d.adbin::text FROM pg_catalog.pg_attrdef d
                                                    WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END), 0),
           a.atthasdef OR a.atthasmissing OR a.attidentity <> '' OR EXISTS (
               SELECT FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid AND t.typtype = 'd')
    FROM wanted JOIN pg_catalog.pg_attribute a ON a.attrelid = wanted.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT bricks.root, 281474976710656 + e.oid::int8, hashtextextended(e.enumlabel::text, 0), false
    FROM bricks JOIN pg_catalog.pg_enum e ON e.enumtypid = bricks.oid
    UNION ALL
    SELECT bricks.root, 1125899906842624 + a.attrelid::int8 * 65536 + a.attnum,
           hashtextextended(concat_ws('|', a.attname, a.atttypid, a.atttypmod), 0), true
    FROM bricks JOIN pg_catalog.pg_type t ON t.oid = bricks.oid AND t.typrelid <> 0
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
parts_of AS MATERIALIZED (
    SELECT root, array_agg(id ORDER BY id) AS ids, array_agg(version ORDER BY id) AS versions,
           array_agg(fills_rows ORDER BY id) AS fills_rows
    FROM parts GROUP BY root)
SELECT wanted.place, concat_ws(' ', wanted.publication, wanted.stamp),
       hashtextextended(concat_ws('|', wanted.relkind, wanted.publication, wanted.stamp, leaves.shape,
           (SELECT string_agg(format('%s %s %s %s %s %s %s', a.attname, a.atttypid, a.atttypmod, a.attnotnull,
                                     a.attgenerated, a.attisdropped, a.attstorage), ',' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = wanted.oid AND a.attnum > 0)), 0),
       coalesce((SELECT t.xmin FROM pg_catalog.pg_type t WHERE t.oid = wanted.reltype), '0')::text::int8,
       wanted.relowner, CASE wanted.relkind WHEN 'r' THEN wanted.relfilenode ELSE 0 END,
       coalesce(wanted.column_rows, 0), wanted.reltablespace, wanted.reltuples > 0,
       parts_of.ids, parts_of.versions, parts_of.fills_rows,
       leaves.oids, leaves.files, leaves.column_rows, leaves.tablespaces, leaves.has_rows, leaves.born_here,
       wanted.oid || ARRAY(SELECT members.oid FROM members WHERE members.root = wanted.oid AND members.oid <> wanted.oid)
           || ARRAY(SELECT t.typrelid FROM bricks JOIN pg_catalog.pg_type t ON t.oid = bricks.oid
                    WHERE bricks.root = wanted.oid AND t.typrelid <> 0),
       coalesce(wanted.entries, '{}') || ARRAY(SELECT unnest(members.entries) FROM members
                                               WHERE members.root = wanted.oid AND members.is_child),
       coalesce(wanted.indexes, '{}') || ARRAY(SELECT unnest(members.indexes) FROM members
                                               WHERE members.root = wanted.oid AND members.oid <> wanted.oid),
       ARRAY(SELECT t.oid FROM bricks JOIN pg_catalog.pg_type t ON t.oid = bricks.oid
             WHERE bricks.root = wanted.oid AND t.typtype = 'e'),
       CASE WHEN wanted.indexes IS NULL THEN ARRAY[wanted.oid] ELSE '{}' END
           || ARRAY(SELECT members.oid FROM members
                    WHERE members.root = wanted.oid AND members.oid <> wanted.oid AND members.indexes IS NULL),
       CASE WHEN wanted.is_entered THEN '{}' ELSE ARRAY[wanted.oid] END
           || ARRAY(SELECT members.oid FROM members
                    WHERE members.root = wanted.oid AND members.is_child AND members.is_entered IS NOT TRUE),
       leaves.joined, leaves.names, leaves.owners
FROM wanted LEFT JOIN leaves ON leaves.root = wanted.oid LEFT JOIN parts_of ON parts_of.root = wanted.oid
ORDER BY wanted.place";

/// [`LOOK`] for a server of `version`, e.g. 150018.
pub(super) fn look(version: i32) -> String {
    let published = for_version(PUBLICATION_STAMP, version);
    LOOK.replace("{PUBLICATION_STAMP}", &published)
        .replace("{TABLE_STAMP}", TABLE_STAMP)
        .replace("{BORN_HERE}", BORN_HERE)
        .replace("{COLUMN_ROWS}", COLUMN_ROWS)
        .replace("{IDENTITY}", IDENTITY)
        .replace("{TYPES_OF_USERS}", TYPES_OF_USERS)
}

/// [`TOUCHED`] for a server of `version`.
pub(super) fn touched(version: i32) -> String {
    for_version(TOUCHED, version)
}

/// Schemas can be published from Postgres 15 on.
fn for_version(sql: &str, version: i32) -> String {
    let schemas = [
        (
            "{FRESH_SCHEMA_ENTRIES}",
            concat!("UNION ALL SELECT s.pnnspid FROM pg_catalog.pg_publication_namespace s WHERE ", fresh!("s")),
        ),
        ("{SCHEMA_ENTRIES}", "LEFT JOIN pg_catalog.pg_publication_namespace s ON s.oid = k.oid"),
        (
            "{SCHEMA_ENTRY}",
            "LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = c.relnamespace",
        ),
        ("{SCHEMA_ENTRY_OID}", "s.oid"),
        ("{SCHEMA_ENTRY_STAMP}", "s.oid, ' ', s.xmin"),
    ];
    let is_modern = version >= 150_000;
    schemas.iter().fold(sql.to_owned(), |sql, (place, modern)| {
        let plain = if place.ends_with("OID}") {
            "NULL::oid"
        } else if place.ends_with("STAMP}") {
            "''"
        } else {
            ""
        };
        sql.replace(place, if is_modern { modern } else { plain })
    })
}
