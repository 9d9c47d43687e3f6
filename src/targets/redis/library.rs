//! Bringing the function library to a server: where there is none, or an older one, at each connection.
//!
//! Deliveries need no library, so nothing here holds them up: what goes wrong is told and left for the next connection.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use redis::{Cmd, Value};
use tracing::{info, warn};

use super::connection::Connected;
use super::lua::{NAME, library, version_of};
use super::reply::{Step, broken, refused, unexpected};
use crate::targets::Fault;

/// How often in a row a connection may end in the middle of this before one is spared it: what stands before a server
/// may close the connection on a command that it does not know, each time.
const LOST_MAX: u8 = 2;

/// How far the library is on its way.
#[derive(Default)]
pub(super) struct Loader {
    lost: AtomicU8,
    /// What was told last, which is not told again.
    told: Mutex<String>,
}

/// What `FUNCTION LIST` says of the library, against our own version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Older(u32),
    Same,
    /// It serves our readers too: a new version keeps the functions, keys, arguments and replies of those before.
    Newer(u32),
    /// Something of this name that has no version of ours.
    Foreign,
}

impl Loader {
    /// Brings the library over this connection. An `Err` is a lost connection.
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
        // Poisoned or not, it is only text.
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

/// How it went, with what there is to say of it.
enum Outcome {
    /// The server has our version.
    Fine,
    /// Now it has. Told each time.
    Loaded(String),
    /// There is nothing to be done. Told once.
    Notice(String),
    /// Somebody should look. Told once.
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
        // Without REPLACE: where another coherd was faster, perhaps with a newer one, this is refused.
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

/// Asks for the library.
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

/// Whether an error's text means that the server has no such command.
pub(super) fn is_unknown(details: Option<&str>) -> bool {
    details.is_some_and(|details| details.starts_with("unknown command"))
}

/// Reads the reply to `FUNCTION LIST`: one map a library. `None` for another shape.
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

/// One command; an error reply is a reply.
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
