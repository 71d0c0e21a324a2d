//! Reload: takes changed secrets into use while the process runs.
//!
//! Constraints:
//!
//! * Files that hold a live secret (`…_FILE`) are read every [`EVERY`]. Everything is read on SIGHUP, and again until that succeeds.
//! * A file or a configuration that can't be read or is wrong changes nothing: the secrets from before stay in use. The log
//!   says so once for each reason, and a metric shows it until it is over.
//! * A file that is being written is not used: what a reading finds counts if the next one finds the same. This holds for
//!   SIGHUP too.
//! * Each file is read within a time limit: a file system that does not answer is a problem like any other.
//! * No secret is in a log line. Settings that need a restart are named in the log after SIGHUP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};
use rollbook_core::queue::Producer;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Difference, Problems, Settings};
use crate::live_secrets::{LiveSecrets, Replacement};
use crate::signals::Hangups;

/// Time between two readings of the files.
const EVERY: Duration = Duration::from_secs(10);
/// Pause between the two readings that must agree.
const SETTLE: Duration = Duration::from_millis(500);
/// Maximum number of readings after SIGHUP until two agree. Then it is due again.
const READINGS: usize = 6;
/// Maximum time for the queue to store new signing secrets. After a failure it is asked again at the next reading.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Name in the log for everything that SIGHUP reads.
const CONFIGURATION: &str = "configuration";

/// Outcomes of the metric.
const OUTCOMES: [&str; 2] = ["replaced", "failed"];

/// Reads the whole configuration again.
pub(crate) type ReadAll = Arc<dyn Fn(&Config) -> Result<Config, Problems> + Send + Sync>;

/// Reloads the secrets of a process.
pub(crate) struct Reloader {
    /// Configuration as it was read last.
    config: Arc<Config>,
    /// Configuration of the start, which all settings but the live secrets have.
    started: Arc<Config>,
    read_all: ReadAll,
    live: LiveSecrets,
    queue: Arc<dyn Producer>,
    metrics: ReloadMetrics,
    /// Text of each problem that lasts, by the key of its setting.
    failing: BTreeMap<String, String>,
    /// Keys of settings that were reported to need a restart.
    restart_reported: BTreeSet<String>,
    /// Whether SIGHUP asked for a reading that has not succeeded yet.
    is_reload_due: bool,
    /// Whether the queue does not know all signing secrets yet.
    is_queue_due: bool,
}

/// Metrics of reloads.
pub(crate) struct ReloadMetrics {
    reloads: IntCounterVec,
    failing: IntGauge,
}

impl ReloadMetrics {
    /// Registers the metrics, at zero.
    ///
    /// # Errors
    /// A metric is registered already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Reloads of secrets, by outcome: replaced by others, or failed because a file or the configuration can't be used.";
        let name = "rollbook_secret_reloads_total";
        let reloads = register_int_counter_vec_with_registry!(name, help, &["outcome"], registry)?;
        for outcome in OUTCOMES {
            reloads.with_label_values(&[outcome]);
        }
        let help =
            "Settings with a file or a value that can't be used now: the secrets from before are in use.";
        let name = "rollbook_secret_reload_failing";
        let failing = register_int_gauge_with_registry!(name, help, registry)?;
        Ok(Self { reloads, failing })
    }

    fn count(&self, outcome: &str) {
        self.reloads.with_label_values(&[outcome]).inc();
    }
}

impl Reloader {
    /// Creates the reloader of a process that uses these secrets of this configuration.
    pub(crate) fn new(
        config: Arc<Config>,
        read_all: ReadAll,
        live: LiveSecrets,
        queue: Arc<dyn Producer>,
        metrics: ReloadMetrics,
    ) -> Self {
        Self {
            started: Arc::clone(&config),
            config,
            read_all,
            live,
            queue,
            metrics,
            failing: BTreeMap::new(),
            restart_reported: BTreeSet::new(),
            is_reload_due: false,
            is_queue_due: false,
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, mut hangups: Hangups, stop: CancellationToken) {
        let reloading = async {
            loop {
                tokio::select! {
                    () = hangups.next() => {
                        tracing::info!("SIGHUP: reading the configuration again");
                        self.is_reload_due = true;
                    }
                    () = sleep(EVERY) => {}
                }
                let problems = if self.is_reload_due { self.reload().await } else { self.reread().await };
                if let Some(problems) = problems {
                    self.note_problems(problems);
                }
                self.inform_queue().await;
            }
        };
        stop.run_until_cancelled(reloading).await;
    }

    /// Reads everything again. After a failure this is due again. Returns the problems by the key of their setting; `None`
    /// if nothing was read.
    async fn reload(&mut self) -> Option<BTreeMap<String, String>> {
        match self.read_until_two_agree().await? {
            Ok(config) => {
                self.is_reload_due = false;
                self.adopt(config);
                self.report_restarts();
                Some(BTreeMap::new())
            }
            Err(wrong) => {
                // Each file is judged alone: a wrong one keeps no other one from being used.
                let mut problems = self.reread().await.unwrap_or_default();
                problems.insert(CONFIGURATION.to_owned(), wrong.to_string().replace('\n', "; "));
                Some(problems)
            }
        }
    }

    /// Reads everything until two readings in a row agree. `None` if none did, or nothing was read.
    async fn read_until_two_agree(&self) -> Option<Result<Config, Problems>> {
        let mut last = self.read_everything().await?;
        if matches!(&last, Ok(read) if read.differences(&self.config).is_empty()) {
            return Some(last);
        }
        for _ in 1..READINGS {
            sleep(SETTLE).await;
            let next = self.read_everything().await?;
            let agree = match (&last, &next) {
                (Ok(last), Ok(next)) => last.differences(next).is_empty(),
                (Err(last), Err(next)) => last == next,
                _ => false,
            };
            if agree {
                return Some(next);
            }
            last = next;
        }
        tracing::info!("the configuration changes while it is read: it is read again later");
        None
    }

    async fn read_everything(&self) -> Option<Result<Config, Problems>> {
        let (read_all, config) = (Arc::clone(&self.read_all), Arc::clone(&self.config));
        in_thread(move || read_all(&config)).await
    }

    /// Reads the files again. A change counts if a second reading agrees. Returns the problems; `None` if nothing was read
    /// that counts.
    async fn reread(&mut self) -> Option<BTreeMap<String, String>> {
        let (config, again) = (Arc::clone(&self.config), Arc::clone(&self.config));
        let mut reread = in_thread(move || config.reread()).await?;
        if !reread.is_quiet() {
            sleep(SETTLE).await;
            let second = in_thread(move || again.reread()).await?;
            if !second.agrees_with(&reread) {
                return None;
            }
            reread = second;
        }
        if let Some(config) = reread.config {
            self.adopt(config);
        }
        Some(reread.problems.into_iter().map(|problem| (problem.name.clone(), problem.to_string())).collect())
    }

    /// Takes the secrets of a configuration into use, as far as they differ.
    fn adopt(&mut self, config: Config) {
        let config = Arc::new(config);
        for Difference { key, is_live } in self.config.differences(&config) {
            if !is_live {
                continue;
            }
            if let Replacement::Replaced(count) = self.live.replace(&key, &config) {
                let what = contents_of(&key);
                tracing::info!(setting = key, count, "the {what} were replaced");
                self.metrics.count("replaced");
                self.note_for_queue(&key, &config);
            }
        }
        self.config = config;
    }

    /// Notes new signing secrets for the queue.
    fn note_for_queue(&mut self, key: &str, config: &Config) {
        let secrets = config.settings.clerk_webhook_signing_secret.as_ref();
        if let Some(secrets) = secrets.filter(|_| key == Settings::clerk_webhook_signing_secret().about.key) {
            self.queue.note_secrets(&secrets.fingerprints());
            self.is_queue_due = true;
        }
    }

    /// Lets the queue store that the new secrets are this deployment's, so that a process which starts with them alone is
    /// not refused.
    async fn inform_queue(&mut self) {
        if self.is_queue_due
            && let Ok(Ok(())) = tokio::time::timeout(QUEUE_TIMEOUT, self.queue.prepare()).await
        {
            self.is_queue_due = false;
        }
    }

    /// Notes the problems of a reading, by the key of the setting. All others are over.
    fn note_problems(&mut self, problems: BTreeMap<String, String>) {
        for setting in self.failing.keys().filter(|key| !problems.contains_key(*key)) {
            tracing::info!(setting, "the {} can be reloaded again", contents_of(setting));
        }
        for (setting, problem) in &problems {
            if self.failing.get(setting) != Some(problem) {
                let what = contents_of(setting);
                tracing::warn!(setting, "not reloaded, the {what} from before are in use: {problem}");
            }
        }
        if !problems.is_empty() {
            self.metrics.count("failed");
        }
        self.metrics.failing.set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        self.failing = problems;
    }

    /// Logs which settings differ from those in use and need a restart.
    fn report_restarts(&mut self) {
        let differences = self.started.differences(&self.config).into_iter();
        let is_in_use =
            |one: &Difference| one.is_live && self.live.has(&one.key) && self.config.has(&one.key);
        let keys: BTreeSet<String> = differences.filter(|one| !is_in_use(one)).map(|one| one.key).collect();
        if !keys.is_empty() && keys != self.restart_reported {
            let settings = keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(settings, "these settings have changed and need a restart of the process");
        }
        self.restart_reported = keys;
    }
}

/// Returns the plural by which the log names what a setting holds.
fn contents_of(key: &str) -> &'static str {
    if key == Settings::clerk_jwt_key().about.key { "public keys" } else { "secrets" }
}

/// Runs `read` in a thread of its own: the service does not wait for files. Each file has a time limit there.
async fn in_thread<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    // An error means that nobody waits any more.
    let started = thread.spawn(move || drop(sender.send(read())));
    if let Err(error) = started {
        tracing::warn!(%error, "the secrets are not read again now: the system starts no thread");
        return None;
    }
    receiver.await.ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Mutex, PoisonError};

    use rollbook_testkit::memory::queue::MemoryQueue;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Environment, FileSource, Sources};

    const ONE: &str = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
    const OTHER: &str = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3";

    fn config(secrets: &str) -> Result<Config, Problems> {
        let environment = Environment::of(&[("CLERK_WEBHOOK_SIGNING_SECRET", secrets)]);
        Config::load(&Sources { flags: &[], environment, file: FileSource::None })
    }

    /// Returns a reloader that reads these secrets one after the other.
    fn reloader(readings: &[&str]) -> Reloader {
        let started = Arc::new(config(ONE).unwrap_or_else(|problems| panic!("{problems}")));
        let readings: VecDeque<_> = readings.iter().map(|secrets| config(secrets)).collect();
        let readings = Mutex::new(readings);
        let read_all: ReadAll = Arc::new(move |_| {
            let next = readings.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            next.expect("it is not read more often")
        });
        let (live, queue) =
            (LiveSecrets::of(&started), Arc::new(MemoryQueue::new(10, Arc::new(SystemClock))));
        let metrics = ReloadMetrics::new(&Registry::new()).expect("new metrics");
        let mut reloader = Reloader::new(started, read_all, live, queue, metrics);
        reloader.is_reload_due = true;
        reloader
    }

    fn state(reloader: &Reloader) -> (usize, u64, bool) {
        let secrets = reloader.config.signing_secrets().expect("they are set").len();
        (secrets, reloader.metrics.reloads.with_label_values(&["replaced"]).get(), reloader.is_reload_due)
    }

    #[tokio::test(start_paused = true)]
    async fn after_sighup_what_is_read_counts_if_the_next_reading_agrees() {
        let both = format!("{OTHER} {ONE}");
        for readings in [&[OTHER, &both, &both][..], &["whsec_cut", &both, &both], &[ONE]] {
            let mut reloader = reloader(readings);
            assert_eq!(reloader.reload().await, Some(BTreeMap::new()), "{readings:?}");
            let expected = if readings == [ONE] { (1, 0, false) } else { (2, 1, false) };
            assert_eq!(state(&reloader), expected, "{readings:?}");
        }
        let mut changing = reloader(&[OTHER, &both, OTHER, &both, OTHER, &both]);
        assert_eq!(changing.reload().await, None);
        assert_eq!(state(&changing), (1, 0, true), "it is due again");
        let mut wrong = reloader(&["whsec_cut", "whsec_cut"]);
        let problems = wrong.reload().await.expect("it was read");
        assert!(problems[CONFIGURATION].contains("damaged or incomplete"), "{problems:?}");
        assert_eq!(state(&wrong), (1, 0, true));
    }
}
