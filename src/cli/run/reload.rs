//! SIGHUP: coherd reads the configuration again. It takes effect as a whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::super::parts::{Parts, choices};
use crate::cli::check;
use crate::config::Config;
use crate::rules::heirs::Heirs;
use crate::types::finding::{Code, Finding, Severity};

/// Reads the configuration again at each SIGHUP.
pub(super) struct Reloads {
    hangups: Signal,
    path: PathBuf,
}

impl Reloads {
    /// Starts to listen for SIGHUP. Needs a tokio runtime.
    pub(super) fn on_signal(path: &Path) -> io::Result<Reloads> {
        Ok(Reloads { hangups: signal(SignalKind::hangup())?, path: path.to_owned() })
    }

    /// Waits for a configuration that can replace `running`. One that cannot is reported in the log.
    pub(super) async fn next(&mut self, running: &Config) -> (Config, Parts, Heirs) {
        loop {
            if self.hangups.recv().await.is_none() {
                // The runtime is shutting down.
                std::future::pending::<()>().await;
            }
            info!("SIGHUP: reading {} again", self.path.display());
            // Boxed because the future is large, and is polled together with the rest of the daemon.
            match Box::pin(self.read(running)).await {
                Ok(reloaded) => return reloaded,
                Err(why) => error!("the configuration is not reloaded, and nothing has changed: {why:#}"),
            }
        }
    }

    /// Reads the file and validates it against the database, as `coherd check` does. A check without an answer is an
    /// error.
    async fn read(&self, running: &Config) -> anyhow::Result<(Config, Parts, Heirs)> {
        let config = Config::load(&self.path, &|name| std::env::var(name).ok())?;
        fixed(running, &config)?;
        let parts = Parts::of(&config).map_err(anyhow::Error::from)?;
        let checked = check::source(&config, choices(&config, None), &|name| std::env::var(name).ok()).await;
        // Published tables that no rule names are no reason to keep the old rules.
        let counts = |its: &&Finding| its.severity > Severity::Warning && its.code != Code::PUBLISHED_UNWRITABLE;
        let wrong: Vec<String> = checked.findings.iter().filter(counts).map(ToString::to_string).collect();
        if wrong.is_empty() {
            return Ok((config, parts, checked.heirs));
        }
        bail!("coherd check says:\n{}", wrong.join("\n"))
    }
}

/// Refuses changes of settings that a process keeps until it ends.
fn fixed(running: &Config, new: &Config) -> anyhow::Result<()> {
    let changed = [
        ("admin.listen", running.admin.listen != new.admin.listen),
        ("admin.ready_max_lag", running.admin.ready_max_lag != new.admin.ready_max_lag),
        ("log.format", running.log.format != new.log.format),
    ];
    match changed.into_iter().find(|(_, changed)| *changed) {
        None => Ok(()),
        Some((field, _)) => bail!("{field} has changed, which needs a restart: systemctl restart coherd"),
    }
}
