//! `serve`, `receive`, `work`: run the faces until a signal.

use std::sync::Arc;

use prometheus::Registry;
use rollbook_core::weakness::Weakness;
use tokio_util::sync::CancellationToken;

use super::{load_for, on_all_cores};
use crate::cli::Start;
use crate::clock::SystemClock;
use crate::config::{Config, Environment};
use crate::faces::Faces;
use crate::file_modes;
use crate::flags::SettingFlags;
use crate::forwards;
use crate::processes::{self, Process};
use crate::reload::{ReadAll, ReloadMetrics, Reloader};
use crate::service::Service;
use crate::signals::{Hangups, Signals};
use crate::stage::Stage;
use crate::startup;
use crate::startup_ports::{Ports, StartupServer};
use crate::systemd::Systemd;
use crate::wire::{self, Component};

/// Number of file handles that are not connections: databases, log, epoll, the ops port.
pub(super) const OTHER_FILES: u64 = 256;

/// Serves until a signal.
pub(crate) fn run(settings: SettingFlags, faces: Faces, arguments: &Start) -> anyhow::Result<()> {
    let mut config = load_for(&settings, faces)?;
    raise_file_limit(&mut config);
    let read_all: ReadAll = Arc::new(move |config| config.load_again(&settings.sources()));
    on_all_cores(serve(Arc::new(config), read_all, faces, arguments.migrate))
}

async fn serve(config: Arc<Config>, read_all: ReadAll, faces: Faces, migrate: bool) -> anyhow::Result<()> {
    // Signals are handled before anything starts: a signal during the start stops the process in order too.
    let (signals, hangups) = (Signals::listen()?, Hangups::listen()?);
    let clock = Arc::new(SystemClock);
    tracing::info!("rollbook {}", env!("CARGO_PKG_VERSION"));
    for hint in &config.hints {
        tracing::warn!("{hint}");
    }
    let secrets = if faces.receiver { Some(config.signing_secrets()?) } else { None };
    let (ports, stage) = (Ports::bind(&config, faces)?, Stage::default());
    let startup_server = StartupServer::open(&config, faces, secrets, &ports, &stage, clock.clone())?;
    let stop = CancellationToken::new();
    let relaying = signals.relay(stop.clone());
    tokio::pin!(relaying);
    let opened = tokio::select! {
        opened = startup::open(&config, faces, migrate, clock.clone(), &stage, &stop) => opened,
        () = &mut relaying => Ok(None),
    };
    startup_server.close().await;
    let Some(opened) = opened? else {
        tracing::info!("stopped before it was ready");
        return Ok(());
    };
    for Weakness { what, fix } in file_modes::weaknesses(&config, faces.parts()) {
        tracing::warn!(fix, "{what}");
    }
    // The service takes the registry: every metric is there before the first scrape.
    let registry = Registry::new();
    let reload_metrics = ReloadMetrics::new(&registry)?;
    let (queue, store) = (&opened.queue, opened.store);
    let mut service = Service::start(&config, faces, ports, queue, store, clock.clone(), registry)?;
    log_addresses(&config, faces, &service);
    let process = Process::this(faces, service.ops_listening, &*clock);
    let _marker = processes::announce(&config, faces, &process);
    let (secrets, producer) = (service.secrets(), queue.producer.clone());
    let reloader = Reloader::new(Arc::clone(&config), read_all, secrets, producer, reload_metrics);
    service.run_in_background("reload", |stop| reloader.run(hangups, stop));
    service.run_in_background("durability watch", |stop| opened.watch.run(stop));
    if opened.migrate_later {
        service.run_in_background("migration", |stop| startup::migrate_later(config, stop));
    }

    if let Some(systemd) = Systemd::of(&Environment::read()) {
        service.report_to_systemd(systemd);
    }

    let outcome = tokio::select! {
        outcome = service.run(stop.clone()) => outcome,
        () = relaying => Ok(()),
    };
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

fn log_addresses(config: &Config, faces: Faces, service: &Service) {
    if let Some(address) = service.listening {
        for path in config.settings.webhook_path.iter() {
            tracing::info!("deliveries: http://{address}{path}");
        }
    }
    if let Some(address) = service.api_listening {
        tracing::info!("API: http://{address}/v1/changes");
    }
    tracing::info!("health and metrics: http://{}/metrics", service.ops_listening);
    let queue = wire::describe(config, Component::Queue);
    tracing::info!("queue: {queue}, at most {} messages", config.settings.queue_depth_max);
    for (name, forward) in config.forwards.iter().filter(|_| faces.worker) {
        tracing::info!("forward {name}: {}", forward.url);
    }
    if faces.worker {
        tracing::info!("store: {}", wire::describe(config, Component::Store));
    }
}

/// Raises the limit of open files. If the system allows fewer than are configured, the receiver lets in only
/// as many connections as there are files for. Otherwise accepting would fail, and an idle connection of a
/// stranger would not be closed to make room for a genuine sender.
fn raise_file_limit(config: &mut Config) {
    let api = if config.settings.api_listen.is_some() { rollbook_api::CONNECTIONS_MAX } else { 0 };
    let others = (api + forwards::connections_max(config)) as u64;
    let wanted = config.settings.connections_max as u64 + others + OTHER_FILES;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(given) if given < wanted => {
            let connections_max = connections_for(given.saturating_sub(others));
            config.settings.connections_max = usize::try_from(connections_max).unwrap_or(usize::MAX);
            tracing::warn!(
                given,
                wanted,
                connections_max,
                "the limit on open files is lower than connections_max needs: fewer connections are accepted; raise \
                 ulimit -n, or lower connections_max"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of file handles can't be raised"),
    }
}

/// Returns the number of connections that the files allow.
fn connections_for(files: u64) -> u64 {
    files.saturating_sub(OTHER_FILES).max(files / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest_and_are_never_zero() {
        assert_eq!([4_352, 1_024, 512, 256, 64].map(connections_for), [4_096, 768, 256, 128, 32]);
    }
}
