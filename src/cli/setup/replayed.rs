//! Waits until the standby that will have the slot has replayed what setup made on the primary.

use std::time::Duration;

use tokio::time::Instant;

use crate::postgres::SourceError;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::sql::{connect, explain};

/// How long to wait for a standby. On one that lags further, creating the slot reports what is missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to ask the standby.
const PAUSE: Duration = Duration::from_millis(100);

/// If `dsn` leads to a standby, waits until it has replayed the publication: a slot that begins before its publication
/// breaks the stream.
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
