//! When to stop: SIGTERM or SIGINT. The second one does not wait for anything any more.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

/// Tells everybody who holds a clone that it is time to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for the signals from here on. Needs a tokio runtime.
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
        // A sender that is gone has been dropped with the runtime.
        let _ = self.0.wait_for(|told| *told).await;
    }
}
