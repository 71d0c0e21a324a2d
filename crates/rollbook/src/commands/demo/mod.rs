//! `demo`: from signed webhooks to rows on this machine, in one command.
//!
//! The faces, the ports, the databases and the HTTP are those of `serve`; only Clerk and Svix are simulated.
//! The demo reads no configuration but its own flags, and refuses a server that holds data already: it must
//! not fill the user's databases with invented people.

mod changes;
mod counts;
mod findings;
mod naive;
mod places;
mod progress;
mod repair;
mod repaired;
mod report;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use prometheus::Registry;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::FullStore;
use rollbook_simulator::api::ClerkApi;
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::sender::{DeliverSettings, Endpoint, deliver};
use tokio_util::sync::CancellationToken;

use self::findings::Findings;
use self::naive::Naive;
use self::places::Places;
use self::progress::Progress;
use self::report::Surroundings;
use super::healthcheck::reachable;
use super::on_all_cores;
use crate::cli::Demo;
use crate::clock::SystemClock;
use crate::config::{Config, Environment, Problems, Settings};
use crate::faces::Faces;
use crate::flags::SettingFlags;
use crate::logging;
use crate::output::{Style, print_as};
use crate::service::Service;
use crate::signals::Signals;
use crate::startup_ports::Ports;
use crate::wire::{self, Component, Queue};

/// Number of connections of the sender, about as many as Svix opens to one endpoint in a burst.
const CONNECTIONS: usize = 32;
/// Number of events that are delivered twice, of a thousand.
const DUPLICATES_PER_MILLE: usize = 250;
/// Time without progress after which the queue counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Runs the demo.
///
/// # Errors
/// The rows do not equal the truth, or the demo could not be completed.
pub(crate) fn run(mut settings: SettingFlags, arguments: &Demo) -> anyhow::Result<()> {
    let began_at = Instant::now();
    let urls = [Settings::queue_url(), Settings::redis_url(), Settings::database_url()];
    if let Some(url) = urls.iter().find(|url| settings.is_set(&url.about)) {
        let flag = url.about.dashed();
        let fix = "leave it out, or name servers for the demo by --queue and --store";
        return Err(Problems::one(flag, "the demo brings its own queue and store", fix).into());
    }
    let environment = Environment::read();
    settings.set_default(&Settings::listen().about, "127.0.0.1:0");
    settings.set_default(&Settings::ops_listen().about, "127.0.0.1:0");
    if !environment.is_set(&Settings::log().about.environment()) {
        settings.set_default(&Settings::log().about, "warn");
    }
    let config = Config::load(&settings.own_sources())?;
    logging::start(&config.settings, &environment)?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let folder = settings.is_set(&Settings::data_dir().about).then_some(config.settings.data_dir.as_path());
    let places = Places::new(arguments, folder, seed)?;
    let secret = made_for_this_run();
    let secrets = SigningSecrets::parse(&secret)?;
    let config = config.for_demo(places.queue(), places.store(), places.schema(), secrets)?;
    let history = History::generate(&size(seed, arguments.deliveries as usize));
    let lost = repair::losses(&history, seed);
    let mut order = history.schedule(seed, DUPLICATES_PER_MILLE);
    order.retain(|event| !lost.contains(event));
    let style = Style::of(&environment);
    let naive = arguments.naive.then(|| Naive::of(&history));
    let demo = Show { config, history, lost, order, seed, secret, began_at, style, naive };
    on_all_cores(demo.run(places, arguments))
}

/// Returns a history of at least this many deliveries, duplicates included. Chance duplicates fewer events
/// than the mean in some runs, so the margin is five standard deviations.
fn size(seed: u64, deliveries: usize) -> HistorySettings {
    let delivered = deliveries * 1000 / (1000 + DUPLICATES_PER_MILLE) + 2 * deliveries.isqrt() + 10;
    let lost = delivered / (repair::BEFORE_SHARE - 1) + delivered * repair::LOST_PER_MILLE / 500;
    let changes = delivered + lost + 10;
    HistorySettings {
        seed,
        users: changes / 6,
        organizations: changes / 60,
        changes,
        ..HistorySettings::default()
    }
}

/// Returns 24 random bytes in the form of a signing secret. The secret protects a local port while the demo
/// runs, so the random numbers need not be cryptographic.
fn made_for_this_run() -> String {
    const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let random = std::iter::repeat_with(|| char::from(BASE64[fastrand::usize(..BASE64.len())])).take(32);
    format!("whsec_{}", random.collect::<String>())
}

/// History that is delivered.
struct Show {
    config: Config,
    history: History,
    /// Events that are never delivered.
    lost: BTreeSet<usize>,
    order: Vec<usize>,
    seed: u64,
    secret: String,
    began_at: Instant,
    style: Style,
    naive: Option<Naive>,
}

/// Parts that run during the demo.
struct Running {
    queue: Queue,
    store: Arc<dyn FullStore>,
    registry: Registry,
    endpoint: Endpoint,
}

impl Show {
    async fn run(mut self, mut places: Places, arguments: &Demo) -> anyhow::Result<()> {
        let signals = Signals::listen()?;
        let clerk = repair::start_clerk(&self.history, &mut self.config).await?;
        let outcome = self.serve(&mut places, arguments, signals, &clerk).await;
        // Last, after everything that uses queue and store.
        places.leave(&self.config, arguments.keep && outcome.is_ok()).await;
        outcome
    }

    /// Serves, runs the demo, and continues to serve with `--keep`.
    async fn serve(
        &self,
        places: &mut Places,
        arguments: &Demo,
        signals: Signals,
        clerk: &ClerkApi,
    ) -> anyhow::Result<()> {
        let clock = Arc::new(SystemClock);
        let (queue, durability) = places.make(&self.config, clock.clone()).await?;
        let store = wire::open_store(&self.config, clock.clone())?;
        let registry = Registry::new();
        let ports = Ports::bind(&self.config, Faces::ALL)?;
        let (stores, metrics) = (Some(store.clone()), registry.clone());
        let service = Service::start(&self.config, Faces::ALL, ports, &queue, stores, clock, metrics)?;
        let surroundings = Surroundings {
            seed: self.seed,
            receiver: reachable(service.listening.context("the receiver runs")?),
            ops: reachable(service.ops_listening),
            secret: self.secret.clone(),
            keep: arguments.keep,
            kept: places.kept_folder(arguments.keep),
            queue: wire::describe(&self.config, Component::Queue),
            store: wire::describe(&self.config, Component::Store),
            durability,
        };
        let endpoint = Endpoint {
            address: surroundings.receiver,
            path: self.config.settings.webhook_path.first().to_owned(),
            secret: self.config.signing_secrets()?.first().clone(),
        };
        let running = Running { queue, store, registry, endpoint };

        let stop = CancellationToken::new();
        let mut serving = pin!(service.run(stop.clone()));
        let mut signalled = pin!(signals.relay(stop.clone()));
        let played = tokio::select! {
            outcome = &mut serving => return outcome.and_then(|()| bail!("stopped before it was done")),
            () = &mut signalled => bail!("stopped before it was done"),
            played = self.play(&running, clerk) => played,
        };
        let findings = match played {
            Ok(findings) => findings,
            Err(error) => {
                // Work in progress must not write to files that are about to be removed.
                stop.cancel();
                let _ = serving.await;
                return Err(error);
            }
        };
        print_as(arguments.output, &report::json(&findings, &surroundings), |_| {
            report::text(&findings, &surroundings, self.style)
        })?;
        if !arguments.keep {
            stop.cancel();
        }
        tokio::select! {
            outcome = &mut serving => outcome?,
            () = &mut signalled => {}
        }
        if findings.passed() { Ok(()) } else { bail!("the rows do not equal the truth") }
    }

    /// Delivers the history, waits until the worker has applied it, compares the rows, reconciles them with
    /// the simulated API, and compares again.
    async fn play(&self, running: &Running, clerk: &ClerkApi) -> anyhow::Result<Findings> {
        let received = Arc::new(AtomicU64::new(0));
        let mut progress = Progress::new(self.order.len(), received.clone(), running);
        let began_at = Instant::now();
        let settings = DeliverSettings { connections: CONNECTIONS, ..DeliverSettings::default() };
        let on_answer = Arc::new(move |count: u64| {
            received.fetch_max(count, Ordering::Relaxed);
        });
        let sending = deliver(
            &running.endpoint,
            &self.history.events,
            &self.order,
            Arc::new(SystemClock),
            &settings,
            on_answer,
        );
        let sent = progress.during(sending).await;
        let drained = progress.during(until_drained(&running.queue)).await;
        let applied_after = began_at.elapsed();
        progress.end();
        drained?;
        let dead_letters = running.queue.admin.stats().await?.dead;
        let truth = &self.history.truth;
        let by_webhooks = truth.compare(findings::read_rows(&*running.store).await?.into_iter());
        let repair = repair::reconcile(&self.config, running.store.clone(), clerk).await?;
        let rows = findings::read_rows(&*running.store).await?;
        let peek = findings::peek(&rows);
        let changes = changes::read(&*running.store).await?;
        let comparison = truth.compare_repaired(rows.into_iter(), &self.history.tolerance(&self.lost));
        Ok(Findings {
            event_types: findings::event_types(&self.history),
            events: self.history.events.len() - self.lost.len(),
            lost: self.lost.len(),
            by_webhooks,
            repair,
            naive: self.naive,
            out_of_order: findings::out_of_order(&self.order),
            deliveries: self.order.len(),
            peek,
            changes,
            living: truth.live(),
            deleted: truth.deleted(),
            comparison,
            counts: counts::applied(&running.registry),
            sent,
            dead_letters,
            applied_after,
            took: self.began_at.elapsed(),
        })
    }
}

/// Waits until the queue is empty.
async fn until_drained(queue: &Queue) -> anyhow::Result<()> {
    let mut moved_at = Instant::now();
    let mut depth = u64::MAX;
    loop {
        let now = queue.admin.stats().await?.depth();
        if now == 0 {
            return Ok(());
        }
        if now < depth {
            (depth, moved_at) = (now, Instant::now());
        }
        if moved_at.elapsed() > STUCK_AFTER {
            bail!(
                "stuck: {now} messages are not applied, and for {STUCK_AFTER:?} none was applied (ROLLBOOK_LOG=info shows more)"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_has_at_least_the_requested_deliveries() {
        for (seed, deliveries) in [(1, 100), (2, 1_000), (3, 10_000), (4, 2_000)] {
            let history = History::generate(&size(seed, deliveries));
            let lost = repair::losses(&history, seed);
            let mut order = history.schedule(seed, DUPLICATES_PER_MILLE);
            order.retain(|event| !lost.contains(event));
            assert!(
                (deliveries..deliveries * 3 / 2).contains(&order.len()) || deliveries == 100,
                "{}",
                order.len()
            );
            assert!(order.len() >= deliveries);
        }
    }

    #[test]
    fn the_secret_of_a_run_is_a_valid_signing_secret() {
        assert!(SigningSecrets::parse(&made_for_this_run()).is_ok());
    }
}
