//! Creates slots. Postgres waits for every transaction that is running on the server, in other databases too, and
//! continues even when the client is gone. So a temporary slot waits, which ends with its connection, and the real slot
//! is an instant copy of it. Nobody is left with a half-made slot under the real name, unless the server has room for
//! one slot only.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;

use tokio_postgres::{Client, Row};

use super::{Doing, Failure, Postgres, Rows, Session, SourceError, always_quoted, number};
use crate::postgres::client::socket::Peer;
use crate::postgres::client::sql::connect;
use crate::types::lsn::Lsn;
use crate::types::table::{quote_identifier, quote_literal};

/// How a slot is created.
#[derive(Debug, Clone, Copy)]
pub struct Creation {
    /// How long the creation may wait (`source.slot_create_timeout`).
    pub timeout: Duration,
    /// Tells people what the creation waits for.
    pub tell: fn(&str),
}

impl Default for Creation {
    fn default() -> Self {
        Creation { timeout: Duration::from_mins(1), tell: |text| tracing::warn!("{text}") }
    }
}

/// Pause before the first look at what the server waits for, and between later looks.
const LOOK_PACE: Duration = Duration::from_millis(500);
/// A creation that takes this long is worth a message about what was committed meanwhile.
const LONG: Duration = Duration::from_secs(1);
/// Pause before the same message is repeated.
const TELL_PACE: Duration = Duration::from_secs(30);
/// Time limit for the server to accept the cancel request, and then to cancel.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

impl Postgres {
    /// Creates the slot in place of an old one of its name. The slot does not hold commits from before it exists, which
    /// matters when the creation takes long, and nothing is flushed afterwards.
    pub(super) async fn create_waiting(&self, session: &mut Session, standby: bool) -> Result<Lsn, SourceError> {
        let began = tokio::time::Instant::now();
        let start = self.create_in_place(session, standby).await?;
        let took = began.elapsed();
        if took >= LONG {
            (self.config.creation.tell)(&format!(
                "created the slot {} in {} s. coherd has not seen the commits of that time. If this is the first start \
                 and the cache is already in use, run coherd flush as soon as coherd is running",
                quote_identifier(&self.config.slot),
                took.as_secs()
            ));
        }
        Ok(start)
    }

    async fn create_in_place(&self, session: &mut Session, standby: bool) -> Result<Lsn, SourceError> {
        let (slot, user) = (&self.config.slot, self.config.dsn.user());
        let aside = format!("coherd_making_{}_{:08x}", std::process::id(), fastrand::u32(..));
        self.create_aside(session, &aside, "TEMPORARY", standby).await?;
        self.drop_old(session).await?;
        let copy = format!(
            "SELECT slot_name, lsn FROM pg_catalog.pg_copy_logical_replication_slot({}, {}, false)",
            quote_literal(&aside),
            quote_literal(slot)
        );
        // After an error the server has dropped the session's temporary slots.
        let rows = match session.query(&copy).await {
            // There was room for one slot only.
            Err(Failure::Server(error)) if error.code == "53400" => {
                return self.create_aside(session, slot, "", standby).await;
            }
            copied => copied.map_err(|failure| failure.explain(Doing::Creating { slot, user }))?,
        };
        let drop = format!("DROP_REPLICATION_SLOT {}", always_quoted(&aside));
        self.ask(session, "drop the temporary slot", &drop).await?;
        if session.major >= 17 && !standby {
            let sql = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", always_quoted(slot));
            self.ask(session, "make the slot a failover slot", &sql).await?;
        }
        number(&rows, 1)
    }

    /// Creates a slot by waiting for the transactions that are running, and reports which they are. `kind` is a word of
    /// the replication grammar, or empty. Dropping the future makes the server cancel the creation.
    pub(super) async fn create_aside(
        &self,
        session: &mut Session,
        name: &str,
        kind: &str,
        standby: bool,
    ) -> Result<Lsn, SourceError> {
        let Creation { timeout, tell } = self.config.creation;
        let (slot, user) = (&self.config.slot, self.config.dsn.user());
        let options = if session.major < 15 { "NOEXPORT_SNAPSHOT" } else { "(SNAPSHOT 'nothing')" };
        if standby {
            tell(&format!(
                "creating the slot {} on a standby waits for the primary to log its running transactions. To make it \
                 do so at once, run on the primary: SELECT pg_catalog.pg_log_standby_snapshot();",
                quote_identifier(slot)
            ));
        }
        let mut cancel = Cancel::of(session);
        let (pid, last) = (session.backend_pid, watch::Sender::new(String::new()));
        let sql = format!("CREATE_REPLICATION_SLOT {} {kind} LOGICAL pgoutput {options}", always_quoted(name));
        let mut asked = pin!(session.query(&sql));
        let rows: Result<Rows, Failure> = tokio::select! {
            answer = &mut asked => {
                cancel.peer = None;
                answer
            }
            never = self.tell_who(pid, &last) => match never {},
            () = tokio::time::sleep(timeout) => {
                cancel.send();
                // The answer confirms that the slot is gone.
                let _ = tokio::time::timeout(CANCEL_WITHIN, asked).await;
                return Err(SourceError::lost(format!(
                    "gave up creating the slot {} after {} s (source.slot_create_timeout): {}",
                    quote_identifier(slot), timeout.as_secs(), &*last.borrow()
                )));
            }
        };
        let rows = rows.map_err(|failure| failure.explain(Doing::Creating { slot, user }))?;
        number(&rows, 1)
    }

    /// Reports what the server's process `pid` waits for, at each change and every [`TELL_PACE`]; never returns.
    async fn tell_who(&self, pid: u32, last: &watch::Sender<String>) -> Infallible {
        let (slot, tell) = (quote_identifier(&self.config.slot), self.config.creation.tell);
        last.send_replace("it waits for the transactions that are running on the server".into());
        tokio::time::sleep(LOOK_PACE).await;
        let client = connect(&self.config.dsn).await;
        let mut told = (String::new(), tokio::time::Instant::now());
        loop {
            let seen = match &client {
                Ok(client) => waited_for(client, pid).await,
                Err(_) => Some(last.borrow().clone()),
            };
            if let Some(who) = seen {
                if told.0 != who || told.1.elapsed() >= TELL_PACE {
                    tell(&format!(
                        "creating the slot {slot} takes long: {who}; coherd gives up after {} s (source.slot_create_timeout)",
                        self.config.creation.timeout.as_secs()
                    ));
                    told = (who.clone(), tokio::time::Instant::now());
                }
                last.send_replace(who);
            }
            tokio::time::sleep(LOOK_PACE).await;
        }
    }
}

/// The transaction that process `$1` waits for. What this role may not see is NULL. No query text.
const WAITED_FOR: &str = "
SELECT h.pid, a.usename::text, a.datname::text,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::int8,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.query_start)::int8,
       p.gid, p.owner::text, p.database::text,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - p.prepared)::int8
FROM pg_catalog.pg_locks w
LEFT JOIN pg_catalog.pg_locks h
    ON h.locktype = 'transactionid' AND h.transactionid = w.transactionid AND h.granted
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = h.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = w.transactionid
WHERE w.pid = $1 AND NOT w.granted AND w.locktype = 'transactionid' LIMIT 1";

async fn waited_for(client: &Client, pid: u32) -> Option<String> {
    let row = client.query_opt(WAITED_FOR, &[&i32::try_from(pid).ok()?]).await.ok()??;
    who(&row).ok()
}

fn who(row: &Row) -> Result<String, tokio_postgres::Error> {
    let text = |column| row.try_get::<_, Option<String>>(column).map(|it| quote_identifier(&it.unwrap_or_default()));
    if let Some(gid) = row.try_get::<_, Option<String>>(5)? {
        let (owner, database, age) = (text(6)?, text(7)?, row.try_get::<_, Option<i64>>(8)?.unwrap_or_default());
        let gid = quote_literal(&gid);
        return Ok(format!(
            "it waits for the prepared transaction{} of role {owner} in database {database}, {age} s old, which COMMIT \
             PREPARED or ROLLBACK PREPARED ends there",
            if gid.starts_with(' ') { gid } else { format!(" {gid}") }
        ));
    }
    let Some(pid) = row.try_get::<_, Option<i32>>(0)? else {
        return Ok("it waits for a transaction that is just ending".to_owned());
    };
    let (user, database) = (text(1)?, text(2)?);
    let age = match (row.try_get::<_, Option<i64>>(3)?, row.try_get::<_, Option<i64>>(4)?) {
        (Some(open), Some(query)) => format!(", open for {open} s, last query begun {query} s ago"),
        _ => String::new(),
    };
    Ok(format!(
        "it waits for the transaction of process {pid} (user {user}, database {database}{age}) to end; SELECT \
         pg_catalog.pg_terminate_backend({pid}); ends it"
    ))
}

/// Makes the server end what it does for a session, unless there is no peer. The server does not notice by itself that
/// nobody waits any more (Postgres manual, "Canceling Requests in Progress").
struct Cancel {
    peer: Option<Peer>,
    pid: u32,
    key: u32,
}

impl Cancel {
    fn of(session: &Session) -> Cancel {
        Cancel { peer: session.socket.peer(), pid: session.backend_pid, key: session.secret_key }
    }

    /// Blocks for a moment, because it must not be interrupted. If it fails, a temporary slot still ends with its
    /// connection.
    fn send(&mut self) {
        let Some(peer) = self.peer.take() else { return };
        let mut request = bytes::BytesMut::new();
        postgres_protocol::message::frontend::cancel_request(
            self.pid.cast_signed(),
            self.key.cast_signed(),
            &mut request,
        );
        let sent = match peer {
            Peer::Tcp(address) => TcpStream::connect_timeout(&address, CANCEL_WITHIN).and_then(|mut tcp| {
                tcp.set_read_timeout(Some(CANCEL_WITHIN))?;
                tcp.write_all(&request)?;
                tcp.read(&mut [0])
            }),
            Peer::Unix(path) => UnixStream::connect(path).and_then(|mut unix| {
                unix.set_read_timeout(Some(CANCEL_WITHIN))?;
                unix.write_all(&request)?;
                unix.read(&mut [0])
            }),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "the creation of a slot cannot be cancelled");
        }
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.send();
    }
}
