//! Every test that needs more than one module, in one binary: real servers, real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]

mod admin;
mod catalog;
mod chaos;
mod check;
mod command_line;
mod docs;
mod e2e;
mod manual;
mod frameworks;
mod hostile;
mod model;
mod package;
mod pgoutput;
mod preview;
mod protocol;
mod readers;
mod rule_cases;
mod schema;
mod setup;
mod postgres;
mod sql;
mod support;
mod targets;
mod tidy;
mod torture;
