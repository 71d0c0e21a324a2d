//! The fault table: every wrong answer of Clerk at every kind of request, for a while and for good, with the real
//! client, over HTTP, on SQLite and Postgres. No row is ever deleted wrongly, and once the fault has ended a run makes
//! the rows equal to Clerk's objects.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use rollbook_core::catalog::{ORGANIZATIONS, Resource};
use rollbook_core::source::{
    Fetched, Instance, Lookup, Page, PageRequest, Presence, Source, SourceError, Window,
};
use rollbook_core::store::{FullStore, RunState};
use rollbook_reconciler::{ReconcileError, ResourceProgress, RunReport};
use rollbook_simulator::api::Fault;
use rollbook_testkit::servers::postgres::PostgresServer;

use super::KEY;
use super::stage::{TRIES, World, postgres, sqlite};

/// Time for which a run waits for Clerk: far longer than a fault that ends, or not at all.
const PATIENCE: [Duration; 2] = [Duration::from_secs(120), Duration::ZERO];

const INSTANCE: &str = "/instance";
const COUNT: &str = "/users/count";
const USERS: &str = "/users";
const USER: &str = "/users/{id}";
const MEMBERS: &str = "/organizations/{id}/memberships";
const MEMBERSHIPS: &str = "/organization_memberships";
/// A request of each kind: instance, count, pages by cursor and by offset, and both kinds of point reads.
const PATHS: [&str; 6] = [INSTANCE, COUNT, USERS, USER, MEMBERS, MEMBERSHIPS];

/// Kind of fault, by what a run makes of it.
#[derive(Clone, Copy)]
enum Kind {
    /// The request is repeated; if the fault stays, the run stops with these words, and can be resumed.
    Outage(&'static str),
    /// The request is repeated; if the fault stays, the list can't be read, and the run fails with these words.
    Unreadable(&'static str),
    /// Manual action is needed: the run fails at once with these words.
    Refusal(&'static str),
    /// The answer is well formed, and wrong.
    Lie,
}

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Held,
    /// With an error that contains these words; the record has this state.
    Stops(&'static str, RunState),
    /// Held or stopped, by which page is the last one.
    HeldOrStops(&'static str),
}

fn faults() -> Vec<(&'static str, Fault, Kind)> {
    use Kind::{Lie, Outage, Refusal, Unreadable};
    let excess = |retry_after| Fault::TooManyRequests { retry_after };
    let body = |text: &str| Fault::Body(text.to_owned());
    vec![
        ("429 with Retry-After", excess(Some(1)), Outage("429 too_many_requests")),
        ("429 without Retry-After", excess(None), Outage("429 too_many_requests")),
        ("401", Fault::Unauthorized, Refusal("401 clerk_key_invalid; the secret key is wrong or revoked")),
        ("403", Fault::ServerError(403), Refusal("403 internal_clerk_error")),
        ("500", Fault::ServerError(500), Outage("500 internal_clerk_error")),
        ("503", Fault::ServerError(503), Outage("503 internal_clerk_error")),
        ("no answer", Fault::Hang, Outage("no answer within 0.5 s")),
        ("a closed connection", Fault::Disconnect, Outage("broke the connection")),
        ("a truncated body", Fault::TruncatedBody, Outage("broke the connection within the answer")),
        ("HTML with 200", Fault::Html, Unreadable("the body is HTML or XML, not JSON")),
        ("text that is not JSON", body("{\"data\": ["), Unreadable("the body is not valid JSON")),
        ("an empty body", body(""), Unreadable("the body is empty")),
        ("a feature that is not enabled", Fault::Forbidden, Lie),
        ("an empty page with 200", Fault::EmptyPage, Lie),
        ("pages of ten objects", Fault::LimitCutTo10, Lie),
        ("an object without an id", Fault::ObjectWithoutId, Lie),
        ("an object of another type", Fault::ObjectOfAnotherType, Lie),
        ("an object that is marked as deleted", Fault::DeletedObject, Lie),
        ("an object twice", Fault::DuplicateObject, Lie),
        ("a page with fewer objects than there are", Fault::ShortPage, Lie),
        ("a total that is too large", Fault::TotalJumps(7), Lie),
        ("pages that are too large", Fault::LargePage { objects: 6, bytes: 5 << 20 }, Lie),
    ]
}

/// Returns how a run ends if requests to this path have this fault, for a while or for good.
fn expected(fault: &Fault, kind: Kind, path: &str, lasts: bool) -> End {
    let running = |words| End::Stops(words, RunState::Running);
    let failed = |words| End::Stops(words, RunState::Failed);
    match (kind, fault, path) {
        (Kind::Outage(words), ..) if lasts => running(words),
        // Without the instance nothing is known of the lists.
        (Kind::Unreadable(words), _, INSTANCE) if lasts => running(words),
        (Kind::Unreadable(words), ..) if lasts => failed(words),
        (Kind::Refusal(words), ..) => failed(words),
        // An instance without organizations has nothing to read. Users, and the rest of a list, are always there.
        (_, Fault::Forbidden, path) if ![MEMBERSHIPS, MEMBERS].contains(&path) => {
            failed("403 organization_not_enabled_in_instance")
        }
        (_, Fault::EmptyPage, USERS) | (_, Fault::TotalJumps(_), COUNT) if lasts => failed(
            "Clerk's list of users is not reliable now: a page is empty, and the count names more users",
        ),
        (_, Fault::EmptyPage, MEMBERSHIPS) => {
            failed("Clerk's list of organization_memberships is not reliable now: ")
        }
        (_, Fault::ObjectWithoutId, MEMBERS) if lasts => failed("a membership has no id or no user"),
        (_, Fault::ObjectWithoutId | Fault::ObjectOfAnotherType | Fault::DeletedObject, USERS) if lasts => {
            End::HeldOrStops("a page has no object that can be read")
        }
        (_, Fault::ObjectWithoutId | Fault::ObjectOfAnotherType | Fault::DeletedObject, MEMBERSHIPS)
            if lasts =>
        {
            End::HeldOrStops("is not reliable now: ")
        }
        (_, Fault::DuplicateObject, USERS) if lasts => {
            failed("Clerk's list of users is not reliable now: its pages show no new user or one twice")
        }
        (_, Fault::DuplicateObject | Fault::TotalJumps(_), MEMBERSHIPS) if lasts => {
            failed("Clerk's list of organization_memberships is not reliable now: ")
        }
        // Rows of a feature that is not enabled are left as they are.
        (_, Fault::Forbidden, MEMBERSHIPS | MEMBERS)
        | (
            _,
            Fault::ObjectWithoutId | Fault::ObjectOfAnotherType | Fault::DeletedObject,
            USERS | MEMBERSHIPS,
        ) => End::Held,
        _ => End::Complete,
    }
}

/// Number of requests that a fault for a while is for: more than the client repeats by itself.
fn requests(kind: Kind) -> u64 {
    if matches!(kind, Kind::Lie) { TRIES } else { TRIES + 1 }
}

/// Whether a case is played. An outage that ends is the same to a run at every request, but for lists and point reads;
/// a refusal ends the run at once, whether it stays or not.
fn is_played(kind: Kind, path: &str, lasts: bool) -> bool {
    match kind {
        Kind::Outage(_) | Kind::Unreadable(_) => lasts || [USERS, MEMBERS].contains(&path),
        Kind::Refusal(_) => !lasts,
        Kind::Lie => true,
    }
}

/// Plays one fault at every path. Each time the run has rows to insert, to update and to delete.
async fn play(store: Arc<dyn FullStore>, name: &str, fault: Fault, kind: Kind) {
    let mut world = World::new(store).await;
    world.run(PATIENCE[0]).await.expect("the backfill");
    for (path, lasts) in PATHS.into_iter().flat_map(|path| [(path, false), (path, true)]) {
        if !is_played(kind, path, lasts) {
            continue;
        }
        let case = format!("{name} at {path}, lasting: {lasts}");
        world.change_clerk();
        world.controls.forget_requests();
        world.controls.inject_on(path, fault.clone(), if lasts { u64::MAX } else { requests(kind) });
        let ended = world.run(PATIENCE[usize::from(lasts)]).await;
        assert!(world.controls.requests_to(path) > 0, "{case}: the fault did not happen");
        check(&world, &case, path, expected(&fault, kind, path, lasts), &ended).await;
        let found = world.differences().await;
        assert!(found.wrongly_deleted.is_empty(), "{case}: {found}");

        world.controls.clear_faults();
        if ended.is_ok() && found.are_none() {
            continue;
        }
        let mut after = world.run(PATIENCE[0]).await.unwrap_or_else(|error| panic!("after {case}: {error}"));
        if after.state == RunState::Held {
            // It was resumed, and had counted objects without an id before.
            after = world.run(PATIENCE[0]).await.unwrap_or_else(|error| panic!("after {case}: {error}"));
        }
        assert_eq!(after.state, RunState::Complete, "after {case}");
        let left = world.differences().await;
        assert!(left.are_none(), "after {case}: {left}");
    }
    let again = world.run(PATIENCE[0]).await.expect("a run");
    let rest =
        (again.progress.sum(|of| of.written), repaired(&again).map(ResourceProgress::drifted).sum::<u64>());
    assert_eq!(rest, (0, 0), "{name}: a run straight after another writes nothing");
}

/// Subscription items are counted, and never written.
fn repaired(report: &RunReport) -> impl Iterator<Item = &ResourceProgress> {
    report.progress.resources.iter().filter(|of| of.table != "subscription_items")
}

/// Checks the end of a run: its state, and an error that names the request and holds neither the key nor an id.
async fn check(
    world: &World,
    case: &str,
    path: &str,
    expected: End,
    ended: &Result<RunReport, ReconcileError>,
) {
    let error = match (ended, expected) {
        (Ok(report), End::Complete) => return assert_eq!(report.state, RunState::Complete, "{case}"),
        (Ok(report), End::Held | End::HeldOrStops(_)) => {
            return assert_eq!(report.state, RunState::Held, "{case}");
        }
        (Err(error), End::Stops(..) | End::HeldOrStops(_)) => error,
        _ => panic!("{case}: {expected:?} is expected, not {ended:?}"),
    };
    let text = error.to_string();
    let (words, state) = match expected {
        End::Stops(words, state) => (words, state),
        End::HeldOrStops(words) => (words, RunState::Failed),
        End::Complete | End::Held => unreachable!("these are not errors"),
    };
    assert!(text.contains(words), "{case}: {text}");
    if !matches!(error, ReconcileError::Contradiction { .. }) {
        assert!(text.contains(&format!("GET {path}: ")), "{case}: {text}");
    }
    for secret in [KEY.trim_start_matches("sk_live_"), "user_2", "org_2", "orgmem_", "@"] {
        assert!(!text.contains(secret), "{case}: {text}");
    }
    let last = world.store.runs(1).await.expect("runs").remove(0);
    assert_eq!((last.state, last.last_error), (state, Some(text)), "{case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_clerk_deletes_a_row_wrongly_or_loses_one_on_sqlite() {
    let plays = faults().into_iter().map(|(name, fault, kind)| async move {
        let (_folder, store) = sqlite();
        play(store, name, fault, kind).await;
    });
    stream::iter(plays).buffer_unordered(8).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_clerk_deletes_a_row_wrongly_or_loses_one_on_postgres() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    let server = &server;
    // One fault of each class: the store does not see which one it was.
    let names = [
        "401",
        "503",
        "a feature that is not enabled",
        "an empty page with 200",
        "an object without an id",
        "an object of another type",
    ];
    let faults = faults().into_iter().filter(|(name, ..)| names.contains(name));
    let plays = faults.enumerate().map(|(number, (name, fault, kind))| async move {
        play(postgres(server, &format!("clerk_{number}")).await, name, fault, kind).await;
    });
    stream::iter(plays).buffer_unordered(8).collect::<()>().await;
}

/// A source that hides all organizations, and for which absence from a list is proof: the mistake that this table is about.
struct AbsenceIsProof(Arc<dyn Source>);

#[async_trait]
impl Source for AbsenceIsProof {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.0.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        if resource == &ORGANIZATIONS { Ok(0) } else { self.0.count(resource, window).await }
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let page = self.0.page(resource, request).await?;
        let hidden = Page { objects: Vec::new(), total: Some(0), clock: page.clock };
        Ok(if resource == &ORGANIZATIONS { hidden } else { page })
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.0.recently_updated_users(offset, limit).await
    }

    async fn fetch(&self, _: &'static Resource, lookups: &[Lookup]) -> Result<Vec<Fetched>, SourceError> {
        let clock = self.0.instance().await?.clock;
        Ok(lookups.iter().map(|_| Fetched { presence: Presence::Absent, clock }).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_a_row_that_is_deleted_wrongly_or_lost_is_seen() {
    let (_folder, store) = sqlite();
    let world = World::new(store).await;
    let none = world.differences().await;
    assert!(none.missing.len() > 80 && none.wrongly_deleted.is_empty(), "before the backfill: {none}");
    world.run(PATIENCE[0]).await.expect("the backfill");
    assert!(world.differences().await.are_none());
    let organizations = world.state().ids("organizations").len();
    // Fewer than the brake holds by themselves.
    assert!((2..20).contains(&organizations), "{organizations}");
    let source = Arc::new(AbsenceIsProof(world.client(KEY)));
    let report = world.run_with(source.clone(), PATIENCE[0]).await.expect("a run");
    // The memberships that go with them are more than the brake lets through.
    assert_eq!(report.state, RunState::Held);
    assert!(world.differences().await.wrongly_deleted.is_empty(), "the brake holds them");
    let stop = tokio_util::sync::CancellationToken::new();
    world.reconciler(source, PATIENCE[0]).approve(&report.run, &stop).await.expect("an approval");
    let found = world.differences().await;
    assert!(found.wrongly_deleted.len() >= organizations, "{found}");
}
