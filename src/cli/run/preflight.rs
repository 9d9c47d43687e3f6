//! What `coherd run` checks before it follows the log: whether every rule can be covered.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::admin::status::{Board, State};
use crate::backoff::{Backoff, is_worth_a_line};
use crate::cli::Failure;
use crate::cli::parts::{Parts, choices};
use crate::cli::shutdown::Shutdown;
use crate::config::Config;
use crate::postgres::catalog::look;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::sql::connect;
use crate::postgres::{ErrorKind, SourceError};
use crate::rules::audit::audit;
use crate::rules::heirs::Heirs;
use crate::targets::Target;
use crate::types::database::Database;
use crate::types::finding::{Code, Finding, Severity};
use crate::types::record::NEW;
use crate::types::table::TableName;

/// How long the database may take to answer before coherd tries again.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first pause between attempts to reach the database.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// How long a target may take to return its record.
const RECORD_WITHIN: Duration = Duration::from_secs(5);

pub(super) enum Preflight {
    /// The checks passed. The value says which tables inherit from the rules' tables.
    Passed(Heirs),
    /// A signal arrived before the database answered.
    Stopped,
}

/// Validates the rules against the catalogue before coherd reads the log. It waits for a database that does not answer.
/// At the first start, coherd refuses a rule that cannot be covered, and names the SQL that fixes it. Later it starts
/// without that rule: the pipeline finds it uncovered and keeps the others.
pub(super) async fn preflight(
    config: &Config,
    parts: &Parts,
    board: &Board,
    shutdown: Shutdown,
) -> Result<Preflight, Failure> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut stopped = pin!(shutdown.requested());
    loop {
        let attempt = tokio::select! {
            () = &mut stopped => return Ok(Preflight::Stopped),
            attempt = look_at(config, &parts.dsn) => attempt,
        };
        let reason = match attempt {
            Ok(database) => {
                assessed(&audit(&config.rules, &database), &database, &parts.targets).await?;
                return Ok(Preflight::Passed(Heirs::of(&database)));
            }
            Err(error) if error.kind() == ErrorKind::Refused => return Err(anyhow::Error::new(error).into()),
            Err(error) => error.to_string(),
        };
        let pause = backoff.next(fastrand::u32(..));
        if is_worth_a_line(backoff.attempts()) {
            warn!("cannot reach Postgres, retrying in {} ms: {reason}", pause.as_millis());
        }
        board.enter(State::Reconnecting { reason });
        tokio::select! {
            () = &mut stopped => return Ok(Preflight::Stopped),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// `PATIENCE` does not limit connecting: each host has its own `connect_timeout`, and the last host may be the one that
/// is up.
async fn look_at(config: &Config, dsn: &Dsn) -> Result<Database, SourceError> {
    let client = connect(dsn).await?;
    let names: Vec<TableName> = config.rules.iter().map(|rule| rule.table.clone()).collect();
    let looking = look(&client, &config.source.slot, &config.source.publication, &names);
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(Ok(database)) => Ok(Database { choices: choices(config, None), ..database }),
        Ok(Err(error)) => Err(SourceError::lost(error.to_string())),
        Err(_) => Err(SourceError::lost(format!("the database has not answered within {} s", PATIENCE.as_secs()))),
    }
}

async fn assessed(findings: &[Finding], database: &Database, targets: &[Arc<dyn Target>]) -> Result<(), Failure> {
    let (errors, rest): (Vec<_>, Vec<_>) = findings.iter().partition(|its| its.severity == Severity::Error);
    for finding in rest {
        warn!("{finding}");
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Postgres cannot decode the slot without its publication.
    let is_readable = errors.iter().all(|its| its.code != Code::PUBLICATION_MISSING);
    if is_readable && has_run_before(database, targets).await {
        for finding in errors {
            error!("this rule is not covered, so coherd starts without it; all other rules are in force: {finding}");
        }
        return Ok(());
    }
    let list: Vec<String> = errors.into_iter().map(ToString::to_string).collect();
    Err(anyhow::anyhow!("not started, because invalidations would be lost:\n{}", list.join("\n")).into())
}

/// A slot proves it, unless a target still has the record that setup wrote and no target has a later one. A target that
/// is down, or has lost its record, proves nothing either way.
async fn has_run_before(database: &Database, targets: &[Arc<dyn Target>]) -> bool {
    if database.slot.is_none() {
        return false;
    }
    let mut looking: JoinSet<_> = targets
        .iter()
        .map(Arc::clone)
        .map(|target| async move { tokio::time::timeout(RECORD_WITHIN, target.load_record()).await.ok()?.ok()?.record })
        .collect();
    let mut is_first_start = false;
    while let Some(looked) = looking.join_next().await {
        match looked.ok().flatten() {
            None => {}
            Some(record) if record.rules.as_deref() == Some(NEW) => is_first_start = true,
            Some(_) => return true,
        }
    }
    !is_first_start
}
