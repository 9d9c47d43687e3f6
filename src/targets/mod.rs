//! Where invalidations go. A target does one thing: send this batch. Retry, timeouts, receipts and metrics are the
//! delivery's, and so shared.

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

/// A future that a target gives out; boxed once a delivery, never once a key.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A cache.
///
/// The worker in [`delivery`] calls these methods, and does the rest: order, window, retries, receipts. A complete target,
/// which keeps its keys in memory:
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
///             // After the invalidations, and only where all of them were carried out.
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
    /// Carries out every invalidation of the batch and then writes the record. `Ok` means that the cache confirmed all
    /// of it; after an `Err` any part may have happened, and the same delivery is sent again.
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>>;

    /// Carries out the scopes of a batch that has nothing else, beside deliveries, and writes no record. `Ok` means that the
    /// cache confirmed all of it; after an `Err` any part may have happened, and all of it is tried again.
    fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>>;

    /// What the target remembers of how far it has been brought.
    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>>;
}

/// What a delivery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Keys that were really there.
    pub hit: u64,
    /// Version pointers that were none, and gave way to one.
    pub replaced: Replaced,
}

/// Keys of coherd's own at which something else stood. Which they were, and not what they held, which may be anybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Places among the batch's keys with [`Action::Bump`].
    pub keys: Vec<usize>,
    /// For each that a flush came upon, the place of the scope in the batch.
    pub scopes: Vec<usize>,
}

/// Why a delivery was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What to do about it.
    pub kind: FaultKind,
    /// What was tried, what was got, what to do. Never holds a key or a credential.
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
    /// `LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`, `BUSY`: not at the moment.
    NotReady,
    /// The stored record is not what was written last: the data was changed behind the connection.
    Changed,
    /// `OOM`: no memory.
    OutOfMemory,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`: somebody has to fix the credentials or the ACL.
    Denied,
    /// `WRONGTYPE` and every other error reply: somebody has to look.
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

    /// Whether trying again soon can help. All kinds are retried for ever; these others slowly.
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

/// What a kind of target can do beside deleting keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Readers may hold leases in it, which an invalidation then ends.
    pub leases: bool,
    /// What may happen to a key.
    pub actions: &'static [Action],
    /// How exactly it can flush a scope. A target that is less exact than a scope removes more.
    pub scopes: Exactness,
}

/// How exactly a target can flush a scope ([`Extent`](crate::types::pattern::Extent)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// It can only remove everything.
    All,
    /// It can remove what begins with a text.
    Prefix,
    /// It can remove what a glob matches.
    Pattern,
}

/// A kind of target.
#[derive(Debug)]
pub struct Kind {
    /// The URL schemes that name it.
    pub schemes: &'static [&'static str],
    /// What it is and how its URL looks, in a line.
    pub about: &'static str,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Makes one; connects to nothing yet.
    pub open: fn(&TargetConfig) -> Result<Arc<dyn Target>, OpenError>,
    /// Makes one that is only looked at; connects to nothing yet.
    pub peek: fn(&TargetConfig) -> Result<Arc<dyn Peek>, OpenError>,
    /// Looks at one for `coherd check`, and changes nothing in it.
    pub survey: fn(&TargetConfig, Needs) -> Result<Surveying, OpenError>,
}

/// Everything that stands between a target and what it will be asked, about the subject `target NAME`.
pub type Surveying = Pending<'static, Vec<Finding>>;

/// What the rules will ask of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// One for each key template.
    pub samples: Vec<Sample>,
}

/// A key template, as far as a target is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What happens to its keys.
    pub action: Action,
    /// A key that it could make and that nobody has.
    pub key: String,
    /// The glob of all its keys.
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

/// A configuration from which no target can be made. Never holds the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No kind has this scheme.
    #[error("targets.{target}.url: no target has the scheme {scheme:?}{}; known are {}", hint(scheme), known())]
    UnknownScheme {
        /// The target's name.
        target: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// The kind cannot read the URL.
    #[error("targets.{target}.url: {reason}")]
    BadUrl {
        /// The target's name.
        target: String,
        /// What is wrong and how it should look.
        reason: String,
    },
    /// A file that the target needs cannot be used.
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

/// Makes the target that the URL's scheme names. Connects to nothing yet: that is the first delivery's.
pub fn open(config: &TargetConfig) -> Result<Arc<dyn Target>, OpenError> {
    (kind_for(config)?.open)(config)
}

/// Makes the target that the URL's scheme names, to be looked at only. Connects to nothing yet.
pub fn open_to_peek(config: &TargetConfig) -> Result<Arc<dyn Peek>, OpenError> {
    (kind_for(config)?.peek)(config)
}

/// Looks at a target and at what stands between it and its work. The answer takes no longer than the configuration's
/// time-outs allow.
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
