//! `coherd run`: the daemon.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::info;

use super::{Failure, parts};
use crate::admin;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, Recorder, Settings};
use crate::shutdown::Shutdown;
use crate::status::Board;
use crate::target::delivery;

/// Reports on their way to the pipeline, which reads them before anything else.
const REPORTS_MAX: usize = 1024;

/// Runs until a signal.
pub async fn run(config: Config) -> Result<(), Failure> {
    super::log::start(&config.log)?;
    let dsn = parts::dsn("source.dsn", &config.source.dsn)?;
    let targets = parts::targets(&config)?;
    let shutdown = Shutdown::on_signal().context("listening for signals")?;
    let kinds = config.targets.iter().map(|target| (target.name.as_str(), target.scheme.as_str()));
    let board = Board::new(&config.source.slot, &config.source.publication, kinds);
    let metrics = Metrics::new(&board);
    let listener = admin::listen(config.admin.listen).await.map_err(anyhow::Error::new)?;
    let pages = admin::serve(
        listener,
        board.clone(),
        metrics.clone(),
        config.admin.ready_max_lag,
        shutdown.clone().requested(),
    );
    let pages = tokio::spawn(pages);
    info!(version = env!("CARGO_PKG_VERSION"), rules = config.rules.len(), admin = %config.admin.listen, "coherd starts");

    let names: Vec<Arc<str>> = config.targets.iter().map(|target| target.name.as_str().into()).collect();
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let spawn = |(lane, target)| delivery::spawn(lane, target, sender.clone());
    let workers = targets.into_iter().enumerate().map(spawn).collect();
    let recorder = Recorder::new(board, metrics, &names, &config.rules);
    let source = parts::postgres(&config, dsn);
    let settings = settings(&config);
    let pipeline = Pipeline::new(source, config.rules, workers, reports, settings, recorder);
    let ended = pipeline.run(shutdown.requested()).await;
    pages.abort();
    ended.map_err(|stopped| anyhow::Error::new(stopped).into())
}

fn settings(config: &Config) -> Settings {
    Settings {
        on_gap: config.on_gap,
        on_first_start: config.on_first_start,
        pending_keys_max: config.limits.max_pending_keys,
        transaction_keys_max: config.limits.max_keys_per_transaction as u64,
    }
}
