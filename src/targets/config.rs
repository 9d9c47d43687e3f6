//! The resolved configuration of one target, with every default filled in.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// The resolved configuration of a target: complete, and independent of the file it came from.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The name under `targets:`, which is also the `target` label of its metrics.
    pub name: String,
    /// The address. The scheme names the kind of target; the rest may hold a password.
    pub url: SecretString,
    /// The file that holds the URL, if any. coherd reads it again at each connect, so that a rotated password takes
    /// effect.
    pub url_file: Option<PathBuf>,
    /// The replication slot that feeds the target. The default names below contain it.
    pub slot: String,
    /// The key of the record.
    pub record_key: String,
    /// The channel for the keys of `publish` rules.
    pub channel: String,
    /// Time to live of a version pointer after each bump; at least 1 ms.
    pub version_ttl: Duration,
    /// How long the reply to one command or pipeline may take before the connection counts as lost. A whole flush may
    /// take longer.
    pub reply_timeout: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The most keys that a flush deletes or bumps per second.
    pub flush_keys_per_second: NonZeroU32,
    /// Whether readers use leases. If so, an invalidation deletes the key's lease with the key.
    pub leases: bool,
    /// Whether coherd loads the functions for readers, in kinds that have them.
    pub library: Library,
    /// Certificates, for the schemes that use TLS.
    pub tls: TlsFiles,
}

/// Whether coherd loads the functions for readers into the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// coherd loads them at each connection if they are missing or older.
    Load,
    /// coherd leaves them alone, for commands that must not change more than they are asked to.
    Leave,
}

/// PEM files. coherd reads them again at each connect, so that renewed ones take effect.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// coherd's certificate and its chain; requires `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`.
    pub key_file: Option<PathBuf>,
}

impl TargetConfig {
    /// The defaults for a target `name` at `url` that is fed from `slot`.
    pub fn new(name: &str, url: impl Into<SecretString>, slot: &str) -> Self {
        TargetConfig {
            name: name.to_owned(),
            url: url.into(),
            url_file: None,
            slot: slot.to_owned(),
            record_key: format!("coherd:{slot}"),
            channel: format!("coherd:{slot}:invalidations"),
            version_ttl: Duration::from_hours(24),
            reply_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            flush_keys_per_second: NonZeroU32::new(50_000).unwrap_or(NonZeroU32::MAX),
            leases: false,
            library: Library::Load,
            tls: TlsFiles::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_made_from_the_slot_and_the_password_is_never_printed() {
        let config = TargetConfig::new("cache", "redis://:hunter2@db/0", "app");
        assert_eq!(config.record_key, "coherd:app");
        assert_eq!(config.channel, "coherd:app:invalidations");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
