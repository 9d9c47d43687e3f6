//! Builds the parts that a configuration describes: parsed DSNs, the source, the targets. Nothing connects before its
//! first use.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use secrecy::{ExposeSecret, SecretString};

use super::Failure;
use crate::cli::shutdown::Shutdown;
use crate::config::{Config, TargetSettings};
use crate::postgres::client::dsn::Dsn;
use crate::postgres::server::{Creation, Postgres, PostgresConfig};
use crate::postgres::watch::{WATCH_PACE, WatchConfig};
use crate::rules::template::Template;
use crate::targets::config::{Library, TargetConfig, TlsFiles};
use crate::targets::peek::Peek;
use crate::targets::{self, Needs, OpenError, Sample, Surveying, Target};
use crate::transaction::tables_of;
use crate::types::database::{Choices, Proposal};

/// The parts of `coherd run`. None of them connects before its first use.
pub(super) struct Parts {
    pub(super) dsn: Dsn,
    /// In the order of the configuration. Their application name is not the slot's.
    pub(super) replicas: Vec<Dsn>,
    /// In the order of the configuration.
    pub(super) targets: Vec<Arc<dyn Target>>,
}

impl Parts {
    pub(super) fn of(config: &Config) -> Result<Parts, Failure> {
        Ok(Parts {
            dsn: dsn("source.dsn", &config.source.dsn)?.from_file(config.source.dsn_file.clone()),
            replicas: replicas(config)?,
            targets: targets(config, Library::Load)?,
        })
    }
}

/// Parses the DSN `text` of `field`. As in libpq, the environment supplies what it leaves out.
pub(super) fn dsn(field: &str, text: &SecretString) -> Result<Dsn, Failure> {
    Dsn::parse(text.expose_secret(), &|name| std::env::var(name).ok())
        .map_err(|error| Failure::Setting(format!("{field}: {error}")))
}

/// The replicas, in the order of the configuration. Their application name is not the slot's.
pub(super) fn replicas(config: &Config) -> Result<Vec<Dsn>, Failure> {
    let read = |(index, text)| dsn(&format!("source.replicas[{index}]"), text);
    config.source.replicas.iter().enumerate().map(read).collect()
}

/// `--identity`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IdentityKind {
    /// REPLICA IDENTITY FULL
    Full,
    /// A UNIQUE constraint, where the table allows one
    Constraint,
}

/// What the publication and the replica identities should be.
pub(super) fn choices(config: &Config, identity: Option<IdentityKind>) -> Choices {
    let identity = match identity {
        None => Proposal::Fitting,
        Some(IdentityKind::Full) => Proposal::Full,
        Some(IdentityKind::Constraint) => Proposal::Constraint,
    };
    Choices { publish: config.source.publish, identity }
}

/// Runs `doing` until a signal. A signal drops it, so that the server takes back what it has begun.
pub(super) async fn until_signal(doing: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signal().context("listening for signals")?;
    tokio::select! {
        done = doing => done,
        () = shutdown.requested() => Err(anyhow!("interrupted").into()),
    }
}

/// Prints which transactions a new slot waits for.
pub(super) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The source. `tell` receives a message about the transactions that its slot waits for.
pub(super) fn postgres(config: &Config, dsn: Dsn, tell: fn(&str)) -> Postgres {
    Postgres::new(PostgresConfig {
        dsn,
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
        messages: config.source.messages,
        creation: Creation { timeout: config.source.slot_create_timeout, tell },
    })
}

/// The watcher's configuration.
pub fn watch_config(config: &Config, dsn: Dsn) -> WatchConfig {
    WatchConfig {
        dsn,
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
        tables: tables_of(&config.rules),
        pace: WATCH_PACE,
    }
}

/// A source beside the daemon's, with a temporary slot, and the slot's name. It streams committed transactions or those
/// in progress.
pub(super) fn postgres_aside(config: &Config, dsn: Dsn) -> (Postgres, String) {
    let slot = format!("coherd_aside_{}_{:08x}", std::process::id(), fastrand::u32(..));
    let publication = config.source.publication.clone();
    let creation = Creation { timeout: config.source.slot_create_timeout, tell };
    (Postgres::new(PostgresConfig { dsn, slot: slot.clone(), publication, messages: true, creation }), slot)
}

/// The targets, opened for peeking only.
pub(super) fn peeks(config: &Config) -> Result<Vec<Arc<dyn Peek>>, Failure> {
    let open = |settings| targets::open_to_peek(&target_config(config, settings, Library::Leave));
    config.targets.iter().map(|its| open(its).map_err(|error| Failure::Setting(error.to_string()))).collect()
}

/// The targets, in the order of the configuration. Each connects at its first use.
pub(super) fn targets(config: &Config, library: Library) -> Result<Vec<Arc<dyn Target>>, Failure> {
    let open = |settings| targets::open(&target_config(config, settings, library));
    config.targets.iter().map(|its| open(its).map_err(|error| Failure::Setting(error.to_string()))).collect()
}

/// A survey of each target, with its name, in the order of the configuration.
pub(super) fn surveys(config: &Config) -> Vec<(&str, Result<Surveying, OpenError>)> {
    // Makes sample keys that nothing else uses.
    let nonce = format!("coherd-check-{:016x}", fastrand::u64(..));
    let survey = |(target, its): (usize, &'_ TargetSettings)| {
        let rules = config.rules.iter().filter(|rule| rule.targets.contains(&target));
        let samples = rules.flat_map(|rule| {
            let sample = |(number, key): (usize, &Template)| Sample {
                action: rule.action,
                key: key.sample(&nonce),
                pattern: rule.scope(number).map_or_else(|| key.scope_pattern(), |scope| scope.keys.to_string()),
            };
            rule.keys.iter().enumerate().map(sample).collect::<Vec<_>>()
        });
        targets::survey(&target_config(config, its, Library::Leave), Needs { samples: samples.collect() })
    };
    let names = config.targets.iter().map(|its| its.name.as_str());
    names.zip(config.targets.iter().enumerate().map(survey)).collect()
}

fn target_config(config: &Config, its: &TargetSettings, library: Library) -> TargetConfig {
    TargetConfig {
        name: its.name.clone(),
        url: its.url.clone(),
        url_file: its.url_file.clone(),
        slot: config.source.slot.clone(),
        record_key: its.record.clone(),
        channel: its.channel.clone(),
        version_ttl: its.version_ttl,
        reply_timeout: its.reply_timeout,
        connect_timeout: its.connect_timeout,
        // The configuration refuses zero.
        flush_keys_per_second: config.limits.flush_keys_per_second.try_into().unwrap_or(std::num::NonZeroU32::MIN),
        leases: its.leases,
        library,
        tls: TlsFiles {
            ca_file: its.ca_file.clone(),
            cert_file: its.cert_file.clone(),
            key_file: its.key_file.clone(),
        },
    }
}
