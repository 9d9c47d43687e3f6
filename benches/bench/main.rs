//! Compares coherd's cost with that of other ways, in one run on one machine.
//!
//! `make bench` builds and runs all parts except the large transaction. Environment variables select less:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `ONLY` | all | parts, separated by commas: `drain`, `inside`, `live`, `writers`, `flush`, `growth`; `large` only if named |
//! | `SHAPES` | `a,b,c` | backlogs: a single-row transactions, b one transaction, c 10 to 100 rows each, three tables |
//! | `TRANSPORT` | `tcp,unix` | connections to Postgres and to Redis |
//! | `COLUMNS` | `keys,full` | what the publication publishes |
//! | `CONSUMERS` | `pg_recvlogical,floor,crate,notify,coherd` | consumers; also `before`, if `BEFORE` names another build |
//! | `CHANGES` | 1000000 | changes in a backlog |
//! | `ROUNDS` | 3 | rounds per median, alternating; `writers` runs at least 5 |
//! | `LIVE_SECONDS` | 4 | seconds of each live measurement |
//! | `LIVE_TPS` | 500, 2000 and 5000 | the rate of the live load, if only one is wanted |
//! | `WRITERS_SECONDS` | 4 | seconds of each measurement of writers |
//! | `GROWTH_CHANGES` | 200000 | changes in a backlog of `growth` |
//! | `FLUSH_KEYS` | 5000000 | keys outside the flushed scopes |
//! | `ROWS` | 10000000 | rows of the large transaction (`make bench-large`) |
//! | `LARGE_CACHED` | 1000000 | cached keys of the large transaction |
//! | `KEEP` | | 1 writes the page to docs, with `CAVEAT` above the figures |
//!
//! `inside` counts system calls and allocations, `live` measures latency, `writers` what writers pay.
//!
//! Every drain is checked: no key is left, each was deleted by its name, and the end is acknowledged. The results are
//! kept in `target/bench`; a run of other parts adds to them.
#![allow(
    dead_code,
    unused_imports,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::naive_bytecount,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod backlog;
mod cache;
mod consumer;
mod drain;
mod floor;
mod flush;
mod growth;
mod inside;
mod large;
mod live;
mod meter;
mod naive;
mod notify;
mod options;
mod plot;
mod report;
mod session;
#[path = "../../tests/support/mod.rs"]
mod support;
mod writers;

use options::Options;
use report::Report;

type Part = (&'static str, fn(&Options, &mut Report));

const PARTS: &[Part] = &[
    ("drain", drain::run),
    ("inside", inside::run),
    ("live", live::run),
    ("writers", writers::run),
    ("flush", flush::run),
    ("growth", growth::run),
    ("large", large::run),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((word, rest)) = args.split_first() {
        match word.as_str() {
            "floor" => floor::run(rest),
            "crate" => naive::run(rest),
            "notify" => notify::run(rest),
            _ => {}
        }
    }
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let options = Options::from_env(&names);
    let mut report = Report::open();
    for (name, run) in PARTS {
        if options.wants(name) {
            run(&options, &mut report);
            report.save();
        }
    }
    report.close();
}
