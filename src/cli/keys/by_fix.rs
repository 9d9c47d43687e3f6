//! The keys that a fix would touch. It is run in a transaction that is always rolled back.
//!
//! How its changes are seen: Postgres decodes transactions in progress for a consumer that asks for it (protocol 2,
//! `streaming 'on'`), once more than 64 kB of changes wait. So a temporary slot is followed beside the transaction; when
//! the fix is done, a transactional message of more than 64 kB goes into the log, and with it the server sends all that
//! the transaction has written: the very messages that the daemon would get, with the old rows that the replica identity
//! keeps, of triggers, cascades, TRUNCATE and `coherd.invalidate()` too. The daemon's own reader makes the keys of them.
//!
//! What was not taken: triggers that note the changes lock the tables against writers (SHARE ROW EXCLUSIVE); statements
//! rewritten with RETURNING miss triggers, cascades, functions and all but the last version of a row; reading the tables
//! for row versions of the transaction (`xmin`) takes a look at every row of them, and misses the same. This takes no
//! lock but the fix's own, and reads nothing but the log.

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

/// The prefix of our messages in the log, which the daemon passes by.
const PREFIX: &str = "coherd.preview";

/// How long the server may take to send what the transaction has written.
const SENDING: Duration = Duration::from_mins(1);

/// Tries the fix.
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
    // Whatever came of it. A session that cannot take this any more is ended by the server, which comes to the same.
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let tried = tried?;
    rolled_back.map_err(|error| anyhow!("the end of the transaction is not known: {}", told(&error)))?;
    Ok(tried)
}

/// A stream of what is written from now on, by the server that the fix goes to.
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

/// One attempt, on a session of its own.
struct Attempt<'a> {
    config: &'a Config,
    args: &'a Args,
    script: &'a Script,
    client: &'a Client,
    /// Tells the end of what the fix has written from anything else.
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
            // Whoever listens has ended otherwise, and says why.
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

    /// The statements, one by one.
    async fn play(&self, statements: &[Statement<'_>], id: i64) -> anyhow::Result<()> {
        for statement in statements {
            // The server takes one statement only here, and so is the judge of where it ends.
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

    /// `fix.sql:3:7`; `position` is the server's, from 1, in characters of the statement.
    fn at(&self, statement: &Statement<'_>, position: Option<usize>) -> String {
        let inside = match position {
            Some(position) => statement.text.char_indices().nth(position.saturating_sub(1)).map_or(0, |(at, _)| at),
            None => statement.text.len() - statement.text.trim_start().len(),
        };
        let (line, column) = place(&self.script.text, statement.at + inside);
        format!("{}:{line}:{column}", self.script.name)
    }

    /// The id of the transaction, 64 bits wide; takes one where `BEGIN` has not.
    async fn transaction(&self) -> anyhow::Result<Option<i64>> {
        // Between the user's statements, under their search path.
        let sql = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8";
        let row = self.client.query_opt(sql, &[]).await.map_err(|error| anyhow!("{}", told(&error)))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Writes the message that makes the server send the transaction, and has the log flushed up to it: what is not
    /// flushed is not sent.
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
                // The fix has failed, which is told by whoever ran it.
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
        // By subtransaction, because a part of the fix may be rolled back after it was sent.
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

/// A transaction id as the log has it.
fn low(id: i64) -> u32 {
    u32::try_from(id & i64::from(u32::MAX)).unwrap_or_default()
}
