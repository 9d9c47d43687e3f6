//! Tells SQL that it can rely on a stream. Where the slot goes on without a target, its position does not say what is
//! settled. So `coherd.wait()` uses the position only while the process that streams from the slot attests it, with an
//! advisory lock that names the walsender. The lock ends with the connection, and means nothing for another walsender.

use tokio::sync::watch;
use tokio_postgres::Client;

/// The first key of the lock, as `sql/coherd.sql` has it: "cohe".
const LOCK_CLASS: i32 = 0x636F_6865;

/// The stream that this process should attest, and whether it does.
pub(super) struct Attestation {
    wanted: watch::Receiver<Option<u32>>,
    held: Option<u32>,
}

impl Attestation {
    /// For a new connection, which holds no lock yet.
    pub(super) fn new(wanted: watch::Receiver<Option<u32>>) -> Self {
        Attestation { wanted, held: None }
    }

    /// Waits for the next request, even one for what is already held: a caller that withdraws a request before it is
    /// granted waits for the answer too. Dropping the future loses nothing.
    pub(super) async fn wants_answer(&mut self) {
        if self.wanted.changed().await.is_err() {
            // The sender is gone, so no request can follow.
            std::future::pending::<()>().await;
        }
    }

    /// Releases the lock that is held and takes the one that is wanted. Returns what is held then.
    pub(super) async fn take(&mut self, client: &Client) -> Result<Option<u32>, tokio_postgres::Error> {
        let wanted = *self.wanted.borrow_and_update();
        if wanted == self.held {
            return Ok(wanted);
        }
        if let Some(walsender) = self.held.take() {
            client
                .execute("SELECT pg_catalog.pg_advisory_unlock_shared($1, $2)", &[&LOCK_CLASS, &key(walsender)])
                .await?;
        }
        if let Some(walsender) = wanted {
            // Shared, so that holders do not make each other wait.
            client
                .execute("SELECT pg_catalog.pg_advisory_lock_shared($1, $2)", &[&LOCK_CLASS, &key(walsender)])
                .await?;
        }
        self.held = wanted;
        Ok(wanted)
    }
}

/// Process ids are positive, and the two-key form of the lock takes signed numbers.
fn key(walsender: u32) -> i32 {
    walsender.cast_signed()
}
