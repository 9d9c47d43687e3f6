//! Tells SQL that a stream can be believed. Where the slot goes on without a target, its position says nothing of what
//! is settled; so `coherd.wait()` takes it only while the process that streams from the slot attests that, with an
//! advisory lock that names the walsender. It goes with the connection, and means nothing for another walsender.

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
    /// On a new connection, which holds nothing yet.
    pub(super) fn new(wanted: watch::Receiver<Option<u32>>) -> Self {
        Attestation { wanted, held: None }
    }

    /// Waits until somebody has said what is wanted, be it what is held already: who takes a wish back before it was
    /// granted waits for the answer too. Dropping the future loses nothing.
    pub(super) async fn wants_answer(&mut self) {
        if self.wanted.changed().await.is_err() {
            // Nobody is there any more to want anything.
            std::future::pending::<()>().await;
        }
    }

    /// Gives back what is held and takes what is wanted. Gives what is held then.
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
            // Shared: nobody who holds it too keeps anybody waiting.
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
