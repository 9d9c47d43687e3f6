//! The commands for the time before and after a fix: `coherd keys`, `explain`, `tail`, `invalidate`, `flush`.

mod manual;
mod explain;
mod fixes;
mod guide;
mod peek;
mod refusals;
mod rows;
mod tail;

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::e2e::Shop;
use crate::support::daemon::text;
use crate::support::until;

/// Runs a command, which must succeed, and returns its JSON output.
pub fn told(shop: &Shop, arguments: &[&str]) -> Value {
    let output = shop.daemon.command(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// The names in a list of objects.
pub fn names(told: &Value, list: &str, name: &str) -> BTreeSet<String> {
    let list = told[list].as_array().unwrap_or_else(|| panic!("no {list} in {told}"));
    list.iter().map(|its| its[name].as_str().unwrap().to_owned()).collect()
}

/// Exit code and stderr of a command that must fail. `replace` masks what differs in each run.
pub fn refusal(output: &Output, replace: &[(&str, &str)]) -> String {
    assert_ne!(output.status.code(), Some(0), "{}", text(output));
    // Other tests have transactions on the same server, and the slot waits for those that are running.
    let lines = String::from_utf8_lossy(&output.stderr);
    let said: String = lines.split_inclusive('\n').filter(|line| !line.starts_with("creating the slot ")).collect();
    let said = replace.iter().fold(said, |said, (from, to)| said.replace(from, to));
    format!("exit {}\n{said}", output.status.code().unwrap_or(-1))
}

/// Writes a file into the configuration's folder and returns its path.
pub fn file(shop: &Shop, name: &str, sql: &str) -> String {
    let path = shop.daemon.config().with_file_name(name);
    std::fs::write(&path, sql).unwrap();
    path.display().to_string()
}

/// Waits until no temporary slot is left in the database. The server drops it when it notices that its client is gone.
pub fn no_slot_is_left(shop: &mut Shop) {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()";
    until("no temporary slot is left", || (shop.sql.one(sql) == "0").then_some(()));
}
