//! What operators see: log lines, status and metrics of what happens ([`telling`]), HTTP for probes, scrapers and people, and
//! reports to systemd.

pub mod http;
pub mod metrics;
pub mod status;
pub mod systemd;
pub(crate) mod telling;
