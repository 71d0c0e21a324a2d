//! Notifications to systemd for a service with `Type=notify`: ready, alive, stopping.
//!
//! Constraints:
//!
//! * Ready means that the ports are bound, not that Redis or Postgres answer: those may be unreachable for
//!   hours, and restarting this process would not help.
//! * The watchdog is fed only while `/livez` answers ok, so that systemd restarts a process if a loop hangs.
//! * Without a socket nothing is sent, and systemd can never block the process.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rollbook_ops::{CHECK_TIMEOUT, Component};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Environment;

/// Socket of systemd, and the interval of its watchdog.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Reads the socket from the environment; `None` without systemd.
    pub(crate) fn of(environment: &Environment) -> Option<Self> {
        let name = environment.get("NOTIFY_SOCKET")?;
        match connect(name) {
            Ok(socket) => Some(Self { socket, watchdog: watchdog(environment) }),
            Err(error) => {
                tracing::warn!(%error, "systemd can't be notified that the service is ready: NOTIFY_SOCKET");
                None
            }
        }
    }

    /// Sends the current step of a service that is not ready yet, and asks for more time.
    pub(crate) fn starting(&self, what: &str, extend_for: Duration) {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={what}", extend_for.as_micros()));
    }

    /// Sends that the service is ready, then that it is alive while every component of `live` is, and from
    /// `stopping` on that it stops. Runs until `stop`.
    pub(crate) async fn run(
        self,
        live: Vec<Component>,
        stopping: CancellationToken,
        stop: CancellationToken,
    ) {
        self.say("READY=1");
        tokio::join!(
            async {
                if stop.run_until_cancelled(stopping.cancelled()).await.is_some() {
                    self.say("STOPPING=1");
                }
            },
            stop.run_until_cancelled(self.feed(&live)),
        );
    }

    /// Interval of notifications: half of the period, as systemd recommends.
    async fn feed(&self, live: &[Component]) {
        let Some(period) = self.watchdog else { return };
        let mut ticks = interval(period / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if is_well(live).await {
                self.say("WATCHDOG=1");
            }
        }
    }

    fn say(&self, state: &str) {
        // A full buffer means that systemd does not read: the message is dropped.
        if let Err(error) = self.socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "systemd could not be notified");
        }
    }
}

async fn is_well(live: &[Component]) -> bool {
    for part in live {
        let condition = timeout(CHECK_TIMEOUT, part.probe.check()).await;
        if !condition.is_ok_and(|condition| condition.is_ready()) {
            tracing::error!(
                part = part.name,
                "no progress: systemd gets no watchdog notification, and will restart this process"
            );
            return false;
        }
    }
    true
}

/// Parses an absolute path, or `@` and the name of an abstract socket.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "it is neither a path nor abstract")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Returns the watchdog's period for this process; `None` without a watchdog.
fn watchdog(environment: &Environment) -> Option<Duration> {
    let number = |name: &str| environment.get(name)?.to_str()?.parse::<u64>().ok();
    // A variable for another process, such as our parent, does not apply to this one.
    let for_us = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    // Half of a shorter period would leave no pause.
    number("WATCHDOG_USEC").filter(|micros| for_us && *micros >= 2).map(Duration::from_micros)
}

#[cfg(test)]
mod tests;
