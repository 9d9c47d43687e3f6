//! HTTP for probes, scrapers and readers. Read-only: no request changes a cache.

mod guests;
mod hosts;
mod listen;
mod page;
mod wait;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use axum::{Json, Router};
use tokio::sync::{Semaphore, watch};

use guests::Guest;

use crate::admin::metrics::{CONTENT_TYPE, Metrics};
use crate::admin::status::{Board, TURN_MAX, View, readiness};
pub use listen::{CONNECTIONS_MAX, ListenError, Listener, listen};
pub use wait::TIMEOUT_MAX;

/// How long requests may continue after `shutdown`.
pub const DRAIN_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Shared {
    board: Board,
    metrics: Metrics,
    ready_max_lag: Duration,
    /// Places for callers that wait.
    waits: Arc<Semaphore>,
    /// True once the server is to end, so that waiting callers get an answer.
    ending: watch::Receiver<bool>,
}

/// Serves until `shutdown` completes, and then for at most [`DRAIN_MAX`].
pub async fn serve(
    listener: Listener,
    board: Board,
    metrics: Metrics,
    ready_max_lag: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (end, ending) = watch::channel(false);
    let waits = Arc::new(Semaphore::new(listener.waits_max()));
    let shared = Shared { board, metrics, ready_max_lag, waits, ending: ending.clone() };
    let hosts = from_fn_with_state(listener.hosts(), hosts::check);
    let pages = routes(shared).layer(hosts).layer(from_fn(asking));
    let server = axum::serve(listener, pages.into_make_service_with_connect_info::<Guest>())
        .with_graceful_shutdown(ended(ending));
    let late = async move {
        shutdown.await;
        let _ = end.send(true);
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        result = server => result,
        () = late => Ok(()),
    }
}

impl Connected<IncomingStream<'_, Listener>> for Guest {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Guest {
        stream.io().guest()
    }
}

/// Protects the connection from eviction while its request is being answered.
async fn asking(ConnectInfo(guest): ConnectInfo<Guest>, request: Request, next: Next) -> Response {
    let _asking = guest.asks();
    next.run(request).await
}

async fn ended(mut ending: watch::Receiver<bool>) {
    // A dropped sender means the same.
    let _ = ending.wait_for(|ending| *ending).await;
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/wait", get(wait::wait))
        .fallback(async || (StatusCode::NOT_FOUND, format!("there is no such page; there are {}\n", page::PATHS)))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "everything here is read-only: use GET\n")
        })
        .with_state(shared)
}

async fn livez(State(shared): State<Shared>) -> Response {
    if shared.board.status().is_alive(Instant::now()) {
        return "alive\n".into_response();
    }
    let text = format!("the loop has not turned for {} s or more: restart the daemon\n", TURN_MAX.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match readiness(&shared.board.status(), Instant::now(), shared.ready_max_lag) {
        Ok(()) => "ready\n".into_response(),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Json<View> {
    Json(View::of(&shared.board.status(), Instant::now(), shared.ready_max_lag))
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            let text = format!("the metrics cannot be written: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
