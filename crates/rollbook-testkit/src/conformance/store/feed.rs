//! Readers of the change feed: pages, positions, times and waits.

use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::{ChangeKind, ChangesError, ChangesQuery, RetentionLimits};
use rollbook_core::time::Timestamp;
use serde_json::json;

use super::changes::{sequence, short, user_at, user_deleted};
use super::{Mirror, StoreHarness};
use crate::events::{START, event, organization};

pub async fn a_page_selects_by_position_resource_and_kind(mirror: Mirror<impl StoreHarness>) {
    let organization = event("organization.created", START, &organization("org_1", START));
    mirror.apply_one("msg_1", organization).await;
    mirror.apply_one("msg_2", user_at(0, |_| ())).await;
    mirror.apply_one("msg_3", user_at(1, |data| data["locked"] = json!(false))).await;
    mirror.apply_one("msg_4", user_deleted(2)).await;
    mirror.lines(0).await;
    let store = mirror.harness.store();
    let read = async |query: ChangesQuery| {
        let page = store.changes(&query).await.expect("the store reads the feed");
        (page.lines.iter().map(|line| line.position).collect::<Vec<_>>(), page.through, page.last)
    };
    let all = ChangesQuery { limit: 10, ..ChangesQuery::default() };
    assert_eq!(read(all.clone()).await, (vec![1, 2, 3, 4], 4, 4));
    assert_eq!(read(ChangesQuery { limit: 2, ..all.clone() }).await, (vec![1, 2], 2, 4));
    assert_eq!(read(ChangesQuery { after: 2, ..all.clone() }).await, (vec![3, 4], 4, 4));
    assert_eq!(read(ChangesQuery { after: 4, ..all.clone() }).await, (vec![], 4, 4));
    let users = ChangesQuery { resources: vec![&USERS], ..all.clone() };
    assert_eq!(read(users.clone()).await, (vec![2, 3, 4], 4, 4));
    let ends = ChangesQuery { kinds: vec![ChangeKind::Deleted, ChangeKind::Created], ..users.clone() };
    assert_eq!(read(ends).await, (vec![2, 4], 4, 4));
    let rare = ChangesQuery { resources: vec![&ORGANIZATIONS], after: 1, ..all };
    assert_eq!(read(rare).await, (vec![], 4, 4), "the reader goes on after what it passed over");
}

pub async fn a_reader_at_a_position_that_was_removed_or_is_unknown_gets_an_error(
    mirror: Mirror<impl StoreHarness>,
) {
    for number in 0..5 {
        mirror
            .apply_one(
                &format!("msg_{number}"),
                user_at(number, |data| data["locked"] = json!(number % 2 == 0)),
            )
            .await;
    }
    assert_eq!(mirror.lines(0).await.len(), 5);
    let store = mirror.harness.store();
    let end = Timestamp::parse("9000-01-01T00:00:00.000Z");
    let due = |limit| RetentionLimits { changes_before: end, limit, ..RetentionLimits::default() };
    assert_eq!(store.retain(&due(2)).await.expect("the store retains").changes, 2);
    let read =
        async |after| store.changes(&ChangesQuery { after, limit: 10, ..ChangesQuery::default() }).await;
    assert_eq!(read(0).await, Err(ChangesError::Removed { after: 0, oldest: 3 }));
    assert_eq!(read(1).await, Err(ChangesError::Removed { after: 1, oldest: 3 }));
    assert_eq!(read(2).await.map(|page| short(&page.lines).len()), Ok(3));
    assert_eq!(read(6).await, Err(ChangesError::Ahead { after: 6, last: 5 }));
    assert_eq!(store.retain(&due(10)).await.expect("the store retains").changes, 3);
    assert_eq!(store.retain(&due(10)).await.expect("the store retains").changes, 0);
    let state = store.feed().await.expect("the store has a feed");
    assert_eq!((state.is_on, state.last, state.removed_through), (true, 5, 5));
    assert_eq!(read(5).await.map(|page| page.lines), Ok(Vec::new()));
    mirror.apply_one("msg_9", user_at(9, |data| data["locked"] = json!(null))).await;
    assert_eq!(mirror.line(5).await.position, 6, "a position is never used again");
}

pub async fn a_reader_begins_at_a_time(mut mirror: Mirror<impl StoreHarness>) {
    assert_eq!(mirror.harness.store().position_before(Timestamp::from_millis(START)).await, Ok(0));
    for number in 0..6 {
        mirror
            .apply_one(
                &format!("msg_{number}"),
                user_at(number, |data| data["locked"] = json!(number % 2 == 0)),
            )
            .await;
        mirror.lines(0).await;
        mirror.harness.clock().advance(Duration::from_millis(5));
    }
    mirror.harness.reopen().await;
    let lines = mirror.lines(0).await;
    assert!(lines.is_sorted_by_key(|line| line.at), "the times grow with the positions");
    let store = mirror.harness.store();
    for line in &lines {
        let first = lines.iter().find(|other| other.at >= line.at).expect("itself at the latest");
        assert_eq!(store.position_before(line.at).await, Ok(first.position - 1));
    }
    let never = Timestamp::parse("9000-01-01T00:00:00.000Z").expect("a time");
    assert_eq!(store.position_before(never).await, Ok(6));
    let long_ago = Timestamp::from_millis(0);
    let due = RetentionLimits { changes_before: Some(never), limit: 4, ..RetentionLimits::default() };
    store.retain(&due).await.expect("the store retains");
    assert_eq!(store.position_before(long_ago).await, Ok(4), "where the kept lines begin");
}

pub async fn a_reader_waits_until_there_is_a_line(mirror: Mirror<impl StoreHarness>) {
    let store = mirror.harness.store();
    assert_eq!(store.wait_for_change(0, Duration::from_millis(50)).await, Ok(false));
    mirror.apply_one("msg_1", user_at(0, |_| ())).await;
    mirror.lines(0).await;
    let long = Duration::from_secs(60);
    assert_eq!(store.wait_for_change(0, long).await, Ok(true), "it is there already");
    let reading = store.wait_for_change(1, long);
    let writing = async {
        mirror.apply_one("msg_2", user_at(1, |data| data["locked"] = json!(false))).await;
        sequence(&*store).await;
    };
    let (found, ()) = tokio::join!(reading, writing);
    assert_eq!(found, Ok(true));
    assert_eq!(store.wait_for_change(2, Duration::from_millis(50)).await, Ok(false));
}
