//! Reads the server's settings, its standbys, and the rights of the role that asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Row};

use super::{CatalogError, get, names, one};
use crate::postgres::synchronous::STANDBYS;
use crate::types::database::Database;
use crate::types::server::{Clock, Hosting, Life, LooseCommits, Role, Room, Server, Standbys};

const WHAT: &str = "the server's settings";

const SERVER: &str = "
SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
       current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int, (SELECT count(*)::int FROM pg_catalog.pg_stat_replication),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
       pg_catalog.pg_is_in_recovery(), current_setting('server_encoding'),
       current_setting('synchronous_standby_names')";

pub(super) async fn server(client: &Client) -> Result<Server, CatalogError> {
    let row = one(client, WHAT, SERVER, &[]).await?;
    let number = |index| get::<i32>(&row, index, WHAT).map(|n| u32::try_from(n).unwrap_or_default());
    Ok(Server {
        version: number(0)?,
        wal_level: get(&row, 1, WHAT)?,
        slots: Room { max: number(2)?, used: number(3)? },
        senders: Room { max: number(4)?, used: number(5)? },
        sender_timeout: Duration::from_millis(unsigned(&row, 6)?),
        slot_keep_mib: get(&row, 7, WHAT)?,
        in_recovery: get(&row, 8, WHAT)?,
        encoding: get(&row, 9, WHAT)?,
        standbys: Standbys {
            names: names(client, "the standbys", STANDBYS, &[]).await?,
            synchronous: get(&row, 10, WHAT)?,
            ..Standbys::default()
        },
        ..Server::default()
    })
}

/// A number that is never negative; 0 for NULL.
fn unsigned(row: &Row, index: usize) -> Result<u64, CatalogError> {
    let number = get::<Option<i64>>(row, index, WHAT)?.unwrap_or_default();
    Ok(u64::try_from(number).unwrap_or_default())
}

/// What only `coherd check` needs. The daemon does without: none of this must keep it from following the log. The roles in
/// column 2 are those that each service makes for its customers' administrators. `idle_replication_slot_timeout` is in
/// seconds.
const DETAILS: &str = "
SELECT current_setting('synchronized_standby_slots', true),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'idle_replication_slot_timeout'),
       ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles
             WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin')),
       pg_catalog.pg_postmaster_start_time()::text,
       host(pg_catalog.inet_server_addr()) || ' port ' || pg_catalog.inet_server_port(),
       ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots
             WHERE slot_type = 'physical' AND active ORDER BY 1),
       ARRAY(SELECT pg_catalog.format('pg_catalog.%I(%s)', p.proname, pg_catalog.oidvectortypes(p.proargtypes))
             FROM pg_catalog.pg_proc p
             WHERE p.proname = 'pg_logical_emit_message' AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
               AND pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1),
       coalesce((SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                        AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid
                                        AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))
                 FROM pg_catalog.pg_namespace n WHERE n.nspname = 'coherd'), true)";

/// Completes the description of a server and its role with what only `coherd check` needs.
pub async fn complete(client: &Client, database: &mut Database) -> Result<(), CatalogError> {
    let row = one(client, WHAT, DETAILS, &[]).await?;
    let server = &mut database.server;
    server.standbys.synchronized_slots = get(&row, 0, WHAT)?;
    server.idle_slot_timeout = Duration::from_secs(unsigned(&row, 1)?);
    server.hosting = hosting(get(&row, 2, WHAT)?);
    server.life = Life { system_id: system_id(client).await?, started: get(&row, 3, WHAT)? };
    server.address = get(&row, 4, WHAT)?;
    server.standbys.slots = get(&row, 5, WHAT)?;
    server.public_senders = get(&row, 6, WHAT)?;
    server.loose_commits = loose_commits(client).await?;
    database.role.may_call_functions = get(&row, 7, WHAT)?;
    Ok(())
}

fn hosting(roles: Vec<String>) -> Hosting {
    match roles.first().map(String::as_str) {
        Some("rds_superuser") => Hosting::AmazonRds,
        Some("cloudsqlsuperuser") => Hosting::CloudSql,
        Some("azure_pg_admin") => Hosting::Azure,
        _ => Hosting::Own,
    }
}

/// Not every role may call the function. Postgres checks that before it runs any part of a statement, so coherd asks
/// first.
async fn system_id(client: &Client) -> Result<Option<u64>, CatalogError> {
    const MAY: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    const SQL: &str = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    if !get::<bool>(&one(client, WHAT, MAY, &[]).await?, 0, WHAT)? {
        return Ok(None);
    }
    let text: String = get(&one(client, WHAT, SQL, &[]).await?, 0, WHAT)?;
    // The catalogue shows it as a signed number, the replication protocol as an unsigned one.
    Ok(text.parse::<i64>().ok().map(i64::cast_unsigned))
}

/// Our session's own value is the server's value, unless a role or a database overrides it.
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

const ROLE: &str = "
SELECT r.rolname::text, r.rolsuper,
       r.rolsuper OR r.rolreplication
           OR coalesce((SELECT pg_catalog.pg_has_role(oid, 'USAGE') FROM pg_catalog.pg_roles
                        WHERE rolname = 'rds_replication'), false),
       pg_catalog.has_database_privilege(current_database(), 'CREATE')
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

pub(super) async fn role(client: &Client) -> Result<Role, CatalogError> {
    const WHAT: &str = "the role's rights";
    let row = one(client, WHAT, ROLE, &[]).await?;
    Ok(Role {
        name: get(&row, 0, WHAT)?,
        superuser: get(&row, 1, WHAT)?,
        replication: get(&row, 2, WHAT)?,
        may_create: get(&row, 3, WHAT)?,
        may_call_functions: true,
    })
}

/// Compares the server's clock with this machine's.
pub async fn clock(client: &Client) -> Result<Clock, CatalogError> {
    const WHAT: &str = "the server's clock";
    const SQL: &str = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::int8";
    // Preparing takes a round trip of its own, which must not count.
    let statement = client.prepare(SQL).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let before = now_ms();
    let row = client.query_one(&statement, &[]).await.map_err(|error| CatalogError::new(WHAT, &error))?;
    let after = now_ms();
    let theirs: i64 = get(&row, 0, WHAT)?;
    Ok(Clock { ahead_ms: theirs - i64::midpoint(before, after), doubt_ms: after - before })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
