//! SIGTERM and SIGINT: the first requests a stop, the second ends the process at once. SIGHUP requests a reload.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: a failure, because the process did not stop in order.
const IMPATIENT: i32 = 1;

/// Listener for both signals, from its creation on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Cancels `stop` at the first signal and ends the process at the second. Never returns: race it with the work.
    pub(crate) async fn relay(mut self, stop: CancellationToken) {
        let name = self.next().await;
        tracing::info!("{name}: stopping; a second signal ends the process at once");
        stop.cancel();
        let name = self.next().await;
        tracing::warn!("{name} again: ending at once");
        std::process::exit(IMPATIENT);
    }

    /// Returns after the first signal.
    pub(crate) async fn first(mut self) {
        self.next().await;
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Listener for SIGHUP, from its creation on. Without one the signal ends the process.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Starts to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next signal. Several that came meanwhile count as one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // No further signal can come.
            std::future::pending::<()>().await;
        }
    }
}
