//! The cost of a change inside a consumer: system calls, which perf(1) counts over the whole life of the process, and
//! coherd's allocations, which a separate build counts between a fifth and nine tenths of a backlog. These rounds are
//! separate, because counting costs time.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::backlog::{Backlog, SETTINGS};
use crate::cache::Cache;
use crate::consumer::metric;
use crate::drain::{How, by_follower};
use crate::options::{Columns, Consumer, Options, Word};
use crate::report::Report;
use crate::support::Postgres;
use crate::support::process::{Signal, send_signal};

/// Enough that a process's start does not matter.
const CHANGES_MAX: u64 = 300_000;

/// Measures every shape and transport, with key columns only.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let counting = counting_build();
    let server = Arc::new(Postgres::start(SETTINGS));
    let mut caches = [Cache::start()];
    for &shape in &options.shapes {
        let mut backlog = Backlog::write(&server, shape, options.changes.min(CHANGES_MAX));
        for &transport in &options.transports {
            for consumer in [Consumer::Floor, Consumer::Coherd] {
                let how = How { consumer, transport, publication: Columns::Keys.word(), program: None };
                let calls = system_calls(&mut backlog, &mut caches, &how);
                let mut cells = vec![
                    ("shape", json!(shape.word())),
                    ("transport", json!(transport.word())),
                    ("consumer", json!(consumer.word())),
                    ("system calls/change", calls.map_or(json!("not measured"), |n| json!(n))),
                ];
                if consumer == Consumer::Coherd {
                    let how = How { program: counting.as_deref(), ..how };
                    cells.push(("allocations/change", allocations(&mut backlog, &mut caches, &how)));
                }
                report.row("inside, key columns", &cells);
            }
        }
    }
}

/// coherd with the feature `count-allocations`, in its own target directory. It is not timed, so it uses the fastest
/// build.
fn counting_build() -> Option<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/counting");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--quiet", "--bin", "coherd", "--features", "count-allocations"])
        .env("CARGO_TARGET_DIR", &dir)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .status();
    built.is_ok_and(|status| status.success()).then(|| dir.join("release/coherd"))
}

fn system_calls(backlog: &mut Backlog, caches: &mut [Cache], how: &How) -> Option<f64> {
    let slot = backlog.slot();
    let dir = tempfile::tempdir().expect("temp dir");
    let counts = dir.path().join("perf");
    let mut perf: Option<Child> = None;
    by_follower(backlog, caches, &slot, how, |follower, _| {
        if perf.is_none() {
            let mut command = Command::new("perf");
            command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o"]).arg(&counts);
            command.args(["-p", &follower.pid().to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            perf = command.spawn().ok();
        }
    });
    backlog.drop_slot(&slot);
    let mut perf = perf?;
    send_signal(perf.id(), Signal::Interrupt);
    perf.wait().ok()?;
    let text = std::fs::read_to_string(&counts).ok()?;
    let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
    let count: f64 = line.split(',').next()?.parse().ok()?;
    Some(count / backlog.changes as f64)
}

fn allocations(backlog: &mut Backlog, caches: &mut [Cache], how: &How) -> Value {
    if how.program.is_none() {
        return json!("not measured");
    }
    let slot = backlog.slot();
    let total = backlog.changes;
    let (mut from, mut to): (Option<String>, Option<String>) = (None, None);
    by_follower(backlog, caches, &slot, how, |follower, left| {
        if from.is_none() && left < total / 5 * 4 {
            from = follower.metrics();
        } else if from.is_some() && to.is_none() && left < total / 10 {
            to = follower.metrics();
        }
    });
    backlog.drop_slot(&slot);
    let (Some(from), Some(to)) = (from, to) else { return json!("too few changes") };
    let grown = |name| metric(&to, name).zip(metric(&from, name)).map(|(to, from)| to - from);
    match grown("coherd_allocations_total").zip(grown("coherd_changes_total")) {
        Some((count, changes)) if changes > 0.0 => json!(count / changes),
        _ => json!("too few changes"),
    }
}
