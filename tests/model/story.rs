//! Describes a path that the checker found, in words.

use stateright::Path;

use super::daemon::{Flight, Stage};
use super::reader::{Place, Reader, Step};
use super::setup::{Protocol, Setup};
use super::system::{Action, State};
use super::world::{Position, Row, Token, position};

/// The path, step by step.
pub fn tell(setup: &Setup, path: Path<State, Action>) -> String {
    let steps = path.into_vec();
    let told =
        steps.iter().zip(steps.iter().skip(1)).enumerate().filter_map(|(number, ((before, action), (after, _)))| {
            let step = action.as_ref().map(|action| say(setup, before, *action, after))?;
            Some(format!("{:>3}. {step}", number + 1))
        });
    told.collect::<Vec<_>>().join("\n")
}

fn say(setup: &Setup, before: &State, action: Action, after: &State) -> String {
    let step = match action {
        Action::Commit => format!("commit {} is in the log", after.postgres.written),
        Action::Show(n) => format!("commit {n} is visible on the primary"),
        Action::CommitUnpublished => format!("commit {} is in the log, and not in the stream", after.postgres.written),
        Action::Look => "the daemon looks at the catalogue".into(),
        Action::Overspend => "the slot holds back too much log".into(),
        Action::FlushManually => "somebody flushes the table manually".into(),
        Action::Replay => format!("the replica replays commit {}", after.postgres.replayed),
        Action::Decode => "the daemon decodes the next commit".into(),
        Action::Open => format!("the stream is opened at {}", after.postgres.acknowledged),
        Action::Answer => "the source answers".into(),
        Action::Late => format!("time passes, and the daemon turns{}", sent(before, after)),
        Action::Turn => format!("the daemon turns{}", sent(before, after)),
        Action::CarryOut if after.daemon.flights.iter().any(|flight| flight.stage == Stage::Halfway) => {
            "the cache drops the key".into()
        }
        Action::CarryOut => {
            let settled = position(after.cache.record.settled);
            format!("the cache carries out a delivery; its record says that {settled} is settled")
        }
        Action::Refuse => "the cache refuses the invalidation and writes the record".into(),
        Action::Hear => "the daemon hears so".into(),
        Action::Flush => "the cache is flushed".into(),
        Action::HearOfFlush => "the daemon hears of the flush".into(),
        Action::TakeBack => "the attestation is taken back".into(),
        Action::Close => "the stream is lost".into(),
        Action::Disconnect => "the connection to the cache is lost".into(),
        Action::Crash => format!("the daemon is killed and begins at {}", after.postgres.acknowledged),
        Action::Load => {
            let settled = position(before.cache.record.settled);
            format!("the record is loaded, which says that {settled} is settled")
        }
        Action::LandEarly => "the cache carries out what was sent early".into(),
        Action::LandStray => "the cache carries out what the dead daemon had sent".into(),
        Action::EvictEntry(_) => "the cache evicts the row".into(),
        Action::EvictToken => "the cache evicts the lease or pointer".into(),
        Action::Save => "the cache saves what it holds".into(),
        Action::RollBack => "the cache goes back to what it saved".into(),
        Action::Leave => "the replica is silent for too long to be held".into(),
        Action::Return => "the replica answers again".into(),
        Action::Reader(index, step) => reader(setup, before, index, step, after),
    };
    let news = (after.promised != before.promised).then(|| format!(" (settled is {} now)", after.promised));
    format!("{step}{}", news.unwrap_or_default())
}

/// The delivery that the daemon has sent in this step.
fn sent(before: &State, after: &State) -> String {
    let is_new = |flight: &&Flight| !before.daemon.flights.contains(flight);
    let sent = after.daemon.flights.iter().find(is_new);
    let flushes = before.daemon.flush.is_none() && after.daemon.flush.is_some();
    let delivery = sent.map(|flight| if flight.invalidates() { ", invalidates the key" } else { ", moves the record" });
    format!("{}{}", delivery.unwrap_or_default(), if flushes { ", flushes" } else { "" })
}

fn reader(setup: &Setup, before: &State, index: usize, step: Step, after: &State) -> String {
    let who = before.readers[index];
    let entry = |under: Token| before.cache.get(under);
    match (who, step) {
        (_, Step::Die) => "a reader dies".into(),
        (_, Step::Begin) => match setup.protocol {
            Protocol::Pointer(_) => format!("a reader reads the version pointer, v{}", after.cache.token.unwrap_or(0)),
            Protocol::Plain | Protocol::Lease => format!("a reader asks the cache and gets {}", found(entry(0))),
        },
        (Reader::Knows { pointer, settled }, Step::Look) => {
            let began = began(settled);
            format!("a reader that began {began} looks under v{pointer} and gets {}", found(entry(pointer)))
        }
        (Reader::Missed { settled, .. }, Step::Read(place)) => {
            let server = if place == Place::Replica { "replica" } else { "primary" };
            let replica = Row::at(before.postgres.replayed);
            let read = if place == Place::Replica { replica } else { before.postgres.visible };
            format!("a reader that began {} reads {} on the {server}", began(settled), row(read))
        }
        (Reader::Holds { token, row: held }, _) => match setup.protocol {
            Protocol::Pointer(_) => format!("a reader stores {} under v{token}", row(held)),
            Protocol::Plain | Protocol::Lease => format!("a reader stores {}", row(held)),
        },
        _ => "a reader does nothing".into(),
    }
}

fn began(settled: Position) -> String {
    if settled == 0 { "before anything had settled".into() } else { format!("when {settled} had settled") }
}

fn found(entry: Option<Row>) -> String {
    entry.map_or_else(|| "nothing".into(), row)
}

fn row(row: Row) -> String {
    match row.0 {
        0 => "the old row".into(),
        1 => "the row of commit 1".into(),
        2 => "the row of commit 2 alone".into(),
        _ => "the row of both commits".into(),
    }
}
