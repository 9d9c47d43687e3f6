//! Which of the found keys are cached now, as text for people and JSON for programs.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Map, Value, json};

use super::columns::{columns, plural, span};
use super::found::{Cause, Found, Origin};
use super::{Failure, parts};
use crate::config::Config;
use crate::targets::peek::{Held, KeySeen, Peeked, ScopeSeen};
use crate::types::invalidation::Action;

/// How long counting the keys of all scopes of one target may take.
pub(super) const COUNTING: Duration = Duration::from_secs(5);

/// What one target holds.
pub(super) struct Cached {
    name: String,
    keys: HashMap<(Vec<u8>, Action), KeySeen>,
    scopes: HashMap<(String, Action), ScopeSeen>,
    /// Why the target could not be asked.
    fault: Option<String>,
}

/// Asks every target about the keys and scopes of `found` that go to it. The fault of a target that does not answer is
/// kept, for [`all_answered`] to report.
pub(super) async fn look(config: &Config, found: &Found, counting: Duration) -> Result<Vec<Cached>, Failure> {
    let mut all = Vec::new();
    for (index, (settings, target)) in config.targets.iter().zip(parts::peeks(config)?).enumerate() {
        let batch = found.batch(index, &config.rules);
        let mut cached =
            Cached { name: settings.name.clone(), keys: HashMap::new(), scopes: HashMap::new(), fault: None };
        if !batch.is_empty() {
            match target.peek(&batch, counting).await {
                Ok(Peeked { keys, scopes }) => {
                    let items = batch.items().map(|(_, action, key)| (key.to_vec(), action));
                    cached.keys = items.zip(keys).collect();
                    let patterns = batch.scopes().iter().map(|scope| (scope.keys.to_string(), scope.action));
                    cached.scopes = patterns.zip(scopes).collect();
                }
                Err(fault) => cached.fault = Some(fault.to_string()),
            }
        }
        all.push(cached);
    }
    Ok(all)
}

/// Fails if a target could not be asked. Callers print everything else first.
pub(super) fn all_answered(cached: &[Cached]) -> Result<(), Failure> {
    let faults: Vec<String> =
        cached.iter().filter_map(|its| Some(format!("target {}: {}", its.name, its.fault.as_ref()?))).collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(anyhow!("what is cached there is not known: {}", faults.join("; ")).into())
}

/// Tables of the scopes and the keys, and a summary line.
pub(super) fn text(config: &Config, found: &Found, cached: &[Cached]) -> String {
    let mut out = String::new();
    if !found.scopes.is_empty() {
        out += &scopes_text(config, found, cached);
        out.push('\n');
    }
    if !found.keys.is_empty() {
        let row = |(name, origin): (&(Vec<u8>, Action), &Origin)| {
            let about = [key_text(&name.0), name.1.name().to_owned(), from(config, origin)];
            about.into_iter().chain(cached.iter().map(|its| its.key_text(name))).collect()
        };
        let rows: Vec<Vec<String>> = found.keys.iter().map(row).collect();
        out += &table("KEY", cached, &rows);
        out.push('\n');
    }
    out + &sum(found, cached)
}

/// A table of the scopes, with the number of keys that each has now.
pub(super) fn scopes_text(config: &Config, found: &Found, cached: &[Cached]) -> String {
    let row = |(scope, origin): (&(String, Action), &Origin)| {
        let about = [scope.0.clone(), format!("flush ({})", scope.1.name()), from(config, origin)];
        about.into_iter().chain(cached.iter().map(|its| its.scope_text(scope))).collect()
    };
    let rows: Vec<Vec<String>> = found.scopes.iter().map(row).collect();
    table("SCOPE", cached, &rows)
}

fn table(first: &str, cached: &[Cached], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = cached.iter().map(|its| its.name.to_uppercase()).collect();
    let head: Vec<&str> = [first, "ACTION", "FROM"].into_iter().chain(names.iter().map(String::as_str)).collect();
    columns(&head, rows)
}

fn sum(found: &Found, cached: &[Cached]) -> String {
    let here = |its: &Cached| its.keys.values().filter(|seen| matches!(seen.held, Held::Here(_))).count() as u64;
    let counts = cached.iter().map(|its| match &its.fault {
        Some(_) => format!("{} did not answer", its.name),
        None => format!("{} cached now in {}", here(its), its.name),
    });
    let mut parts = vec![plural(found.keys.len() as u64, "key")];
    if !found.scopes.is_empty() {
        parts.push(plural(found.scopes.len() as u64, "flushed scope"));
    }
    parts.extend(counts);
    let more = match found.left_out {
        0 => String::new(),
        _ => "; there are more keys, which --limit leaves out".to_owned(),
    };
    format!("{}{more}\n", parts.join(", "))
}

/// `public.users update, insert`.
fn from(config: &Config, origin: &Origin) -> String {
    let mut tables: Vec<String> = Vec::new();
    for rule in origin.rules.iter().filter_map(|id| config.rules.get(usize::from(*id))) {
        let table = rule.table.sql();
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    let causes = origin.causes.iter().filter(|cause| **cause != Cause::Row);
    let causes: Vec<&str> = causes.map(|cause| cause.name()).collect();
    format!("{} {}", tables.join(", "), causes.join(", ")).trim().to_owned()
}

/// A key as text. Bytes that are not UTF-8 become U+FFFD.
pub(super) fn key_text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn held_text(held: Held) -> String {
    match held {
        Held::Untold => "?".to_owned(),
        Held::Absent => "no".to_owned(),
        Held::Here(None) => "yes, no TTL".to_owned(),
        Held::Here(Some(left)) => format!("yes, {}", span(left)),
    }
}

impl Cached {
    fn key_text(&self, name: &(Vec<u8>, Action)) -> String {
        let Some(seen) = self.keys.get(name) else {
            return if self.fault.is_some() { "?".to_owned() } else { "–".to_owned() };
        };
        let version = seen.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        let lease = if matches!(seen.lease, Held::Here(_)) { ", leased" } else { "" };
        format!("{}{version}{lease}", held_text(seen.held))
    }

    fn scope_text(&self, name: &(String, Action)) -> String {
        match self.scopes.get(name) {
            Some(ScopeSeen { keys: Some(keys), whole: true }) => plural(*keys, "key"),
            Some(ScopeSeen { keys: Some(keys), whole: false }) => format!("at least {}", plural(*keys, "key")),
            Some(ScopeSeen { keys: None, .. }) => "?".to_owned(),
            None if self.fault.is_some() => "?".to_owned(),
            None => "–".to_owned(),
        }
    }
}

/// The same as a JSON object, for programs.
pub(super) fn json(config: &Config, found: &Found, cached: &[Cached]) -> Map<String, Value> {
    let keys = found.keys.iter().map(|(name, origin)| {
        let seen = cached.iter().filter_map(|its| Some((its.name.clone(), key_json(its.keys.get(name)?))));
        let mut told = origin_json(config, origin);
        told.insert("key".to_owned(), key_text(&name.0).into());
        told.insert("action".to_owned(), name.1.name().into());
        told.insert("cached".to_owned(), Value::Object(seen.collect()));
        Value::Object(told)
    });
    let scopes = found.scopes.iter().map(|(name, origin)| {
        let told = |seen: &ScopeSeen| json!({ "keys": seen.keys, "whole": seen.whole });
        let seen = cached.iter().filter_map(|its| Some((its.name.clone(), told(its.scopes.get(name)?))));
        let mut told = origin_json(config, origin);
        told.insert("scope".to_owned(), name.0.clone().into());
        told.insert("action".to_owned(), name.1.name().into());
        told.insert("cached".to_owned(), Value::Object(seen.collect()));
        Value::Object(told)
    });
    let changes = found
        .changes
        .iter()
        .map(|((table, op), rows)| json!({ "table": table.sql(), "operation": op.name(), "rows": rows }));
    let faults = cached.iter().filter_map(|its| Some((its.name.clone(), Value::from(its.fault.clone()?))));
    let mut told = Map::new();
    told.insert("keys".to_owned(), keys.collect());
    told.insert("scopes".to_owned(), scopes.collect());
    told.insert("changes".to_owned(), changes.collect());
    told.insert("more".to_owned(), (found.left_out > 0).into());
    told.insert("faults".to_owned(), Value::Object(faults.collect()));
    told
}

fn origin_json(config: &Config, origin: &Origin) -> Map<String, Value> {
    let rules = origin.rules.iter().filter_map(|id| config.rules.get(usize::from(*id)));
    let causes = origin.causes.iter().map(|cause| Value::from(cause.name()));
    let mut told = Map::new();
    told.insert("rules".to_owned(), rules.map(|rule| Value::from(rule.subject())).collect());
    told.insert("from".to_owned(), causes.collect());
    told
}

/// A key's state as JSON. `cached` is null if it cannot be known; `ttl_ms` is null if the key has no TTL.
pub(super) fn key_json(seen: &KeySeen) -> Value {
    let is_here = |held| match held {
        Held::Untold => Value::Null,
        Held::Absent => false.into(),
        Held::Here(_) => true.into(),
    };
    let ttl = match seen.held {
        Held::Here(Some(left)) => u64::try_from(left.as_millis()).ok(),
        Held::Here(None) | Held::Absent | Held::Untold => None,
    };
    json!({ "cached": is_here(seen.held), "ttl_ms": ttl, "version": seen.version, "leased": is_here(seen.lease) })
}
