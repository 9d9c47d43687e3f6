//! The traits of a target, and the list of all kinds of targets. A target does one thing: it carries out a batch.
//! Retries, order, timeouts and receipts are in [`delivery`], which all kinds share.

pub mod config;
pub mod delivery;
pub mod peek;
pub mod redis;
pub mod survey;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::ExposeSecret;

use crate::types::finding::Finding;
use crate::types::invalidation::{Action, Batch};
pub use crate::types::record::{Delivery, Record, StoredRecord};
use config::TargetConfig;
use peek::Peek;

/// A future that a target returns. It is boxed once per delivery, never once per key.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A cache.
///
/// The worker in [`delivery`] calls these methods, and handles order, window, retries and receipts. This is a complete
/// target, which keeps its keys in memory:
///
/// ```
/// use std::collections::HashSet;
/// use std::sync::Mutex;
///
/// use coherd::types::invalidation::{Action, Batch, RuleId};
/// use coherd::targets::{Delivered, Delivery, Fault, Pending, Record, StoredRecord, Target};
///
/// #[derive(Default)]
/// struct InMemory(Mutex<(HashSet<Vec<u8>>, Option<Record>)>);
///
/// impl Target for InMemory {
///     fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
///         Box::pin(async move {
///             let (keys, record) = &mut *self.0.lock().unwrap();
///             let there = delivery.batch.keys(Action::Delete).filter(|key| keys.remove(*key)).count();
///             // After the invalidations, and only if all of them were carried out.
///             *record = Some(delivery.record.clone());
///             Ok(Delivered { hit: there as u64, ..Delivered::default() })
///         })
///     }
///
///     fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>> {
///         Box::pin(async move {
///             let (keys, _) = &mut *self.0.lock().unwrap();
///             for scope in batch.scopes() {
///                 keys.retain(|key| !scope.keys.covers(key));
///             }
///             Ok(Delivered::default())
///         })
///     }
///
///     fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>> {
///         Box::pin(async move {
///             let (keys, record) = &*self.0.lock().unwrap();
///             Ok(StoredRecord { record: record.clone(), empty: keys.is_empty(), written: None })
///         })
///     }
/// }
///
/// let cache = InMemory::default();
/// cache.0.lock().unwrap().0.insert(b"user:7".to_vec());
/// let mut batch = Batch::default();
/// batch.push(Action::Delete, RuleId(0), b"user:7");
/// let delivery = Delivery { batch, record: Record::UNREADABLE };
/// let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// assert_eq!(runtime.block_on(cache.deliver(&delivery)).unwrap().hit, 1);
/// assert!(runtime.block_on(cache.load_record()).unwrap().empty);
/// ```
pub trait Target: Send + Sync {
    /// Carries out every invalidation of the batch and then writes the record. `Ok` means that the cache has confirmed
    /// all of it. After an `Err`, any part may have happened, and the worker sends the same delivery again.
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>>;

    /// Flushes the scopes of a batch that has no keys, in parallel to deliveries, and writes no record. `Ok` means that
    /// the cache has confirmed all of it. After an `Err`, any part may have happened, and the worker sends the batch
    /// again.
    fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>>;

    /// Reads the target's stored record.
    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>>;

    /// How the target takes early invalidations; `None` if it does not ([`Capabilities::early`]).
    fn early(&self) -> Option<&dyn Early> {
        None
    }
}

/// Invalidates keys ahead of the delivery that counts. Nothing depends on it, so a failure is neither reported nor repeated.
pub trait Early: Send + Sync {
    /// Carries out every invalidation of the batch if the target is connected.
    fn invalidate<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Delivered>;
}

/// What a delivery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Keys that existed, and version pointers that moved.
    pub hit: u64,
    /// Other values that a version pointer has replaced.
    pub replaced: Replaced,
}

/// Where a version pointer has replaced another value. It has no values, because they may be private.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Places among the batch's keys with [`Action::Bump`].
    pub keys: Vec<usize>,
    /// Places in the batch of the scopes whose flush came upon such a value, each once.
    pub scopes: Vec<usize>,
}

/// Why a delivery was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Decides how coherd reacts.
    pub kind: FaultKind,
    /// What was tried, what the reply was, and what to do. Never contains a key or a credential.
    pub message: String,
}

/// The kinds of fault, which are also the `reason` label of the retry metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No connection, or it ended.
    Connection,
    /// No reply in time.
    Timeout,
    /// `READONLY`: a replica, or a primary that has just been demoted.
    ReadOnly,
    /// `LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`, `BUSY`: the server cannot do it at the moment.
    NotReady,
    /// The stored record is not the one that was written last: the data has changed while the connection stayed open.
    Changed,
    /// `OOM`: no memory.
    OutOfMemory,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`: a person must fix the credentials or the ACL.
    Denied,
    /// `WRONGTYPE` and every other error reply: a person must look into it.
    Rejected,
}

impl FaultKind {
    /// The metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            FaultKind::Connection => "connection",
            FaultKind::Timeout => "timeout",
            FaultKind::ReadOnly => "readonly",
            FaultKind::NotReady => "not_ready",
            FaultKind::Changed => "record_changed",
            FaultKind::OutOfMemory => "oom",
            FaultKind::Denied => "denied",
            FaultKind::Rejected => "rejected",
        }
    }

    /// Whether an early retry can help. coherd retries every kind for ever, but the other kinds slowly.
    pub const fn passes_by_itself(self) -> bool {
        match self {
            FaultKind::Connection
            | FaultKind::Timeout
            | FaultKind::ReadOnly
            | FaultKind::NotReady
            | FaultKind::Changed
            | FaultKind::OutOfMemory => true,
            FaultKind::Denied | FaultKind::Rejected => false,
        }
    }
}

/// What a kind of target can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Readers may hold leases in it, and an invalidation ends them.
    pub leases: bool,
    /// The actions that it supports.
    pub actions: &'static [Action],
    /// It takes early invalidations ([`Target::early`]): carrying one out twice costs little and harms nobody.
    pub early: bool,
    /// How exactly it can flush a scope. A target that is less exact than the scope removes more keys.
    pub scopes: Exactness,
}

/// How exactly a target can flush a scope ([`Extent`](crate::types::pattern::Extent)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// It can only remove everything.
    All,
    /// It can remove all keys with a prefix.
    Prefix,
    /// It can remove all keys that a glob matches.
    Pattern,
}

/// A kind of target.
#[derive(Debug)]
pub struct Kind {
    /// The URL schemes that name it.
    pub schemes: &'static [&'static str],
    /// What it is and what its URL looks like, in one line.
    pub about: &'static str,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Makes a target. Does not connect yet.
    pub open: fn(&TargetConfig) -> Result<Arc<dyn Target>, OpenError>,
    /// Makes a target that is only read. Does not connect yet.
    pub peek: fn(&TargetConfig) -> Result<Arc<dyn Peek>, OpenError>,
    /// Checks a target for `coherd check`, and changes nothing in it.
    pub survey: fn(&TargetConfig, Needs) -> Result<Surveying, OpenError>,
}

/// Findings about the subject `target NAME`: everything that would keep it from its work.
pub type Surveying = Pending<'static, Vec<Finding>>;

/// What the rules need from a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// One sample for each key template.
    pub samples: Vec<Sample>,
}

/// What a target has to know of a key template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What happens to its keys.
    pub action: Action,
    /// A key that the template could make, and that is not in use.
    pub key: String,
    /// A glob that matches all of its keys.
    pub pattern: String,
}

impl Needs {
    /// Whether some rule has this action.
    pub fn has(&self, action: Action) -> bool {
        self.samples.iter().any(|sample| sample.action == action)
    }
}

/// Every kind of target.
pub const KINDS: &[Kind] = &[redis::KIND];

/// Why no target can be made from a configuration. Never contains the URL, which may contain a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No kind of target has this scheme.
    #[error("targets.{target}.url: no target has the scheme {scheme:?}{}; known are {}", hint(scheme), known())]
    UnknownScheme {
        /// The target's name.
        target: String,
        /// The part before `://`.
        scheme: String,
    },
    /// The kind cannot read the URL.
    #[error("targets.{target}.url: {reason}")]
    BadUrl {
        /// The target's name.
        target: String,
        /// What is wrong, and what it should look like.
        reason: String,
    },
    /// The target needs a file that cannot be used.
    #[error("targets.{target}.{field}: {reason}")]
    BadFile {
        /// The target's name.
        target: String,
        /// The field that names the file.
        field: &'static str,
        /// The path and what is wrong with it.
        reason: String,
    },
}

/// Makes the target that the URL's scheme names. It connects when the worker first uses it.
pub fn open(config: &TargetConfig) -> Result<Arc<dyn Target>, OpenError> {
    (kind_for(config)?.open)(config)
}

/// Makes the target that the URL's scheme names, for reading only. Does not connect yet.
pub fn open_to_peek(config: &TargetConfig) -> Result<Arc<dyn Peek>, OpenError> {
    (kind_for(config)?.peek)(config)
}

/// Checks a target for everything that would keep it from its work. Takes no longer than the configured timeouts allow.
pub fn survey(config: &TargetConfig, needs: Needs) -> Result<Surveying, OpenError> {
    (kind_for(config)?.survey)(config, needs)
}

fn kind_for(config: &TargetConfig) -> Result<&'static Kind, OpenError> {
    let Some((scheme, _)) = config.url.expose_secret().split_once("://") else {
        let reason = "there is no \"://\" in it; give it as redis://host:6379/0".to_owned();
        return Err(OpenError::BadUrl { target: config.name.clone(), reason });
    };
    kind_of(scheme).ok_or_else(|| OpenError::UnknownScheme {
        target: config.name.clone(),
        scheme: scheme.chars().take(40).collect(),
    })
}

/// The kind of target that a URL scheme names.
pub fn kind_of(scheme: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.schemes.contains(&scheme))
}

/// Every URL scheme that names a kind of target.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.schemes.iter().copied())
}

fn known() -> String {
    schemes().collect::<Vec<_>>().join(", ")
}

fn hint(scheme: &str) -> String {
    let near = schemes().map(|known| (strsim::damerau_levenshtein(scheme, known), known)).min();
    near.filter(|(distance, _)| *distance <= 2).map_or_else(String::new, |(_, known)| format!(" (is it {known:?}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        open(&TargetConfig::new("cache", url, "app")).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_the_nearest_and_all_known_ones() {
        let text = refusal("redsi://:hunter2@host");
        assert!(text.contains("targets.cache.url") && text.contains("is it \"redis\"?"), "{text}");
        for scheme in schemes() {
            assert!(text.contains(scheme), "{scheme} is missing in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!refusal("carrier-pigeon://roof").contains("is it"));
    }

    #[test]
    fn a_url_without_a_scheme_is_refused_without_being_printed() {
        let text = refusal(":hunter2@host");
        assert!(text.contains("redis://host:6379/0") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn no_two_kinds_share_a_scheme() {
        let mut seen = std::collections::HashSet::new();
        assert!(schemes().all(|scheme| seen.insert(scheme)));
    }
}
