//! `coherd run`: builds the daemon from the configuration and runs it until a signal; SIGHUP rebuilds it.

mod preflight;
mod reload;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::info;

use super::Failure;
use super::parts::{self, Parts};
use crate::admin::http;
use crate::admin::metrics::Metrics;
use crate::admin::status::Board;
use crate::admin::systemd;
use crate::cli::shutdown::Shutdown;
use crate::config::Config;
use crate::core::{Policy, RECENT_BYTES, Replicas};
use crate::postgres::Question;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::probes::{AskConfig, FollowConfig, REPLICA_PACE, ask_source, follow_replica};
use crate::postgres::server::Creation;
use crate::postgres::watch::watch;
use crate::rules::heirs::Heirs;
use crate::runtime::{Observer, Pipeline, Probes, Settings};
use crate::targets::delivery;
use crate::types::lsn::Lsn;
use preflight::{Preflight, preflight};
use reload::Reloads;

/// Capacity of the channel from the delivery workers to the pipeline, which reads it before anything else.
const REPORTS_MAX: usize = 1024;

/// Capacity of the channel for answers of the source and its replicas.
const PROBED_MAX: usize = 64;

/// Capacity of the channel for the watcher's looks at the server.
const WATCHED_MAX: usize = 4;

/// How long the service manager may take to receive the notice that coherd ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What stays across reloads.
struct Daemon {
    board: Board,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Runs until SIGTERM or SIGINT. SIGHUP reads the file at `path` again.
pub async fn run(mut config: Config, path: &Path) -> Result<(), Failure> {
    let threshold = super::log::start(&config.log)?;
    let mut parts = Parts::of(&config)?;
    let shutdown = Shutdown::on_signal().context("listening for signals")?;
    let mut reloads = Reloads::on_signal(path).context("listening for SIGHUP")?;
    let board = Board::new(&config.source.slot, &config.source.publication, kinds(&config));
    let metrics = Metrics::new(&board);
    let listener = http::listen(config.admin.listen).map_err(anyhow::Error::new)?.answering_to(&config.admin.hosts);
    let pages =
        http::serve(listener, board.clone(), metrics.clone(), config.admin.ready_max_lag, shutdown.clone().requested());
    let pages = tokio::spawn(pages);
    let manager = tokio::spawn(systemd::tell(board.clone(), shutdown.clone().requested()));
    info!(version = env!("CARGO_PKG_VERSION"), rules = config.rules.len(), admin = %config.admin.listen, "coherd starts");

    let Preflight::Passed(mut heirs) = preflight(&config, &parts, &board, shutdown.clone()).await? else {
        told(manager).await;
        return Ok(());
    };
    let daemon = Daemon { board, metrics, shutdown };
    let mut settings = settings(&config);
    loop {
        let mut next = None;
        let stop = async {
            tokio::select! {
                () = daemon.shutdown.clone().requested() => {}
                reloaded = reloads.next(&config) => next = Some(reloaded),
            }
        };
        Box::pin(daemon.follow(&config, parts, heirs, settings, stop)).await?;
        let Some(reloaded) = next else { break };
        (config, parts, heirs) = reloaded;
        daemon.board.configured(&config.source.slot, &config.source.publication, kinds(&config));
        threshold.set(&config.log)?;
        settings = Settings { is_resumed: true, ..self::settings(&config) };
        info!(rules = config.rules.len(), targets = config.targets.len(), "the configuration is reloaded");
    }
    pages.abort();
    told(manager).await;
    Ok(())
}

fn kinds(config: &Config) -> impl Iterator<Item = (&str, &str)> {
    config.targets.iter().map(|target| (target.name.as_str(), target.scheme.as_str()))
}

impl Daemon {
    /// Follows the log with one configuration until `stop` completes, then delivers what was read.
    async fn follow(
        &self,
        config: &Config,
        parts: Parts,
        heirs: Heirs,
        settings: Settings,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let Parts { dsn, replicas, targets } = parts;
        let names: Vec<Arc<str>> = config.targets.iter().map(|target| target.name.as_str().into()).collect();
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let spawn = |(index, target)| delivery::spawn(index, target, sender.clone());
        let workers = targets.into_iter().enumerate().map(spawn).collect();
        self.board.replicas(replicas.iter().map(|dsn| dsn.to_string().into()));
        let observer = Observer::new(self.board.clone(), self.metrics.clone(), &names, &config.rules);
        let watch_config = parts::watch_config(config, dsn.clone());
        let probes = probes(config, dsn.clone(), replicas, self.board.waiters());
        let source = parts::postgres(config, dsn, Creation::default().tell);
        let (watching, watched) = mpsc::channel(WATCHED_MAX);
        let (attest, attested_for) = tokio::sync::watch::channel(None);
        tokio::spawn(watch(watch_config, attested_for, watching));
        let rules = config.rules.clone();
        let pipeline = Pipeline::new(source, rules, (workers, reports), (watched, attest), probes, settings, observer);
        // A task of its own: the future that the runtime blocks on is woken through a file descriptor, even from its own
        // thread, which costs two system calls each time.
        let (stopping, stopped) = oneshot::channel::<()>();
        let mut following = tokio::spawn(pipeline.with_heirs(heirs).run(async { drop(stopped.await) }));
        let ended = tokio::select! {
            ended = &mut following => ended,
            () = stop => {
                drop(stopping);
                following.await
            }
        };
        ended.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic())).map_err(anyhow::Error::new)?;
        Ok(())
    }
}

/// Waits until the service manager knows that coherd ends, but not for long: it may not listen.
async fn told(manager: JoinHandle<()>) {
    let _ = tokio::time::timeout(FAREWELL, manager).await;
}

/// Starts the visibility probe and one probe for each replica.
fn probes(
    config: &Config,
    dsn: Dsn,
    replicas: Vec<Dsn>,
    waiters: tokio::sync::watch::Receiver<usize>,
) -> (Probes, Replicas) {
    let (answers, probed) = mpsc::channel(PROBED_MAX);
    let (questions, asked) = tokio::sync::watch::channel(Question::default());
    let (wanted, waited_for) = tokio::sync::watch::channel(Lsn::ZERO);
    let ask = AskConfig { dsn, slot: config.source.slot.clone(), waiters };
    tokio::spawn(ask_source(ask, asked, answers.clone()));
    let count = replicas.len();
    for (index, dsn) in replicas.into_iter().enumerate() {
        let follow = FollowConfig { dsn, pace: REPLICA_PACE.min(config.source.max_replica_lag / 4) };
        tokio::spawn(follow_replica(index, follow, waited_for.clone(), answers.clone()));
    }
    let replicas = Replicas::new(count, config.source.max_replica_lag, Instant::now());
    (Probes { probed, questions, wanted }, replicas)
}

fn settings(config: &Config) -> Settings {
    Settings {
        policy: Policy {
            on_gap: config.on_gap,
            on_first_start: config.on_first_start,
            pending_keys: config.limits.max_pending_keys,
            wal_budget: config.source.wal_budget,
            decoding_timeout: config.source.decoding_timeout,
            recent_bytes: RECENT_BYTES,
            repeat_after: config.repeat_after,
        },
        transaction_keys_max: config.limits.max_keys_per_transaction as u64,
        manual_keys: config.manual_keys,
        is_resumed: false,
    }
}
