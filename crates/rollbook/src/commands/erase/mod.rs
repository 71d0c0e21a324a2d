//! `erase`: removes a person's data from rows, ledger, queue and dead letters.
//!
//! Constraints:
//!
//! * The store first: from then on nothing that still is in the queue, or comes later, can bring anything back. Then
//!   the queue, looked through to its end until a look finds nothing but what has just come.
//! * To run it again is harmless, and right after any failure: what hangs on a large organization goes in steps, and
//!   a second run goes on where the first one ended.
//! * What is another's stays, and is told; so is what can't be reached.

mod addresses;
mod look;
mod person;
mod remains;
mod report;
mod search;

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATIONS, RESOURCES, Resource, USERS,
};
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::{ErasedCounts, ErasureProgress, RowView, Store, StoreError};
use rollbook_core::time::Clock;

use self::look::Found;
use self::person::{Key, Person};
use self::report::{Done, Mentions};
use super::{HIDES_FIX, named, on_all_cores};
use crate::cli::{Erase, Output};
use crate::clock::SystemClock;
use crate::config::{Config, Place, Problems};
use crate::output::{harmless, print, print_json, say};
use crate::progress::ProgressLine;
use crate::wire::{self, Component};
use crate::words::many;

/// How often the queue is looked through again because a message taught an address that was not known before.
const LOOKS_MAX: usize = 4;
/// How often the queue is looked through for what came meanwhile.
const ROUNDS_MAX: usize = 4;
/// The most rows of others that are looked at by one id or address, to be told.
const MENTIONS_MAX: usize = 1_000;
/// The most organizations whose rows are looked at for that.
const ORGANIZATIONS_MAX: usize = 1_000;

/// Erases.
///
/// # Errors
/// A part failed, some rows refuse, or nobody said yes. The text says what is done already.
pub(crate) fn run(config: &Config, arguments: &Erase) -> anyhow::Result<()> {
    check(config, arguments)?;
    on_all_cores(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let queue = wire::open_queue(config, clock.clone())?.admin;
        let store = wire::open_store(config, clock.clone())?;
        let parts = Parts { store: &*store, queue: &*queue, clock: &*clock };
        let resource = kind(&*store, &arguments.id).await?;
        let mut person = Person::new(resource, &arguments.id, &arguments.addresses);
        let found = parts.find(&mut person).await.context("nothing was erased")?;
        if arguments.dry_run || !arguments.yes {
            let mentions = mentions(&*store, &person).await.context("nothing was erased")?;
            if arguments.dry_run {
                return match arguments.output {
                    Output::Text => Ok(print(&report::plan(&person, &found, &mentions))?),
                    Output::Json => Ok(print_json(&report::json(&person, &found, None, &mentions, &[]))?),
                };
            }
            say(&report::plan(&person, &found, &mentions));
            say("This can't be undone. Type yes to go on:");
            if !agreed(&mut io::stdin().lock()) {
                bail!("nothing was erased");
            }
        }
        let done = parts.erase(&mut person, found).await?;
        let mentions = mentions(&*store, &person).await.context("all is erased; what stays is not known")?;
        let rewritten = if arguments.vacuum { vacuum(config)? } else { Vec::new() };
        let remains = remains::all(config, &harmless(&person.id), &rewritten);
        match arguments.output {
            Output::Text => print(&report::done(&person, &done, &mentions, &remains))?,
            Output::Json => {
                print_json(&report::json(&person, &Found::default(), Some(&done), &mentions, &remains))?;
            }
        }
        if done.left.is_empty() {
            return Ok(());
        }
        bail!("the erasure is not complete: {}", harmless(&done.left.join("; ")))
    })
}

/// Refuses what can't be meant, before anything is opened.
fn check(config: &Config, arguments: &Erase) -> Result<(), Problems> {
    if arguments.id.starts_with("msg_") {
        let fix = "a delivery has nobody's data but in the queue: rollbook dead-letters discard removes a dead letter";
        return Err(Problems::one(format!("ID {:?}", arguments.id), "is a delivery's", fix));
    }
    let is_file = |part: &Component| matches!(part.place(config), Place::Sqlite(_));
    if arguments.vacuum && !Component::ALL.iter().any(is_file) {
        return Err(Problems::one(
            "--vacuum",
            "is for files of SQLite, and there are none here",
            "leave it out",
        ));
    }
    if !arguments.dry_run && !arguments.yes && !io::stdin().is_terminal() {
        return Err(Problems::one(
            "--yes",
            "is missing, and there is no terminal to ask at",
            "look first with --dry-run, then say --yes",
        ));
    }
    Ok(())
}

/// Whether the next line is a yes.
fn agreed(input: &mut impl BufRead) -> bool {
    let mut line = String::new();
    input.read_line(&mut line).is_ok() && line.trim() == "yes"
}

/// What an id is of: by how it begins, or by the table that has it.
async fn kind(store: &dyn Store, id: &str) -> anyhow::Result<&'static Resource> {
    if let Some(resource) = named(id) {
        return Ok(resource);
    }
    for resource in RESOURCES {
        if store.get(resource, id).await.context("nothing was erased")?.is_some() {
            return Ok(resource);
        }
    }
    let fix = "write the id of a user (user_…) or an organization (org_…), or one that has a row";
    Err(Problems::one(format!("ID {id:?}"), "is no user's and no organization's, and no row has it", fix)
        .into())
}

/// What an erasure works on.
struct Parts<'a> {
    store: &'a dyn Store,
    queue: &'a dyn QueueAdmin,
    clock: &'a dyn Clock,
}

impl Parts<'_> {
    /// All that is theirs, as far as it is known by now.
    async fn find(&self, person: &mut Person) -> anyhow::Result<Found> {
        person.search_again();
        person.look_at_rows(self.store).await?;
        let mut found = Found::default();
        for _ in 0..LOOKS_MAX {
            let known = person.addresses.own().clone();
            found = look::through(self.queue, person).await?;
            // What left the queue before it was looked at is a row by now.
            person.look_at_rows(self.store).await?;
            if *person.addresses.own() == known {
                break;
            }
        }
        Ok(found)
    }

    /// Removes what was found, and what is found then, until nothing is or only what has just come.
    async fn erase(&self, person: &mut Person, first: Found) -> anyhow::Result<Done> {
        let mut done = Done::default();
        let mut found = first;
        let mut erased = 0;
        for _ in 0..ROUNDS_MAX {
            self.erase_rows(person, &mut erased, &mut done).await?;
            let removed = found.remove(self.queue).await;
            done.removed += removed.with_context(|| failed_at("the queue", person, &done))?;
            done.found.add(&found);
            found =
                self.find(person).await.with_context(|| failed_at("the search for more", person, &done))?;
            if found.ids.is_empty() && person.subjects.len() == erased {
                break;
            }
        }
        self.erase_rows(person, &mut erased, &mut done).await?;
        if let Some(why) = &done.refused {
            done.left.push(format!("not all rows are erased: {why}"));
        } else {
            let left = person.content_left(self.store).await;
            let left = left.with_context(|| failed_at("the look at what is left", person, &done))?;
            done.left.extend(keeping(&left));
        }
        let hidden = self.store.hidden_tables().await;
        let hidden = hidden.with_context(|| failed_at("the look at what policies hide", person, &done))?;
        done.left.extend(hiding(&hidden));
        // What waits or is in hand has come since the rows are erased: a worker keeps nothing of it.
        done.coming = found.waiting + found.leased;
        done.found.mentions = found.mentions;
        done.found.unrecognized = found.unrecognized;
        if found.delayed + found.dead + found.unreadable > 0 {
            done.left.push("messages about them keep coming that can't be applied; run it again".to_owned());
        }
        Ok(done)
    }

    /// Erases the subjects, where there are more than so many.
    async fn erase_rows(&self, person: &Person, erased: &mut usize, done: &mut Done) -> anyhow::Result<()> {
        if person.subjects.len() == *erased {
            return Ok(());
        }
        let shown = Mutex::new((ProgressLine::new(), ErasedCounts::default()));
        let progress = |counts: ErasedCounts| {
            let (line, latest) = &mut *shown.lock().unwrap_or_else(PoisonError::into_inner);
            *latest = counts;
            if line.is_due() {
                line.show(&steps(&counts));
            }
        };
        let counts = self
            .store
            .erase_in_steps(&person.erasable(), self.clock.now(), &progress as &ErasureProgress<'_>)
            .await;
        let (line, latest) = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        line.end();
        *erased = person.subjects.len();
        let counts = match counts {
            // Some rows are refused. Nothing brings the others back, and the queue's part does not depend on them.
            Err(StoreError::Event(why)) => {
                done.refused = Some(why);
                latest
            }
            counts => counts.with_context(|| match latest {
                ErasedCounts { rows: 0, .. } => failed_at("the store", person, done),
                so_far => format!("{}; the rest failed; run it again, it goes on from there", steps(&so_far)),
            })?,
        };
        done.rows = done.rows.max(counts.rows);
        done.ledger += counts.ledger;
        Ok(())
    }
}

/// That some rows have content although they were erased; nothing where none has.
fn keeping(left: &BTreeSet<Key>) -> Option<String> {
    let (table, id) = left.first()?;
    let has = if left.len() == 1 { "has" } else { "have" };
    Some(format!(
        "{} still {has} content, such as {table} {id}. A trigger of the table keeps it. Fix the trigger, then run it again",
        many(left.len() as u64, "row")
    ))
}

/// That policies may hide rows; nothing where none does.
fn hiding(tables: &[String]) -> Option<String> {
    let tables = (!tables.is_empty()).then(|| tables.join(", "))?;
    Some(format!(
        "row-level security policies on {tables} apply to this role: rows that they hide can't be erased or checked. {HIDES_FIX}; \
         then run it again"
    ))
}

/// What is done when something fails, and that running it again is right.
fn failed_at(what: &str, person: &Person, done: &Done) -> String {
    let hint = if done.rows > 0 && !person.addresses.own().is_empty() {
        ", with --also for each address of theirs, since no row tells them any more"
    } else {
        ""
    };
    format!("{}{what} failed; run it again{hint}", so_far(done))
}

/// How far an erasure has come.
fn steps(counts: &ErasedCounts) -> String {
    format!("erased so far: {}, {} of the ledger", many(counts.rows, "row"), many(counts.ledger, "line"))
}

fn so_far(done: &Done) -> String {
    if done.rows == 0 {
        return "nothing was erased: ".to_owned();
    }
    format!("rows and ledger are erased, and {} messages removed: ", done.removed)
}

/// Rows of others that hold a copy of theirs.
async fn mentions(store: &dyn Store, person: &Person) -> Result<Mentions, StoreError> {
    let mut mentions = Mentions::default();
    if *person.resource != USERS {
        return Ok(mentions);
    }
    let others = |resource: &'static Resource, rows: Vec<RowView>| {
        let has_content = |row: &RowView| !row.columns["data"].is_null() && !person.has(resource, &row.id);
        rows.into_iter().filter(has_content).collect::<Vec<_>>()
    };
    let ids = |resource, rows| others(resource, rows).into_iter().map(|row| row.id).collect::<Vec<_>>();
    let sent = store.rows_where(&ORGANIZATION_INVITATIONS, "inviter_id", &person.id, MENTIONS_MAX).await?;
    mentions.invitations = ids(&ORGANIZATION_INVITATIONS, sent);
    let made = store.rows_where(&ORGANIZATIONS, "created_by", &person.id, MENTIONS_MAX).await?;
    let made: BTreeSet<String> = ids(&ORGANIZATIONS, made).into_iter().collect();
    mentions.organizations = made.len() as u64;
    let addresses: Vec<String> = person.addresses.own().iter().cloned().collect();
    let columns = ["affiliation_email_address"];
    let rows = search::rows_naming(store, &ORGANIZATION_DOMAINS, &columns, &addresses).await?;
    mentions.domains.extend(ids(&ORGANIZATION_DOMAINS, rows));
    // What outlives its organization is billing: it tells who paid for it.
    let links = RESOURCES.into_iter().flat_map(|of| of.links.iter().map(move |link| (of, link)));
    let billing: Vec<_> = links.filter(|(_, link)| *link.parent == ORGANIZATIONS && !link.cascades).collect();
    for organization in person.organizations.union(&made).take(ORGANIZATIONS_MAX) {
        for (resource, link) in &billing {
            let rows = store.rows_where(resource, link.column, organization, MENTIONS_MAX).await?;
            let naming =
                others(resource, rows).into_iter().filter(|row| person.is_named_in(&row.columns["data"]));
            mentions.billing.extend(naming.map(|row| row.id));
        }
    }
    Ok(mentions)
}

/// Rewrites the files of SQLite. Returns the parts that are such.
fn vacuum(config: &Config) -> anyhow::Result<Vec<Component>> {
    let mut rewritten = Vec::new();
    for part in Component::ALL {
        let written = wire::backend(config, part).rewrite();
        if written.map_err(|why| anyhow::anyhow!("all is erased; but {why}; run it again"))? {
            rewritten.push(part);
        }
    }
    Ok(rewritten)
}

#[cfg(test)]
mod tests;
