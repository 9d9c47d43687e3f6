//! When to stop: at SIGTERM or SIGINT. A second signal ends the process at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

/// Signals to every holder of a clone that it is time to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Starts to listen for the signals. Needs a tokio runtime.
    pub fn on_signal() -> io::Result<Shutdown> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            for already in [false, true] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if already {
                    warn!("a second signal: ending at once; what is not confirmed is sent again at the next start");
                    std::process::exit(1);
                }
                let _ = tell.send(true);
            }
        });
        Ok(Shutdown(told))
    }

    /// Waits for the first signal.
    pub async fn requested(mut self) {
        // If the sender is gone, the runtime is shutting down.
        let _ = self.0.wait_for(|told| *told).await;
    }
}
