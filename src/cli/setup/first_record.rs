//! Writes the record that says where a new slot's memory begins. Without it, the first run would assume that the cache
//! has lost its record, and flush it.

use std::sync::Arc;

use crate::config::{Config, OnFirstStart};
use crate::postgres::Seen;
use crate::targets::{Delivery, Fault, Target};
use crate::types::finding::{Code, Finding};
use crate::types::invalidation::Batch;
use crate::types::lsn::Lsn;
use crate::types::record::{NEW, Record};

/// Writes the first record to every target that has none, and flushes its scopes if the configuration says so. Returns
/// a warning for each target where that fails.
pub(super) async fn write(config: &Config, targets: &[Arc<dyn Target>], at: Lsn, seen: &Seen) -> Vec<Finding> {
    let record = Record {
        applied: at,
        confirmed: at,
        settled: at,
        system_id: seen.system.id,
        timeline: seen.system.timeline,
        sequence: 0,
        commit: None,
        rules: Some(NEW.into()),
    };
    let mut findings = Vec::new();
    for (index, (settings, target)) in config.targets.iter().zip(targets).enumerate() {
        let mut batch = Batch::default();
        if config.on_first_start == OnFirstStart::Flush {
            let rules = config.rules.iter().filter(|rule| rule.targets.contains(&index));
            rules.flat_map(|rule| &rule.scopes).for_each(|scope| batch.push_scope(scope));
        }
        let delivery = Delivery { batch, record: record.clone() };
        if let Err(fault) = write_one(target.as_ref(), &delivery).await {
            let message = format!(
                "setup could not write the record of the new slot, so the first run flushes this target: {fault}"
            );
            findings.push(Finding::warning(Code::SETUP_RECORD, format!("target {}", settings.name), message));
        }
    }
    findings
}

/// An existing record belongs to a lost slot. It proves the gap, so it stays.
async fn write_one(target: &dyn Target, delivery: &Delivery) -> Result<(), Fault> {
    match target.load_record().await?.record {
        Some(_) => Ok(()),
        None => target.deliver(delivery).await.map(drop),
    }
}
