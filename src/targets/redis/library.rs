//! Loads the function library into a server, at each connection, if it is missing or older.
//!
//! Deliveries need no library, so a failure here does not hold them up. It is logged and left for the next connection.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use redis::{Cmd, Value};
use tracing::{info, warn};

use super::connection::Connected;
use super::lua::{NAME, library, version_of};
use super::reply::{Step, broken, refused, unexpected};
use crate::targets::Fault;

/// How many connections in a row may be lost while the library is loaded; the next connection then skips it. A proxy
/// may close the connection each time it gets a command that it does not know.
const LOST_MAX: u8 = 2;

/// What is kept between connections.
#[derive(Default)]
pub(super) struct Loader {
    lost: AtomicU8,
    /// The last text that was logged, which is not logged again.
    told: Mutex<String>,
}

/// What `FUNCTION LIST` says about the library, compared with this coherd's version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Older(u32),
    Same,
    /// It serves readers of this version too: a new version keeps the functions, keys, arguments and replies of the
    /// earlier ones.
    Newer(u32),
    /// A library of this name without a version of coherd's.
    Foreign,
}

impl Loader {
    /// Loads the library over this connection. An `Err` is a lost connection.
    pub(super) async fn call(&self, place: &str, connected: &Connected) -> Result<(), Fault> {
        if self.lost.load(Ordering::Relaxed) >= LOST_MAX {
            self.lost.store(LOST_MAX - 1, Ordering::Relaxed);
            return Ok(());
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        let outcome = bring(place, connected).await?;
        self.lost.store(0, Ordering::Relaxed);
        self.tell(outcome);
        Ok(())
    }

    fn tell(&self, outcome: Outcome) {
        // A poisoned lock does no harm: the text is only for the log.
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match outcome {
            Outcome::Fine => told.clear(),
            Outcome::Loaded(text) => {
                info!("{text}");
                told.clear();
            }
            Outcome::Notice(text) | Outcome::Trouble(text) if *told == text => {}
            Outcome::Notice(text) => {
                info!("{text}");
                *told = text;
            }
            Outcome::Trouble(text) => {
                warn!("{text}");
                *told = text;
            }
        }
    }
}

/// The outcome of loading, with the text to log.
enum Outcome {
    /// The server has this coherd's version.
    Fine,
    /// The server has it now. Logged each time.
    Loaded(String),
    /// There is nothing to do. Logged once.
    Notice(String),
    /// Somebody should look. Logged once.
    Trouble(String),
}

async fn bring(place: &str, connected: &Connected) -> Result<Outcome, Fault> {
    let source = library();
    let ours = version_of(&source).unwrap_or_default();
    let reply = ask(place, connected, Step::ListFunctions, &list()).await?;
    let found = match &reply {
        Value::ServerError(error) if error.code() == "ERR" && is_unknown(error.details()) => {
            return Ok(Outcome::Notice(format!(
                "{place} has no functions (Redis 7 and Valkey have): readers take the scripts that `coherd lua --eval` prints"
            )));
        }
        Value::ServerError(error) => return Ok(trouble(&refused(place, Step::ListFunctions, error))),
        reply => match found(reply, ours) {
            Some(found) => found,
            None => return Ok(trouble(&unexpected(place, Step::ListFunctions))),
        },
    };
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD");
    let told = match found {
        Found::Same => return Ok(Outcome::Fine),
        Found::Newer(theirs) => {
            let text =
                format!("{place} has the function library {NAME} in version {theirs}, newer than ours; it stays");
            return Ok(Outcome::Notice(text));
        }
        Found::Foreign => {
            return Ok(Outcome::Trouble(format!(
                "{place} has a function library {NAME} that is not coherd's, so readers call the wrong functions. Run \
                 FUNCTION DELETE {NAME} to make room for coherd's. Deliveries continue"
            )));
        }
        // Without REPLACE: if another coherd was faster, perhaps with a newer library, the server refuses this one.
        Found::Nothing => format!("loaded the function library {NAME}, version {ours}, into {place}"),
        Found::Older(theirs) => {
            load.arg("REPLACE");
            format!("replaced version {theirs} of the function library {NAME} by version {ours} in {place}")
        }
    };
    load.arg(source);
    match ask(place, connected, Step::LoadFunctions, &load).await? {
        Value::ServerError(error) => Ok(trouble(&refused(place, Step::LoadFunctions, &error))),
        _ => Ok(Outcome::Loaded(told)),
    }
}

/// The command that asks for the library and its source.
pub(super) fn list() -> Cmd {
    let mut list = redis::cmd("FUNCTION");
    list.arg("LIST").arg("LIBRARYNAME").arg(NAME).arg("WITHCODE");
    list
}

fn trouble(fault: &Fault) -> Outcome {
    Outcome::Trouble(format!(
        "the function library {NAME} may be missing, and readers with leases or versions need it: {fault}. You can \
         also load it by hand: coherd lua | redis-cli -x FUNCTION LOAD REPLACE. Deliveries continue"
    ))
}

/// Whether an error's text says that the server has no such command.
pub(super) fn is_unknown(details: Option<&str>) -> bool {
    details.is_some_and(|details| details.starts_with("unknown command"))
}

/// Reads the reply to `FUNCTION LIST`, which has one map per library. `None` if the reply has another shape.
pub(super) fn found(reply: &Value, ours: u32) -> Option<Found> {
    let Value::Array(libraries) = reply else { return None };
    let Some(library) = libraries.first() else { return Some(Found::Nothing) };
    let is_code = |name: &Value| matches!(name, Value::BulkString(name) if name == b"library_code");
    let (_, code) = library.as_map_iter()?.find(|(name, _)| is_code(name))?;
    let Value::BulkString(code) = code else { return None };
    Some(match version_of(&String::from_utf8_lossy(code)) {
        None => Found::Foreign,
        Some(theirs) if theirs < ours => Found::Older(theirs),
        Some(theirs) if theirs > ours => Found::Newer(theirs),
        Some(_) => Found::Same,
    })
}

/// Sends one command. An error reply is a reply; an `Err` means that there was none.
async fn ask(place: &str, connected: &Connected, step: Step, command: &Cmd) -> Result<Value, Fault> {
    let reply = connected.connection.clone().send_packed_command(command).await;
    reply.map_err(|error| broken(place, step.command(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_another_shape_is_no_library() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let library = |fields: Vec<Value>| Value::Array(vec![Value::Array(fields)]);
        assert_eq!(found(&Value::Array(vec![]), 3), Some(Found::Nothing));
        assert_eq!(found(&Value::Nil, 3), None);
        assert_eq!(found(&library(vec![text("library_name"), text("coherd")]), 3), None);
        assert_eq!(found(&library(vec![text("library_code"), Value::Nil]), 3), None);
        let of = |code: &str| found(&library(vec![text("engine"), text("LUA"), text("library_code"), text(code)]), 3);
        assert_eq!(of("return 1"), Some(Found::Foreign));
        for (version, expected) in [(2, Found::Older(2)), (3, Found::Same), (4, Found::Newer(4))] {
            assert_eq!(
                of(&format!("#!lua name=coherd\n-- coherd function library, version {version}: x")),
                Some(expected)
            );
        }
    }
}
