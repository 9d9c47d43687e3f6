//! `coherd status`: fetches the running daemon's status and prints it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::columns::{columns, plain};
use super::daemon::{self, AdminOption, Way};
use super::{Failure, print};
use crate::admin::status::{CommitView, EventView, ReplicaView, TargetView, View};
use crate::config::parse_duration;
use crate::types::lsn::Lsn;

/// The shortest interval of --watch. Nobody reads faster, and the daemon has other work.
const WATCH_MIN: Duration = Duration::from_millis(100);

/// Clears the terminal and moves the cursor to its top.
const ANEW: &str = "\u{1b}[H\u{1b}[2J";

/// `coherd status`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON, as `/status` gives it, for programs
    #[arg(long)]
    json: bool,
    /// Repeat at this interval until interrupted, even while the daemon does not answer
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "1s", value_parser = parse_duration)]
    watch: Option<Duration>,
    /// Where to ask.
    #[command(flatten)]
    pub(super) admin: AdminOption,
}

/// Fetches the status and prints it, once or repeatedly.
pub async fn run(way: &Way, args: Args) -> Result<(), Failure> {
    let Some(every) = args.watch else {
        return print(&look(way, args.json).await.map_err(|error| way.failed(error))?);
    };
    let anew = if std::io::stdout().is_terminal() && !args.json { ANEW } else { "" };
    loop {
        match look(way, args.json).await {
            Ok(text) => print(&format!("{anew}{text}"))?,
            // For programs, stdout must hold only JSON.
            Err(error) if args.json => eprintln!("coherd: {error:#}"),
            Err(error) => print(&format!("{anew}{error:#}\n"))?,
        }
        tokio::time::sleep(every.max(WATCH_MIN)).await;
    }
}

async fn look(way: &Way, json: bool) -> anyhow::Result<String> {
    let body = daemon::status(way).await?;
    if json {
        return Ok(format!("{}\n", body.trim_end()));
    }
    let view = daemon::view(way, &body)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(render(&view, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)))
}

fn render(view: &View, now_ms: u64) -> String {
    let since = |at_ms: u64| span(now_ms.saturating_sub(at_ms) / 1000);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<10} {}", plain(value));
    };
    row("slot", &format!("{} (publication {})", view.slot, view.publication));
    let reason = view.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    row("state", &format!("{} for {}{reason}", view.state, since(view.since_ms)));
    row("ready", if view.ready { "yes" } else { "no" });
    for line in view.not_ready.iter().flat_map(|reason| reason.lines()) {
        row("", line);
    }
    if let (Some(id), Some(timeline)) = (&view.system_id, view.timeline) {
        row("database", &format!("{id}, timeline {timeline}"));
    }
    let marks = &view.watermarks;
    row("log end", &view.wal_end);
    row("decoded", &behind(&marks.decoded, &view.wal_end));
    row("visible", &behind(&marks.visible, &view.wal_end));
    row("applied", &behind(&marks.applied, &view.wal_end));
    row("settled", &behind(&marks.settled, &view.wal_end));
    row("lag", &format!("{}, {:.1} s", size(view.lag_bytes), view.lag_seconds));
    if let Some(bytes) = view.slot_retained_bytes {
        let safe = match view.safe_wal_size {
            Some(safe) => format!("; {} more may be written before the slot is lost", size(safe)),
            None => "; the server sets no limit (max_slot_wal_keep_size)".to_owned(),
        };
        row("retained", &format!("{}{safe}", size(bytes)));
    }
    for replica in &view.replicas {
        row("replica", &self::replica(replica, since(replica.since_ms)));
    }
    if let Some(why) = &view.probe_fault {
        row("readers", &format!("cannot check commit visibility: {why}"));
    }
    let covered = view.rules.iter().filter(|rule| rule.covered).count();
    row("rules", &format!("{covered} of {} covered", view.rules.len()));
    for (name, events) in [("gap", &view.gaps), ("flush", &view.flushes), ("resend", &view.resends)] {
        for EventView { at_ms, reason, text } in events {
            row(name, &format!("{} ago, {reason}: {text}", since(*at_ms)));
        }
    }
    let _ = write!(out, "version    {}\n\n{}", plain(&view.version), targets(view, since));
    if !view.commits.is_empty() {
        let _ = write!(out, "\n{}", commits(&view.commits));
    }
    out
}

/// A watermark and its distance from the end of the log.
fn behind(mark: &str, end: &str) -> String {
    let bytes = |at: &str| at.parse::<Lsn>().ok();
    match (bytes(mark), bytes(end)) {
        (Some(at), Some(end)) if at < end => format!("{mark:<17} {} behind", size(end.bytes_since(at))),
        _ => mark.to_owned(),
    }
}

/// Bytes in a readable unit.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// A table of the commits, the newest first.
fn commits(commits: &[CommitView]) -> String {
    let row = |commit: &CommitView| {
        let tables = if commit.tables.is_empty() { "(manual)".to_owned() } else { commit.tables.join(", ") };
        let took = format!("{:.1} ms", commit.seconds * 1000.0);
        vec![commit.lsn.clone(), commit.keys.to_string(), took, tables]
    };
    columns(&["SETTLED COMMIT", "KEYS", "TOOK", "TABLES"], &commits.iter().rev().map(row).collect::<Vec<_>>())
}

fn replica(replica: &ReplicaView, since: String) -> String {
    let replayed = replica.replayed.as_deref().unwrap_or("nothing yet");
    let stands = match &replica.left {
        None if replica.held => format!("waiting for it for {since}"),
        None => format!("waiting for it for {since}; do not fill caches from it yet"),
        Some(why) => format!("stopped waiting for it {since} ago: {why}"),
    };
    let fault = replica.fault.as_ref().map(|fault| format!("; {fault}")).unwrap_or_default();
    format!("{} has replayed {replayed}; {stands}{fault}", replica.name)
}

fn targets(view: &View, since: impl Fn(u64) -> String) -> String {
    let row = |target: &TargetView| {
        let state = match target.state() {
            state @ ("up" | "down") => format!("{state} for {}", since(target.since_ms)),
            state => state.to_owned(),
        };
        vec![
            target.name.clone(),
            target.kind.clone(),
            state,
            target.applied.clone(),
            target.pending_keys.to_string(),
            target.in_flight.to_string(),
            target.retries.to_string(),
        ]
    };
    let head = ["TARGET", "KIND", "STATE", "APPLIED", "PENDING", "IN FLIGHT", "RETRIES"];
    let mut out = columns(&head, &view.targets.iter().map(row).collect::<Vec<_>>());
    for target in &view.targets {
        if let Some(fault) = &target.fault {
            let _ = writeln!(out, "{}: {}", plain(&target.name), plain(fault));
        }
    }
    out
}

/// Seconds in a readable unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::admin::status::{Board, State, TargetStatus};
    use crate::core::Watermarks;
    use crate::types::lsn::Lsn;
    use crate::types::observation::HeldWal;

    const MAX_LAG: Duration = Duration::from_secs(10);

    #[test]
    fn the_table_says_what_is_wrong() {
        let board = Board::new("shop", "coherd", [("cache", "redis"), ("edge", "redis")]);
        board.enter(State::Streaming);
        board.seen(7_000_000_000_000_000_001, 3, Lsn::new(0x16_0000_0000));
        board.moved(Watermarks { decoded: Lsn::new(0x16_0000_0000), ..Watermarks::default() });
        board.target(0, TargetStatus::is_up);
        board.target(1, |target| target.is_down("refused\u{1b}[31m"));
        board.gap("slot_missing", "slot shop is gone".to_owned());
        board.resent("target_went_back", "cache: 12 keys".to_owned());
        board.rules(["rules[0] public.users".into(), "rules[1] public.orders".into()]);
        board.uncover(1, "it is not in the publication\n    ALTER PUBLICATION coherd ADD TABLE public.orders;");
        board.tables(["public.orders".into(), "public.users".into()]);
        let commit = |end, tables, keys| crate::admin::status::SettledCommit {
            end: Lsn::new(end),
            made: crate::transaction::Made { keys, tables },
            took: Duration::from_micros(1234),
        };
        board.settled(&[commit(16, 0b10, 2), commit(32, 0b11, 70), commit(48, 0, 0)].into());
        board.observed(
            Some(HeldWal { end: Lsn::new(9000), retained: 4096, safe: Some(8192), segment: 1 << 24 }),
            Instant::now(),
        );
        let status = board.status();
        let view = View { lag_seconds: 0.0, version: "1.2.3".into(), ..View::of(&status, Instant::now(), MAX_LAG) };
        let later = view.since_ms + 200_000;
        let text = render(&view, later);
        insta::assert_snapshot!(text, @r#"
        slot       shop (publication coherd)
        state      streaming for 3 min
        ready      no
                   target edge is down, retrying (refused [31m)
                   rules[1] public.orders is not covered: it is not in the publication
                       ALTER PUBLICATION coherd ADD TABLE public.orders;
        database   7000000000000000001, timeline 3
        log end    16/0
        decoded    16/0
        visible    0/0               88.0 GiB behind
        applied    0/0               88.0 GiB behind
        settled    0/0               88.0 GiB behind
        lag        88.0 GiB, 0.0 s
        retained   4.0 KiB; 8.0 KiB more may be written before the slot is lost
        rules      1 of 2 covered
        gap        3 min ago, slot_missing: slot shop is gone
        resend     3 min ago, target_went_back: cache: 12 keys
        version    1.2.3

        TARGET  KIND   STATE           APPLIED  PENDING  IN FLIGHT  RETRIES
        cache   redis  up for 3 min    0/0      0        0          0
        edge    redis  down for 3 min  0/0      0        0          0
        edge: refused [31m

        SETTLED COMMIT  KEYS  TOOK    TABLES
        0/30            0     1.2 ms  (manual)
        0/20            70    1.2 ms  public.orders, public.users
        0/10            2     1.2 ms  public.users
        "#);
    }
}
