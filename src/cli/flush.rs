//! `coherd flush`: flushes every key that a table's rules can make.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use super::cached::{self, COUNTING};
use super::columns::plural;
use super::found::{Cause, Found};
use super::manual::{ManualSession, Options};
use super::{Failure, print};
use crate::config::Config;
use crate::rules::name::parse_table;
use crate::transaction::tables_of;
use crate::types::table::TableName;

/// `coherd flush`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "coherd counts the keys that are cached now, then asks for confirmation; without a terminal, it \
    requires --yes. The flush goes through the log, as SELECT coherd.flush('…') does, and removes \
    limits.flush_keys_per_second keys a second."
)]
pub struct Args {
    /// Table, or root of a partition tree; repeat for several. Default: the tables of all rules
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

/// Finds a table by name without USAGE on its schema, which a name cast to `regclass` would need.
const FLUSH: &str = "SELECT coherd.flush(c.oid::regclass) FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN ROWS FROM (unnest($1::text[]), unnest($2::text[])) AS wanted (schema, name)
        ON n.nspname = wanted.schema AND c.relname = wanted.name";

const THERE: &str = "SELECT count(*) FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";

/// Counts the keys, asks for confirmation and makes the request.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let ruled = tables_of(&config.rules);
    if let Some(unknown) = args.tables.iter().find(|table| !ruled.contains(table)) {
        let known: Vec<String> = ruled.iter().map(TableName::sql).collect();
        return Err(anyhow!("nothing was done: no rule names {unknown}; rules name {}", known.join(", ")).into());
    }
    let tables = if args.tables.is_empty() { ruled } else { args.tables.clone() };
    let session = ManualSession::open(config, &args.options, "coherd flush").await?;
    for table in &tables {
        if session.number(THERE, &[&table.schema, &table.name]).await? == 0 {
            return Err(anyhow!("nothing was done: there is no table {table} any more; coherd check says more").into());
        }
    }
    let mut found = Found::at_most(0);
    for rule in config.rules.iter().filter(|rule| tables.contains(&rule.table)) {
        rule.scopes.iter().for_each(|scope| found.scope(rule.id, scope, Cause::Manual));
    }
    let cached = cached::look(config, &found, COUNTING).await?;
    if args.options.json {
        let mut told = cached::json(config, &found, &cached);
        told.retain(|name, _| matches!(name.as_str(), "scopes" | "faults"));
        print(&format!("{}\n", Value::Object(told)))?;
    } else {
        print(&cached::scopes_text(config, &found, &cached))?;
    }
    if !args.yes && !agreed(&tables)? {
        return Err(anyhow!("nothing was flushed").into());
    }
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let flushed = session.request(FLUSH, &[&schemas, &names]).await?;
    session.done(config, &args.options, &format!("flushed {}", plural(flushed, "table"))).await
}

/// Asks on the terminal for confirmation.
fn agreed(tables: &[TableName]) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(anyhow!("nothing was flushed; to flush the above, add --yes").into());
    }
    let named: Vec<String> = tables.iter().map(TableName::sql).collect();
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "Flush all of that, for {}? [y/N] ", named.join(", ")).and_then(|()| stderr.flush());
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
