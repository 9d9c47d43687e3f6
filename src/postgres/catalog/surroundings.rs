//! What only a thorough check asks: who runs the server, where its sessions commit loosely, what threatens the slot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Row};

use super::{CatalogError, get, one};
use crate::types::database::{Hosting, LooseCommits, Surroundings};

const WHAT: &str = "the server's surroundings";

/// Reads everything. `version` is `server_version_num`, `slot` the slot's name.
pub async fn surroundings(client: &Client, version: u32, slot: &str) -> Result<Surroundings, CatalogError> {
    let (clock_ahead_ms, clock_doubt_ms) = clock(client).await?;
    let row = one(client, WHAT, SERVER, &[]).await?;
    let timeout = get::<Option<i64>>(&row, 4, WHAT)?.and_then(|seconds| u64::try_from(seconds).ok());
    let (slot_failover, slot_invalidation) = slot_state(client, version, slot).await?;
    Ok(Surroundings {
        hosting: hosting(get(&row, 0, WHAT)?),
        system_id: system_id(client).await?,
        started: get(&row, 1, WHAT)?,
        address: get(&row, 2, WHAT)?,
        clock_ahead_ms,
        clock_doubt_ms,
        loose_commits: loose_commits(client).await?,
        idle_slot_timeout: Duration::from_secs(timeout.unwrap_or_default()),
        synchronized_standby_slots: get(&row, 3, WHAT)?,
        standby_slots: names(
            &client.query(STANDBY_SLOTS, &[]).await.map_err(|error| CatalogError::new(WHAT, &error))?,
        )?,
        slot_failover,
        slot_invalidation,
        public_senders: get(&row, 6, WHAT)?,
        functions_usable: get(&row, 5, WHAT)?,
    })
}

/// The roles are those that each service makes for its customers' administrators. `idle_replication_slot_timeout` is in
/// seconds.
const SERVER: &str = "
SELECT ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles
             WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin')),
       pg_catalog.pg_postmaster_start_time()::text,
       host(pg_catalog.inet_server_addr()) || ' port ' || pg_catalog.inet_server_port(),
       current_setting('synchronized_standby_slots', true),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'idle_replication_slot_timeout'),
       coalesce((SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                        AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid
                                        AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))
                 FROM pg_catalog.pg_namespace n WHERE n.nspname = 'coherd'), true),
       ARRAY(SELECT pg_catalog.format('pg_catalog.%I(%s)', p.proname, pg_catalog.oidvectortypes(p.proargtypes))
             FROM pg_catalog.pg_proc p
             WHERE p.proname = 'pg_logical_emit_message' AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
               AND pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1)";

const STANDBY_SLOTS: &str =
    "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND active ORDER BY 1";

fn names(rows: &[Row]) -> Result<Vec<String>, CatalogError> {
    rows.iter().map(|row| get(row, 0, WHAT)).collect()
}

fn hosting(roles: Vec<String>) -> Hosting {
    match roles.first().map(String::as_str) {
        Some("rds_superuser") => Hosting::AmazonRds,
        Some("cloudsqlsuperuser") => Hosting::CloudSql,
        Some("azure_pg_admin") => Hosting::Azure,
        _ => Hosting::Own,
    }
}

/// The database's clock minus ours, and how long the question took, in ms.
async fn clock(client: &Client) -> Result<(i64, i64), CatalogError> {
    const SQL: &str = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::int8";
    // The first one is prepared, which takes a round trip of its own.
    let statement = client.prepare(SQL).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let before = now_ms();
    let row = client.query_one(&statement, &[]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let after = now_ms();
    let theirs: i64 = get(&row, 0, WHAT)?;
    Ok((theirs - i64::midpoint(before, after), after - before))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Not everybody may ask.
async fn system_id(client: &Client) -> Result<Option<u64>, CatalogError> {
    const MAY: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    const SQL: &str = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    if !get::<bool>(&one(client, WHAT, MAY, &[]).await?, 0, WHAT)? {
        return Ok(None);
    }
    let text: String = get(&one(client, WHAT, SQL, &[]).await?, 0, WHAT)?;
    // The catalogue has it as a signed number, replication as an unsigned one.
    Ok(text.parse::<i64>().ok().map(i64::cast_unsigned))
}

/// Our session's own value says what the server's is, unless a role or a database has one in its place.
const LOOSE_COMMITS: &str = "
SELECT 's', NULL::text FROM pg_catalog.pg_settings
WHERE name = 'synchronous_commit' AND reset_val = 'off' AND source NOT IN ('database', 'user', 'database user', 'client', 'session')
UNION ALL
SELECT CASE WHEN s.setrole = 0 THEN 'd' WHEN s.setdatabase = 0 THEN 'r' ELSE 'b' END, r.rolname::text
FROM pg_catalog.pg_db_role_setting s
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE 'synchronous_commit=off' = ANY (s.setconfig) AND (s.setrole <> 0 OR s.setdatabase <> 0)
  AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
ORDER BY 1 DESC, 2";

async fn loose_commits(client: &Client) -> Result<Vec<LooseCommits>, CatalogError> {
    let rows = client.query(LOOSE_COMMITS, &[]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let place = |row: &Row| {
        let role = get::<Option<String>>(row, 1, WHAT)?.unwrap_or_default();
        Ok(match get::<&str>(row, 0, WHAT)? {
            "s" => LooseCommits::Server,
            "d" => LooseCommits::Database,
            "r" => LooseCommits::Role(role),
            _ => LooseCommits::RoleInDatabase(role),
        })
    };
    rows.iter().map(place).collect()
}

async fn slot_state(client: &Client, version: u32, slot: &str) -> Result<(Option<bool>, Option<String>), CatalogError> {
    let columns = match version {
        170_000.. => "failover, invalidation_reason::text",
        160_000.. => "NULL::bool, CASE WHEN conflicting THEN 'conflict with recovery' END",
        _ => "NULL::bool, NULL::text",
    };
    let sql = format!("SELECT {columns} FROM pg_catalog.pg_replication_slots WHERE slot_name = $1");
    let row = client.query_opt(&sql, &[&slot]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    match row {
        Some(row) => Ok((get(&row, 0, WHAT)?, get(&row, 1, WHAT)?)),
        None => Ok((None, None)),
    }
}
