//! Checks of queue and store before the faces start, and repeated checks afterwards.
//!
//! Constraints:
//!
//! * A server that is unreachable, or refuses the login, does not end the process. One line is logged, the
//!   faces start, and work begins once the server answers.
//! * A fault that needs manual action ends the process: a pending migration on a server, a queue of another
//!   deployment, and under `durability = strict` every weakness of the queue. All such faults are reported at once.
//!   If one appears later, the adapters refuse work until it is fixed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rollbook_core::queue::{Durability, Producer, QueueAdmin, QueueError};
use rollbook_core::store::{FeedState, FullStore, StoreError};
use rollbook_core::time::Clock;
use rollbook_core::weakness::joined;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::faces::Faces;
use crate::links::Links;
use crate::stage::Stage;
use crate::url_notes;
use crate::wire::{self, Component, Migrations, Ownership, Queue};

/// Maximum wait of the start for a server's answer. An orchestrator must not consider the process hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// First wait before an unreachable server is checked again. It doubles.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Maximum wait.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Interval of durability checks of a healthy queue: settings of a running server change seldom, and `/readyz`
/// and the metrics check by themselves.
const WATCH_EVERY: Duration = Duration::from_secs(60);

/// Warning of a worker without an instance id about a queue that has an owner.
pub(crate) const UNVERIFIED: &str = "this process can't check whether the queue belongs to its deployment";
/// Fix for [`UNVERIFIED`].
pub(crate) const UNVERIFIED_FIX: &str = "set clerk_instance_id on receivers and workers";

/// Meaning of a 200 where the operator vouches for the queue's server.
pub(crate) const TRUSTED: &str =
    "a 200 means that you vouch for the queue's server, which keeps what it acknowledges";

/// Opened and checked queue and store.
pub(crate) struct Opened {
    /// Queue.
    pub(crate) queue: Queue,
    /// Store, if a worker needs it.
    pub(crate) store: Option<Arc<dyn FullStore>>,
    /// Repeated check of the queue's durability.
    pub(crate) watch: Watch,
    /// Whether migrations must be applied as soon as the store's server answers.
    pub(crate) migrate_later: bool,
}

/// Opens what these faces need. With `migrate`, pending migrations are applied first. A process with all
/// faces always migrates its files. Returns `None` after a request to stop.
///
/// # Errors
/// The process must not start; the text contains the fix.
pub(crate) async fn open(
    config: &Config,
    faces: Faces,
    migrate: bool,
    clock: Arc<dyn Clock>,
    stage: &Stage,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Opened>> {
    let opened = open_all(config, faces, migrate, clock, &Start { stage, stop }).await;
    // An error after a request to stop is not a failure.
    if stop.is_cancelled() { Ok(None) } else { opened.map(Some) }
}

/// Progress of a start, and the request to stop it.
struct Start<'a> {
    stage: &'a Stage,
    stop: &'a CancellationToken,
}

async fn open_all(
    config: &Config,
    faces: Faces,
    migrate: bool,
    clock: Arc<dyn Clock>,
    start: &Start<'_>,
) -> anyhow::Result<Opened> {
    let is_file = |part: &&Component| part.place(config).file().is_some();
    let mut faults = Faults::default();
    for part in faces.parts().iter().filter(is_file) {
        faults.take(migrate_or_check(config, faces, migrate, *part, start).await);
    }
    if start.stop.is_cancelled() || !faults.0.is_empty() {
        return Err(faults.into_error());
    }
    start.stage.begin("opening queue and store".to_owned());
    // The files exist by now. A wrong URL is found before any connection.
    let queue = faults.take(wire::open_queue(config, clock.clone()));
    let store = if faces.worker { faults.take(wire::open_store(config, clock)) } else { None };
    if faces.worker {
        url_notes::log(config);
    }
    let mut all_answered = true;
    for part in faces.parts().iter().filter(|part| !is_file(part)) {
        let answered = migrate_or_check(config, faces, migrate, *part, start).await;
        all_answered &= faults.take(answered).unwrap_or(false);
    }
    let Some(queue) = queue.filter(|_| !start.stop.is_cancelled()) else { return Err(faults.into_error()) };
    let mut watch = Watch {
        queue: queue.admin.clone(),
        place: wire::describe(config, Component::Queue),
        strict: config.is_strict(),
        known: None,
        links: Links::of(config, &queue, store.as_ref()),
    };
    if let Some(store) = store.as_ref().filter(|_| all_answered) {
        check_store(config, &**store).await;
    }
    watch.links.log_changes();
    match watch.ask().await {
        Ok(durability) => match refuse_if_strict(config, &durability) {
            Ok(()) => watch.learn(durability),
            refused => _ = faults.take(refused),
        },
        Err(error @ QueueError::Broken(_)) => _ = faults.take::<()>(Err(error.into())),
        Err(error) => tracing::warn!("{error}; trying again until it succeeds"),
    }
    faults.take(refuse_foreign(config).await);
    if faults.0.is_empty() {
        Ok(Opened { queue, store, watch, migrate_later: migrate && !all_answered })
    } else {
        Err(faults.into_error())
    }
}

/// Reports what is wrong with a store that answered. Later users of the store check again: this opens the first connection,
/// which is logged, and finds faults that need manual action before the first delivery.
async fn check_store(config: &Config, store: &dyn FullStore) {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, store.ping()).await;
    if let Ok(Err(error @ StoreError::Deployment(_))) = answer {
        tracing::error!("the store needs manual action, deliveries wait until then: {error}");
    }
    if let Ok(Ok(feed)) = tokio::time::timeout(ANSWER_TIMEOUT, store.feed()).await
        && let Some(wrong) = feed_differs(config, &feed)
    {
        tracing::warn!("{wrong}; run: rollbook migrate");
    }
}

/// Faults that need manual action before the process can start.
#[derive(Default)]
struct Faults(Vec<anyhow::Error>);

impl Faults {
    /// Returns the result, or keeps the fault.
    fn take<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }

    /// Returns one error with all faults.
    fn into_error(mut self) -> anyhow::Error {
        match self.0.len() {
            0 => anyhow!("stopped"),
            1 => self.0.remove(0),
            count => {
                let texts: Vec<String> = self.0.iter().map(|fault| format!("- {fault:#}")).collect();
                anyhow!("{count} faults keep this process from starting:\n{}", texts.join("\n"))
            }
        }
    }
}

/// Returns whether the component answered. A file always does; opening it checks it.
async fn migrate_or_check(
    config: &Config,
    faces: Faces,
    migrate: bool,
    part: Component,
    start: &Start<'_>,
) -> anyhow::Result<bool> {
    let is_file = part.place(config).file().is_some();
    let migrate = migrate || (is_file && faces == Faces::ALL);
    if is_file && !migrate {
        // Opening refuses wrong schemas; accepted newer steps are logged here.
        if let Ok(found) = wire::pending_migrations(config, part).await {
            log_newer(&found);
        }
        return Ok(true);
    }
    let name = part.name();
    start.stage.begin(format!("opening the {name}"));
    let mut asked = start
        .stop
        .run_until_cancelled(tokio::time::timeout(ANSWER_TIMEOUT, wire::pending_migrations(config, part)))
        .await
        .map_or_else(
            || Ok(Err("stopped".to_owned())),
            |answer| answer.map(|asked| asked.map_err(|error| error.to_string())),
        )
        .unwrap_or_else(|_| Err(no_answer(&wire::describe(config, part))));
    if let Ok(Migrations { refusal: Some(refusal), .. }) = &asked {
        bail!(refusal.clone());
    }
    if let Ok(found) = &asked {
        log_newer(found);
    }
    if migrate && let Ok(pending) = asked.as_ref().map(|pending| pending.names.join(", ")) {
        let is_new = part.place(config).file().is_some_and(|path| !path.exists());
        if !pending.is_empty() && !is_new {
            tracing::info!(part = name, pending, "migrating");
        }
        start.stage.begin(format!("migrating the {name} ({pending})"));
        let applying = wire::apply_migrations(config, part, start.stop);
        asked = if is_file {
            // A migration of a file stops by itself and rolls back.
            applying.await
        } else {
            start.stop.run_until_cancelled(applying).await.unwrap_or_else(|| Err("stopped".to_owned()))
        };
    }
    match asked {
        Ok(migrations) if migrate => log_migrated(&migrations),
        Ok(migrations) if !migrations.names.is_empty() => bail!(
            "the {name} ({}) lacks migrations: {}; run: rollbook migrate, or start with --migrate",
            migrations.place,
            migrations.names.join(", ")
        ),
        Ok(_) => {}
        Err(why) if is_file => bail!(why),
        Err(why) => {
            tracing::warn!("{why}; trying again until it succeeds");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says that the schema does not do what the setting `changes` says; `None` if it does.
pub(crate) fn feed_differs(config: &Config, feed: &FeedState) -> Option<String> {
    let [setting, schema] = match (config.settings.changes, feed.is_on) {
        (true, false) => ["yes", "does not record all changes of rows"],
        (false, true) => ["no", "still records changes of rows"],
        _ => return None,
    };
    Some(format!("changes is {setting}, and the schema of the store {schema}"))
}

fn no_answer(place: &str) -> String {
    format!("{place}: no answer within {} s", ANSWER_TIMEOUT.as_secs())
}

/// Logs compatible migrations of a newer Rollbook.
fn log_newer(migrations: &Migrations) {
    if !migrations.newer.is_empty() {
        tracing::warn!(
            part = migrations.part.name(),
            newer = migrations.newer.join(", "),
            "a newer Rollbook has migrated this schema; this one works with it, since these steps only add: update it soon"
        );
    }
}

fn log_migrated(migrations: &Migrations) {
    if !migrations.names.is_empty() {
        tracing::info!(part = migrations.part.name(), applied = migrations.names.join(", "), "migrated");
    }
}

/// Returns an error if durability must be strict and the queue could lose acknowledged deliveries.
pub(crate) fn refuse_if_strict(config: &Config, durability: &Durability) -> anyhow::Result<()> {
    if !config.is_strict() || !durability.is_degraded() {
        return Ok(());
    }
    let weaknesses = joined(&durability.weaknesses, "\n  ");
    Err(anyhow!(
        "durability is strict, and the queue ({}) could lose acknowledged deliveries:\n  {weaknesses}",
        wire::describe(config, Component::Queue)
    ))
}

/// Returns an error if the queue belongs to another deployment. If the server does not answer, each later call checks.
async fn refuse_foreign(config: &Config) -> anyhow::Result<()> {
    match tokio::time::timeout(ANSWER_TIMEOUT, wire::ownership(config)).await {
        Ok(Some(Ok(Ownership { refusal: Some(refusal), .. }))) => Err(anyhow!(refusal)),
        Ok(Some(Ok(Ownership { owner: Some(owner), is_unverified: true, .. }))) => {
            tracing::warn!(owner, "{UNVERIFIED}: {UNVERIFIED_FIX}");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks the queue's durability repeatedly and logs changes.
pub(crate) struct Watch {
    queue: Arc<dyn QueueAdmin>,
    place: String,
    strict: bool,
    known: Option<Durability>,
    links: Links,
}

impl Watch {
    async fn ask(&self) -> Result<Durability, QueueError> {
        // The call only reads, so it may be cancelled.
        tokio::time::timeout(ANSWER_TIMEOUT, self.queue.durability())
            .await
            .unwrap_or_else(|_| Err(QueueError::Unavailable(no_answer(&self.place))))
    }

    fn learn(&mut self, durability: Durability) {
        if self.known.as_ref() == Some(&durability) {
            return;
        }
        if !durability.vouched.is_empty() {
            let unproved = durability.vouched.join("; ");
            tracing::warn!("durability is trusted: {TRUSTED}. Not proved: {unproved}");
        } else if !durability.is_degraded() {
            tracing::info!("a 200 means: on the disk (fsynced)");
        }
        for part in &durability.unreachable {
            tracing::warn!("a part of the queue does not answer, all others work: {part}");
        }
        for weakness in &durability.weaknesses {
            if self.strict {
                tracing::error!(
                    "durability is strict, and nothing is taken or applied until this is fixed: {weakness}"
                );
            } else {
                tracing::warn!("degraded: {weakness}");
            }
        }
        self.known = Some(durability);
    }

    /// Runs until `stop`. Users of the queue log that it is unreachable.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut wait = if self.known.is_some() { WATCH_EVERY } else { ASK_AGAIN };
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            self.links.log_changes();
            match stop.run_until_cancelled(self.ask()).await {
                Some(Ok(durability)) => {
                    self.learn(durability);
                    wait = WATCH_EVERY;
                }
                _ => wait = (wait * 2).min(ASK_AGAIN_MAX),
            }
        }
    }
}

/// Sets up all parts of the queue as soon as they answer, then waits for `stop`. Users of the queue log that
/// it is unreachable.
pub(crate) async fn prepare_queue(producer: Arc<dyn Producer>, stop: CancellationToken) {
    let mut wait = ASK_AGAIN;
    while matches!(stop.run_until_cancelled(producer.prepare()).await, Some(Err(_))) {
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        wait = (wait * 2).min(ASK_AGAIN_MAX);
    }
    stop.cancelled().await;
}

/// Applies the store's migrations as soon as its server answers, then waits for `stop`.
pub(crate) async fn migrate_later(config: Arc<Config>, stop: CancellationToken) {
    let (mut wait, mut said) = (ASK_AGAIN, String::new());
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        match stop.run_until_cancelled(wire::apply_migrations(&config, Component::Store, &stop)).await {
            Some(Ok(migrations)) => {
                log_migrated(&migrations);
                return stop.cancelled().await;
            }
            Some(Err(why)) if why != said => {
                tracing::warn!("migrations are not applied yet: {why}; trying again");
                said = why;
            }
            _ => {}
        }
        wait = (wait * 2).min(ASK_AGAIN_MAX);
    }
}
