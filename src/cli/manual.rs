//! Manual invalidations: coherd sends them through the log with the functions of sql/coherd.sql, so they are ordered
//! with the data and survive a crash of the daemon.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::daemon::Way;
use super::{Failure, parts, print, wait};
use crate::config::{Config, parse_duration};
use crate::postgres::catalog::told;
use crate::postgres::client::sql::connect;
use crate::types::lsn::Lsn;

/// Options that `coherd invalidate` and `coherd flush` share.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Wait up to DURATION (default 5s) until the request is settled; without --wait, print the token for `coherd wait
    /// --token`
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5s", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Connection to the primary, if source.dsn is a standby: a libpq URI or key=value string. Default: source.dsn
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// A session in which invalidations can be requested.
pub(super) struct ManualSession {
    client: Client,
}

impl ManualSession {
    /// Connects, and checks that a daemon would read the request.
    pub(super) async fn open(config: &Config, options: &Options, name: &str) -> Result<ManualSession, Failure> {
        if !config.source.messages {
            let text = "nothing was done: source.messages is false, so the daemon acts on nothing that is requested manually; \
                        set it to true and restart coherd";
            return Err(anyhow!(text).into());
        }
        let dsn = match &options.dsn {
            Some(text) => parts::dsn("--dsn", &text.as_str().into())?,
            None => parts::dsn("source.dsn", &config.source.dsn)?,
        };
        let client = connect(&dsn.named(name)).await.context("connecting to the database")?;
        let sql = "SELECT pg_catalog.to_regprocedure('coherd.invalidate(text[])') IS NOT NULL
                       AND pg_catalog.to_regprocedure('coherd.flush(regclass)') IS NOT NULL,
                   pg_catalog.pg_is_in_recovery(),
                   EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";
        let slot = &config.source.slot;
        let row =
            client.query_one(sql, &[slot]).await.map_err(|error| anyhow!("nothing was done: {}", told(&error)))?;
        let [functions, standby, heard] = [0, 1, 2].map(|column| row.get::<_, bool>(column));
        if !functions {
            return Err(anyhow!("nothing was done: this database has no coherd.invalidate() and coherd.flush(): `coherd setup` creates them").into());
        }
        if standby {
            return Err(anyhow!("nothing was done: this is a standby, where nothing can be written into the log; name the primary with --dsn").into());
        }
        // If the source is a standby, the slot is there and not on this server.
        if !heard && options.dsn.is_none() {
            return Err(anyhow!("nothing was done: there is no replication slot {slot} on this server, so no coherd reads the request: `coherd setup` creates it").into());
        }
        Ok(ManualSession { client })
    }

    /// Makes a request: runs a statement that calls one of the functions. Returns the number of rows.
    pub(super) async fn request(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Failure> {
        let done = self.client.execute(sql, parameters).await;
        Ok(done.map_err(|error| anyhow!("nothing was done: {}", told(&error)))?)
    }

    /// Runs a query that returns one number.
    pub(super) async fn number(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<i64, Failure> {
        let row = self.client.query_one(sql, parameters).await;
        Ok(row.map_err(|error| anyhow!("nothing was done: {}", told(&error)))?.get(0))
    }

    /// Prints what was done. Then waits until it is settled, or prints the token.
    pub(super) async fn done(self, config: &Config, options: &Options, what: &str) -> Result<(), Failure> {
        let row = self.client.query_one("SELECT coherd.token()", &[]).await;
        let token: i64 =
            row.map_err(|error| anyhow!("{what}, but its position is not known: {}", told(&error)))?.get(0);
        let at = Lsn::new(u64::try_from(token).context("coherd.token() gave a negative position")?);
        if options.json {
            print(&format!("{}\n", json!({ "done": what, "token": at.to_string() })))?;
        } else {
            print(&format!("{what} at {at}\n"))?;
        }
        match options.wait {
            Some(timeout) => wait::run(&Way::of(config), wait::Args::settled(at, timeout, options.json)).await,
            None if options.json => Ok(()),
            None => print(&format!("coherd wait --token {at}\n")),
        }
    }
}
