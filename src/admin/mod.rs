//! What operators see: HTTP for probes, scrapers and people, the metrics and the status that it serves, and reports to
//! systemd.

pub mod http;
pub mod metrics;
pub mod status;
pub mod systemd;
