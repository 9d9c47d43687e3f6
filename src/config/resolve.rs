//! From raw sections to [`Config`]. Continues after a fault, so that one run reports all of them.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::error::Fault;
use super::raw::{RawAdmin, RawLimits, RawLog, RawManual, RawSource, RawTarget, SECTIONS};
use super::read::{read, shown, unknown};
use super::scalar::{
    check_publication, check_slot, check_target_name, parse_duration, parse_size, read_secret, scheme,
};
use super::tree::{Key, Node, Value};
use super::{Admin, Config, Limits, Log, LogFormat, OnFirstStart, OnGap, SourceConfig, TargetSettings};
use crate::rules::case::{self, Case, RawCase};
use crate::rules::config::{RawRule, Rule, resolve as resolve_rules};
use crate::targets;

/// `source.wal_budget`: 10 GiB.
const WAL_BUDGET: u64 = 10 << 30;

/// `source.slot_create_timeout`: a minute.
const SLOT_CREATE_TIMEOUT: Duration = Duration::from_mins(1);
/// `source.max_replica_lag`: half a minute.
const MAX_REPLICA_LAG: Duration = Duration::from_secs(30);
/// `source.decoding_timeout`: a minute.
const DECODING_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest `repeat_after`.
const REPEAT_AFTER_MAX: Duration = Duration::from_mins(1);

/// Resolves a whole document. Relative file names are relative to `folder`.
pub(super) fn resolve(root: &Node, folder: &Path) -> Result<Config, Vec<Fault>> {
    let mut faults = Vec::new();
    let sections: &[(Key, Node)] = match &root.value {
        Value::Map(entries) => entries,
        other => {
            let reason = format!("the file wants a mapping with source, targets and rules, and got {}", other.shape());
            return Err(vec![Fault::new(root.place, "", reason)]);
        }
    };
    for (key, _) in sections.iter().filter(|(key, _)| !SECTIONS.contains(&key.name.as_str())) {
        faults.push(Fault::new(key.place, shown(&key.name), unknown("field", &key.name, SECTIONS)));
    }
    let mut resolver = Resolver { root, folder, faults: &mut faults };
    let source = resolver.source();
    let slot = source.as_ref().map_or("coherd", |source| source.slot.as_str());
    let targets = resolver.targets(slot);
    let names: Vec<String> = target_names(root);
    let rules = resolver.rules(&names);
    let cases = resolver.cases(&rules);
    let on_gap = resolver.section::<OnGap>("on_gap");
    let on_first_start = resolver.section::<OnFirstStart>("on_first_start");
    let repeat_after = resolver.repeat_after();
    let manual = resolver.section::<RawManual>("manual");
    let limits = resolver.limits();
    let admin = resolver.admin();
    let log = resolver.log();
    faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
    match (source, admin) {
        (Some(source), Some(admin)) if faults.is_empty() => Ok(Config {
            source,
            targets,
            rules,
            cases,
            on_gap: on_gap.unwrap_or_default(),
            on_first_start: on_first_start.unwrap_or_default(),
            repeat_after,
            manual_keys: manual.map(|manual| manual.keys).unwrap_or_default(),
            limits,
            admin,
            log,
        }),
        _ => Err(faults),
    }
}

/// Only the section `source:`, if it has no fault.
pub(super) fn source(root: &Node, folder: &Path) -> Option<SourceConfig> {
    let mut faults = Vec::new();
    let source = Resolver { root, folder, faults: &mut faults }.source();
    source.filter(|_| faults.is_empty())
}

/// Only the section `admin:`, if it has no fault.
pub(super) fn admin(root: &Node, folder: &Path) -> Option<Admin> {
    let mut faults = Vec::new();
    let admin = Resolver { root, folder, faults: &mut faults }.admin();
    admin.filter(|_| faults.is_empty())
}

/// Only the sections `rules:` and `tests:`, whatever the others hold.
pub(super) fn tested(root: &Node) -> Result<(Vec<Rule>, Vec<Case>), Vec<Fault>> {
    let mut faults = Vec::new();
    let mut resolver = Resolver { root, folder: Path::new(""), faults: &mut faults };
    let rules = resolver.rules(&target_names(root));
    let cases = resolver.cases(&rules);
    if cases.is_empty() && faults.is_empty() {
        let reason = "there is no test; write e.g. tests: [{name: a user changes, update: public.users, old: {id: 1}, new: \
                      {id: 1}, expect: [\"user:1\"]}]";
        faults.push(Fault::new(root.place_of("tests"), "tests", reason));
    }
    if faults.is_empty() { Ok((rules, cases)) } else { Err(faults) }
}

/// Every name below `targets:`, including invalid ones, so that no error blames a rule for its target.
fn target_names(root: &Node) -> Vec<String> {
    match root.get("targets").map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.iter().map(|(key, _)| key.name.clone()).collect(),
        _ => Vec::new(),
    }
}

struct Resolver<'a> {
    root: &'a Node,
    folder: &'a Path,
    faults: &'a mut Vec<Fault>,
}

impl Resolver<'_> {
    fn fault(&mut self, at: &Node, path: &str, field: &str, reason: impl Into<String>) {
        let path = if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") };
        self.faults.push(Fault::new(at.place_of(field), path, reason));
    }

    /// Reads a section. A section that is left out or empty is `None` and not a fault.
    fn section<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let node = self.root.get(name).filter(|node| !matches!(node.value, Value::Null))?;
        read(node, name, self.faults)
    }

    fn source(&mut self) -> Option<SourceConfig> {
        const EXAMPLE: &str = "postgresql://coherd@db.internal:5432/app?sslmode=verify-full";
        let Some(node) = self.root.get("source").filter(|node| !matches!(node.value, Value::Null)) else {
            self.fault(self.root, "source", "", format!("it is missing; write source: {{dsn: \"{EXAMPLE}\"}}"));
            return None;
        };
        let raw: RawSource = read(node, "source", self.faults)?;
        if let Err(reason) = check_slot(&raw.slot) {
            self.fault(node, "source", "slot", reason);
        }
        if let Err(reason) = check_publication(&raw.publication) {
            self.fault(node, "source", "publication", reason);
        }
        let wal_budget = self.wal_budget(node, raw.wal_budget.as_deref());
        let why = "coherd asks an idle replica only once a second";
        let max_replica_lag =
            self.seconds(node, "max_replica_lag", raw.max_replica_lag.as_deref(), MAX_REPLICA_LAG, why);
        let why = "an error that passes by itself would cost a flush of every scope";
        let decoding_timeout =
            self.seconds(node, "decoding_timeout", raw.decoding_timeout.as_deref(), DECODING_TIMEOUT, why);
        let dsn_file = raw.dsn_file.as_ref().map(|file| self.folder.join(file));
        let slot_create_timeout =
            self.duration(node, "source", "slot_create_timeout", raw.slot_create_timeout, SLOT_CREATE_TIMEOUT);
        let dsn = self.secret(node, "source", ("dsn", raw.dsn), ("dsn_file", raw.dsn_file), EXAMPLE)?;
        Some(SourceConfig {
            dsn: dsn.into(),
            dsn_file,
            slot: raw.slot,
            publication: raw.publication,
            publish: raw.publish,
            replicas: raw.replicas.into_iter().map(SecretString::from).collect(),
            max_replica_lag,
            wal_budget,
            decoding_timeout,
            slot_create_timeout,
            messages: raw.messages,
        })
    }

    /// A duration below `source:` of at least a second; `why` says what is wrong with a shorter one. An invalid value
    /// is a fault and returns the default, which is then never used.
    fn seconds(&mut self, node: &Node, field: &str, text: Option<&str>, default: Duration, why: &str) -> Duration {
        match text.map(parse_duration) {
            None => return default,
            Some(Ok(duration)) if duration >= Duration::from_secs(1) => return duration,
            Some(Ok(_)) => self.fault(node, "source", field, format!("it is below 1s, and {why}")),
            Some(Err(reason)) => self.fault(node, "source", field, reason),
        }
        default
    }

    /// An invalid value is a fault and returns `None`, which is then never used.
    fn wal_budget(&mut self, node: &Node, text: Option<&str>) -> Option<u64> {
        match text.map(parse_size) {
            None => return Some(WAL_BUDGET),
            Some(_) if text == Some("none") => return None,
            Some(Ok(0)) => {
                let reason =
                    "it is zero, which would give the slot up at once; write a size above it, or none for any amount";
                self.fault(node, "source", "wal_budget", reason);
            }
            Some(Ok(bytes)) => return Some(bytes),
            Some(Err(reason)) => self.fault(node, "source", "wal_budget", format!("{reason}, or none for any amount")),
        }
        None
    }

    /// A secret, given in the configuration or in a file of its own.
    fn secret(
        &mut self,
        node: &Node,
        path: &str,
        (field, here): (&str, Option<String>),
        (file_field, file): (&str, Option<String>),
        example: &str,
    ) -> Option<String> {
        match (here, file) {
            (Some(_), Some(_)) => {
                self.fault(node, path, file_field, format!("`{field}` is given too; keep one of them"));
                None
            }
            (None, None) => {
                let reason =
                    format!("it is missing; write e.g. {example}, or name a file that holds it in {file_field}");
                self.fault(node, path, field, reason);
                None
            }
            (Some(text), None) if text.trim().is_empty() => {
                self.fault(node, path, field, format!("it is empty; write e.g. {example}"));
                None
            }
            (Some(text), None) => Some(text),
            (None, Some(file)) => {
                let read = read_secret(&self.folder.join(file));
                read.map_err(|reason| self.fault(node, path, file_field, reason)).ok()
            }
        }
    }

    fn targets(&mut self, slot: &str) -> Vec<TargetSettings> {
        const EXAMPLE: &str = "write targets: {cache: {url: \"redis://127.0.0.1:6379/0\"}}";
        let Some(node) = self.root.get("targets") else {
            self.fault(self.root, "targets", "", format!("it is missing; {EXAMPLE}"));
            return Vec::new();
        };
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => {
                self.fault(node, "targets", "", format!("it is empty; {EXAMPLE}"));
                return Vec::new();
            }
            other => {
                let reason = format!("this wants a mapping from name to target, and got {}; {EXAMPLE}", other.shape());
                self.fault(node, "targets", "", reason);
                return Vec::new();
            }
        };
        if entries.is_empty() {
            self.fault(node, "targets", "", format!("it is empty; {EXAMPLE}"));
        }
        entries.iter().filter_map(|(key, node)| self.target(key, node, slot)).collect()
    }

    fn target(&mut self, key: &Key, node: &Node, slot: &str) -> Option<TargetSettings> {
        const EXAMPLE: &str = "redis://127.0.0.1:6379/0";
        let path = format!("targets.{}", shown(&key.name));
        if let Err(reason) = check_target_name(&key.name) {
            self.faults.push(Fault::new(key.place, path.as_str(), reason));
        }
        let raw: RawTarget = read(node, &path, self.faults)?;
        let version_ttl = self.duration(node, &path, "version_ttl", raw.version_ttl, Duration::from_hours(24));
        let reply_timeout = self.duration(node, &path, "reply_timeout", raw.reply_timeout, Duration::from_secs(5));
        let connect_timeout =
            self.duration(node, &path, "connect_timeout", raw.connect_timeout, Duration::from_secs(2));
        let record = self.name(node, &path, "record", raw.record, || format!("coherd:{slot}"));
        let channel = self.name(node, &path, "channel", raw.channel, || format!("coherd:{slot}:invalidations"));
        if raw.cert_file.is_some() != raw.key_file.is_some() {
            let (has, lacks) =
                if raw.cert_file.is_some() { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
            self.fault(node, &path, has, format!("a client certificate comes with its key; give {lacks} too"));
        }
        let url_file = raw.url_file.as_ref().map(|file| self.folder.join(file));
        let (url_field, url) = match self.secret(node, &path, ("url", raw.url), ("url_file", raw.url_file), EXAMPLE) {
            Some(url) => (if node.get("url_file").is_some() { "url_file" } else { "url" }, url),
            None => return None,
        };
        let scheme = match known_scheme(&url) {
            Ok(scheme) => scheme,
            Err(reason) => {
                self.fault(node, &path, url_field, reason);
                return None;
            }
        };
        if raw.leases && !targets::kind_of(&scheme).is_some_and(|kind| kind.capabilities.leases) {
            let reason = format!("a target at {scheme}:// has no leases; leave it out, or write false");
            self.fault(node, &path, "leases", reason);
        }
        let file = |name: Option<String>| name.map(|name| self.folder.join(name));
        Some(TargetSettings {
            name: key.name.clone(),
            scheme,
            url: url.into(),
            url_file,
            version_ttl,
            reply_timeout,
            connect_timeout,
            record,
            channel,
            leases: raw.leases,
            ca_file: file(raw.ca_file),
            cert_file: file(raw.cert_file),
            key_file: file(raw.key_file),
        })
    }

    /// A duration above 0. An invalid value is a fault and returns the default, which is then never used.
    fn duration(&mut self, node: &Node, path: &str, field: &str, text: Option<String>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match parse_duration(&text) {
            Ok(Duration::ZERO) => self.fault(node, path, field, "it is zero; write a duration above it, e.g. 5s"),
            Ok(duration) => return duration,
            Err(reason) => self.fault(node, path, field, reason),
        }
        default
    }

    fn name(
        &mut self,
        node: &Node,
        path: &str,
        field: &str,
        text: Option<String>,
        default: impl Fn() -> String,
    ) -> String {
        match text {
            None => default(),
            Some(text) => {
                if text.is_empty() {
                    self.fault(node, path, field, format!("it is empty; leave it out to mean {}", default()));
                }
                text
            }
        }
    }

    fn rules(&mut self, targets: &[String]) -> Vec<Rule> {
        const EXAMPLE: &str = "write rules: [{table: public.users, keys: [\"user:{id}\"]}]";
        let Some(node) = self.root.get("rules") else {
            self.fault(self.root, "rules", "", format!("it is missing; {EXAMPLE}"));
            return Vec::new();
        };
        let nodes = match &node.value {
            Value::List(nodes) if !nodes.is_empty() => nodes,
            Value::List(_) | Value::Null => {
                self.fault(node, "rules", "", format!("it is empty; {EXAMPLE}"));
                return Vec::new();
            }
            other => {
                self.fault(node, "rules", "", format!("this wants a list, and got {}; {EXAMPLE}", other.shape()));
                return Vec::new();
            }
        };
        let mut raw: Vec<(usize, RawRule)> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            if let Some(rule) = read(node, &format!("rules[{index}]"), self.faults) {
                raw.push((index, rule));
            }
        }
        // A rule's number is its place in the list, so the numbers are right only if every entry was read.
        let (places, raw): (Vec<usize>, Vec<RawRule>) = raw.into_iter().unzip();
        match resolve_rules(&raw, targets) {
            Ok(rules) => return rules,
            Err(errors) => {
                for error in errors {
                    let index = places.get(error.index).copied().unwrap_or(error.index);
                    if let Some(node) = nodes.get(index) {
                        self.fault(node, &format!("rules[{index}]"), error.field, error.reason);
                    }
                }
            }
        }
        Vec::new()
    }

    /// Without rules there is nothing to check cases against; `rules:` has a fault then.
    fn cases(&mut self, rules: &[Rule]) -> Vec<Case> {
        let Some(node) = self.root.get("tests").filter(|node| !matches!(node.value, Value::Null)) else {
            return Vec::new();
        };
        let Value::List(nodes) = &node.value else {
            self.fault(node, "tests", "", format!("this wants a list, and got {}", node.value.shape()));
            return Vec::new();
        };
        let mut cases = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = format!("tests[{index}]");
            let Some(raw) = read::<RawCase>(node, &path, self.faults).filter(|_| !rules.is_empty()) else { continue };
            match case::resolve(&raw, rules) {
                Ok(case) => cases.push(case),
                Err((field, reason)) => self.fault(node, &path, field, reason),
            }
        }
        cases
    }

    fn repeat_after(&mut self) -> Duration {
        const FIELD: &str = "repeat_after";
        let reason = match self.section::<String>(FIELD).as_deref().map(parse_duration) {
            None => return Duration::ZERO,
            Some(Ok(pause)) if pause <= REPEAT_AFTER_MAX => return pause,
            Some(Ok(_)) => "it is above 1m; the keys to invalidate again are kept in memory".to_owned(),
            Some(Err(reason)) => reason,
        };
        let place = self.root.get(FIELD).map_or(self.root.place, |node| node.place);
        self.faults.push(Fault::new(place, FIELD, reason));
        Duration::ZERO
    }

    fn limits(&mut self) -> Limits {
        let default = Limits::default();
        let Some((node, raw)) = self.root.get("limits").zip(self.section::<RawLimits>("limits")) else {
            return default;
        };
        Limits {
            max_pending_keys: self.limit(node, "max_pending_keys", raw.max_pending_keys, default.max_pending_keys),
            max_keys_per_transaction: self.limit(
                node,
                "max_keys_per_transaction",
                raw.max_keys_per_transaction,
                default.max_keys_per_transaction,
            ),
            flush_keys_per_second: self.limit(
                node,
                "flush_keys_per_second",
                raw.flush_keys_per_second,
                default.flush_keys_per_second,
            ),
        }
    }

    fn limit<T: TryFrom<u64>>(&mut self, node: &Node, field: &str, number: Option<u64>, default: T) -> T {
        match number {
            None => default,
            Some(0) => {
                self.fault(node, "limits", field, "it is 0, which would let nothing through; write 1 or more");
                default
            }
            Some(number) => T::try_from(number).unwrap_or_else(|_| {
                self.fault(node, "limits", field, format!("{number} is too large"));
                default
            }),
        }
    }

    fn admin(&mut self) -> Option<Admin> {
        const READY_MAX_LAG: Duration = Duration::from_secs(10);
        let raw: RawAdmin =
            self.section("admin").unwrap_or(RawAdmin { listen: None, hosts: Vec::new(), ready_max_lag: None });
        let node = self.root.get("admin").unwrap_or(self.root);
        let ready_max_lag = self.duration(node, "admin", "ready_max_lag", raw.ready_max_lag, READY_MAX_LAG);
        let Ok(listen) = raw.listen.as_deref().unwrap_or(super::ADMIN_LISTEN).parse() else {
            let reason = "this is no address: write an IP address and a port, e.g. 127.0.0.1:9871 or [::1]:9871";
            self.fault(node, "admin", "listen", reason);
            return None;
        };
        Some(Admin { listen, hosts: raw.hosts, ready_max_lag })
    }

    fn log(&mut self) -> Log {
        const LEVEL: &str = "info";
        let raw: RawLog = self.section("log").unwrap_or(RawLog { format: LogFormat::default(), level: None });
        let level = raw.level.unwrap_or_else(|| LEVEL.to_owned());
        if tracing_subscriber::EnvFilter::try_new(&level).is_err() {
            let node = self.root.get("log").unwrap_or(self.root);
            let reason = "this is no level: write error, warn, info, debug or trace, or directives such as \
                          info,coherd::targets=debug";
            self.fault(node, "log", "level", reason);
        }
        Log { format: raw.format, level }
    }
}

fn known_scheme(url: &str) -> Result<String, String> {
    let schemes: Vec<&str> = targets::schemes().collect();
    let known = || schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ");
    match scheme(url) {
        Some(scheme) if schemes.contains(&scheme.as_str()) => Ok(scheme),
        Some(scheme) => Err(format!("{}; the scheme names the kind of target", unknown("scheme", &scheme, &schemes))),
        None => {
            Err(format!("it has no scheme, and the scheme names the kind of target; begin it with one of {}", known()))
        }
    }
}
