//! What was made on the primary reaches the standby that the slot is to be on.

use std::time::Duration;

use tokio::time::Instant;

use crate::postgres::SourceError;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::sql::{connect, explain};

/// How long a standby is waited for. One that lags further says what is missing there when the slot is created.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked.
const PAUSE: Duration = Duration::from_millis(100);

/// Where `dsn` leads to a standby, waits until it has replayed the publication: a slot that begins before its
/// publication breaks the stream.
pub(super) async fn publication(dsn: &Dsn, name: &str) -> Result<(), SourceError> {
    let client = connect(dsn).await?;
    let sql = "SELECT NOT pg_catalog.pg_is_in_recovery() \
               OR EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1)";
    let until = Instant::now() + PATIENCE;
    loop {
        let row = client.query_one(sql, &[&name]).await;
        let there: bool = row.map_err(|error| explain(&error, "look for the publication", dsn))?.get(0);
        if there || Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
