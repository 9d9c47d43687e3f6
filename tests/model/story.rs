//! A way that the checker has found, in words.

use stateright::Path;

use super::daemon::Stage;
use super::reader::{Place, Reader, Step};
use super::setup::{Protocol, Setup};
use super::system::{Action, State};
use super::world::{Position, Row, Token};

/// Step by step.
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
        Action::Replay => format!("the replica replays commit {}", after.postgres.replayed),
        Action::Decode => "the daemon decodes the next commit".into(),
        Action::Ask => "the daemon asks the source what it shows".into(),
        Action::Answer => "the source answers".into(),
        Action::Late => "the source does not answer in time".into(),
        Action::Send => match &after.daemon.delivery {
            Some(delivery) if delivery.upto.is_some() => "the daemon sends a strike and a record".into(),
            _ => "the daemon sends a record".into(),
        },
        Action::CarryOut => match after.daemon.delivery.map(|delivery| delivery.stage) {
            Some(Stage::Halfway) => "the cache drops the key".into(),
            _ => format!("the cache carries it out; its record says that {} is settled", after.cache.record.settled),
        },
        Action::Refuse => "the cache refuses the strike and writes the record".into(),
        Action::Hear => "the daemon hears so".into(),
        Action::Acknowledge => format!("the daemon acknowledges {} to the slot", after.postgres.acknowledged),
        Action::Disconnect => "the connection to the cache is lost".into(),
        Action::Crash => format!("the daemon is killed and begins at {}", after.postgres.acknowledged),
        Action::Judge => {
            format!("the daemon reads the record, which says that {} is settled", before.cache.record.settled)
        }
        Action::LandStray => "the cache carries out what the dead daemon had sent".into(),
        Action::EvictEntry(_) => "the cache evicts the row".into(),
        Action::EvictToken => "the cache evicts the lease or pointer".into(),
        Action::Save => "the cache saves what it holds".into(),
        Action::RollBack => "the cache goes back to what it saved".into(),
        Action::Leave => "the replica is too far behind to be waited for".into(),
        Action::Return => "the replica is waited for again".into(),
        Action::Reader(index, step) => reader(setup, before, index, step, after),
    };
    let news = (after.promised != before.promised).then(|| format!(" (settled is {} now)", after.promised));
    format!("{step}{}", news.unwrap_or_default())
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
