//! Reads which tables a publication holds besides those of rules, and for which of them it makes the application's
//! writes fail. Locks no table: partition trees are walked in `pg_inherits`.

use tokio_postgres::{Client, Row};

use super::{CatalogError, get};
use crate::types::database::{BESIDE_MAX, Beside, Database, Publication, Unwritable};
use crate::types::table::TableName;

const WHAT: &str = "the publication's tables";

/// Reads what the publication of `database` holds besides the tables that `database` describes.
pub async fn beside(client: &Client, database: &Database) -> Result<Beside, CatalogError> {
    let Some(held) = &database.publication else { return Ok(Beside::default()) };
    let (name, version) = (&database.publication_name, database.server.version);
    let ruled: Vec<u32> = database.tables.iter().map(|table| table.oid).collect();
    let limit = i64::from(BESIDE_MAX);
    let query = async |sql: &str| {
        let rows = client.query(sql, &[name, &ruled, &limit]).await;
        rows.map_err(|error| CatalogError::new(WHAT, &error))
    };
    let unruled = query(&unruled(version)).await?;
    let unwritable = if held.operations.update || held.operations.delete {
        query(&unwritable(held, version)).await?
    } else {
        Vec::new()
    };
    let count = |rows: &[Row]| rows.first().map_or(Ok(0), |row| get::<i64>(row, 2, WHAT)).map(i64::unsigned_abs);
    Ok(Beside {
        unruled_count: count(&unruled)?,
        unruled: unruled.iter().map(|row| Ok((table(row)?, get(row, 3, WHAT)?))).collect::<Result<_, _>>()?,
        unwritable_count: count(&unwritable)?,
        unwritable: unwritable.iter().map(one).collect::<Result<_, _>>()?,
    })
}

fn table(row: &Row) -> Result<TableName, CatalogError> {
    Ok(TableName { schema: get(row, 0, WHAT)?, name: get(row, 1, WHAT)? })
}

fn one(row: &Row) -> Result<Unwritable, CatalogError> {
    Ok(Unwritable {
        table: table(row)?,
        bare: get(row, 3, WHAT)?,
        listed: get(row, 4, WHAT)?,
        generated: get(row, 5, WHAT)?,
        is_virtual: get(row, 6, WHAT)?,
    })
}

/// Tables that the publication names one by one. `$1` is the publication, `$2` the tables of rules, `$3` the limit.
fn unruled(version: u32) -> String {
    let excepted = if version >= 190_000 { "AND NOT e.prexcept" } else { "" };
    format!(
        "SELECT n.nspname::text, c.relname::text, pg_catalog.count(*) OVER (), c.relkind = 'p'
         FROM pg_catalog.pg_publication p
         JOIN pg_catalog.pg_publication_rel e ON e.prpubid = p.oid {excepted}
         JOIN pg_catalog.pg_class c ON c.oid = e.prrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE p.pubname = $1 AND c.oid <> ALL ($2::oid[]) ORDER BY 1, 2 LIMIT $3"
    )
}

/// Published tables whose UPDATEs fail (`CheckCmdReplicaIdentity`), whether they are published by name, through their
/// schema, through a partitioned table or with FOR ALL TABLES. `$1` to `$3` as above.
fn unwritable(held: &Publication, version: u32) -> String {
    let lists = version >= 150_000;
    let schemas = if held.holds_schemas {
        "UNION SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_publication_namespace s
             ON s.pnnspid = c.relnamespace JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid WHERE p.pubname = $1"
    } else {
        ""
    };
    let entries = "SELECT e.prrelid FROM pg_catalog.pg_publication_rel e
        JOIN pg_catalog.pg_publication p ON p.oid = e.prpubid WHERE p.pubname = $1";
    // FOR ALL TABLES has entries from Postgres 19 on, and they are the exceptions.
    let (roots, but) = match (held.all_tables, version) {
        (true, 190_000..) => ("SELECT oid FROM pg_catalog.pg_class WHERE oid >= 16384".to_owned(), entries),
        (true, _) => ("SELECT oid FROM pg_catalog.pg_class WHERE oid >= 16384".to_owned(), "SELECT 0::oid WHERE false"),
        (false, _) => (format!("{entries} {schemas}"), "SELECT 0::oid WHERE false"),
    };
    let listed = if lists {
        "EXISTS (SELECT FROM pg_catalog.pg_publication_rel e JOIN pg_catalog.pg_publication p ON p.oid = e.prpubid
             WHERE p.pubname = $1 AND e.prrelid = c.oid AND e.prattrs IS NOT NULL AND (c.relreplident = 'f' OR EXISTS (
                 SELECT FROM pg_catalog.unnest(identity.columns) AS i (attnum)
                 WHERE i.attnum <> ALL (e.prattrs::int2[]))))"
    } else {
        "false"
    };
    let (generated, is_virtual) = match version {
        180_000.. => {
            (format!("c.relreplident = 'f' AND NOT {} AND {}", held.generated, has_generated('s')), has_generated('v'))
        }
        _ => ("false".to_owned(), "false".to_owned()),
    };
    format!(
        "WITH RECURSIVE
         ruled (oid) AS (SELECT pg_catalog.unnest($2::oid[]) {DESCEND} JOIN ruled ON ruled.oid = i.inhparent),
         excepted (oid) AS ({but} {DESCEND} JOIN excepted ON excepted.oid = i.inhparent),
         held (oid) AS ({roots} {DESCEND} JOIN held ON held.oid = i.inhparent),
         seen AS (
             SELECT n.nspname::text AS schema, c.relname::text AS name,
                    c.relreplident <> 'f' AND identity.columns IS NULL AS bare, {listed} AS listed,
                    {generated} AS generated, {is_virtual} AS virtual, c.relreplident = 'f' AS whole
             FROM held JOIN pg_catalog.pg_class c ON c.oid = held.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN LATERAL ({IDENTITY}) identity ON true
             WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
               AND c.oid NOT IN (SELECT oid FROM ruled) AND c.oid NOT IN (SELECT oid FROM excepted))
         SELECT schema, name, pg_catalog.count(*) OVER (), bare, listed, generated, virtual
         FROM seen WHERE bare OR listed OR generated OR (virtual AND whole) ORDER BY 1, 2 LIMIT $3"
    )
}

/// One step down every partition tree.
const DESCEND: &str = "UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class child ON child.oid = i.inhrelid AND child.relispartition";

/// The columns of the index that is the replica identity of `c`, as `RelationGetReplicaIndex` sees it.
const IDENTITY: &str = "
    SELECT (x.indkey::int2[])[0:x.indnkeyatts - 1] AS columns FROM pg_catalog.pg_index x
    WHERE x.indrelid = c.oid AND x.indisvalid AND x.indisunique AND x.indimmediate AND x.indpred IS NULL
      AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END LIMIT 1";

fn has_generated(kind: char) -> String {
    format!(
        "EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                 AND NOT a.attisdropped AND a.attgenerated = '{kind}')"
    )
}
