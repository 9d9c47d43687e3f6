//! What one target was told by the configuration, with every default filled in.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// A target's configuration, resolved: nothing in it is missing, and nothing needs the file it came from.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The name under `targets:`, which is also the `target` label of its metrics.
    pub name: String,
    /// Where it is. The scheme names the kind; the rest may hold a password.
    pub url: SecretString,
    /// The file it was read from, read again at each connect, so that a rotated password takes effect.
    pub url_file: Option<PathBuf>,
    /// The replication slot that feeds it, from which the names below are made.
    pub slot: String,
    /// The key of the record.
    pub record_key: String,
    /// The channel of `publish` rules.
    pub channel: String,
    /// How long a version pointer lives after it last moved; at least 1 ms.
    pub version_ttl: Duration,
    /// How long a reply may take before the connection counts as lost. Of each command, not of a whole flush.
    pub reply_timeout: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The most keys a flush touches in a second.
    pub flush_keys_per_second: NonZeroU32,
    /// Whether readers hold leases in it, which go with their keys.
    pub leases: bool,
    /// What becomes of the functions for readers, in kinds that have them.
    pub library: Library,
    /// Certificates, for the schemes that use TLS.
    pub tls: TlsFiles,
}

/// The functions for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// They are brought at each connection, where they are missing or older.
    Load,
    /// They are left alone: nothing is to be changed but what is asked for.
    Leave,
}

/// PEM files, read again at each connect, so that renewed ones take effect.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its chain; together with `key_file`.
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
