//! Checks what `INFO` says: version, role, memory and its eviction, persistence, replicas.

use std::collections::HashMap;

use redis::Value;

use super::{KEEP_CONFIG, Survey, Told};
use crate::targets::Fault;
use crate::types::finding::{Code, Finding};

/// The oldest Redis that has ACL users and that coherd was tested with.
const MAJOR_MIN: u32 = 6;

impl Survey {
    /// Checks everything that `INFO` reports.
    pub(super) async fn server(&mut self) -> Result<(), Fault> {
        let reply = self.ask_one("INFO", redis::cmd("INFO")).await?;
        if let Some(error) = Told::of(&reply) {
            if error.denial().is_some() {
                let why = "it may not INFO, so that version, memory, persistence and replicas were not checked";
                self.denied(Code::ACL_INFO, why, &["+info".to_owned()]);
            } else {
                let message = format!("{}: INFO was answered with {}", self.line.place, error.code);
                self.find(Finding::error(Code::TARGET_REFUSED, &self.subject, message));
            }
            return Ok(());
        }
        let info = Info::read(&reply);
        self.standing(&info);
        self.eviction(&info);
        self.replicas(&info);
        self.persistence(&info).await
    }

    fn standing(&mut self, info: &Info) {
        let version = info.text("redis_version");
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(MAJOR_MIN);
        if major < MAJOR_MIN {
            let message = format!("it is Redis {version}; coherd needs {MAJOR_MIN} or later, or Valkey");
            self.find(Finding::error(Code::TARGET_VERSION, &self.subject, message));
        }
        if info.number("cluster_enabled") == 1 {
            self.findings.retain(|finding| finding.code != Code::TARGET_CLUSTER);
            let message = "it is a node of a Redis Cluster, which coherd does not support yet: the node refuses keys \
                           of other nodes (MOVED), which blocks all deliveries. Set url to a primary that is in no \
                           cluster";
            self.find(Finding::error(Code::TARGET_CLUSTER, &self.subject, message));
        }
        if info.text("role") == "slave" {
            let primary = format!("{}:{}", info.text("master_host"), info.text("master_port"));
            let message = format!(
                "it is a replica, which takes no writes, so nothing can be invalidated: point the url at its primary, \
                 {primary}"
            );
            self.findings.retain(|finding| finding.code != Code::TARGET_READ_ONLY);
            self.find(Finding::error(Code::TARGET_READ_ONLY, &self.subject, message));
        }
    }

    /// An evicted lease means a refused fill, and an evicted pointer comes back as a later one: both are safe. The
    /// record has no time to live.
    fn eviction(&mut self, info: &Info) {
        let policy = info.text("maxmemory_policy");
        if info.number("maxmemory") == 0 {
            return;
        }
        let (code, message) = if policy == "noeviction" && info.number("used_memory") >= info.number("maxmemory") {
            let message = "memory is full and maxmemory-policy is noeviction: readers' fills and leases are refused (OOM) until \
                           memory is free. coherd goes on invalidating. volatile-lru evicts cache entries that have a time \
                           to live, and never the record";
            (Code::TARGET_FULL, message.to_owned())
        } else if policy == "noeviction" {
            let message = "maxmemory-policy is noeviction: when memory is full, readers' fills and leases are refused (OOM), and \
                           only coherd goes on. volatile-lru evicts cache entries that have a time to live, and never the \
                           record";
            (Code::EVICTION_NONE, message.to_owned())
        } else if policy.starts_with("allkeys-") {
            let message = format!(
                "maxmemory-policy is {policy}: when memory is full, Redis may evict the record {}. coherd then treats \
                 the cache as one that lost its data and flushes every scope. Evicted leases and version pointers do \
                 no harm. volatile-lru evicts only keys with a time to live (give entries one), and never the record",
                self.config.record_key
            );
            (Code::EVICTION_RECORD, message)
        } else if policy == "volatile-ttl" && self.config.leases {
            let message = "maxmemory-policy is volatile-ttl: when memory is full, Redis evicts leases first, because \
                           they expire first. It then refuses each fill: safe, but the cache is no longer filled";
            (Code::EVICTION_LEASES, message.to_owned())
        } else {
            return;
        };
        let remedy = self.command("CONFIG SET maxmemory-policy volatile-lru");
        self.find(Finding::warning(code, &self.subject, message).remedy(remedy).remedy(KEEP_CONFIG));
    }

    /// `INFO` has `min_slaves_good_slaves` only if `min-replicas-to-write` is set.
    fn replicas(&mut self, info: &Info) {
        let replicas = info.number("connected_slaves");
        if replicas == 0 || info.0.contains_key("min_slaves_good_slaves") {
            return;
        }
        let message = format!(
            "{replicas} replica(s) follow it, and it accepts writes even if none of them keeps up. After a failover to \
             a replica that is behind, readers get old values until coherd has compared the record and has sent or \
             flushed what is missing. With min-replicas-to-write, a replica that may take over is at most \
             min-replicas-max-lag behind, and coherd waits while none is. Readers must not read from replicas at all"
        );
        let remedy = self.command("CONFIG SET min-replicas-to-write 1");
        let finding = Finding::warning(Code::TARGET_REPLICAS, &self.subject, message);
        self.find(finding.remedy(remedy).remedy(KEEP_CONFIG));
    }

    /// A cache that is empty after a restart holds no old values.
    async fn persistence(&mut self, info: &Info) -> Result<(), Fault> {
        let mut get = redis::cmd("CONFIG");
        let reply = self.ask_one("CONFIG GET", get.arg("GET").arg("save").to_owned()).await?;
        // Without the right to CONFIG GET, `INFO` at least says whether snapshots were saved.
        let snapshots = match reply.as_map_iter().and_then(|mut pairs| pairs.next()) {
            Some((_, Value::BulkString(points))) => !points.is_empty(),
            _ => info.number("rdb_saves") > 0,
        };
        let log = info.number("aof_enabled") == 1;
        let mut remedy = Vec::new();
        if snapshots {
            remedy.push(self.command("CONFIG SET save ''"));
        }
        if log {
            remedy.push(self.command("CONFIG SET appendonly no"));
        }
        if remedy.is_empty() {
            return Ok(());
        }
        let message = "it keeps its data on disk: after a restart it serves keys that were invalidated since its last \
                       write to disk, until coherd has connected again, compared the record, and sent or flushed what \
                       is missing. Without persistence, the cache is empty after a restart, and nothing in it is old";
        let finding = Finding::warning(Code::TARGET_PERSISTENCE, &self.subject, message);
        self.find(finding.remedies(remedy).remedy(KEEP_CONFIG));
        Ok(())
    }
}

/// The fields of `INFO`.
struct Info(HashMap<String, String>);

impl Info {
    fn read(reply: &Value) -> Info {
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => text.clone(),
            _ => String::new(),
        };
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Info(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The number in a field; 0 if there is none.
    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}
