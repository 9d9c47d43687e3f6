//! Finds the keys that a fix would touch, by running it in a transaction that is always rolled back.
//!
//! Postgres streams transactions in progress to a consumer that asks for it (protocol 2, `streaming 'on'`) once more
//! than 64 kB of changes wait. So coherd follows a temporary slot beside the transaction. After the fix, it writes a
//! transactional message of more than 64 kB into the log, and the server sends everything that the transaction has
//! written. These are the messages that the daemon would get: with the old rows that the replica identity keeps, and
//! with the effects of triggers, cascades, TRUNCATE and `coherd.invalidate()`. The daemon's own reader makes the keys
//! of them.
//!
//! The alternatives are worse. Triggers that note the changes lock the tables against writers (SHARE ROW EXCLUSIVE).
//! Statements rewritten with RETURNING miss triggers, cascades, functions and all but the last version of a row.
//! Scanning the tables for row versions of the transaction (`xmin`) reads every row and misses the same changes. This
//! way takes no lock but the fix's own and reads only the log.

mod around;

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use tokio::sync::oneshot;
use tokio_postgres::Client;

use super::script::{Refused, Statement, place, split};
use super::{Args, Preview, Script, advice, dsn, limits};
use crate::cli::found::{Finder, Found};
use crate::cli::{Failure, parts};
use crate::config::Config;
use crate::pgoutput::streamed::{Blocks, Streamed};
use crate::pgoutput::{Message, PgTime};
use crate::postgres::catalog::told;
use crate::postgres::client::sql::{OUR_SEARCH_PATH, THEIR_SEARCH_PATH, connect, connect_for_user};
use crate::postgres::server::aside::{IN_PROGRESS_BYTES, Reading};
use crate::postgres::stream::PostgresStream;
use crate::postgres::{Frame, Intake, Stream as _};
use crate::rules::heirs::Heirs;
use crate::types::lsn::Lsn;
use around::Around;

/// The prefix of the preview's messages in the log. The daemon ignores them.
const PREFIX: &str = "coherd.preview";

/// How long the server may take to send the transaction's changes.
const SENDING: Duration = Duration::from_mins(1);

/// Tries the fix and returns the preview.
pub(super) async fn find(config: &Config, args: &Args, script: &Script) -> Result<Preview, Failure> {
    let refused = |Refused { at, reason }: Refused| {
        let (line, column) = place(&script.text, at);
        anyhow!("nothing was tried: {}:{line}:{column}: {reason}", script.name)
    };
    let statements = split(&script.text).map_err(refused)?;
    if statements.is_empty() {
        return Err(anyhow!("nothing was tried: {} holds no statement", script.name).into());
    }
    let dsn = dsn(config, args)?;
    let client = connect_for_user(&dsn).await.context("connecting to the database")?;
    let other = connect(&dsn).await.context("connecting to the database")?;
    let stream = follow(config, args, &client).await?;
    let around = Around::before(config, &client, dsn).await?;
    let (nonce, heirs) = (format!("{:032x}", fastrand::u128(..)), around.heirs.clone());
    let attempt = Attempt { config, args, script, client: &client, nonce, heirs };
    let tried = attempt.run(&statements, &other, stream, around).await;
    // Roll back whatever the outcome. The server ends a session that can no longer take this, which rolls back as well.
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let tried = tried?;
    rolled_back.map_err(|error| anyhow!("the end of the transaction is not known: {}", told(&error)))?;
    Ok(tried)
}

/// Opens a stream of the log from now on, and checks that it comes from the server on which the fix runs.
async fn follow(config: &Config, args: &Args, client: &Client) -> Result<PostgresStream, Failure> {
    let dsn = parts::dsn("source.dsn", &config.source.dsn)?.named("coherd keys");
    let (source, slot) = parts::postgres_aside(config, dsn);
    let opening = tokio::time::timeout(args.timeout, source.stream_aside(Reading::InProgress)).await;
    let opened = opening.map_err(|_| {
        anyhow!(
            "nothing was tried: the temporary slot that reads the changes of the fix was not ready within {} s. It \
             waits for the transactions that are running (SELECT pid, xact_start FROM pg_catalog.pg_stat_activity \
             ORDER BY xact_start;). Raise --timeout to wait longer",
            args.timeout.as_secs()
        )
    })?;
    let (stream, _) = opened.map_err(anyhow::Error::new).context("nothing was tried")?;
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots
               WHERE slot_name = $1 AND database = pg_catalog.current_database())";
    let here = client.query_one(sql, &[&slot]).await.map_err(|error| anyhow!("{}", told(&error)))?;
    if !here.get::<_, bool>(0) {
        let text = "nothing was tried: --dsn leads to another server or database than source.dsn, where the fix could not \
                    be followed";
        return Err(anyhow!(text).into());
    }
    Ok(stream)
}

/// One attempt, in its own session.
struct Attempt<'a> {
    config: &'a Config,
    args: &'a Args,
    script: &'a Script,
    client: &'a Client,
    /// Marks the end of what the fix has written.
    nonce: String,
    heirs: Heirs,
}

impl Attempt<'_> {
    async fn run(
        &self,
        statements: &[Statement<'_>],
        other: &Client,
        stream: PostgresStream,
        around: Around<'_>,
    ) -> anyhow::Result<Preview> {
        let began = Instant::now();
        self.sql(&format!("BEGIN; {}", limits(self.args))).await?;
        let id = self.transaction().await?.ok_or_else(|| anyhow!("the server gave no transaction id"))?;
        let (written, is_written) = oneshot::channel();
        let playing = async {
            self.sql(THEIR_SEARCH_PATH).await?;
            self.play(statements, id).await?;
            self.sql(OUR_SEARCH_PATH).await?;
            self.mark(other).await?;
            // A send fails only if the listener has ended, and its own error says why.
            let _ = written.send(());
            around.after(self.client, self.config).await
        };
        let (after, found) = tokio::try_join!(playing, self.listen(stream, low(id), is_written))?;
        let mut preview = Preview { found, notes: Vec::new() };
        after.add_to(&mut preview, self.config);
        self.sql("ROLLBACK").await?;
        let took = began.elapsed().as_millis();
        preview.notes.push(format!("the fix was run and rolled back; for {took} ms it held {}", after.locks_text()));
        preview.notes.push(
            "the preview does not show what others write before you run the fix. The rollback does not undo numbers \
             taken from sequences, or what a function does outside of this database"
                .to_owned(),
        );
        Ok(preview)
    }

    /// Runs the statements one by one.
    async fn play(&self, statements: &[Statement<'_>], id: i64) -> anyhow::Result<()> {
        for statement in statements {
            // The server prepares only a single statement, so it has the final say on where the statement ends.
            let run = async {
                let one = self.client.prepare(statement.text).await?;
                drop(one);
                self.client.batch_execute(statement.text).await
            };
            run.await.map_err(|error| self.failed(statement, &error))?;
            if self.transaction().await? != Some(id) {
                bail!(
                    "{} ENDED THE TRANSACTION in which it was tried, so what was done up to there may be committed: look \
                     at the tables before anything else",
                    self.at(statement, None)
                );
            }
        }
        let deferred = "a constraint that is checked at COMMIT does not hold, so the fix would fail there";
        self.client
            .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
            .await
            .map_err(|error| anyhow!("{}: {deferred}: {}{}", self.script.name, told(&error), advice(&error)))
    }

    fn failed(&self, statement: &Statement<'_>, error: &tokio_postgres::Error) -> anyhow::Error {
        let position = match error.as_db_error().and_then(|error| error.position()) {
            Some(tokio_postgres::error::ErrorPosition::Original(at)) => usize::try_from(*at).ok(),
            _ => None,
        };
        anyhow!("{}: {}{}; everything was rolled back", self.at(statement, position), told(error), advice(error))
    }

    /// A place in the script, such as `fix.sql:3:7`. `position` comes from the server: in characters of the statement,
    /// from 1.
    fn at(&self, statement: &Statement<'_>, position: Option<usize>) -> String {
        let inside = match position {
            Some(position) => statement.text.char_indices().nth(position.saturating_sub(1)).map_or(0, |(at, _)| at),
            None => statement.text.len() - statement.text.trim_start().len(),
        };
        let (line, column) = place(&self.script.text, statement.at + inside);
        format!("{}:{line}:{column}", self.script.name)
    }

    /// The 64-bit id of the transaction. This assigns an id if `BEGIN` has not.
    async fn transaction(&self) -> anyhow::Result<Option<i64>> {
        // This runs between the user's statements, under their search path.
        let sql = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8";
        let row = self.client.query_opt(sql, &[]).await.map_err(|error| anyhow!("{}", told(&error)))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Writes the message that makes the server send the transaction, and makes the server flush the log up to it: a
    /// walsender sends only flushed log.
    async fn mark(&self, other: &Client) -> anyhow::Result<()> {
        let failed = |error: tokio_postgres::Error| {
            anyhow!(
                "cannot read what the fix has written: {}; the role needs EXECUTE on the function \
                 pg_logical_emit_message(boolean, text, text)",
                told(&error)
            )
        };
        let emit = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)";
        let filler = format!("{}{}", "x".repeat(2 * IN_PROGRESS_BYTES), self.nonce);
        self.client.execute(emit, &[&PREFIX, &filler]).await.map_err(failed)?;
        other.batch_execute("SET synchronous_commit = 'local'").await.map_err(failed)?;
        other.execute(emit, &[&PREFIX, &""]).await.map_err(failed)?;
        Ok(())
    }

    /// Reads what the transaction has written, up to the mark.
    async fn listen(
        &self,
        mut stream: PostgresStream,
        id: u32,
        is_written: oneshot::Receiver<()>,
    ) -> anyhow::Result<Found> {
        let late = async {
            if is_written.await.is_ok() {
                tokio::time::sleep(SENDING).await;
            } else {
                // The fix has failed, and `playing` returns the error.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            found = self.read(&mut stream, id) => found,
            () = late => bail!("the server has not sent what the fix has written within {} s", SENDING.as_secs()),
        }
    }

    async fn read(&self, stream: &mut PostgresStream, id: u32) -> anyhow::Result<Found> {
        let (mut blocks, mut finder) = (Blocks::default(), Finder::new(self.config, self.heirs.clone()));
        let limit = self.args.limit as usize;
        // By subtransaction, because the fix may roll back a part of itself that the server has already sent.
        let mut parts = std::collections::BTreeMap::<u32, Found>::new();
        let begin = Message::Begin { final_lsn: Lsn::ZERO, commit_time: PgTime(0), xid: id };
        finder.read(begin, &mut Found::at_most(0))?;
        loop {
            stream.ready(Intake::Open).await?;
            while let Some(frame) = stream.next()? {
                let Frame::Data(bytes) = frame else { continue };
                match blocks.read(bytes)? {
                    Streamed::Within { transaction, message, .. } if transaction == id && self.is_mark(&message) => {
                        let mut found = Found::at_most(limit);
                        for part in parts.into_values() {
                            found.append(part);
                        }

                        return Ok(found);
                    }
                    Streamed::Within { transaction, writer, message } if transaction == id => {
                        let found = parts.entry(writer).or_insert_with(|| Found::at_most(limit));
                        finder.read(message, found)?;
                    }
                    Streamed::Aborted { transaction, writer } if transaction == id => {
                        parts.remove(&writer);
                    }
                    Streamed::Within { .. } | Streamed::Aborted { .. } | Streamed::Other => {}
                }
            }
        }
    }

    fn is_mark(&self, message: &Message<'_>) -> bool {
        matches!(message, Message::Logical { prefix: PREFIX, content, .. } if content.ends_with(self.nonce.as_bytes()))
    }

    async fn sql(&self, sql: &str) -> anyhow::Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| anyhow!("{sql}: {}", told(&error)))
    }
}

/// A transaction id in 32 bits, as the log has it.
fn low(id: i64) -> u32 {
    u32::try_from(id & i64::from(u32::MAX)).unwrap_or_default()
}
