//! The sections of the file as written: what serde reads, before [`resolve`](super::resolve) checks it.

use serde::Deserialize;

use super::Publish;

/// `source:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub(super) dsn: Option<String>,
    pub(super) dsn_file: Option<String>,
    #[serde(default = "coherd")]
    pub(super) slot: String,
    #[serde(default = "coherd")]
    pub(super) publication: String,
    #[serde(default)]
    pub(super) publish: Publish,
    #[serde(default)]
    pub(super) replicas: Vec<String>,
    pub(super) max_replica_lag: Option<String>,
    pub(super) wal_budget: Option<String>,
    pub(super) decoding_timeout: Option<String>,
    pub(super) slot_create_timeout: Option<String>,
    #[serde(default = "yes")]
    pub(super) messages: bool,
}

/// One entry of `targets:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) url: Option<String>,
    pub(super) url_file: Option<String>,
    pub(super) version_ttl: Option<String>,
    pub(super) reply_timeout: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) record: Option<String>,
    pub(super) channel: Option<String>,
    #[serde(default)]
    pub(super) leases: bool,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
}

/// `manual:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManual {
    #[serde(default)]
    pub(super) keys: super::ManualKeys,
}

/// `limits:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) max_pending_keys: Option<u64>,
    pub(super) max_keys_per_transaction: Option<u64>,
    pub(super) flush_keys_per_second: Option<u64>,
}

/// `admin:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<String>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    pub(super) ready_max_lag: Option<String>,
}

/// `log:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    #[serde(default)]
    pub(super) format: super::LogFormat,
    pub(super) level: Option<String>,
}

/// The names of all sections.
pub(super) const SECTIONS: &[&str] = &[
    "source",
    "targets",
    "rules",
    "tests",
    "on_gap",
    "on_first_start",
    "repeat_after",
    "manual",
    "limits",
    "admin",
    "log",
];

fn coherd() -> String {
    "coherd".to_owned()
}

const fn yes() -> bool {
    true
}
