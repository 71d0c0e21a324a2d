//! Rows that refuse the change that follows from their parent's deletion. The model computes it when rows are
//! read, so that nothing can refuse it: there the same must hold at once.

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS};
use rollbook_core::change::Applied::{Deleted, Stale, Unchanged};
use rollbook_core::store::{ErasedCounts, StoreError};
use rollbook_core::time::Timestamp;
use serde_json::Value;

use super::deleting::{assert_bare, erase_the_deleted};
use super::{Mirror, Refusal, StoreHarness};
use crate::events::{START, deleted, event, membership};

const BOTH: [Refusal; 2] = [Refusal::Raise, Refusal::Swallow];
const MEMBERS: [&str; 3] = ["orgmem_1", "orgmem_2", "orgmem_3"];

/// The ids of an organization, one for each refusal, and of its member.
fn ids(number: usize) -> (String, [String; 3]) {
    (format!("org_{number}"), MEMBERS.map(|id| format!("{id}_{number}")))
}

fn joined(id: &str, organization: &str) -> Value {
    event("organizationMembership.created", START, &membership(id, organization, "user_1", START))
}

fn gone(organization: &str, at: i64) -> Value {
    event("organization.deleted", START + at, &deleted("organization", organization))
}

/// An organization with members; the second one refuses the effect of its parents' deletion.
async fn refused<H: StoreHarness>(
    mirror: &mut Mirror<H>,
    number: usize,
    refusal: Refusal,
) -> (String, [String; 3]) {
    let (organization, members) = ids(number);
    let joins: Vec<(&str, Value)> =
        members.iter().map(|id| (id.as_str(), joined(id, &organization))).collect();
    mirror.apply(&joins).await;
    mirror.harness.refuse_cascades(Some((refusal, "orgmem_2"))).await;
    (organization, members)
}

async fn allow<H: StoreHarness>(mirror: &mut Mirror<H>) {
    mirror.harness.refuse_cascades(None).await;
}

async fn deleted_at<H: StoreHarness>(mirror: &Mirror<H>, id: &str) -> Value {
    mirror.row(&ORGANIZATION_MEMBERSHIPS, id).await["deleted_at"].clone()
}

fn moment(at: i64) -> Value {
    Timestamp::from_millis(START + at).to_string().into()
}

pub async fn a_child_that_refuses_blocks_no_sibling_and_is_retried(mut mirror: Mirror<impl StoreHarness>) {
    for (number, refusal) in BOTH.into_iter().enumerate() {
        let (organization, members) = refused(&mut mirror, number, refusal).await;
        let message = format!("msg_gone_{number}");
        assert_eq!(
            mirror.apply_one(&message, gone(&organization, 7)).await,
            Deleted,
            "the parent's is applied"
        );
        assert!(mirror.ledger(&message).await.is_some());
        let left = mirror.work_off().await;
        assert_eq!(left.parents_left, 0, "only the row itself is left: {left:?}");
        for id in [&members[0], &members[2]] {
            assert_eq!(deleted_at(&mirror, id).await, moment(7), "{refusal:?} {id}");
        }
        // Whatever is not done is known, and so are the row, its parent and the reason.
        let store = mirror.harness.store();
        let known = store.cascades(None, 10).await.expect("the store lists what is left");
        let is_done = deleted_at(&mirror, &members[1]).await == moment(7);
        assert_eq!(known.rows, u64::from(!is_done), "{refusal:?}");
        for entry in &known.listed {
            assert_eq!((entry.id.as_str(), entry.attempts), (members[1].as_str(), 1), "{refusal:?}");
            assert_eq!(entry.parent, Some(("organizations".to_owned(), organization.clone())));
            assert!(
                entry
                    .last_error
                    .as_deref()
                    .is_some_and(|why| why.contains("trigger") || why.contains("P0001"))
            );
            assert!(Some(entry.next_try_at) > entry.noted_at);
        }
        for about in [organization.as_str(), members[1].as_str()] {
            let about = store.cascades(Some(about), 10).await.expect("the store lists what is left");
            assert_eq!(about.listed, known.listed);
        }

        // It stays while it is refused, and goes by itself when it is not.
        mirror.harness.make_due().await;
        assert_eq!(mirror.work_off().await.rows_left, known.rows);
        allow(&mut mirror).await;
        mirror.harness.make_due().await;
        let left = mirror.work_off().await;
        assert_eq!((left.parents_left, left.rows_left, left.due_in), (0, 0, None), "{refusal:?}");
        assert_eq!(deleted_at(&mirror, &members[1]).await, moment(7), "{refusal:?}");
    }
}

pub async fn a_repeated_delivery_of_a_child_under_an_erased_parent_removes_left_over_content(
    mut mirror: Mirror<impl StoreHarness>,
) {
    erase_the_deleted(&mut mirror).await;
    for (number, refusal) in BOTH.into_iter().enumerate() {
        let (organization, members) = refused(&mut mirror, number, refusal).await;
        mirror.apply_one(&format!("msg_gone_{number}"), gone(&organization, 7)).await;
        mirror.work_off().await;
        allow(&mut mirror).await;
        // Whatever its delivery is worth: the same again, and an older one.
        let again = mirror.apply_one(&members[1], joined(&members[1], &organization)).await;
        assert_eq!(again, Unchanged, "{refusal:?}");
        let links = ["organization_id", "user_id"];
        assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, &members[1], START + 7, &links).await;
        let mut older = membership(&members[1], &organization, "user_1", START - 1);
        older["role"] = "older".into();
        let older = event("organizationMembership.updated", START - 1, &older);
        assert_eq!(mirror.apply_one(&format!("msg_older_{number}"), older).await, Stale);
        assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, &members[1], START + 7, &links).await;
    }
}

pub async fn a_repeated_deletion_reaches_the_children_that_it_missed(mut mirror: Mirror<impl StoreHarness>) {
    for (number, refusal) in BOTH.into_iter().enumerate() {
        let (organization, members) = refused(&mut mirror, number, refusal).await;
        let message = format!("msg_gone_{number}");
        mirror.apply_one(&message, gone(&organization, 7)).await;
        mirror.work_off().await;
        allow(&mut mirror).await;
        assert_eq!(mirror.apply_one(&message, gone(&organization, 7)).await, Unchanged);
        assert_eq!(deleted_at(&mirror, &members[1]).await, moment(7), "{refusal:?}");
        mirror.harness.make_due().await;
        assert_eq!(mirror.work_off().await.rows_left, 0);
    }
}

pub async fn an_erasure_that_a_child_refuses_fails_with_its_id_and_is_finished_later(
    mut mirror: Mirror<impl StoreHarness>,
) {
    for (number, refusal) in BOTH.into_iter().enumerate() {
        let (organization, members) = refused(&mut mirror, number, refusal).await;
        let at = Timestamp::from_millis(START + 100);
        let erased = mirror.harness.store().erase(&[(&ORGANIZATIONS, organization.clone())], at).await;
        let keeps = !mirror.row(&ORGANIZATION_MEMBERSHIPS, &members[1]).await["data"].is_null();
        match erased {
            Ok(counts) => assert_eq!((keeps, counts.rows, counts.ledger), (false, 4, 3)),
            Err(StoreError::Event(why)) => assert!(keeps && why.contains(&members[1]), "{why}"),
            Err(error) => panic!("{error}"),
        }
        let links = ["organization_id", "user_id"];
        for id in [&members[0], &members[2]] {
            assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, id, START + 100, &links).await;
        }
        for id in &members {
            assert_eq!(mirror.ledger(id).await, None, "{refusal:?}: no entry is left");
        }
        allow(&mut mirror).await;
        mirror.harness.make_due().await;
        let left = mirror.work_off().await;
        assert_eq!((left.parents_left, left.rows_left), (0, 0), "{refusal:?}");
        assert_bare(&mirror, &ORGANIZATION_MEMBERSHIPS, &members[1], START + 100, &links).await;
    }
}

/// An organization with this many members that refuse what follows from their parents, and this many that do
/// not. The ids of the refusing ones come first.
async fn mostly_refused<H: StoreHarness>(
    mirror: &mut Mirror<H>,
    organization: &str,
    refusal: Refusal,
    [refusing, others]: [usize; 2],
) -> [Vec<String>; 2] {
    let ids = |kind: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("orgmem_{kind}_{organization}_{number:04}")).collect()
    };
    let members = [ids("a", refusing), ids("b", others)];
    let joins: Vec<(&str, Value)> =
        members.iter().flatten().map(|id| (id.as_str(), joined(id, organization))).collect();
    for batch in joins.chunks(500) {
        mirror.apply(batch).await;
    }
    mirror.harness.refuse_cascades(Some((refusal, "orgmem_a"))).await;
    members
}

pub async fn however_many_children_refuse_all_others_show_the_deletion_without_a_wait(
    mut mirror: Mirror<impl StoreHarness>,
) {
    for (number, refusal) in BOTH.into_iter().enumerate() {
        let organization = format!("org_{number}");
        let [refusing, others] = mostly_refused(&mut mirror, &organization, refusal, [130, 120]).await;
        mirror.apply_one(&format!("msg_gone_{number}"), gone(&organization, 7)).await;
        let left = mirror.work_off().await;
        for id in &others {
            assert_eq!(deleted_at(&mirror, id).await, moment(7), "{refusal:?} {id}");
        }
        // Each of the others has an entry, so that nothing is left to search for.
        let mut waiting = 0;
        for id in &refusing {
            waiting += u64::from(deleted_at(&mirror, id).await != moment(7));
        }
        assert_eq!((left.parents_left, left.rows_left), (0, waiting), "{refusal:?}");
        allow(&mut mirror).await;
        for _ in 0..=refusing.len() / 100 {
            mirror.harness.make_due().await;
            mirror.work_off().await;
        }
        for id in &refusing {
            assert_eq!(deleted_at(&mirror, id).await, moment(7), "{refusal:?} {id}");
        }
    }
}

pub async fn an_erasure_erases_all_that_do_not_refuse_and_says_how_many_do(
    mut mirror: Mirror<impl StoreHarness>,
) {
    let [refusing, others] = mostly_refused(&mut mirror, "org_1", Refusal::Raise, [1_050, 50]).await;
    let reported = std::sync::Mutex::new(ErasedCounts::default());
    let progress = |counts: ErasedCounts| *reported.lock().expect("no panic") = counts;
    let subjects = [(&ORGANIZATIONS, "org_1".to_owned())];
    let at = Timestamp::from_millis(START + 100);
    let erased = mirror.harness.store().erase_in_steps(&subjects, at, &progress).await;
    match erased {
        Ok(counts) => assert_eq!(counts.rows, 1_101),
        Err(StoreError::Event(why)) => {
            assert!(why.contains(&format!("{} rows", refusing.len())), "{why}");
            assert!(why.contains("orgmem_a_org_1_"), "{why}");
            let rows = reported.into_inner().expect("no panic").rows;
            assert_eq!(rows, others.len() as u64 + 1, "only what is erased is reported");
        }
        Err(error) => panic!("{error}"),
    }
    for id in &others {
        let row = mirror.row(&ORGANIZATION_MEMBERSHIPS, id).await;
        assert!(row["data"].is_null() && row["role"].is_null(), "{id}");
    }
    assert_eq!(mirror.ledger(&refusing[0]).await, None, "no ledger entry is left");
}
