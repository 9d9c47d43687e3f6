//! Flushes the log for clients that wait for what is in it.
//!
//! A commit with `synchronous_commit = off` is visible, and can be waited for, before it is flushed. A log position
//! that was taken while others write lies after what they have written and not committed. A walsender sends none of
//! that before it is flushed. The WAL writer flushes asynchronous commits within 3 × wal_writer_delay, but nothing
//! flushes the rest for up to 15 s. A function that flushes up to a position exists only from Postgres 17 on, and a
//! waiting session cannot commit. So this session, which is open as long as there is a stream, commits something small
//! for them.

use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use crate::types::lsn::Lsn;

/// Pause between looks at whether somebody waits, and how far the log is flushed.
const PACE: Duration = Duration::from_millis(100);
/// Pause for a while after somebody has waited, and how long written log may stay unflushed then.
const HURRIED_PACE: Duration = Duration::from_millis(20);
/// Length of that while: a client that waits once waits again.
const HURRIED_FOR: Duration = Duration::from_secs(10);

/// Whether somebody waits in SQL: `coherd.said_to_wait()` in sql/coherd.sql holds the lock. Then the insert and flush
/// positions; NULL in recovery, where the whole log is flushed. The lock taken here ends with its statement, so that a
/// daemon that is stopped holds none.
const LOOK: &str = "SELECT NOT pg_catalog.pg_try_advisory_xact_lock(1668245605, 0), \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn()::text END, \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn()::text END";

/// Postgres flushes a commit that writes something.
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'coherd.wait', '')";
/// A commit that writes nothing is not flushed, but wakes the WAL writer. For roles that may not send messages.
const WAKE: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// Checks whether there is something to flush, over a session that it shares.
pub(super) struct Flusher {
    /// Number of clients that wait for the daemon itself, over HTTP.
    waiters: Receiver<usize>,
    /// `None` if the server refuses it.
    look: Option<Statement>,
    due: Instant,
    hurried_until: Instant,
    /// The insert position at an earlier look, which was not flushed then.
    unflushed: Option<Lsn>,
    flush: &'static str,
}

impl Flusher {
    pub(super) async fn new(client: &Client, waiters: Receiver<usize>) -> Result<Flusher, Error> {
        let look = unless_refused(client.prepare(LOOK).await)?;
        let now = Instant::now();
        Ok(Flusher { waiters, look, due: now + PACE, hurried_until: now, unflushed: None, flush: FLUSH })
    }

    /// Waits until the next look is due. Dropping the future loses nothing.
    pub(super) async fn due(&mut self) {
        let is_hurried = self.hurried_until > Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(self.due) => {}
            () = changed(&mut self.waiters), if !is_hurried => {}
        }
    }

    /// Looks, and flushes the log if somebody waits and a position from an earlier look is still unflushed.
    pub(super) async fn look(&mut self, client: &Client) -> Result<(), Error> {
        let Some(look) = &self.look else {
            self.due = Instant::now() + Duration::from_hours(1);
            return Ok(());
        };
        let Some(row) = unless_refused(client.query_one(look, &[]).await)? else {
            self.look = None;
            return Ok(());
        };
        let position = |column| {
            let text: Option<&str> = row.try_get(column)?;
            Ok::<_, Error>(text.and_then(|text| text.parse::<Lsn>().ok()))
        };
        let (inserted, flushed) = (position(1)?, position(2)?);
        let is_awaited = row.try_get::<_, bool>(0)? || *self.waiters.borrow_and_update() > 0;
        let now = Instant::now();
        if is_awaited {
            self.hurried_until = now + HURRIED_FOR;
        }
        self.due = now + if self.hurried_until > now { HURRIED_PACE } else { PACE };
        let (Some(inserted), Some(flushed)) = (inserted, flushed) else { return Ok(()) };
        match self.unflushed.filter(|unflushed| *unflushed > flushed) {
            Some(_) if is_awaited => {
                self.unflushed = None;
                self.flush(client).await?;
            }
            Some(_) => {}
            None => self.unflushed = Some(inserted).filter(|inserted| *inserted > flushed),
        }
        Ok(())
    }

    async fn flush(&mut self, client: &Client) -> Result<(), Error> {
        match client.batch_execute(self.flush).await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) && self.flush == FLUSH => {
                self.flush = WAKE;
                unless_refused(client.batch_execute(WAKE).await).map(|_| ())
            }
            done => unless_refused(done).map(|_| ()),
        }
    }
}

/// A server may refuse a statement: clients then wait without a flush, and the session goes on.
fn unless_refused<T>(done: Result<T, Error>) -> Result<Option<T>, Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.as_db_error().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until the number of waiters changes.
async fn changed(waiters: &mut Receiver<usize>) {
    if waiters.changed().await.is_err() {
        // The sender is gone, so nobody can wait any more.
        std::future::pending::<()>().await;
    }
}
