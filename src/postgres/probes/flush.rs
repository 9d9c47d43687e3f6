//! Flushes the log for those who wait for what is in it.
//!
//! A commit with `synchronous_commit = off` can be seen, and so be waited for, before it is flushed; and a position of the
//! log that was taken while others write lies behind what they have written and not committed. A walsender sends nothing
//! of that before it is flushed: of asynchronous commits the WAL writer takes care within 3 × wal_writer_delay, of the rest
//! nobody for up to 15 s. A function that flushes there is from Postgres 17 on only, and who waits cannot commit. So this
//! session, which is at hand as long as there is a stream, commits something small for them.

use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use crate::types::lsn::Lsn;

/// How often it looks whether somebody waits, and how far the log is flushed.
const PACE: Duration = Duration::from_millis(100);
/// How often for a while after somebody has waited; and how long what is written may stay without being flushed.
const HURRIED_PACE: Duration = Duration::from_millis(20);
/// That while: who waits once waits again.
const HURRIED_FOR: Duration = Duration::from_secs(10);

/// Whether somebody waits in SQL: `coherd.said_to_wait()` holds the lock, in sql/coherd.sql. Then how far the log is
/// inserted and flushed; nothing in recovery, where all of it is flushed. It ends with its statement, so that a daemon
/// which is stopped holds no lock.
const LOOK: &str = "SELECT NOT pg_catalog.pg_try_advisory_xact_lock(1668245605, 0), \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn()::text END, \
    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn()::text END";

/// A commit that writes is flushed.
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'coherd.wait', '')";
/// One that writes nothing is not, but wakes the WAL writer. For who may not send messages.
const WAKE: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// Looks whether there is something to flush, over a session that it shares.
pub(super) struct Flusher {
    /// How many wait for the daemon itself, over HTTP.
    waiters: Receiver<usize>,
    /// `None` where the server refuses it.
    look: Option<Statement>,
    due: Instant,
    hurried_until: Instant,
    /// What was inserted at an earlier look, and not flushed then.
    unflushed: Option<Lsn>,
    flush: &'static str,
}

impl Flusher {
    pub(super) async fn new(client: &Client, waiters: Receiver<usize>) -> Result<Flusher, Error> {
        let look = unless_refused(client.prepare(LOOK).await)?;
        let now = Instant::now();
        Ok(Flusher { waiters, look, due: now + PACE, hurried_until: now, unflushed: None, flush: FLUSH })
    }

    /// Waits until it is time for a look. Dropping the future loses nothing.
    pub(super) async fn due(&mut self) {
        let is_hurried = self.hurried_until > Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(self.due) => {}
            () = changed(&mut self.waiters), if !is_hurried => {}
        }
    }

    /// Looks, and flushes what somebody waits for and what has stayed unflushed since an earlier look.
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

/// Who waits does without where the server refuses a statement; that is no reason to give the session up.
fn unless_refused<T>(done: Result<T, Error>) -> Result<Option<T>, Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.as_db_error().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until others wait than before.
async fn changed(waiters: &mut Receiver<usize>) {
    if waiters.changed().await.is_err() {
        // Nobody is there any more to wait.
        std::future::pending::<()>().await;
    }
}
