//! `coherd keys`: the preview before a manual fix. It finds the keys that rows have, or that a fix would touch, and
//! shows which of them are cached now.

mod by_fix;
mod by_predicate;
pub mod script;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::cached::{self, COUNTING};
use super::found::Found;
use super::{Failure, parts, print};
use crate::config::{Config, parse_duration};
use crate::postgres::client::dsn::Dsn;
use crate::rules::name::parse_table;
use crate::types::table::TableName;

/// The largest script, in bytes.
const SCRIPT_BYTES_MAX: u64 = 16 << 20;

/// `coherd keys`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    coherd keys --table users --where \"email LIKE '%@old.example'\"\n  \
    coherd keys --sql fix.sql --dsn postgresql://owner@db/app\n\n\
    --sql runs the fix in a transaction that is always rolled back. The fix holds its locks until then, and a rollback \
    does not undo everything (sequences, files, other servers). docs/manual-fixes.md has the whole procedure.")]
pub struct Args {
    /// List the keys of this table's current rows
    #[arg(long, value_name = "TABLE", value_parser = parse_table, requires = "predicate", required_unless_present = "sql")]
    table: Option<TableName>,
    /// Select rows with this SQL WHERE condition, evaluated in a read-only transaction
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    predicate: Option<String>,
    /// List the keys that this SQL file (- for stdin) would touch; coherd runs it and rolls it back
    #[arg(long, value_name = "FILE", conflicts_with = "table")]
    sql: Option<PathBuf>,
    /// Maximum number of rows to read (--where) or keys to list (--sql)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Timeout for each statement
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Timeout for waiting for a lock
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    lock_timeout: Duration,
    /// Connect as a role that may read the rows or run the fix: a libpq URI or key=value string. Default: source.dsn
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// What the command reports.
struct Preview {
    found: Found,
    /// Further facts for the user, each a sentence or more.
    notes: Vec<String>,
}

/// Finds the keys and prints the preview.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    Box::pin(parts::until_signal(look(config, args))).await
}

async fn look(config: &Config, args: Args) -> Result<(), Failure> {
    let preview = match (&args.table, &args.predicate, &args.sql) {
        (Some(table), Some(predicate), None) => by_predicate::find(config, &args, table, predicate).await?,
        (_, _, Some(file)) => by_fix::find(config, &args, &script(file)?).await?,
        // clap rules out everything else.
        _ => return Err(anyhow::anyhow!("name --table and --where, or --sql").into()),
    };
    let Preview { found, notes } = preview;
    let cached = cached::look(config, &found, COUNTING).await?;
    if args.json {
        let mut told = cached::json(config, &found, &cached);
        told.insert("notes".to_owned(), notes.into_iter().map(Value::from).collect());
        print(&format!("{}\n", Value::Object(told)))?;
    } else {
        let mut text = if found.is_empty() { "no keys\n".to_owned() } else { cached::text(config, &found, &cached) };
        for note in notes {
            text.extend(["- ", &note, "\n"]);
        }
        print(&text)?;
    }
    cached::all_answered(&cached)
}

/// A fix and its name in messages.
struct Script {
    name: String,
    text: String,
}

fn script(file: &std::path::Path) -> Result<Script, Failure> {
    let is_stdin = file.as_os_str() == "-";
    let name = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = |text: &mut String| {
        if is_stdin {
            return std::io::stdin().lock().take(SCRIPT_BYTES_MAX + 1).read_to_string(text);
        }
        std::fs::File::open(file)?.take(SCRIPT_BYTES_MAX + 1).read_to_string(text)
    };
    read(&mut text).with_context(|| format!("reading {name}"))?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        return Err(anyhow::anyhow!("{name} has more than {SCRIPT_BYTES_MAX} bytes: try it in parts").into());
    }
    // An editor's byte order mark is not SQL.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(Script { name, text })
}

/// The server on which to read, or to try the fix.
fn dsn(config: &Config, args: &Args) -> Result<Dsn, Failure> {
    let dsn = match &args.dsn {
        Some(text) => parts::dsn("--dsn", &text.as_str().into()),
        None => parts::dsn("source.dsn", &config.source.dsn),
    };
    Ok(dsn?.named("coherd keys"))
}

/// Limits for the transaction, so that it ends by itself if this process hangs.
fn limits(args: &Args) -> String {
    let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    format!(
        "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = 60000",
        millis(args.timeout),
        millis(args.lock_timeout)
    )
}

/// A hint for the user, to be appended to the server's error message.
fn advice(error: &tokio_postgres::Error) -> &'static str {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("42501") => "; the role of source.dsn cannot read tables: give a role that can with --dsn",
        Some("57014") => "; --timeout allows more time",
        Some("55P03") => "; another session holds the lock; --lock-timeout sets how long to wait for it",
        Some("2D000") => "; coherd runs the fix in one transaction, so nothing in the fix may end it",
        _ => "",
    }
}
