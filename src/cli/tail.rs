//! `coherd tail`: follows live changes beside the daemon and prints their keys. It sends nothing to targets.
//!
//! The slot is temporary and ends with the connection. Until then, tail acknowledges everything that it has printed, so
//! that the server keeps no log for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::cached::key_text;
use super::columns::plain;
use super::found::{Cause, Finder, Found, Origin};
use super::{Failure, parts};
use crate::cli::shutdown::Shutdown;
use crate::config::{Config, parse_duration};
use crate::core::Core;
use crate::pgoutput::{PgTime, decode};
use crate::postgres::catalog::look;
use crate::postgres::client::sql::connect;
use crate::postgres::server::aside::Reading;
use crate::postgres::stream::PostgresStream;
use crate::postgres::{Frame, Intake, Stream as _};
use crate::rules::heirs::Heirs;
use crate::rules::name::parse_table;
use crate::rules::shape::Shape;
use crate::transaction::{Step, tables_of};
use crate::types::invalidation::Action;
use crate::types::lsn::{CommitLsn, Lsn};
use crate::types::table::TableName;

/// The most keys of one commit that tail prints.
const KEYS_MAX: usize = 1000;

/// `coherd tail`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show only changes of this table; repeat for several
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Show only keys that match this glob, such as user:*
    #[arg(long, value_name = "GLOB")]
    key: Option<String>,
    /// Show at most N commits per second, and count the others
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Stop after N commits
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Stop after DURATION
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
    /// Print JSON, one object a commit
    #[arg(long)]
    json: bool,
}

/// Follows the log until a signal, --limit or --for ends it.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    if let Some(unknown) = args.tables.iter().find(|table| !config.rules.iter().any(|rule| rule.table == **table)) {
        return Err(anyhow!("no rule names {unknown}, so none of its changes has a key").into());
    }
    let shutdown = Shutdown::on_signal().context("listening for signals")?;
    let dsn = parts::dsn("source.dsn", &config.source.dsn)?.named("coherd tail");
    let (source, _) = parts::postgres_aside(config, dsn.clone());
    let opening = async {
        let opened = source.stream_aside(Reading::Committed).await.map_err(anyhow::Error::new)?;
        let client = connect(&dsn).await?;
        let tables = tables_of(&config.rules);
        let database = look(&client, &config.source.slot, &config.source.publication, &tables).await?;
        anyhow::Ok((opened, Heirs::of(&database)))
    };
    let opened = tokio::select! {
        () = shutdown.clone().requested() => return Ok(()),
        opened = opening => opened,
    };
    let ((mut stream, start), heirs) = opened?;
    let _ = writeln!(io::stderr(), "following the log from {start}");
    let time_is_over = async {
        match args.lasts {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let mut tail = Tail::new(config, &args, start, heirs);
    let told = tokio::select! {
        told = tail.follow(&mut stream) => told,
        () = time_is_over => Ok(()),
        () = shutdown.requested() => Ok(()),
    };
    tail.end();
    // An orderly end, so that the server notices at once that nobody follows. The slot goes with the session.
    let _ = stream.finish().await;
    told.map_err(|error| error.context("the stream ended; what came after is not shown").into())
}

struct Tail<'a> {
    config: &'a Config,
    args: &'a Args,
    /// The keys that `--key` covers.
    key: Option<Shape>,
    finder: Finder,
    found: Found,
    core: Core,
    shown: u64,
    pace: Pace,
}

impl<'a> Tail<'a> {
    fn new(config: &'a Config, args: &'a Args, start: Lsn, heirs: Heirs) -> Self {
        Tail {
            config,
            args,
            key: args.key.as_deref().map(Shape::of_glob),
            finder: Finder::new(config, heirs),
            found: Found::at_most(KEYS_MAX),
            core: Core::without_targets(start),
            shown: 0,
            pace: Pace { rate: args.rate, began: Instant::now(), shown: 0, left_out: 0 },
        }
    }

    /// Returns at the limit, or when stdout is closed.
    async fn follow(&mut self, stream: &mut PostgresStream) -> anyhow::Result<()> {
        loop {
            stream.ready(Intake::Open).await?;
            while let Some(frame) = stream.next()? {
                match frame {
                    Frame::Data(bytes) => match self.finder.read(decode(bytes)?, &mut self.found)? {
                        Step::Committed { end, commit_time, .. } => {
                            self.core.committed(end.end());
                            if self.committed(end, commit_time)? {
                                return Ok(());
                            }
                        }
                        Step::Awaited(_) | Step::Flushed(_) | Step::Within | Step::Unreadable(_) => {}
                    },
                    // Within a transaction, only the position of its commit means anything.
                    Frame::Position(at) if !self.finder.is_open() => self.core.idle(at),
                    Frame::Position(_) => {}
                }
            }
            if let Some(at) = self.core.acknowledge() {
                stream.acknowledge(at);
            }
        }
    }

    /// Prints one commit. Returns whether it was the last one.
    fn committed(&mut self, end: CommitLsn, time: PgTime) -> anyhow::Result<bool> {
        let found = std::mem::replace(&mut self.found, Found::at_most(KEYS_MAX));
        let entries = self.entries(&found);
        if entries.is_empty() {
            return Ok(false);
        }
        let Some(left_out) = self.pace.admit() else { return Ok(false) };
        let told = self.told(end.end(), time, &found, &entries, left_out);
        self.shown += 1;
        Ok(!write(&told)? || self.args.limit.is_some_and(|limit| self.shown >= limit))
    }

    /// The requested keys and scopes, by table and cause.
    fn entries<'f>(&self, found: &'f Found) -> BTreeMap<(String, Cause), Vec<Invalidated<'f>>> {
        let mut entries: BTreeMap<(String, Cause), Vec<Invalidated<'f>>> = BTreeMap::new();
        let covered = |key: &[u8]| self.key.as_ref().is_none_or(|glob| glob.meets(&Shape::of_key(key)));
        let keys = found.keys.iter().filter(|((key, _), _)| covered(key));
        let keys = keys.map(|((key, action), origin)| (Invalidated::Key(*action, key), origin));
        let scopes =
            found.scopes.iter().map(|((pattern, action), origin)| (Invalidated::Scope(*action, pattern), origin));
        for (invalidated, origin) in keys.chain(scopes) {
            for table in self.tables(origin) {
                for cause in &origin.causes {
                    entries.entry((table.clone(), *cause)).or_default().push(invalidated);
                }
            }
        }
        entries
    }

    /// The requested tables that the key comes from; `-` for a manual invalidation.
    fn tables(&self, origin: &Origin) -> Vec<String> {
        if origin.rules.is_empty() {
            return if self.args.tables.is_empty() { vec!["-".to_owned()] } else { Vec::new() };
        }
        let rules = origin.rules.iter().filter_map(|id| self.config.rules.get(usize::from(*id)));
        let wanted = |table: &&TableName| self.args.tables.is_empty() || self.args.tables.contains(table);
        let mut tables: Vec<String> = rules.map(|rule| &rule.table).filter(wanted).map(TableName::sql).collect();
        tables.dedup();
        tables
    }

    fn told(
        &self,
        at: Lsn,
        time: PgTime,
        found: &Found,
        entries: &BTreeMap<(String, Cause), Vec<Invalidated<'_>>>,
        left_out: u64,
    ) -> String {
        let time = utc(time);
        if self.args.json {
            let changes: Vec<Value> = entries.iter().map(|((table, cause), invalidated)| {
                let of = |wanted: fn(&Invalidated) -> bool| {
                    invalidated.iter().filter(|its| wanted(its)).map(|its| json!({ "action": its.action().name(), "name": its.name() })).collect::<Vec<_>>()
                };
                json!({ "table": table, "operation": cause.name(),
                    "keys": of(|its| matches!(its, Invalidated::Key(..))), "scopes": of(|its| matches!(its, Invalidated::Scope(..))) })
            }).collect();
            let told = json!({ "commit": at.to_string(), "time": time, "changes": changes,
                "more": found.left_out > 0, "not_shown": left_out });
            return format!("{told}\n");
        }
        let mut out = String::new();
        // Writing to a String cannot fail.
        if left_out > 0 {
            let _ = writeln!(out, "… {left_out} commits not shown (--rate)");
        }
        for ((table, cause), invalidated) in entries {
            let invalidated: Vec<String> = invalidated.iter().map(Invalidated::text).collect();
            let line = format!("{at}  {time}  {table}  {}  {}", cause.name(), invalidated.join(" "));
            out.extend([&plain(&line), "\n"]);
        }
        if found.left_out > 0 {
            let _ = writeln!(out, "{at}  … more than {KEYS_MAX} keys");
        }
        out
    }

    fn end(&self) {
        if self.pace.left_out > 0 {
            let _ = writeln!(io::stderr(), "{} commits were not shown (--rate)", self.pace.left_out);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Invalidated<'a> {
    Key(Action, &'a [u8]),
    Scope(Action, &'a str),
}

impl Invalidated<'_> {
    const fn action(&self) -> Action {
        match self {
            Invalidated::Key(action, _) | Invalidated::Scope(action, _) => *action,
        }
    }

    fn name(&self) -> String {
        match self {
            Invalidated::Key(_, key) => key_text(key),
            Invalidated::Scope(_, pattern) => (*pattern).to_owned(),
        }
    }

    fn text(&self) -> String {
        match self {
            Invalidated::Key(Action::Delete, key) => key_text(key),
            Invalidated::Key(action, key) => format!("{}({})", action.name(), key_text(key)),
            Invalidated::Scope(_, pattern) => format!("flush({pattern})"),
        }
    }
}

/// Limits how many commits are printed each second.
struct Pace {
    rate: Option<NonZeroU32>,
    began: Instant,
    shown: u32,
    left_out: u64,
}

impl Pace {
    /// If one more commit may be printed: how many were left out since the last one.
    fn admit(&mut self) -> Option<u64> {
        if self.began.elapsed() >= Duration::from_secs(1) {
            (self.began, self.shown) = (Instant::now(), 0);
        }
        if self.rate.is_some_and(|rate| self.shown >= rate.get()) {
            self.left_out += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Writes to stdout. Returns false if nobody reads it any more.
fn write(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::Error::new(error).context("writing to stdout")),
    }
}

/// The time as `2026-11-21T22:50:01.123456Z` (RFC 3339).
fn utc(time: PgTime) -> String {
    let micros = time.unix_micros();
    let (days, of_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// The Gregorian date of a day counted from 1970-01-01. Years begin on 1 March, so that a leap day is the last day of
/// its year. A span of 400 years has 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march = days + 719_468;
    let (span, day) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + span * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        for (unix, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (1_795_301_401_123_456, "2026-11-21T22:50:01.123456Z"),
        ] {
            assert_eq!(utc(PgTime(unix - 946_684_800_000_000)), expected);
        }
    }

    #[test]
    fn what_is_beyond_the_rate_is_counted() {
        let mut pace = Pace { rate: NonZeroU32::new(2), began: Instant::now(), shown: 0, left_out: 0 };
        assert_eq!([pace.admit(), pace.admit(), pace.admit(), pace.admit()], [Some(0), Some(0), None, None]);
        pace.began -= Duration::from_secs(1);
        assert_eq!([pace.admit(), pace.admit()], [Some(2), Some(0)]);
    }
}
