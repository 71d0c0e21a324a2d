//! Ports of a process during its start.
//!
//! Applying migrations to a large file, or recovering its log, takes minutes. Meanwhile deliveries are
//! answered 503 with `Retry-After`, so that Svix sends them again. `/livez` answers 200, `/readyz` 503 with
//! the current step. systemd is asked for more time, and the log shows progress. During a start shorter than
//! [`ANSWERS_AFTER`] clients wait: their connections are accepted, and the process answers them when it is ready.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use prometheus::Registry;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock;
use rollbook_ops::{Component, Ops};
use rollbook_receiver::Receiver;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{About, Config, Environment, OpsListen, Settings};
use crate::faces::Faces;
use crate::installation::Installation;
use crate::ops_port::{LatePages, guarded};
use crate::stage::Stage;
use crate::systemd::Systemd;
use crate::wire::receiver_settings;

/// Maximum connections that wait to be accepted, as far as the kernel allows (`net.core.somaxconn`). The
/// usual 128 overflow when some hundred clients connect at once; a client without a place retries after 1 s.
const BACKLOG: u32 = 1024;
/// Duration of a start after which clients get an answer.
const ANSWERS_AFTER: Duration = Duration::from_secs(1);
/// Interval of requests to systemd for more time.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// Time requested from systemd. It ends a process that has not asked again for this long.
const EXTEND_FOR: Duration = Duration::from_secs(120);
/// Interval of log lines during a start.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Maximum time for answers in progress once the process is ready.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Bound listeners of a process.
pub(crate) struct Ports {
    /// Listener for deliveries, if the process receives any.
    pub(crate) public: Option<TcpListener>,
    /// Listener of the API, if it is set and the process has a store.
    pub(crate) api: Option<TcpListener>,
    /// Listener for health and metrics; none if the one for deliveries answers for them.
    pub(crate) ops: Option<TcpListener>,
}

impl Ports {
    /// Binds the listeners that these faces need.
    ///
    /// # Errors
    /// Other processes have ports, or an address does not belong to this machine; the error names each.
    pub(crate) fn bind(config: &Config, faces: Faces) -> anyhow::Result<Self> {
        let settings = &config.settings;
        let public = faces.receiver.then(|| bind(settings.listen, &Settings::listen().about)).transpose();
        let api = settings.api_listen.filter(|_| faces.worker);
        let api = api.map(|address| bind(address, &Settings::api_listen().about)).transpose();
        let ops = match settings.ops_listen {
            OpsListen::Own(address) => bind(address, &Settings::ops_listen().about).map(Some),
            OpsListen::Same if faces.receiver => Ok(None),
            OpsListen::Same => bind(settings.listen, &Settings::listen().about).map(Some),
        };
        match (public, api, ops) {
            (Ok(public), Ok(api), Ok(ops)) => Ok(Self { public, api, ops }),
            (public, api, ops) => {
                let wrong = [public.err(), api.err(), ops.err()].into_iter().flatten();
                let texts: Vec<String> = wrong.map(|error| format!("{error:#}")).collect();
                bail!(texts.join("\n"))
            }
        }
    }

    /// Returns more handles to the listeners that answer during a start: the first to accept gets the connection. Clients
    /// of the API wait.
    fn twin(&self) -> io::Result<Self> {
        let twin = |listener: &TcpListener| listener.as_fd().try_clone_to_owned().map(TcpListener::from);
        Ok(Self {
            public: self.public.as_ref().map(twin).transpose()?,
            api: None,
            ops: self.ops.as_ref().map(twin).transpose()?,
        })
    }
}

fn bind(address: SocketAddr, setting: &About) -> anyhow::Result<TcpListener> {
    listen(address).map_err(|error| {
        let (key, flag) = (setting.key, setting.dashed());
        let fix = format!("if another process has that port, give this one its own: {flag} HOST:PORT");
        anyhow!("can't listen on {address} (setting {key}): {error}; {fix}")
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the previous process may linger in the kernel; they must not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Answers clients while the process starts.
pub(crate) struct StartupServer {
    stop: CancellationToken,
    answering: JoinSet<anyhow::Result<()>>,
}

impl StartupServer {
    /// Starts to answer at these ports after [`ANSWERS_AFTER`].
    ///
    /// # Errors
    /// The listeners cannot be shared.
    pub(crate) fn open(
        config: &Config,
        faces: Faces,
        secrets: Option<SigningSecrets>,
        ports: &Ports,
        stage: &Stage,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let ports = ports.twin()?;
        let mut settings = receiver_settings(config);
        settings.stop_delay = Duration::ZERO;
        settings.drain_timeout = CLOSE_WITHIN;
        let (stop, mut answering) = (CancellationToken::new(), JoinSet::new());
        let pages = LatePages::default();
        if let Some((secrets, listener)) = secrets.zip(ports.public) {
            let producer = Arc::new(stage.clone());
            let receiver = Receiver::new(settings, secrets, producer, clock.clone(), &registry)?;
            let receiver = receiver.with_pages(pages.for_receiver());
            let stop = stop.clone();
            answering.spawn(async move {
                if is_slow(&stop).await {
                    receiver.serve(tokio::net::TcpListener::from_std(listener)?, stop).await?;
                }
                Ok(())
            });
        }
        let part = Component { name: "start", probe: Arc::new(stage.clone()) };
        let ops = Ops::new(registry, None, Vec::new(), vec![part], clock)?
            .described_by(Installation::of(config, faces));
        let ops = guarded(config, ops);
        let (ops_stop, reporting) = (stop.clone(), report(stage.clone()));
        let reports_stop = stop.clone();
        match ports.ops {
            Some(listener) => drop(answering.spawn(async move {
                if is_slow(&ops_stop).await {
                    ops.serve(tokio::net::TcpListener::from_std(listener)?, ops_stop).await;
                }
                Ok(())
            })),
            None => pages.show(ops),
        }
        answering.spawn(async move {
            if is_slow(&reports_stop).await {
                reports_stop.run_until_cancelled(reporting).await;
            }
            Ok(())
        });
        Ok(Self { stop, answering })
    }

    /// Finishes answers in progress and accepts no more connections.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        let ended = async { while self.answering.join_next().await.is_some() {} };
        // Clients without an answer by then are disconnected: nothing was acknowledged to them.
        drop(timeout(CLOSE_WITHIN, ended).await);
    }
}

/// Waits until the start takes long.
async fn is_slow(stop: &CancellationToken) -> bool {
    stop.run_until_cancelled(sleep(ANSWERS_AFTER)).await.is_some()
}

/// Reports the running start to systemd and the log. Never returns.
async fn report(stage: Stage) {
    let systemd = Systemd::of(&Environment::read());
    let mut logged: Option<Instant> = None;
    loop {
        let text = stage.text();
        if let Some(systemd) = &systemd {
            systemd.starting(&text, EXTEND_FOR);
        }
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            tracing::info!("not ready yet: {text}; deliveries are answered 503 meanwhile");
            logged = Some(Instant::now());
        }
        sleep(EXTEND_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    /// These connections fit only if the backlog is larger than usual.
    const AT_ONCE: usize = 512;

    #[tokio::test]
    async fn hundreds_of_connections_wait_in_the_backlog_while_none_is_accepted() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &Settings::listen().about).expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut waiting = Vec::new();
        for number in 0..AT_ONCE {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5));
            waiting.push(stream.unwrap_or_else(|error| panic!("connection {number}: {error}")));
        }
    }
}
