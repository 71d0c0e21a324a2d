//! `erase`: removes a person's data from rows, ledger, queue and dead letters.
//!
//! Constraints:
//!
//! * An erasure first *judges* who the person is (which addresses are proved), then *learns* what belongs to
//!   the person. Each needs one scan of the queue. Each round of the erasure needs one more: see
//!   [`SCANS_MAX`].
//! * The store is erased first: from then on nothing in the queue, and nothing that arrives later, restores
//!   anything. Then the messages are removed, until a scan finds only messages that have just arrived.
//! * A second run is harmless, also after any failure. It continues where the first one ended.
//! * Data of others stays and is reported, and so are copies that cannot be reached.

pub(crate) mod addresses;
mod copies;
mod person;
mod progress;
mod report;
mod scan;
mod search;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATIONS, RESOURCES, Resource, USERS,
};
use rollbook_core::queue::{QueueAdmin, QueueError};
use rollbook_core::store::{ErasedCounts, ErasureProgress, FullStore, RowView, StoreError};
use rollbook_core::time::Clock;

pub use self::addresses::Rejection;
pub use self::copies::{Backend, BackendKind, RemainingCopy, remaining_copies};
use self::person::Person;
pub use self::progress::{Progress, ReportProgress};
pub use self::report::{Mentions, RejectedAddress, Removed, Report, RowName};
pub use self::scan::Found;
use self::search::Key;
use crate::words::many;

/// Maximum number of rounds: a round erases rows, removes messages, and searches for what arrived meanwhile.
const ROUNDS_MAX: usize = 3;
/// Maximum number of scans of the queue per erasure: one to judge, one to learn, one per round.
pub const SCANS_MAX: usize = 2 + ROUNDS_MAX;
/// Maximum number of rows of others that are read by one id or address, to be reported.
const MENTIONS_MAX: usize = 1_000;
/// Maximum number of organizations of which billing rows are read for that.
const ORGANIZATIONS_MAX: usize = 1_000;

/// Fix for row-level security policies that may hide rows.
pub const HIDDEN_ROWS_FIX: &str = "let this role read and write all rows: ALTER ROLE … BYPASSRLS, or CREATE POLICY … TO this role USING (true)";

/// Failure of the store or the queue during an erasure.
#[derive(Debug, thiserror::Error)]
#[error("{progress}")]
pub struct EraseError {
    /// A part failed. The error says what is done already, what failed, and what to do.
    progress: String,
    source: PortError,
}

/// Failure of a port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Failure of the queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Failure of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ports that an erasure works on.
#[derive(Clone, Copy)]
pub struct Ports<'a> {
    /// Store to erase from.
    pub store: &'a dyn FullStore,
    /// Queue to remove messages from.
    pub queue: &'a dyn QueueAdmin,
    /// Clock that the erasure floor is read from.
    pub clock: &'a dyn Clock,
    /// Called with the progress.
    pub progress: &'a ReportProgress<'a>,
}

/// An erasure: planned, or in progress.
pub struct Erasure<'a> {
    ports: Ports<'a>,
    person: Person,
    found: Found,
}

/// Progress of an erasure.
#[derive(Default)]
struct Done {
    /// Rows without content now.
    rows: u64,
    /// Ledger entries removed.
    ledger: u64,
    /// Messages found and removed.
    found: Found,
    /// Number of messages that still existed when they were removed.
    removed: u64,
    /// Reason for which some rows keep their content.
    refused: Option<String>,
    /// Work that is left to do, as sentences; empty if the erasure is complete.
    left: Vec<String>,
    /// Number of messages that arrived last and are left to the workers.
    coming: u64,
}

impl<'a> Erasure<'a> {
    /// Judges who the person is, then learns what belongs to the person. `addresses` are taken as proved. Reads only.
    ///
    /// # Errors
    /// Store or queue cannot be read.
    pub async fn plan(
        ports: Ports<'a>,
        resource: &'static Resource,
        id: &str,
        addresses: &[String],
    ) -> Result<Self, PortError> {
        let person = Person::new(resource, id, addresses);
        let mut erasure = Self { ports, person, found: Found::default() };
        erasure.judge().await?;
        erasure.found = erasure.learn().await?;
        Ok(erasure)
    }

    /// Judges who the person is, by the row, by the messages about it, and by the rows of other users.
    async fn judge(&mut self) -> Result<(), PortError> {
        if *self.person.resource == USERS {
            scan::own_objects(self.ports.queue, &mut self.person).await?;
        }
        Ok(self.person.judge(self.ports).await?)
    }

    /// Learns what belongs to the person: rows, and messages in the queue.
    async fn learn(&mut self) -> Result<Found, PortError> {
        let ports = self.ports;
        self.person.search_again();
        self.person.judge(ports).await?;
        self.person.learn(ports).await?;
        let found = scan::messages_of(self.ports.queue, &mut self.person).await?;
        // A message that left the queue before the scan is a row now.
        self.person.judge(ports).await?;
        self.person.learn(ports).await?;
        Ok(found)
    }

    /// Returns whether store or queue knows anything of the person.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn is_known(&self) -> Result<bool, StoreError> {
        let (person, found) = (&self.person, &self.found);
        if person.was_known.unwrap_or_default() || !person.rows.is_empty() || found.all() + found.mentions > 0
        {
            return Ok(true);
        }
        Ok(self.preview().await?.was_known)
    }

    /// Reports the plan.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn preview(&self) -> Result<Report, StoreError> {
        let mentions = mentions(self.ports, &self.person).await?;
        Ok(Report::new(&self.person, &self.found, None, mentions))
    }

    /// Erases the rows, and removes the messages, until only messages are found that have just arrived.
    ///
    /// # Errors
    /// Store or queue fails. The error says what is done already.
    pub async fn run(mut self) -> Result<Report, EraseError> {
        let mut done = Done::default();
        let mut erased = 0;
        for _ in 0..ROUNDS_MAX {
            self.erase_rows(&mut erased, &mut done).await?;
            let removed = self.found.remove(self.ports.queue).await;
            done.removed += removed.map_err(|error| self.failed("the queue", &done, error))?;
            done.found.add(&self.found);
            self.found =
                self.learn().await.map_err(|error| self.failed("the search for more", &done, error))?;
            if self.found.ids.is_empty() && self.person.subjects.len() == erased {
                break;
            }
        }
        self.erase_rows(&mut erased, &mut done).await?;
        self.verify(&mut done).await?;
        let mentions = mentions(self.ports, &self.person).await.map_err(|error| EraseError {
            progress: "the erasure is done; the rows of others that mention the person are unknown"
                .to_owned(),
            source: error.into(),
        })?;
        Ok(Report::new(&self.person, &done.found, Some(&done), mentions))
    }

    /// Notes what is left to do.
    async fn verify(&mut self, done: &mut Done) -> Result<(), EraseError> {
        let store = self.ports.store;
        if let Some(why) = &done.refused {
            done.left.push(format!("not all rows are erased: {why}"));
        } else {
            let left = self.person.content_left(self.ports).await;
            let left = left.map_err(|error| self.failed("the check of the rows", done, error))?;
            done.left.extend(with_content(&left));
        }
        let hidden = store.hidden_tables().await;
        let hidden = hidden.map_err(|error| self.failed("the check of the policies", done, error))?;
        done.left.extend(hiding(&hidden));
        let found = &self.found;
        // Waiting and leased messages arrived after the rows were erased: workers store nothing of them.
        done.coming = found.waiting + found.leased;
        done.found.mentions = found.mentions;
        done.found.unrecognized = found.unrecognized;
        if found.delayed + found.dead_letters + found.unreadable > 0 {
            let left = "messages about the id that cannot be applied keep arriving; run it again";
            done.left.push(left.to_owned());
        }
        Ok(())
    }

    /// Erases the rows of the person, if there are more than `erased`.
    async fn erase_rows(&self, erased: &mut usize, done: &mut Done) -> Result<(), EraseError> {
        if self.person.subjects.len() == *erased {
            return Ok(());
        }
        let latest = Mutex::new(ErasedCounts::default());
        let report = |counts: ErasedCounts| {
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = counts;
            (self.ports.progress)(Progress::Erasing(counts));
        };
        let at = self.ports.clock.now();
        let subjects = self.person.erasable();
        let counts = self.ports.store.erase_in_steps(&subjects, at, &report as &ErasureProgress<'_>).await;
        let latest = latest.into_inner().unwrap_or_else(PoisonError::into_inner);
        *erased = self.person.subjects.len();
        let counts = match counts {
            Ok(counts) => counts,
            // Some rows are refused. The others stay erased, and the queue does not depend on them.
            Err(StoreError::Event(why)) => {
                done.refused = Some(why);
                latest
            }
            Err(error) if latest.rows == 0 => return Err(self.failed("the store", done, error)),
            Err(error) => {
                let progress = format!(
                    "{}; the rest failed; run it again, it continues from there",
                    Progress::Erasing(latest)
                );
                return Err(EraseError { progress, source: error.into() });
            }
        };
        done.rows = done.rows.max(counts.rows);
        done.ledger += counts.ledger;
        Ok(())
    }

    /// Reports what is done before a failure, and how to continue.
    fn failed(&self, what: &str, done: &Done, source: impl Into<PortError>) -> EraseError {
        let hint = if done.rows > 0 && !self.person.addresses.proved().is_empty() {
            ", with --also for each address of the person, since no row contains them any more"
        } else {
            ""
        };
        let messages = many(done.removed, "message");
        let so_far = match &done.refused {
            _ if done.rows + done.ledger + done.removed == 0 => "nothing was erased: ".to_owned(),
            None => format!("rows and ledger are erased, and {messages} removed: "),
            Some(_) => format!(
                "{} and {} are erased, the store refused the others, and {messages} removed: ",
                many(done.rows, "row"),
                many(done.ledger, "ledger entry"),
            ),
        };
        EraseError { progress: format!("{so_far}{what} failed; run it again{hint}"), source: source.into() }
    }
}

/// Reports rows that still have content; `None` if there are none.
fn with_content(left: &BTreeSet<Key>) -> Option<String> {
    let (table, id) = left.first()?;
    let has = if left.len() == 1 { "has" } else { "have" };
    Some(format!(
        "{} still {has} content, such as {table} {id}. A trigger of the table keeps it. Fix the trigger, then run it again",
        many(left.len() as u64, "row")
    ))
}

/// Reports policies that may hide rows; `None` if there are none.
fn hiding(tables: &[String]) -> Option<String> {
    let tables = (!tables.is_empty()).then(|| tables.join(", "))?;
    Some(format!(
        "row-level security policies on {tables} apply to this role: rows that they hide can't be erased or checked. \
         {HIDDEN_ROWS_FIX}; then run it again"
    ))
}

/// Returns rows of others that contain data of the person.
async fn mentions(ports: Ports<'_>, person: &Person) -> Result<Mentions, StoreError> {
    let (mut mentions, store) = (Mentions::default(), ports.store);
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
    let created = store.rows_where(&ORGANIZATIONS, "created_by", &person.id, MENTIONS_MAX).await?;
    let created: BTreeSet<String> = ids(&ORGANIZATIONS, created).into_iter().collect();
    mentions.organizations = created.len() as u64;
    let addresses: Vec<String> = person.addresses.proved().iter().cloned().collect();
    let columns = ["affiliation_email_address"];
    let rows = search::rows_containing(ports, &ORGANIZATION_DOMAINS, &columns, &addresses).await?;
    mentions.domains.extend(ids(&ORGANIZATION_DOMAINS, rows));
    // Billing rows outlive their organization, and contain who paid for it.
    let links = RESOURCES.into_iter().flat_map(|of| of.links.iter().map(move |link| (of, link)));
    let billing: Vec<_> = links.filter(|(_, link)| *link.parent == ORGANIZATIONS && !link.cascades).collect();
    for organization in person.organizations.union(&created).take(ORGANIZATIONS_MAX) {
        for (resource, link) in &billing {
            let rows = store.rows_where(resource, link.column, organization, MENTIONS_MAX).await?;
            let naming =
                others(resource, rows).into_iter().filter(|row| person.is_named_in(&row.columns["data"]));
            mentions.billing.extend(naming.map(|row| row.id));
        }
    }
    Ok(mentions)
}

#[cfg(test)]
mod tests;
