//! Reads the catalogue into a [`Database`], with ordinary SQL. Every role may read everything here.

mod published;
mod server;
mod tables;

use tokio_postgres::{Client, Row};

use super::slot;
use crate::postgres::client::notices::shortened;
use crate::postgres::client::sql::first_row;
use crate::types::database::{Choices, Database, Operations, PUBLICATION_DEFAULT, Publication, publication_comment};
use crate::types::slot::Slot;
use crate::types::table::TableName;

pub use published::beside;
pub use server::{clock, complete};

/// A query of the catalogue that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} from the catalogue: {got}")]
pub struct CatalogError {
    what: &'static str,
    got: String,
}

impl CatalogError {
    fn new(what: &'static str, error: &tokio_postgres::Error) -> Self {
        CatalogError { what, got: told(error) }
    }
}

/// The server's message, with its SQLSTATE and hint. Its DETAIL stays out, because that may hold values.
pub fn told(error: &tokio_postgres::Error) -> String {
    let Some(told) = error.as_db_error() else { return error.to_string() };
    let hint = told.hint().map(|hint| format!(" ({})", shortened(hint))).unwrap_or_default();
    format!("{} {}{hint}", told.code().code(), shortened(told.message()))
}

/// Reads what rules, setup and check need to know. `tables` are the names of the rules' tables.
pub async fn look(
    client: &Client,
    slot: &str,
    publication: &str,
    tables: &[TableName],
) -> Result<Database, CatalogError> {
    let server = server::server(client).await?;
    let version = server.version;
    let other_slots = names(client, "the other slots", OTHER_SLOTS, &[&slot]).await?;
    let held = read_publication(client, publication, version, |comment| match comment {
        Some(comment) => comment == publication_comment(slot),
        // Only the name suggests that coherd made it, and another slot may read it.
        None => publication == PUBLICATION_DEFAULT && other_slots.is_empty(),
    });
    let held = held.await?;
    let asked = tables.to_vec();
    let (tables, others) = tables::look(client, publication, version, tables, held.as_ref()).await?;
    let row = one(client, "the functions", FUNCTIONS, &[]).await?;
    Ok(Database {
        name: get(&row, 0, "the functions")?,
        functions: get(&row, 1, "the functions")?,
        operators: get(&row, 2, "the functions")?,
        server,
        role: server::role(client).await?,
        publication_name: publication.to_owned(),
        publication: held,
        slot_name: slot.to_owned(),
        slot: read_slot(client, slot, version).await?,
        asked,
        has_heirs: tables.iter().any(|table| !table.parents.is_empty()),
        tables,
        others,
        other_slots,
        taken: tables::taken(client).await?,
        choices: Choices::default(),
    })
}

/// Leaves out temporary slots: those of `coherd keys` and `coherd tail`, and of subscriptions that are being
/// initialised.
const OTHER_SLOTS: &str = "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE plugin = 'pgoutput' \
    AND NOT temporary AND database = pg_catalog.current_database() AND slot_name <> $1 ORDER BY 1";

async fn names(
    client: &Client,
    what: &'static str,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<String>, CatalogError> {
    let rows = client.query(sql, parameters).await.map_err(|error| CatalogError::new(what, &error))?;
    rows.iter().map(|row| get(row, 0, what)).collect()
}

const FUNCTIONS: &str = "SELECT current_database()::text, (SELECT obj_description(oid, 'pg_namespace') \
    FROM pg_catalog.pg_namespace WHERE nspname = 'coherd'), \
    EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'coherd_operator')";

async fn read_publication(
    client: &Client,
    name: &str,
    version: u32,
    made_here: impl Fn(Option<&str>) -> bool,
) -> Result<Option<Publication>, CatalogError> {
    const WHAT: &str = "the publication";
    let schemas = match version {
        150_000.. => "EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid)",
        _ => "false",
    };
    let generated = if version >= 180_000 { "p.pubgencols = 's'" } else { "false" };
    let sql = format!(
        "SELECT pg_catalog.pg_has_role(p.pubowner, 'USAGE'), p.puballtables, {schemas}, p.pubinsert, p.pubupdate, \
         p.pubdelete, p.pubtruncate, p.pubviaroot, {generated}, \
         pg_catalog.obj_description(p.oid, 'pg_publication') FROM pg_catalog.pg_publication p WHERE p.pubname = $1"
    );
    let Some(row) = client.query_opt(&sql, &[&name]).await.map_err(|error| CatalogError::new(WHAT, &error))? else {
        return Ok(None);
    };
    let excepted = if version >= 190_000 { excepted(client, name).await? } else { Vec::new() };
    let flag = |index| get::<bool>(&row, index, WHAT);
    let comment: Option<&str> = get(&row, 9, WHAT)?;
    Ok(Some(Publication {
        owned: flag(0)?,
        made_here: made_here(comment),
        all_tables: flag(1)?,
        excepted,
        holds_schemas: flag(2)?,
        operations: Operations { insert: flag(3)?, update: flag(4)?, delete: flag(5)?, truncate: flag(6)? },
        via_root: flag(7)?,
        generated: flag(8)?,
    }))
}

async fn excepted(client: &Client, name: &str) -> Result<Vec<TableName>, CatalogError> {
    const WHAT: &str = "the tables that the publication leaves out";
    const SQL: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_publication p
JOIN pg_catalog.pg_publication_rel e ON e.prpubid = p.oid AND e.prexcept
JOIN pg_catalog.pg_class c ON c.oid = e.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = $1 ORDER BY 1, 2";
    let rows = client.query(SQL, &[&name]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    rows.iter().map(|row| Ok(TableName { schema: get(row, 0, WHAT)?, name: get(row, 1, WHAT)? })).collect()
}

/// The slot called `name`, if there is one.
async fn read_slot(client: &Client, name: &str, version: u32) -> Result<Option<Slot>, CatalogError> {
    let row = first_row(client, &slot::query(name, version / 10_000)).await;
    let row = row.map_err(|error| CatalogError::new("the slot", &error))?;
    Ok(row.map(|row| slot::read(|column| row.try_get(column).ok().flatten())))
}

async fn one(
    client: &Client,
    what: &'static str,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Row, CatalogError> {
    client.query_one(sql, parameters).await.map_err(|error| CatalogError::new(what, &error))
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
    what: &'static str,
) -> Result<T, CatalogError> {
    row.try_get(index).map_err(|error| CatalogError::new(what, &error))
}
