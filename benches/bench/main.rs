//! What coherd costs, beside what others cost, in one run on one machine.
//!
//! `make bench` builds and runs all parts but the large transaction. The environment chooses less:
//!
//! | variable | default | |
//! |---|---|---|
//! | `ONLY` | all | parts, between commas: `drain`, `inside` (system calls, allocations), `live` (latency), `writers` (their cost) |
//! | `SHAPES` | `a,b,c` | backlogs: a single-row transactions, b one transaction, c 10 to 100 rows a transaction, three tables |
//! | `TRANSPORT` | `tcp,unix` | to Postgres and to Redis |
//! | `COLUMNS` | `keys,full` | what the publication publishes |
//! | `CONSUMERS` | `pg_recvlogical,floor,coherd` | who drains |
//! | `CHANGES` | 1000000 | of a backlog |
//! | `ROUNDS` | 3 | medians are of so many, alternating; `writers` takes at least 5 |
//! | `LIVE_SECONDS` | 4 | of each live measurement |
//! | `WRITERS_SECONDS` | 4 | of each measurement of writers |
//!
//! Every drain is checked: no key is left, each was deleted by its name, and the end is acknowledged.
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
mod inside;
mod live;
mod meter;
mod options;
mod report;
mod session;
#[path = "../../tests/support/mod.rs"]
mod support;
mod writers;

use options::Options;
use report::Report;

type Part = (&'static str, fn(&Options, &mut Report));

const PARTS: &[Part] =
    &[("drain", drain::run), ("inside", inside::run), ("live", live::run), ("writers", writers::run)];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((word, rest)) = args.split_first()
        && word == "floor"
    {
        floor::run(rest);
    }
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let options = Options::from_env(&names);
    let mut report = Report::default();
    for (name, run) in PARTS {
        if options.wants(name) {
            run(&options, &mut report);
        }
    }
    println!("{}", report.markdown());
}
