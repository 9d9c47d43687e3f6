//! What coherd costs, beside what others cost, in one run on one machine.
//!
//! `make bench` builds and runs all parts but the large transaction. The environment chooses less:
//!
//! | variable | default | |
//! |---|---|---|
//! | `ONLY` | all | parts, between commas: `drain`, `inside` (system calls, allocations), `live` (latency), `writers` (their cost), `growth`, and, only where named, `large` |
//! | `SHAPES` | `a,b,c` | backlogs: a single-row transactions, b one transaction, c 10 to 100 rows a transaction, three tables |
//! | `TRANSPORT` | `tcp,unix` | to Postgres and to Redis |
//! | `COLUMNS` | `keys,full` | what the publication publishes |
//! | `CONSUMERS` | `pg_recvlogical,floor,coherd` | who drains; `before` too, where `BEFORE` names another build of coherd |
//! | `CHANGES` | 1000000 | of a backlog |
//! | `ROUNDS` | 3 | medians are of so many, alternating; `writers` takes at least 5 |
//! | `LIVE_SECONDS` | 4 | of each live measurement |
//! | `WRITERS_SECONDS` | 4 | of each measurement of writers |
//! | `GROWTH_CHANGES` | 200000 | of a backlog of `growth` |
//! | `ROWS` | 10000000 | of the large transaction (`make bench-large`) |
//! | `LARGE_CACHED` | 1000000 | of its keys |
//! | `KEEP` | | 1 puts the page into docs, with `CAVEAT` above the figures |
//!
//! Every drain is checked: no key is left, each was deleted by its name, and the end is acknowledged. What was measured is
//! kept in `target/bench`, where a run of other parts adds to it.
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
mod growth;
mod inside;
mod large;
mod live;
mod meter;
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
    ("growth", growth::run),
    ("large", large::run),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((word, rest)) = args.split_first()
        && word == "floor"
    {
        floor::run(rest);
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
