//! Checks of queue and store: reachable, usable, durable, and the work that waits in them.
//!
//! Checks read, or roll back what they write. A Redis queue cannot roll back: there, one field of the queue's own is written
//! (`asked_at`), and no message.

use std::path::Path;
use std::sync::Arc;

use rollbook_core::queue::{Durability, Producer, QueueError};
use rollbook_core::store::{FullStore, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::weakness::Weakness;

use super::backlog::{AUDIT, DEAD_LETTERS, DEPTH, audit, dead_letters, depth};
use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use super::{ASK_TIMEOUT, forwards, in_time, no_answer, notices};
use crate::config::{Config, Place};
use crate::faces::Faces;
use crate::startup::{TRUSTED, UNVERIFIED, UNVERIFIED_FIX};
use crate::wire::{self, Component, Migrations, PendingError, Queue};

const DURABILITY: &str = "durability";
/// Fix where the finding says itself what to do.
const FOLLOW: &str = "do what this line says; workers continue by themselves then, without a restart";

/// Checks the queue, and everything that can be asked of one that answers.
pub(super) async fn queue(config: &Config, needs: Faces, clock: &Arc<dyn Clock>) -> Findings {
    let asked = async {
        let unusable = |why: String| failed("queue", why, fix(config, Component::Queue));
        not_there(config, needs, Component::Queue).await?;
        let queue =
            wire::open_queue(config, clock.clone()).map_err(|error| unusable(format!("{error:#}")))?;
        let durability = in_time(queue.admin.durability()).await.map_err(unusable)?;
        Ok((queue, durability))
    };
    let (queue, durability) = match asked.await {
        Ok(asked) => asked,
        Err(finding) => {
            let unknown = not_checked([DURABILITY, DEPTH, DEAD_LETTERS, AUDIT]);
            return std::iter::once(finding).chain(unknown).collect();
        }
    };
    let unreachable = durability.unreachable.iter().map(|part| {
        let what =
            format!("a shard's server does not answer, and deliveries for it are answered 503: {part}");
        failed("queue_part", what, "start that server, or let a replica take over; all other shards work")
    });
    let mut findings = Box::pin(contents(config, &queue, clock.now())).await;
    findings.splice(1..1, weaknesses(config, &durability).into_iter().chain(unreachable));
    findings.extend(notices::full_coverage(config).await);
    findings.extend(notices::newer(config, Component::Queue).await);
    findings
}

/// Checks that the queue answers, and what waits in it.
async fn contents(config: &Config, queue: &Queue, now: Timestamp) -> Findings {
    let admin = &*queue.admin;
    let mut place = wire::describe(config, Component::Queue);
    let mut is_unverified = false;
    let asked = async { Ok::<_, std::convert::Infallible>(wire::ownership(config).await) };
    if let Ok(Some(Ok(ownership))) = in_time(asked).await {
        let owner = ownership.owner.unwrap_or_else(|| "none yet".to_owned());
        place = format!("{place}, keys {}, owner {owner}", ownership.keys);
        is_unverified = ownership.is_unverified;
    }
    match in_time(admin.stats()).await {
        Ok(stats) => {
            let audit = audit(in_time(admin.audit(false)).await);
            let queue = match rehearse_delivery(config, &*queue.producer).await {
                Err(why) => {
                    let found = format!("a delivery would be refused: {why}");
                    failed("queue", found, fix(config, Component::Queue))
                }
                Ok(_) if is_unverified => warning("queue", format!("{place}: {UNVERIFIED}"), UNVERIFIED_FIX),
                Ok(true) => ok("queue", format!("{place}; it takes deliveries (tried without storing one)")),
                Ok(false) => ok("queue", place),
            };
            vec![queue, depth(config, &stats, now), dead_letters(&stats), audit]
        }
        Err(why) => std::iter::once(failed("queue", why, fix(config, Component::Queue)))
            .chain(not_checked([DEPTH, DEAD_LETTERS, AUDIT]))
            .collect(),
    }
}

fn not_checked<const N: usize>(checks: [&'static str; N]) -> [Finding; N] {
    checks.map(|check| skipped(check, "not checked: see the line queue"))
}

/// Checks whether a delivery would be taken; `false` if that can't be tried. A full queue has its own finding.
async fn rehearse_delivery(config: &Config, producer: &dyn Producer) -> Result<bool, String> {
    if !in_time(wire::backend(config, Component::Queue).exists()).await? {
        return Ok(false);
    }
    match tokio::time::timeout(ASK_TIMEOUT, producer.rehearse()).await {
        Ok(Err(QueueError::Full { .. })) => Ok(true),
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(no_answer()),
    }
}

fn weaknesses(config: &Config, durability: &Durability) -> Findings {
    let Durability { weaknesses, vouched, .. } = durability;
    if weaknesses.is_empty() && vouched.is_empty() {
        return vec![ok(DURABILITY, "a delivery is answered 200 only when it is on the disk (fsynced)")];
    }
    let trusted = (!vouched.is_empty())
        .then(|| ok(DURABILITY, format!("trusted: {TRUSTED}. Not proved: {}", vouched.join("; "))));
    let found = |Weakness { what, fix }: &Weakness| {
        if config.is_strict() {
            let found = format!("{what}; durability is strict, so no process starts or works with it");
            failed(DURABILITY, found, &**fix)
        } else {
            warning(DURABILITY, what, &**fix)
        }
    };
    trusted.into_iter().chain(weaknesses.iter().map(found)).collect()
}

/// Checks the store. A receiver needs none.
pub(super) async fn store(config: &Config, needs: Faces, clock: &Arc<dyn Clock>) -> Findings {
    if !needs.worker {
        let why = "a receiver needs none: it takes deliveries while the store is unreachable";
        return vec![skipped("store", why)];
    }
    if let Err(finding) = not_there(config, needs, Component::Store).await {
        return vec![finding];
    }
    let (answer, left, theirs, feed) = match wire::open_store(config, clock.clone()) {
        Ok(store) => {
            let left = in_time(store.cascades(None, 1)).await.ok();
            let theirs = notices::of_a_team(&*store).await;
            let feed = forwards::feed(config, &*store, clock.now()).await;
            (answer(config, &*store).await, left, theirs, feed)
        }
        Err(error) => {
            let closed = failed("store", format!("{error:#}"), fix(config, Component::Store));
            (closed, None, Vec::new(), Vec::new())
        }
    };
    let left = left.and_then(|left| notices::cascades(&left, clock.now()));
    let newer = notices::newer(config, Component::Store).await;
    let rights = notices::rights(config).await;
    std::iter::once(answer).chain(newer).chain(left).chain(feed).chain(theirs).chain(rights).collect()
}

/// Checks whether the store answers, and takes what a worker writes.
async fn answer(config: &Config, store: &dyn FullStore) -> Finding {
    let (why, fix) = match tokio::time::timeout(ASK_TIMEOUT, store.ping()).await {
        Ok(Ok(())) => return rehearse_batches(config, store).await,
        // The text says what to do: such as which rights to grant.
        Ok(Err(StoreError::Deployment(why))) => (why, FOLLOW.to_owned()),
        Ok(Err(error)) => (error.to_string(), fix(config, Component::Store)),
        Err(_) => (no_answer(), fix(config, Component::Store)),
    };
    failed("store", why, fix)
}

/// Checks whether the statements of a worker succeed.
async fn rehearse_batches(config: &Config, store: &dyn FullStore) -> Finding {
    let place = wire::describe(config, Component::Store);
    let sound = format!("{place}; no migration is pending and no right is missing");
    let refused = |why: &str, fix: String| {
        let found =
            format!("a worker's statements are refused (tried and rolled back, nothing was kept): {why}");
        failed("store", found, fix)
    };
    match tokio::time::timeout(ASK_TIMEOUT, store.rehearse()).await {
        Ok(Ok(true)) => {
            let tried =
                "a worker's statements succeed on every table (tried and rolled back, nothing was kept)";
            ok("store", format!("{sound}; {tried}"))
        }
        Ok(Ok(false)) => ok("store", sound),
        Ok(Err(StoreError::Event(why))) => warning(
            "store",
            format!(
                "{place}: made-up rows are refused (rolled back, nothing was kept), so real ones may be: {why}"
            ),
            "check the triggers and constraints of this table; rollbook dead-letters list shows the refused messages",
        ),
        Ok(Err(StoreError::Deployment(why))) => refused(&why, FOLLOW.to_owned()),
        Ok(Err(error)) => refused(&error.to_string(), fix(config, Component::Store)),
        Err(_) => refused(&no_answer(), fix(config, Component::Store)),
    }
}

/// Reports why a part can't be opened yet: no file exists, or migrations are pending.
async fn not_there(config: &Config, needs: Faces, part: Component) -> Result<(), Finding> {
    // A process with all faces creates and migrates files itself.
    let by_itself = needs.receiver && needs.worker && part.place(config).file().is_some();
    if let Some(path) = part.place(config).file().filter(|path| !path.exists()) {
        return Err(missing(config, part, path, by_itself));
    }
    let asked = tokio::time::timeout(ASK_TIMEOUT, wire::pending_migrations(config, part)).await;
    let pending = match asked.unwrap_or_else(|_| Err(no_answer().into())) {
        Ok(Migrations { refusal: Some(refusal), .. }) => {
            let fix = "do what this line says: until then no worker works on this database";
            return Err(failed(part.name(), refusal, fix));
        }
        Ok(pending) if pending.names.is_empty() => return Ok(()),
        Ok(pending) => pending,
        // The text says what to do: such as which rights to grant.
        Err(PendingError::Manual(why)) => return Err(failed(part.name(), why, FOLLOW)),
        Err(PendingError::Unavailable(why)) => return Err(failed(part.name(), why, fix(config, part))),
    };
    let found = format!("{} lacks migrations: {}", pending.place, pending.names.join(", "));
    Err(if by_itself {
        warning(part.name(), found, "rollbook serve applies them when it starts; or now: rollbook migrate")
    } else {
        failed(part.name(), found, "rollbook migrate")
    })
}

/// Reports a file that does not exist. If the other one does, it was not the first start that is missing.
fn missing(config: &Config, part: Component, path: &Path, by_itself: bool) -> Finding {
    let found = format!("there is no {}", path.display());
    let others = Component::ALL.into_iter().filter(|other| *other != part);
    let other = others.filter_map(|other| other.place(config).file()).find(|other| other.exists());
    match other {
        Some(other) if by_itself => warning(
            part.name(),
            format!("{found}, although {} is there: it was removed or moved", other.display()),
            "put it back from a backup; or let rollbook serve make an empty one, and fill a store by rollbook reconcile",
        ),
        _ if by_itself => {
            skipped(part.name(), format!("{found} yet: rollbook serve makes it at its first start"))
        }
        _ => {
            let fix = "rollbook migrate makes it; if it should exist, name its folder: --data-dir";
            failed(part.name(), format!("{found} yet"), fix)
        }
    }
}

/// Returns the fix for a part that does not answer as it should, in addition to its error.
fn fix(config: &Config, part: Component) -> String {
    let check = match part.place(config) {
        Place::Sqlite(path) => {
            format!("{} is a file of Rollbook's, and that its disk has room and no errors", path.display())
        }
        Place::Server(_) => {
            let setting = match part {
                Component::Queue => config.queue_setting().key,
                Component::Store => "database_url",
            };
            format!("the server runs and accepts this user, and that {setting} is right")
        }
    };
    format!("do what this line says; else check that {check}")
}
