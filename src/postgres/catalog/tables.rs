//! Reads the rules' tables: what they are, what their old rows hold, and how the publication holds them. Every
//! statement reads the catalogue's own tables, because functions like `pg_partition_tree()` and `pg_get_expr()` lock
//! the tables that they describe.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use super::{CatalogError, get};
use crate::types::change::ReplicaIdentity;
use crate::types::database::{IDENTITY_SUFFIX, OTHERS_MAX, Publication};
use crate::types::table::{
    Generated, IdentityIndex, Leaf, Persistence, Published, PublishedBy, Table, TableColumn, TableKind, TableName,
};

const WHAT: &str = "the tables";

/// Maximum number of tables in one statement, so that it stays well below its statement_timeout.
const CHUNK: usize = 500;

/// The tables that exist, sorted by name, and, if one is missing, the names of tables that the user may have meant.
pub(super) async fn look(
    client: &Client,
    publication: &str,
    version: u32,
    wanted: &[TableName],
    held: Option<&Publication>,
) -> Result<(Vec<Table>, Vec<TableName>), CatalogError> {
    let mut wanted: Vec<_> = wanted.iter().collect();
    wanted.sort();
    wanted.dedup();
    let mut tables = Vec::with_capacity(wanted.len());
    let mut heirs = BTreeMap::new();
    for wanted in wanted.chunks(CHUNK) {
        let mut described = look_at(client, publication, version, wanted, held).await?;
        read_heirs(client, &mut described, &mut heirs).await?;
        tables.extend(described);
    }
    let others = if tables.len() == wanted.len() { Vec::new() } else { read_others(client).await? };
    let beside: Vec<&TableName> = heirs.keys().filter(|name| wanted.binary_search(name).is_err()).collect();
    for heirs in beside.chunks(CHUNK) {
        tables.extend(look_at(client, publication, version, heirs, held).await?);
    }
    for table in &mut tables {
        table.parents = heirs.remove(&table.name).unwrap_or_default();
    }
    tables.sort_by(|one: &Table, other| one.name.cmp(&other.name));
    Ok((tables, others))
}

async fn look_at(
    client: &Client,
    publication: &str,
    version: u32,
    wanted: &[&TableName],
    held: Option<&Publication>,
) -> Result<Vec<Table>, CatalogError> {
    let mut tables = read_tables(client, wanted).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let mut columns = read_columns(client, &oids).await?;
    let mut leaves = read_leaves(client, &oids).await?;
    let mut entries = match held {
        Some(held) if held.all_tables => HashMap::new(),
        Some(_) => read_entries(client, publication, version, &oids).await?,
        None => HashMap::new(),
    };
    for table in &mut tables {
        table.columns = columns.remove(&table.oid).unwrap_or_default();
        let own = table.columns.iter().filter(|column| column.in_identity).map(|column| column.name.clone());
        table.identity_columns = own.collect();
        table.leaves = leaves.remove(&table.oid).unwrap_or_default();
        for column in &mut table.columns {
            column.in_identity &= table.leaves.iter().all(|leaf| leaf.identity_columns.contains(&column.name));
        }
        table.published = match held {
            Some(held) if held.all_tables && held.excepted.contains(&table.name) => None,
            Some(held) if held.all_tables => published_by(PublishedBy::AllTables, table),
            _ => entries.remove(&table.oid),
        };
    }
    Ok(tables)
}

/// FOR ALL TABLES leaves out tables that cannot be published.
fn published_by(by: PublishedBy, table: &Table) -> Option<Published> {
    let publishable = table.kind != TableKind::Unpublishable && table.persistence == Persistence::Permanent;
    publishable.then_some(Published { columns: None, row_filter: false, by })
}

/// The root of a partition is the ancestor that is not a partition itself. OFFSET 0 makes Postgres look up the schema
/// first: with one schema per tenant, thousands of tables share a name.
const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       root.schema, root.name, i.relname::text,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.oid AND k.conrelid = c.oid),
       coalesce(toast.relpages > 0, false) OR (c.relpages >= 16 AND c.reltuples > 0
           AND c.relpages * pg_catalog.current_setting('block_size')::float8 / c.reltuples > 1000)
FROM ROWS FROM (unnest($1::text[]), unnest($2::text[])) AS wanted (schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_class c
                    WHERE c.relnamespace = n.oid AND c.relname = wanted.name OFFSET 0) AS c
LEFT JOIN LATERAL (
    WITH RECURSIVE ancestors (relid) AS (
        SELECT c.oid WHERE c.relispartition
        UNION
        SELECT i.inhparent FROM ancestors JOIN pg_catalog.pg_inherits i ON i.inhrelid = ancestors.relid)
    SELECT rn.nspname::text AS schema, r.relname::text AS name FROM ancestors
    JOIN pg_catalog.pg_class r ON r.oid = ancestors.relid AND NOT r.relispartition
    JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace LIMIT 1) AS root ON true
LEFT JOIN pg_catalog.pg_class toast ON toast.oid = c.reltoastrelid
LEFT JOIN (pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid)
    ON x.indrelid = c.oid AND x.indisreplident";

async fn read_tables(client: &Client, wanted: &[&TableName]) -> Result<Vec<Table>, CatalogError> {
    let schemas: Vec<&str> = wanted.iter().map(|name| name.schema.as_str()).collect();
    let names: Vec<&str> = wanted.iter().map(|name| name.name.as_str()).collect();
    let rows = client.query(TABLES, &[&schemas, &names]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let table = |row| {
        let root = match (get(row, 6, WHAT)?, get(row, 7, WHAT)?) {
            (Some(schema), Some(name)) => Some(TableName { schema, name }),
            _ => None,
        };
        Ok(Table {
            oid: get(row, 0, WHAT)?,
            name: TableName { schema: get(row, 1, WHAT)?, name: get(row, 2, WHAT)? },
            kind: kind(get(row, 3, WHAT)?),
            persistence: persistence(get(row, 4, WHAT)?),
            partition_root: root,
            identity: identity(get(row, 5, WHAT)?),
            identity_columns: Vec::new(),
            identity_index: get::<Option<String>>(row, 8, WHAT)?
                .map(|name| Ok(IdentityIndex { name, is_constraint: get(row, 9, WHAT)? }))
                .transpose()?,
            wide: get(row, 10, WHAT)?,
            leaves: Vec::new(),
            parents: Vec::new(),
            is_hypertable: false,
            columns: Vec::new(),
            published: None,
        })
    };
    rows.iter().map(table).collect()
}

fn kind(relkind: &str) -> TableKind {
    match relkind {
        "r" => TableKind::Ordinary,
        "p" => TableKind::Partitioned,
        _ => TableKind::Unpublishable,
    }
}

fn persistence(relpersistence: &str) -> Persistence {
    match relpersistence {
        "t" => Persistence::Temporary,
        "u" => Persistence::Unlogged,
        _ => Persistence::Permanent,
    }
}

fn identity(relreplident: &str) -> ReplicaIdentity {
    match relreplident {
        "d" => ReplicaIdentity::Default,
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index,
        _ => ReplicaIdentity::Nothing,
    }
}

/// Whether attribute `a` of relation `c` is in its replica identity, as the server's `RelationGetIndexList` and
/// `RelationGetIndexAttrBitmap` see it. A deferrable primary key, an invalid index and INCLUDE columns do not count,
/// and a dropped index leaves nothing.
const IN_IDENTITY: &str = "(c.relreplident = 'f' OR EXISTS (
    SELECT FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
      AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))";

async fn read_columns(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Vec<TableColumn>>, CatalogError> {
    let sql = format!(
        "SELECT c.oid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                a.attgenerated::text, t.typcategory IN ('B', 'D', 'E', 'I', 'N', 'S', 'T')
                    OR a.atttypid = 'pg_catalog.uuid'::regtype, {IN_IDENTITY},
                a.attlen = -1 AND a.attstorage IN ('x', 'e') AND (a.atttypmod = -1 OR a.atttypmod > 500)
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE c.oid IN (SELECT unnest($1::oid[])) ORDER BY c.oid, a.attnum"
    );
    let rows = client.query(&sql, &[&oids]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let mut columns: HashMap<u32, Vec<TableColumn>> = HashMap::new();
    for row in &rows {
        columns.entry(get(row, 0, WHAT)?).or_default().push(TableColumn {
            name: get(row, 1, WHAT)?,
            type_name: get(row, 2, WHAT)?,
            not_null: get(row, 3, WHAT)?,
            generated: match get(row, 4, WHAT)? {
                "" => Generated::No,
                "v" => Generated::Virtual,
                _ => Generated::Stored,
            },
            sortable: get(row, 5, WHAT)?,
            in_identity: get(row, 6, WHAT)?,
            can_be_large: get(row, 7, WHAT)?,
        });
    }
    Ok(columns)
}

async fn read_leaves(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Vec<Leaf>>, CatalogError> {
    let sql = format!(
        "WITH RECURSIVE tree (root, relid) AS (
             SELECT c.oid, c.oid FROM pg_catalog.pg_class c
             WHERE c.oid IN (SELECT unnest($1::oid[])) AND c.relkind = 'p'
             UNION
             SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid
             WHERE NOT i.inhdetachpending)
         SELECT tree.root, n.nspname::text, c.relname::text, c.relreplident::text,
                c.relkind = 'r' AND c.relpersistence = 'p', c.relkind = 'f',
                ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND {IN_IDENTITY}
                      ORDER BY a.attnum)
         FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.relid AND c.relkind <> 'p'
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         ORDER BY tree.root, n.nspname, c.relname"
    );
    let rows = client.query(&sql, &[&oids]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let mut leaves: HashMap<u32, Vec<Leaf>> = HashMap::new();
    for row in &rows {
        leaves.entry(get(row, 0, WHAT)?).or_default().push(Leaf {
            name: TableName { schema: get(row, 1, WHAT)?, name: get(row, 2, WHAT)? },
            identity: identity(get(row, 3, WHAT)?),
            logged: get(row, 4, WHAT)?,
            foreign: get(row, 5, WHAT)?,
            identity_columns: get(row, 6, WHAT)?,
        });
    }
    Ok(leaves)
}

/// The schema in which TimescaleDB keeps the rows of its hypertables.
const CHUNKS: &str = "_timescaledb_internal";

/// Inheritance children, at every depth. Only its own session reads the rows of a temporary child.
const CHILDREN: &str = "
WITH RECURSIVE tree (root, relid) AS (
    SELECT c.oid, c.oid FROM pg_catalog.pg_class c
    WHERE c.oid IN (SELECT unnest($1::oid[])) AND c.relkind = 'r' AND c.relhassubclass
    UNION
    SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid)
SELECT tree.root, n.nspname::text, c.relname::text
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.relid AND c.oid <> tree.root AND c.relpersistence <> 't'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2, 3";

/// Adds every table that inherits from one of `tables` to `heirs`, with the tables that it inherits from.
async fn read_heirs(
    client: &Client,
    tables: &mut [Table],
    heirs: &mut BTreeMap<TableName, Vec<TableName>>,
) -> Result<(), CatalogError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query(CHILDREN, &[&oids]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let mut places: HashMap<u32, &mut Table> = tables.iter_mut().map(|table| (table.oid, table)).collect();
    for row in &rows {
        let Some(parent) = places.get_mut(&get(row, 0, WHAT)?) else { continue };
        let child = TableName { schema: get(row, 1, WHAT)?, name: get(row, 2, WHAT)? };
        if child.schema == CHUNKS {
            parent.is_hypertable = true;
        } else {
            heirs.entry(child).or_default().push(parent.name.clone());
        }
    }
    Ok(())
}

/// How the publication holds each table: by name or through its schema. A schema's entry overrides a row filter.
const ENTRIES: &str = "
SELECT c.oid, e.oid IS NOT NULL, s.oid IS NOT NULL,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum = ANY (e.prattrs::int2[]) ORDER BY a.attnum),
       e.prqual IS NOT NULL
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_publication p ON p.pubname = $1
LEFT JOIN pg_catalog.pg_publication_rel e ON e.prpubid = p.oid AND e.prrelid = c.oid
LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = c.relnamespace
WHERE c.oid IN (SELECT unnest($2::oid[])) AND (e.oid IS NOT NULL OR s.oid IS NOT NULL)";

/// [`ENTRIES`] for Postgres 14, where publications have no schemas, column lists or row filters.
const ENTRIES_14: &str = "
SELECT e.prrelid, true, false, ARRAY[]::text[], false
FROM pg_catalog.pg_publication p
JOIN pg_catalog.pg_publication_rel e ON e.prpubid = p.oid
WHERE p.pubname = $1 AND e.prrelid = ANY ($2)";

async fn read_entries(
    client: &Client,
    publication: &str,
    version: u32,
    oids: &[u32],
) -> Result<HashMap<u32, Published>, CatalogError> {
    let sql = if version >= 150_000 { ENTRIES } else { ENTRIES_14 };
    let rows = client.query(sql, &[&publication, &oids]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let entry = |row| {
        let listed: Vec<String> = get(row, 3, WHAT)?;
        let by = if get(row, 1, WHAT)? { PublishedBy::Table } else { PublishedBy::Schema };
        let whole = get::<bool>(row, 2, WHAT)?;
        let row_filter = !whole && get(row, 4, WHAT)?;
        Ok((get(row, 0, WHAT)?, Published { columns: (!listed.is_empty()).then_some(listed), row_filter, by }))
    };
    rows.iter().map(entry).collect()
}

const OTHERS: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1, 2 LIMIT $1";

async fn read_others(client: &Client) -> Result<Vec<TableName>, CatalogError> {
    let limit = i64::from(OTHERS_MAX);
    let rows = client.query(OTHERS, &[&limit]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    rows.iter().map(|row| Ok(TableName { schema: get(row, 0, WHAT)?, name: get(row, 1, WHAT)? })).collect()
}

const TAKEN: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE pg_catalog.strpos(c.relname::text, $1) > 0";

/// Relations whose names contain the suffix of the indexes that coherd proposes.
pub(super) async fn taken(client: &Client) -> Result<Vec<TableName>, CatalogError> {
    let rows = client.query(TAKEN, &[&IDENTITY_SUFFIX]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    rows.iter().map(|row| Ok(TableName { schema: get(row, 0, WHAT)?, name: get(row, 1, WHAT)? })).collect()
}
