//! `coherd wait`: waits until every cache has confirmed what was committed so far.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use serde_json::json;

use super::columns::plain;
use super::daemon::{self, AdminOption, TIMEOUT, Way};
use super::{Failure, parts, print};
use crate::admin::http::TIMEOUT_MAX;
use crate::admin::status::{Stage, View, WatermarksView};
use crate::config::parse_duration;
use crate::postgres::client::sql::{connect, explain};
use crate::types::lsn::{Lsn, ParseLsnError};

/// The longest wait; a longer --timeout is cut to this.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// `coherd wait`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Position to wait for: 16/B374D848, or the decimal number from coherd.token(). Default: the current end of the log,
    /// that is, everything committed so far
    #[arg(long, value_name = "LSN", value_parser = parse_token)]
    token: Option<Lsn>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Stage to wait for: applied (every cache has confirmed) or settled (readers may rely on it)
    #[arg(long, value_enum, default_value_t = Until::Settled)]
    stage: Until,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminOption,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Until {
    Applied,
    Settled,
}

impl Until {
    const fn stage(self) -> Stage {
        match self {
            Until::Applied => Stage::Applied,
            Until::Settled => Stage::Settled,
        }
    }
}

impl Args {
    /// Waits until `at` is settled, for at most `timeout`.
    pub(super) fn settled(at: Lsn, timeout: Duration, json: bool) -> Args {
        Args { token: Some(at), timeout, stage: Until::Settled, json, admin: AdminOption::default() }
    }
}

fn parse_token(text: &str) -> Result<Lsn, String> {
    let at: Lsn = text.parse().map_err(|error: ParseLsnError| error.to_string())?;
    if at < Lsn::LEAST {
        return Err(format!("{at} is not a position in a server's log; for seconds, use --timeout 5s"));
    }
    Ok(at)
}

/// The result of waiting.
enum Outcome {
    Reached(WatermarksView),
    /// The time is over. The lines say what is in the way.
    TooLate(WatermarksView, Vec<String>),
}

/// Waits and prints the result. Fails on timeout.
pub async fn run(way: &Way, args: Args) -> Result<(), Failure> {
    let at = match args.token {
        Some(at) => at,
        None => present(way).await?,
    };
    let stage = args.stage.stage();
    let outcome = wait(way, at, stage, args.timeout).await.map_err(|error| way.failed(error))?;
    let name = stage.name();
    if args.json {
        let (reached, watermarks, behind) = match &outcome {
            Outcome::Reached(watermarks) => (true, watermarks, &[][..]),
            Outcome::TooLate(watermarks, behind) => (false, watermarks, behind.as_slice()),
        };
        let told = json!({
            "reached": reached, "stage": name, "token": at.to_string(), "watermarks": watermarks, "behind": behind,
        });
        print(&format!("{told}\n"))?;
        return if reached { Ok(()) } else { Err(Failure::Told) };
    }
    match outcome {
        Outcome::Reached(watermarks) => print(&format!("{at} is {name}; {name} is at {}\n", of(stage, &watermarks))),
        Outcome::TooLate(watermarks, behind) => {
            let (within, position) = (millis(args.timeout), of(stage, &watermarks));
            let told = format!("{at} is not {name} within {within} ms; {name} is at {position}");
            Err(anyhow::Error::msg([vec![told], behind].concat().join("\n")).into())
        }
    }
}

/// A position at or after the last commit.
async fn present(way: &Way) -> Result<Lsn, Failure> {
    let Some(source) = &way.source else {
        let text = "source.dsn cannot be read, so the position to wait for is not known: give it with --token";
        return Err(Failure::Setting(text.to_owned()));
    };
    let dsn = parts::dsn("source.dsn", &source.dsn)?.named("coherd wait");
    let client = connect(&dsn).await.context("asking the database for its present position")?;
    let slot = &source.slot;
    let failed = |error, what| anyhow::Error::new(explain(&error, what, &dsn));
    let there = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1), to_regproc('coherd.token') IS NOT NULL",
            &[slot],
        )
        .await
        .map_err(|error| failed(error, "look for the slot"))?;
    if !there.get::<_, bool>(0) {
        return Err(anyhow!("there is no replication slot {slot} on this server: `coherd setup` creates it").into());
    }
    if !there.get::<_, bool>(1) {
        return Err(anyhow!("this database has no function coherd.token(): `coherd setup` creates it").into());
    }
    let token = client.query_one("SELECT coherd.token()", &[]).await.map_err(|error| failed(error, "take a token"))?;
    let token: i64 = token.get(0);
    Ok(Lsn::new(u64::try_from(token).context("coherd.token() gave a negative position")?))
}

/// Lets the daemon wait, in pieces no longer than its own limit.
async fn wait(way: &Way, at: Lsn, stage: Stage, timeout: Duration) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + timeout.min(LONGEST);
    if let Some(reason) = standby(&status(way).await?) {
        bail!(
            "this daemon is a hot standby and does not know what is {}: ask the instance that reads the slot, or use \
             SELECT coherd.wait() in SQL ({reason})",
            stage.name()
        );
    }
    loop {
        let piece = deadline.saturating_duration_since(Instant::now()).min(TIMEOUT_MAX);
        let path = format!("/wait?token={at}&timeout={}ms&stage={}", millis(piece), stage.name());
        let answer = daemon::ask(way, &path, piece + TIMEOUT).await?;
        match answer.code {
            200 => return Ok(Outcome::Reached(watermarks(&answer.body)?)),
            504 if Instant::now() < deadline => {}
            504 => {
                let behind = behind(&status(way).await?, at, stage);
                return Ok(Outcome::TooLate(watermarks(&answer.body)?, behind));
            }
            code => bail!("the daemon does not wait (status {code}): {}", answer.body.trim_end()),
        }
    }
}

async fn status(way: &Way) -> anyhow::Result<View> {
    daemon::view(way, &daemon::status(way).await?)
}

fn standby(view: &View) -> Option<&str> {
    (view.state == "standby").then(|| view.reason.as_deref().unwrap_or("another instance has the slot"))
}

fn watermarks(body: &str) -> anyhow::Result<WatermarksView> {
    serde_json::from_str(body).context("the daemon's answer has no watermarks: is it of another version?")
}

fn of(stage: Stage, watermarks: &WatermarksView) -> &str {
    match stage {
        Stage::Applied => &watermarks.applied,
        Stage::Settled => &watermarks.settled,
    }
}

/// What has not reached `at`, and what the daemon reports about itself.
fn behind(view: &View, at: Lsn, stage: Stage) -> Vec<String> {
    let is_behind = |position: &str| position.parse::<Lsn>().is_ok_and(|position| position < at);
    let mut lines = Vec::new();
    if is_behind(&view.wal_end) && is_behind(&view.watermarks.decoded) {
        lines.push(format!(
            "the server has reported its log only up to {}: is the token from this database?",
            view.wal_end
        ));
    } else if is_behind(&view.watermarks.decoded) {
        lines.push(format!("the log is read up to {}", view.watermarks.decoded));
    }
    for target in view.targets.iter().filter(|target| is_behind(&target.applied)) {
        lines.push(format!(
            "target {} ({}) has confirmed up to {}; {} keys wait, {} deliveries are on their way",
            target.name,
            target.state(),
            target.applied,
            target.pending_keys,
            target.in_flight
        ));
    }
    if lines.is_empty() && stage == Stage::Settled && is_behind(&view.watermarks.settled) {
        lines.push("every target has confirmed it, but it does not count as settled yet".to_owned());
    }
    lines.extend(view.not_ready.iter().flat_map(|reason| reason.lines()).map(str::to_owned));
    lines.iter().map(|line| plain(line)).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
