//! Histories of a small Clerk instance, in any order of arrival.
//!
//! A history is a list of steps, so that proptest can shrink it. Playing the steps gives the changes in the
//! order in which they happened, and the truth at the end. The truth comes from the instance; the merge is
//! not involved, except in the one case that Clerk leaves open (see [`History::play`]).

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::change::{Change, Effect, SubjectChange};
use rollbook_core::merge::DeletedRows;
use rollbook_core::store::RetentionChoices;
use serde_json::{Value, json};

use crate::conformance::store::Refusal;
use crate::events::{START, change_of, deleted, event, membership, organization, user};

const STEPS_MAX: usize = 24;
const ARRIVALS_MAX: usize = 3;
const BATCH_MAX: usize = 6;
const LANES_MAX: usize = 3;
/// Pauses between two actions, in milliseconds. Zero is the interesting one.
const PAUSES: [i64; 6] = [0, 0, 1, 400, 1000, 90_000];

/// One action in the instance.
#[derive(Clone, Debug)]
struct Step {
    subject: Subject,
    pause: i64,
    what: What,
}

/// Slot of a subject. After a deletion the next subject in the slot gets a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    User(u8),
    Organization(u8),
    /// Membership of the user in the organization.
    Membership(u8, u8),
    /// Domain of the organization.
    Domain(u8),
    /// Session of the user. It ends, but is never deleted.
    Session(u8),
    /// Subscription item of the user. It ends, is never deleted, and outlives its payer.
    Item(u8),
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Creates the subject, or updates it if it exists, with this content.
    Save(UpdatedAt, u8),
    /// Deletes the subject. With `in_seconds`, the event time is cut to seconds and is therefore too early.
    Delete { in_seconds: bool },
}

/// Effect of a change on `updated_at`. Clerk does not guarantee that every change increases it.
#[derive(Clone, Copy, Debug)]
enum UpdatedAt {
    Moves,
    Stays,
    /// The object has no `updated_at`.
    Missing,
}

/// A history, and the order in which its events arrive.
#[derive(Clone, Debug)]
pub(crate) struct History {
    steps: Vec<Step>,
    /// Ranks of the arrivals of each step, at least one per step.
    arrivals: Vec<Vec<u8>>,
    /// Sizes of the batches, used in turn.
    batch_sizes: Vec<usize>,
    /// Whether a batch is applied again at the end, used in turn: its worker crashed before the settlement.
    crashes: Vec<bool>,
    /// Number of concurrent workers.
    pub(crate) lanes: usize,
    /// Retention choices of the store.
    pub(crate) retention: RetentionChoices,
    /// Users and organizations that an operator erases after half of the batches.
    pub(crate) erasures: Vec<(&'static Resource, String)>,
    /// Refusals of child rows up to then.
    pub(crate) refusal: Option<Refusal>,
}

/// Result of playing a history.
pub(crate) struct Played {
    /// Changes in the order in which they happened.
    pub(crate) changes: Vec<Change>,
    /// For each subject the change with its final content, and the one that deleted it.
    pub(crate) truth: Vec<Change>,
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        3 => (0_u8..2).prop_map(Subject::User),
        2 => (0_u8..2).prop_map(Subject::Organization),
        3 => (0_u8..2, 0_u8..2).prop_map(|(user, organization)| Subject::Membership(user, organization)),
        1 => (0_u8..2).prop_map(Subject::Domain),
        1 => (0_u8..2).prop_map(Subject::Session),
        1 => (0_u8..2).prop_map(Subject::Item),
    ]
}

fn what() -> impl Strategy<Value = What> {
    let updated_at = select(vec![UpdatedAt::Moves, UpdatedAt::Stays, UpdatedAt::Missing]);
    prop_oneof![
        4 => (updated_at, 0_u8..4).prop_map(|(updated_at, content)| What::Save(updated_at, content)),
        1 => any::<bool>().prop_map(|in_seconds| What::Delete { in_seconds }),
    ]
}

/// Generates histories in any order of arrival. They shrink to few steps, each arriving once and in order.
pub(crate) fn histories() -> impl Strategy<Value = History> {
    let step = (subject(), select(PAUSES.to_vec()), what());
    let step = step.prop_map(|(subject, pause, what)| Step { subject, pause, what });
    let arrivals = vec(vec(any::<u8>(), 1..=ARRIVALS_MAX), STEPS_MAX);
    let work = (vec(1..=BATCH_MAX, 8), vec(any::<bool>(), 8), 1..=LANES_MAX);
    (vec(step, 1..=STEPS_MAX), arrivals, work, retention(), (erasures(), refusals())).prop_map(
        |(steps, arrivals, (batch_sizes, crashes, lanes), retention, (erasures, refusal))| History {
            steps,
            arrivals,
            batch_sizes,
            crashes,
            lanes,
            retention,
            erasures,
            refusal,
        },
    )
}

fn retention() -> impl Strategy<Value = RetentionChoices> {
    let choices = vec![DeletedRows::Keep, DeletedRows::Keep, DeletedRows::Erase];
    select(choices).prop_map(|deleted_rows| RetentionChoices { deleted_rows, ..RetentionChoices::default() })
}

/// Generates a refusal; most histories have none.
fn refusals() -> impl Strategy<Value = Option<Refusal>> {
    select(vec![None, None, None, Some(Refusal::Raise), Some(Refusal::Swallow)])
}

/// Generates erasures; most histories have none.
fn erasures() -> impl Strategy<Value = Vec<(&'static Resource, String)>> {
    let whom = prop_oneof![
        2 => (0_u8..2).prop_map(|place| (&USERS, Subject::User(place).id(0))),
        1 => (0_u8..2).prop_map(|place| (&ORGANIZATIONS, Subject::Organization(place).id(0))),
    ];
    prop_oneof![2 => Just(Vec::new()), 1 => vec(whom, 1..=2)]
}

/// State of a slot in the instance.
#[derive(Default)]
struct State {
    /// Number of subjects deleted in this slot.
    generation: u32,
    /// `updated_at` of the current subject.
    updated_at: Option<i64>,
}

impl History {
    /// Plays the steps. The later change is true. If two changes of one subject have the same `updated_at`
    /// and the same event time, Clerk's events leave their order open, and the one with the greater hash is
    /// true.
    pub(crate) fn play(&self) -> Played {
        let mut now = START;
        let mut instance: BTreeMap<Subject, State> = BTreeMap::new();
        let mut contents: BTreeMap<String, Change> = BTreeMap::new();
        // Changes that name a parent, for each link: a known parent is never forgotten.
        let mut named: BTreeMap<(String, usize), Change> = BTreeMap::new();
        let (mut ends, mut changes) = (Vec::new(), Vec::new());
        for (number, step) in self.steps.iter().enumerate() {
            now += step.pause;
            let state = instance.entry(step.subject).or_default();
            let Some(event) = step.happen(state, now) else { continue };
            let change = change_of(&format!("msg_{number}"), &event);
            let said = subject_change(&change);
            let replaces = |known: Option<&Change>| {
                known.is_none_or(|known| {
                    let (said, known) = (said.version, subject_change(known).version);
                    let tie = (known.updated_at, known.event_at) == (said.updated_at, said.event_at);
                    !tie || said.hash > known.hash
                })
            };
            if said.version.is_deleted {
                ends.push(change.clone());
            } else {
                for (link, _) in said.parents().iter().enumerate().filter(|(_, id)| id.is_some()) {
                    let key = (said.id.clone(), link);
                    if replaces(named.get(&key)) {
                        named.insert(key, change.clone());
                    }
                }
                if replaces(contents.get(&said.id)) {
                    contents.insert(said.id.clone(), change.clone());
                }
            }
            changes.push(change);
        }
        Played { changes, truth: named.into_values().chain(contents.into_values()).chain(ends).collect() }
    }

    /// Returns the changes in batches, in the order of arrival, followed by the batches that are applied
    /// again after a crash.
    pub(crate) fn arrive(&self, changes: &[Change]) -> Vec<Vec<Change>> {
        let ranked =
            |(change, ranks): (usize, &Vec<u8>)| ranks.iter().map(move |rank| (*rank, change)).collect();
        let of_changes = self.arrivals.iter().cycle().take(changes.len()).enumerate();
        let mut order: Vec<(u8, usize)> = of_changes.flat_map::<Vec<_>, _>(ranked).collect();
        order.sort_by_key(|(rank, _)| *rank);
        let mut arriving = order.into_iter().map(|(_, change)| changes[change].clone()).peekable();
        let mut sizes = self.batch_sizes.iter().cycle();
        let mut batches = Vec::new();
        while arriving.peek().is_some() {
            let size = *sizes.next().unwrap_or(&1);
            batches.push(arriving.by_ref().take(size).collect::<Vec<Change>>());
        }
        let again: Vec<Vec<Change>> = batches
            .iter()
            .zip(self.crashes.iter().cycle())
            .filter(|(_, crash)| **crash)
            .map(|(b, _)| b.clone())
            .collect();
        batches.extend(again);
        batches
    }
}

fn subject_change(change: &Change) -> &SubjectChange {
    match &change.effect {
        Effect::Merge(subject_change) => subject_change,
        Effect::Ignore { .. } => panic!("every event of a history is in the catalog"),
    }
}

impl Step {
    /// Returns the event that Clerk sends, or `None` if the step has no effect.
    fn happen(&self, state: &mut State, now: i64) -> Option<Value> {
        match self.what {
            What::Save(updated_at, content) => {
                let verb = if state.updated_at.is_some() { "updated" } else { "created" };
                let kept = state.updated_at.filter(|_| matches!(updated_at, UpdatedAt::Stays)).unwrap_or(now);
                state.updated_at = Some(kept);
                let mut data = self.subject.data(state.generation, kept, content);
                if matches!(updated_at, UpdatedAt::Missing) {
                    data["updated_at"] = Value::Null;
                }
                Some(event(&self.subject.event_type(verb), now, &data))
            }
            What::Delete { .. } if matches!(self.subject, Subject::Session(_) | Subject::Item(_)) => None,
            What::Delete { in_seconds } => {
                let updated_at = state.updated_at.take()?;
                let data = match self.subject {
                    Subject::Membership(..) => self.subject.data(state.generation, updated_at, 0),
                    _ => deleted(self.subject.kind(), &self.subject.id(state.generation)),
                };
                state.generation += 1;
                let at = if in_seconds { now / 1000 } else { now };
                Some(event(&self.subject.event_type("deleted"), at, &data))
            }
        }
    }
}

impl Subject {
    fn kind(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Organization(_) => "organization",
            Self::Membership(..) => "organizationMembership",
            Self::Domain(_) => "organizationDomain",
            Self::Session(_) => "session",
            Self::Item(_) => "subscriptionItem",
        }
    }

    fn event_type(self, verb: &str) -> String {
        let verb = match (self, verb) {
            (Self::Session(_), "updated") => "ended",
            (Self::Item(_), "created") => "upcoming",
            _ => verb,
        };
        format!("{}.{verb}", self.kind())
    }

    fn id(self, generation: u32) -> String {
        match self {
            Self::User(place) => format!("user_{place}_{generation}"),
            Self::Organization(place) => format!("org_{place}_{generation}"),
            Self::Membership(user, organization) => format!("orgmem_{user}_{organization}_{generation}"),
            Self::Domain(place) => format!("orgdmn_{place}_{generation}"),
            Self::Session(place) => format!("sess_{place}_{generation}"),
            Self::Item(place) => format!("csub_item_{place}_{generation}"),
        }
    }

    /// Returns the object with one of four contents. Each lacks something that another has. The last names no
    /// parents, and the third names other ones.
    fn data(self, generation: u32, updated_at: i64, content: u8) -> Value {
        let id = self.id(generation);
        let other = |place: u8| if content == 2 { 1 - place } else { place };
        let (mut data, column) = match self {
            Self::User(_) => (user(&id, updated_at), "first_name"),
            Self::Organization(_) => (organization(&id, updated_at), "slug"),
            Self::Membership(user, organization) => {
                let user = Self::User(other(user)).id(0);
                let organization = Self::Organization(other(organization)).id(0);
                (membership(&id, &organization, &user, updated_at), "role")
            }
            Self::Domain(organization) => {
                let organization = Self::Organization(other(organization)).id(0);
                let data = json!({ "id": id, "organization_id": organization, "updated_at": updated_at });
                (data, "enrollment_mode")
            }
            Self::Session(user) => {
                let user = Self::User(other(user)).id(0);
                (json!({ "id": id, "user_id": user, "actor": null, "updated_at": updated_at }), "status")
            }
            Self::Item(user) => {
                let payer = json!({ "user_id": Self::User(other(user)).id(0), "organization_id": "" });
                (json!({ "id": id, "payer": payer, "updated_at": updated_at }), "status")
            }
        };
        data[column] = if content == 0 { Value::Null } else { json!(format!("content {content}")) };
        if content == 3 {
            let parent = match self {
                Self::User(_) | Self::Organization(_) => return data,
                Self::Membership(..) => "public_user_data",
                Self::Domain(_) => "organization_id",
                Self::Session(_) => "user_id",
                Self::Item(_) => "payer",
            };
            data[parent] = Value::Null;
        }
        data
    }
}
