//! Finds the keys that rows have now: the daemon's own rules bind values that are printed as the replication stream
//! prints them.

use anyhow::{Context as _, anyhow};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::{Args, Preview, advice, dsn, limits};
use crate::cli::Failure;
use crate::cli::columns::plural;
use crate::cli::found::{Finder, Found};
use crate::config::Config;
use crate::postgres::catalog::{look, told};
use crate::postgres::client::sql::{THEIR_SEARCH_PATH, connect_for_user};
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::rules::nearest;
use crate::rules::publish::Demand;
use crate::rules::text_form::text_form;
use crate::transaction::manual::Touched;
use crate::transaction::tables_of;
use crate::types::change::{Column, Relation, ReplicaIdentity};
use crate::types::database::Database;
use crate::types::table::{Table, TableColumn, TableName, quote_identifier};

/// Reads the rows and makes their keys.
pub(super) async fn find(config: &Config, args: &Args, table: &TableName, predicate: &str) -> Result<Preview, Failure> {
    let client = connect_for_user(&dsn(config, args)?).await.context("connecting to the database")?;
    let mut names = tables_of(&config.rules);
    names.push(table.clone());
    let (slot, publication) = (&config.source.slot, &config.source.publication);
    let database = look(&client, slot, publication, &names).await.map_err(anyhow::Error::new)?;
    let asked = Asked::new(config, &database, table)?;
    let mut notes = Vec::new();
    if asked.root.published.is_none() {
        let name = quote_identifier(publication);
        notes.push(format!(
            "{table} is not in the publication {name}: coherd sees no change of it; coherd check says why"
        ));
    }
    let columns = asked.columns();
    let Read { mut rows, hidden_from } = read(&client, args, asked.table, &columns, predicate).await?;
    notes.extend(hidden_from.map(|role| {
        format!(
            "row-level security hides rows from role {}, so keys may be missing here: use --dsn with the table's owner \
             or with a role that has BYPASSRLS",
            quote_identifier(&role)
        )
    }));
    if rows.len() > args.limit as usize {
        rows.truncate(args.limit as usize);
        notes.push(format!(
            "there are more rows: coherd read only the first {}; raise --limit to read more",
            args.limit
        ));
    }
    let count = rows.len() as u64;
    let mut found = Found::at_most(usize::MAX);
    Finder::new(config, Heirs::of(&database)).rows(&Touched { relation: asked.relation(columns), rows }, &mut found);
    notes.insert(0, format!("{} of {table}", plural(count, "row")));
    if count > 0 {
        notes.extend(asked.text_forms());
    }
    Ok(Preview { found, notes })
}

/// The requested table, as the catalogue has it.
struct Asked<'a> {
    database: &'a Database,
    /// The table to read the rows from.
    table: &'a Table,
    /// The table that the rules name: the same table, or the root of its partition tree.
    root: &'a Table,
    rules: Vec<&'a Rule>,
}

impl<'a> Asked<'a> {
    fn new(config: &'a Config, database: &'a Database, name: &TableName) -> anyhow::Result<Asked<'a>> {
        let Some(table) = database.table(name) else {
            let near = nearest(&name.name, database.others.iter().map(|other| other.name.as_str()));
            let hint = near.map(|near| format!("; did you mean {}?", quote_identifier(near))).unwrap_or_default();
            return Err(anyhow!("there is no table {name} in database {}{hint}", quote_identifier(&database.name)));
        };
        let root_name = table.partition_root.as_ref().unwrap_or(name);
        let concerns = |rule: &&Rule| rule.table == *root_name || table.parents.contains(&rule.table);
        let rules: Vec<&Rule> = config.rules.iter().filter(concerns).collect();
        if rules.is_empty() {
            let known: Vec<String> = tables_of(&config.rules).iter().map(TableName::sql).collect();
            return Err(anyhow!(
                "no rule names {root_name}, so no key is made of its rows; rules name {}",
                known.join(", ")
            ));
        }
        let root = database.table(root_name).with_context(|| format!("there is no table {root_name}"))?;
        Ok(Asked { database, table, root, rules })
    }

    /// The rules' columns that exist and that the stream sends.
    fn columns(&self) -> Vec<String> {
        let listed = self.root.published.as_ref().and_then(|published| published.columns.as_ref());
        let demand = Demand { database: self.database, table: self.root, rules: &self.rules };
        let sent = demand.columns().map(|column| column.name.clone());
        sent.filter(|name| listed.is_none_or(|listed| listed.contains(name))).collect()
    }

    /// Notes on the text form of each column that is part of a key.
    fn text_forms(&self) -> Vec<String> {
        let in_key =
            |name: &str| self.rules.iter().flat_map(|rule| &rule.keys).any(|key| key.columns().any(|its| its == name));
        let form = |column: &TableColumn| {
            let form = text_form(&column.type_name)?;
            Some(format!("{} ({}) stands in keys {form}", quote_identifier(&column.name), column.type_name))
        };
        self.root.columns.iter().filter(|column| in_key(&column.name)).filter_map(form).collect()
    }

    fn relation(&self, columns: Vec<String>) -> Relation {
        let column = |name| Column { name, type_oid: 0, in_identity: true };
        let TableName { schema, name } = self.root.name.clone();
        let columns = columns.into_iter().map(column).collect();
        Relation { oid: self.root.oid, schema, name, identity: ReplicaIdentity::Full, columns }
    }
}

type Rows = Vec<Vec<Option<String>>>;

/// The rows that were read.
struct Read {
    /// At most one row more than the limit, which shows that there are more.
    rows: Rows,
    /// The role from which row-level security hides rows.
    hidden_from: Option<String>,
}

async fn read(
    client: &Client,
    args: &Args,
    table: &Table,
    columns: &[String],
    predicate: &str,
) -> Result<Read, Failure> {
    // Print values with their type's output function; a cast prints some types differently. IS DISTINCT FROM NULL,
    // because a composite value is NULL only as a whole. Nothing here may depend on the search path, which is the
    // user's.
    let printed = |name: &String| {
        let name = quote_identifier(name);
        format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {name}) END")
    };
    let printed = columns.iter().map(printed).collect::<Vec<_>>().join(", ");
    let head = format!("SELECT ARRAY[{printed}]::pg_catalog.text[] FROM {} WHERE (", table.name);
    // A comment at the end of the predicate must not hide the rest of the statement.
    let sql = format!("{head}{predicate}\n) LIMIT {}", u64::from(args.limit) + 1);
    let failed = |error: tokio_postgres::Error| {
        let at = place(&error, &head).map(|at| format!(", at character {at} of it")).unwrap_or_default();
        Failure::from(anyhow!("the condition could not be used{at}: {}{}", told(&error), advice(&error)))
    };
    // With row_security off, a policy that would hide rows raises error 42501, wherever the condition names the
    // policy's table. A missing privilege raises the same error. If the statement then succeeds with row_security on,
    // the cause was a policy.
    let begin = format!(
        "BEGIN READ ONLY; {}; {THEIR_SEARCH_PATH}; SET LOCAL row_security = off; SAVEPOINT whole",
        limits(args)
    );
    client.batch_execute(&begin).await.map_err(failed)?;
    let mut hidden_from = None;
    let rows = match select(client, &sql).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let again = "ROLLBACK TO SAVEPOINT whole; SET LOCAL row_security = on";
            client.batch_execute(again).await.map_err(failed)?;
            let rows = select(client, &sql).await.map_err(failed)?;
            let role = client.query_one("SELECT current_user::pg_catalog.text", &[]).await.map_err(failed)?;
            hidden_from = Some(role.try_get(0).map_err(failed)?);
            rows
        }
        other => other.map_err(failed)?,
    };
    client.batch_execute("ROLLBACK").await.map_err(failed)?;
    let Some(rows) = rows else {
        return Err(
            anyhow!("the condition holds a parameter ($1), for which there is no value: write the value").into()
        );
    };
    let rows: Result<Rows, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(Read { rows: rows.map_err(failed)?, hidden_from })
}

/// Preparing allows only a single statement. Returns `None` if the statement has a parameter.
async fn select(client: &Client, sql: &str) -> Result<Option<Vec<Row>>, tokio_postgres::Error> {
    let statement = client.prepare(sql).await?;
    if !statement.params().is_empty() {
        return Ok(None);
    }
    client.query(&statement, &[]).await.map(Some)
}

/// The server's error position as a character of the predicate, from 1.
fn place(error: &tokio_postgres::Error, head: &str) -> Option<usize> {
    let Some(tokio_postgres::error::ErrorPosition::Original(at)) = error.as_db_error()?.position() else { return None };
    usize::try_from(*at).ok()?.checked_sub(head.chars().count()).filter(|at| *at > 0)
}
