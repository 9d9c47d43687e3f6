//! Checks the connections: whether both kinds reach the intended server, and whether the replicas can be reached.

use std::time::Duration;

use tokio::time::Instant;

use super::reach::{Reach, Reached};
use super::{Look, PATIENCE, failed, may_pass};
use crate::postgres::client::dsn::Dsn;
use crate::postgres::{ErrorKind, SourceError};
use crate::types::finding::{Code, Finding};

const SOURCE: &str = "source";

/// How long a replica may take to replay what the source has flushed.
const REPLAY_MAX: Duration = Duration::from_secs(2);

/// How often coherd asks the replica meanwhile.
const REPLAY_PACE: Duration = Duration::from_millis(50);

/// Opens a replication connection and compares who answers it with who answers SQL. Adds nothing if another finding
/// already says that there can be no such connection.
pub async fn replication(look: &Look<'_>, dsn: &Dsn) -> (Vec<Finding>, Option<Reached>) {
    let server = &look.database.server;
    if !look.database.role.replication || server.senders.is_full() {
        return (Vec::new(), None);
    }
    match async { Reach::open(dsn).await?.look().await }.await {
        Ok(reached) => (compare(look, &reached).into_iter().collect(), Some(reached)),
        Err(error) => (vec![refused(look, &error)], None),
    }
}

fn refused(look: &Look, error: &SourceError) -> Finding {
    let message = format!("the server accepts SQL connections but not the replication connection: {error}");
    if error.kind() == ErrorKind::Pooler {
        return pooler(Some(look), &format!("it does not accept the replication connection ({error})"));
    }
    failed(!may_pass(error), [Code::REPLICATION_REFUSED; 2], SOURCE, message)
}

/// `look` is what the server reports about itself, if it could be asked.
pub(super) fn pooler(look: Option<&Look<'_>>, how: &str) -> Finding {
    let address = look.and_then(|look| look.database.server.address.as_ref()).map_or_else(
        || "the server's own address".to_owned(),
        |address| format!("the server's own address, which it says is {address}"),
    );
    let message = format!(
        "a pooler or proxy such as pgbouncer answers here, not Postgres: {how}. Poolers share sessions, so coherd \
         cannot read the log through them reliably. Set source.dsn to {address}"
    );
    Finding::error(Code::POOLER, SOURCE, message)
}

fn compare(look: &Look, reached: &Reached) -> Option<Finding> {
    if reached.announced_pid != reached.backend_pid {
        return Some(pooler(Some(look), "the greeting names another process than the one that answers"));
    }
    let (life, reached) = (&look.database.server.life, &reached.life);
    if life.is_of(reached) {
        return None;
    }
    let message = format!(
        "two connections reached two different servers, one started at {} and one at {}: the address is a load \
         balancer or a list of hosts. Name one server in source.dsn, or all of them with target_session_attrs=primary",
        life.started, reached.started
    );
    Some(Finding::error(Code::OTHER_SERVER, SOURCE, message))
}

/// Compares a listed replica with what was seen of the source.
pub async fn replica(dsn: &Dsn, subject: String, source: Option<&Reached>) -> Option<Finding> {
    match tokio::time::timeout(PATIENCE, look_at_replica(dsn, &subject, source)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => Some(unreachable(subject, &error)),
        Err(_) => {
            let message = format!("it has not answered within {} s; is its address right?", PATIENCE.as_secs());
            Some(Finding::unknown(Code::REPLICA_UNREACHABLE, subject, message))
        }
    }
}

const MEANWHILE: &str =
    "After max_replica_lag, coherd stops waiting for it. Readers must not fill caches from it until it is back";

fn unreachable(subject: String, error: &SourceError) -> Finding {
    let message = format!("{}. {MEANWHILE}", error.to_string().trim_end_matches('.'));
    failed(!may_pass(error), [Code::REPLICA_REFUSED, Code::REPLICA_UNREACHABLE], subject, message)
}

async fn look_at_replica(dsn: &Dsn, subject: &str, source: Option<&Reached>) -> Result<Option<Finding>, SourceError> {
    let mut reach = Reach::open(dsn).await?;
    let seen = reach.look().await?;
    if source.is_some_and(|source| source.life.system_id != seen.life.system_id) {
        let message = "it belongs to another database system than the source, so that it never replays what the source \
                       commits; correct its address";
        return Ok(Some(Finding::error(Code::REPLICA_FOREIGN, subject, message)));
    }
    let Some(standby) = &seen.standby else {
        let message = format!(
            "it accepts writes, so it is not (or no longer) a replica, and its position does not count. Remove it from \
             source.replicas, or name the standby. {MEANWHILE}"
        );
        return Ok(Some(Finding::error(Code::REPLICA_PRIMARY, subject, message)));
    };
    if standby.paused {
        let message =
            format!("its replay is paused, so that it shows old rows. {MEANWHILE}. The statement is for the replica");
        let finding = Finding::warning(Code::REPLICA_PAUSED, subject, message);
        return Ok(Some(finding.remedy("SELECT pg_catalog.pg_wal_replay_resume();")));
    }
    let Some(source) = source else { return Ok(None) };
    let began = Instant::now();
    let mut replayed = seen.position;
    while replayed < source.position && began.elapsed() < REPLAY_MAX {
        tokio::time::sleep(REPLAY_PACE).await;
        replayed = reach.position().await?;
    }
    let missing = source.position.as_u64().saturating_sub(replayed.as_u64());
    if missing == 0 {
        return Ok(None);
    }
    let message = format!("it has yet to replay {missing} bytes of what the source had {} s ago", REPLAY_MAX.as_secs());
    let finding = |message: String| Finding::warning(Code::REPLICA_BEHIND, subject, message);
    if standby.delay.is_zero() {
        return Ok(Some(finding(format!("{message}. {MEANWHILE}"))));
    }
    let message = format!(
        "{message}, because recovery_min_apply_delay is {} ms. Remove it from source.replicas, or end the delay: run \
         the statements on the replica. {MEANWHILE}",
        standby.delay.as_millis()
    );
    let finding = finding(message).remedy("ALTER SYSTEM SET recovery_min_apply_delay = 0;");
    Ok(Some(finding.remedy("SELECT pg_catalog.pg_reload_conf();")))
}
