//! What the stream does not show of a fix: rewritten or recreated tables, rules that no longer fit their tables,
//! changes of tables that no rule names, and locks.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::super::Preview;
use crate::cli::columns::plural;
use crate::cli::found::Cause;
use crate::cli::{Failure, parts};
use crate::config::Config;
use crate::postgres::catalog::{look, told};
use crate::postgres::client::dsn::Dsn;
use crate::postgres::watch::{WatchConfig, look_once};
use crate::rules::audit::audit;
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::types::finding::{Finding, Severity};
use crate::types::observation::TableSeen;
use crate::types::table::TableName;

/// The state before the fix.
pub(super) struct Around<'a> {
    watch: WatchConfig,
    tables: Vec<TableSeen>,
    /// The first transaction id that was not yet assigned.
    since: u64,
    errors: Vec<Finding>,
    pub(super) heirs: Heirs,
    config: &'a Config,
}

/// The state after the fix, before the rollback.
pub(super) struct After {
    /// Rule tables that the fix has rewritten, emptied or recreated.
    broken: Vec<TableName>,
    /// Errors from before the fix: coherd may miss changes of these tables.
    errors: Vec<Finding>,
    /// Errors that the fix introduces.
    new_errors: Vec<Finding>,
    /// Tables that changed and that no rule names, with the number of changes.
    others: Vec<(String, u64)>,
    /// Locks that block writers or readers: `AccessExclusiveLock on public.users`.
    locks: Vec<String>,
}

/// Tables that the transaction changed. A partition counts as its root.
const CHANGED: &str = "
SELECT n.nspname::text, c.relname::text, sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del)::int8
FROM pg_catalog.pg_stat_xact_user_tables s
JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(s.relid), s.relid)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0 AND c.relpersistence <> 't' GROUP BY 1, 2 ORDER BY 1, 2";

/// Locks that keep other sessions from writing, or even from reading.
const LOCKED: &str = "
SELECT DISTINCT l.mode, n.nspname::text, c.relname::text FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p')
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND n.nspname NOT IN ('pg_catalog', 'pg_toast') ORDER BY 2, 3, 1";

impl<'a> Around<'a> {
    pub(super) async fn before(config: &'a Config, client: &Client, dsn: Dsn) -> Result<Around<'a>, Failure> {
        let watch = parts::watch_config(config, dsn);
        let (tables, since) = look_once(client, &watch, None).await.map_err(anyhow::Error::new)?;
        let (errors, heirs) = errors(config, client, &watch).await?;
        Ok(Around { watch, tables, since, errors, heirs, config })
    }

    /// Looks at the server again, within the transaction.
    pub(super) async fn after(self, client: &Client, config: &Config) -> anyhow::Result<After> {
        let (tables, _) = look_once(client, &self.watch, Some(self.since)).await?;
        let broken = |(before, now): &(&TableSeen, &TableSeen)| before.is_broken_by(now);
        let broken = self.tables.iter().zip(&tables).filter(broken).map(|(before, _)| before.name.clone()).collect();
        let (mut new_errors, heirs) = errors(config, client, &self.watch).await?;
        new_errors.retain(|error| !self.errors.contains(error));
        let failed = |error: tokio_postgres::Error| anyhow!("looking at what the fix did: {}", told(&error));
        let mut others = Vec::new();
        for row in client.query(CHANGED, &[]).await.map_err(failed)? {
            let name = TableName { schema: row.get(0), name: row.get(1) };
            let concerns = |rule: &Rule| rule.table == name || heirs.inherits_by_name(&name, &rule.table);
            if !self.config.rules.iter().any(concerns) {
                others.push((name.sql(), u64::try_from(row.get::<_, i64>(2)).unwrap_or_default()));
            }
        }
        let locks = client.query(LOCKED, &[]).await.map_err(failed)?;
        let lock = |row: &tokio_postgres::Row| {
            let name = TableName { schema: row.get(1), name: row.get(2) };
            format!("{} on {name}", row.get::<_, &str>(0))
        };
        let locks = locks.iter().map(lock).collect();
        Ok(After { broken, errors: self.errors, new_errors, others, locks })
    }
}

async fn errors(config: &Config, client: &Client, watch: &WatchConfig) -> anyhow::Result<(Vec<Finding>, Heirs)> {
    let database = look(client, &watch.slot, &watch.publication, &watch.tables).await?;
    let mut findings = audit(&config.rules, &database);
    findings.retain(|finding| finding.severity == Severity::Error);
    Ok((findings, Heirs::of(&database)))
}

impl After {
    /// Adds the scopes that the daemon would flush, and notes for the user.
    pub(super) fn add_to(&self, preview: &mut Preview, config: &Config) {
        let Preview { found, notes } = preview;
        for rule in config.rules.iter().filter(|rule| self.broken.contains(&rule.table)) {
            rule.scopes.iter().for_each(|scope| found.scope(rule.id, scope, Cause::Catalogue));
        }
        for ((table, op), rows) in &found.changes {
            let rows = if op.name() == "truncate" { "all rows".to_owned() } else { plural(*rows, "row") };
            notes.push(format!("{table}: {} of {rows}", op.name()));
        }
        for table in &self.broken {
            notes.push(format!("{table} is rewritten, emptied or recreated: coherd flushes its rules' scopes"));
        }
        for (table, rows) in &self.others {
            notes.push(format!("{table}: {} changed, and no rule names the table", plural(*rows, "row")));
        }
        if !config.source.messages {
            notes.push(
                "source.messages is false: coherd ignores coherd.invalidate() and the other manual invalidations"
                    .to_owned(),
            );
        }
        if found.ignored > 0 {
            notes.push(format!(
                "{} named manually and ignored, because no rule covers {} (manual.keys: rules)",
                if found.ignored == 1 { "1 key is".to_owned() } else { format!("{} keys are", found.ignored) },
                if found.ignored == 1 { "it" } else { "them" }
            ));
        }
        notes.extend(self.errors.iter().map(|error| format!("already now: {error}")));
        notes.extend(self.new_errors.iter().map(|error| format!("AFTER THE FIX: {error}")));
    }

    /// The locks that the fix held until the rollback, as text.
    pub(super) fn locks_text(&self) -> String {
        match self.locks.as_slice() {
            [] => "the locks of the rows that it changed".to_owned(),
            locks => format!("locks that others have to wait for: {}", locks.join(", ")),
        }
    }
}
