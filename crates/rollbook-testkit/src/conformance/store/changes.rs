//! The change feed: which writes have a line, and what the line says.

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, Resource, USERS};
use rollbook_core::change::{Change, Effect, Origin};
use rollbook_core::drift::Drift;
use rollbook_core::event::observed;
use rollbook_core::merge::DeletedRows;
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, ChangesQuery, FullStore, LINES_MAX, Position, RetentionChoices,
    RetentionLimits,
};
use rollbook_core::table_layout::columns;
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Mirror, StoreHarness};
use crate::events::{START, change_of, deleted, event, membership, organization, user};

/// Gives all committed lines their positions.
pub(crate) async fn sequence(store: &dyn FullStore) {
    while store.sequence().await.expect("the store gives positions").has_more {}
}

/// Returns all lines after a position.
pub(crate) async fn lines_after(store: &dyn FullStore, after: Position) -> Vec<ChangeLine> {
    sequence(store).await;
    let (mut query, mut lines) =
        (ChangesQuery { after, limit: LINES_MAX, ..ChangesQuery::default() }, Vec::new());
    loop {
        let page = store.changes(&query).await.expect("the store reads the feed");
        lines.extend(page.lines);
        query.after = page.through;
        if page.through == page.last {
            return lines;
        }
    }
}

impl<H: StoreHarness> Mirror<H> {
    /// Returns the lines after the first `known` ones. Pending cascades are worked off first.
    pub(super) async fn lines(&self, known: Position) -> Vec<ChangeLine> {
        self.work_off().await;
        lines_after(&*self.harness.store(), known).await
    }

    /// Returns the only line after the first `known` ones.
    pub(super) async fn line(&self, known: Position) -> ChangeLine {
        let lines = self.lines(known).await;
        let [line] = &lines[..] else { panic!("one line, not {lines:#?}") };
        line.clone()
    }
}

/// Position, subject and kind of lines.
pub(super) fn short(lines: &[ChangeLine]) -> Vec<(Position, &str, ChangeKind)> {
    lines.iter().map(|line| (line.position, line.subject_id.as_str(), line.kind)).collect()
}

/// Kind, origin and cause of a line.
fn what(line: &ChangeLine) -> (ChangeKind, ChangeOrigin, Option<&str>) {
    (line.kind, line.origin, line.cause.as_deref())
}

pub(super) fn user_at(at: i64, change: impl FnOnce(&mut Value)) -> Value {
    let mut data = user("user_1", START + at);
    change(&mut data);
    event("user.updated", START + at, &data)
}

pub(super) fn user_deleted(at: i64) -> Value {
    event("user.deleted", START + at, &deleted("user", "user_1"))
}

fn member(at: i64) -> Value {
    let data = membership("orgmem_1", "org_1", "user_1", START + at);
    event("organizationMembership.updated", START + at, &data)
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

pub async fn a_new_row_has_a_line_with_every_column_that_has_a_value(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", user_at(5, |_| ())).await;
    let line = mirror.line(0).await;
    assert_eq!(what(&line), (ChangeKind::Created, ChangeOrigin::Webhook, Some("msg_1")));
    assert_eq!(
        (line.position, line.resource.as_str(), line.subject_id.as_str(), line.event_at),
        (1, "users", "user_1", Some(at(5)))
    );
    let row = mirror.row(&USERS, "user_1").await;
    let compared = columns(&USERS).map(|(name, _)| name).filter(|name| {
        !["id", "created_at", "updated_at", "synced_at", "synced_by"].contains(name) && !row[*name].is_null()
    });
    let (mut compared, mut changed): (Vec<&str>, Vec<&str>) =
        (compared.collect(), line.changed.iter().map(String::as_str).collect());
    compared.sort_unstable();
    changed.sort_unstable();
    assert_eq!(changed, compared);
    assert!(changed.contains(&"data") && !changed.contains(&"last_sign_in_at"), "it is null");
}

/// An update: `svix-id`, what it changes of the user, and the columns that differ from the update before.
type Update<'a> = (&'a str, fn(&mut Value), &'a [&'a str]);

pub async fn an_update_names_the_columns_that_differ_and_the_content(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", user_at(0, |_| ())).await;
    let updates: [Update<'_>; 5] = [
        ("name", |data| data["first_name"] = json!("Ida"), &["data", "first_name"]),
        ("null", |data| data["username"] = Value::Null, &["data", "first_name", "username"]),
        (
            "json",
            |data| data["public_metadata"]["plan"] = json!("free"),
            &["data", "public_metadata", "username"],
        ),
        (
            "address",
            |data| data["primary_email_address_id"] = json!("idn_home"),
            &["data", "primary_email_address", "public_metadata"],
        ),
        ("untyped", |data| data["has_image"] = json!(true), &["data", "primary_email_address"]),
    ];
    for (number, (id, change, names)) in (1..).zip(updates) {
        mirror.apply_one(id, user_at(number, change)).await;
        let line = mirror.line(number.unsigned_abs()).await;
        assert_eq!(what(&line), (ChangeKind::Updated, ChangeOrigin::Webhook, Some(id)));
        let mut found: Vec<&str> = line.changed.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!((found.as_slice(), line.event_at), (names, Some(at(number))), "{id}");
    }
}

pub async fn a_delivery_that_changes_nothing_has_no_line(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_1", user_at(5, |_| ())).await;
    for (id, event) in [
        ("msg_1", user_at(5, |_| ())),
        ("msg_again", user_at(5, |_| ())),
        ("msg_old", user_at(4, |data| data["first_name"] = json!("Ida"))),
        ("msg_ignored", event("email.created", START + 9, &json!({ "id": "ema_1" }))),
    ] {
        mirror.apply_one(id, event).await;
    }
    // The same content, as of a later event.
    let same = event("user.updated", START + 6, &user("user_1", START + 5));
    mirror.apply_one("msg_same", same).await;
    assert_eq!(short(&mirror.lines(0).await), [(1, "user_1", ChangeKind::Created)]);
}

pub async fn several_deliveries_that_are_applied_at_once_are_one_change(mirror: Mirror<impl StoreHarness>) {
    let renamed = user_at(1, |data| data["first_name"] = json!("Ida"));
    mirror.apply(&[("msg_1", user_at(0, |_| ())), ("msg_2", renamed)]).await;
    let line = mirror.line(0).await;
    assert_eq!(what(&line), (ChangeKind::Created, ChangeOrigin::Webhook, Some("msg_2")));
}

pub async fn a_deletion_has_a_line_and_one_more_for_each_child_row(mirror: Mirror<impl StoreHarness>) {
    let organization = event("organization.created", START, &organization("org_1", START));
    mirror.apply(&[("msg_1", organization), ("msg_2", user_at(0, |_| ())), ("msg_3", member(0))]).await;
    mirror.apply_one("msg_end", user_deleted(7)).await;
    let lines = mirror.lines(3).await;
    assert_eq!(short(&lines), [(4, "user_1", ChangeKind::Deleted), (5, "orgmem_1", ChangeKind::Deleted)]);
    assert_eq!(what(&lines[0]), (ChangeKind::Deleted, ChangeOrigin::Webhook, Some("msg_end")));
    assert_eq!(what(&lines[1]), (ChangeKind::Deleted, ChangeOrigin::Cascade, None));
    for line in &lines {
        assert_eq!((line.changed.as_slice(), line.event_at), (&["deleted_at".to_owned()][..], Some(at(7))));
    }
    mirror.apply_one("msg_end", user_deleted(7)).await;
    assert_eq!(mirror.lines(5).await, [], "the same again");
}

pub async fn a_deletion_that_comes_first_is_filled_by_an_update(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_end", user_deleted(7)).await;
    mirror.apply_one("msg_late", user_at(3, |_| ())).await;
    let lines = mirror.lines(0).await;
    assert_eq!(short(&lines), [(1, "user_1", ChangeKind::Deleted), (2, "user_1", ChangeKind::Updated)]);
    assert!(
        lines[1].changed.contains(&"data".to_owned()) && !lines[1].changed.contains(&"deleted_at".to_owned())
    );
    assert_eq!((lines[0].event_at, lines[1].event_at), (Some(at(7)), Some(at(3))));
}

pub async fn a_row_that_begins_under_a_deleted_parent_begins_deleted(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_one("msg_end", user_deleted(7)).await;
    mirror.apply_one("msg_member", member(3)).await;
    let line = mirror.line(1).await;
    assert_eq!(what(&line), (ChangeKind::Deleted, ChangeOrigin::Webhook, Some("msg_member")));
}

pub async fn a_deletion_that_erases_is_one_line(mut mirror: Mirror<impl StoreHarness>) {
    mirror
        .harness
        .keep(RetentionChoices { deleted_rows: DeletedRows::Erase, ..RetentionChoices::default() })
        .await;
    mirror.apply_one("msg_1", user_at(0, |_| ())).await;
    mirror.apply_one("msg_end", user_deleted(7)).await;
    let line = mirror.line(1).await;
    assert_eq!(what(&line), (ChangeKind::Deleted, ChangeOrigin::Webhook, Some("msg_end")));
    assert!(
        ["data", "deleted_at", "first_name"].iter().all(|name| line.changed.contains(&(*name).to_owned()))
    );
}

pub async fn an_erasure_by_an_operator_leaves_lines_with_ids_only(mirror: Mirror<impl StoreHarness>) {
    mirror.apply(&[("msg_2", user_at(0, |_| ())), ("msg_3", member(0))]).await;
    let subjects = [(&USERS, "user_1".to_owned()), (&USERS, "user_2".to_owned())];
    mirror.harness.store().erase(&subjects, Timestamp::from_millis(START + 9)).await.expect("it erases");
    let mut lines = mirror.lines(2).await;
    lines.sort_by(|one, other| one.subject_id.cmp(&other.subject_id));
    let [member, person, unknown] = &lines[..] else { panic!("{lines:#?}") };
    assert_eq!(what(member), (ChangeKind::Deleted, ChangeOrigin::Cascade, None));
    assert!(member.changed.contains(&"data".to_owned()));
    assert_eq!(what(person), (ChangeKind::Erased, ChangeOrigin::Erase, None));
    assert_eq!(
        what(unknown),
        (ChangeKind::Erased, ChangeOrigin::Erase, None),
        "so that nothing brings it back"
    );
    for line in [person, unknown] {
        assert_eq!(line.event_at, Some(at(9)));
    }
    let text = format!("{:?}", mirror.lines(0).await);
    for personal in ["Ines", "Okafor", "ines", "example", "crm-40077"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }
}

pub async fn the_content_that_retention_removes_has_a_line(mirror: Mirror<impl StoreHarness>) {
    mirror.apply(&[("msg_1", user_at(0, |_| ())), ("msg_2", member(0))]).await;
    mirror.apply_one("msg_end", user_deleted(7)).await;
    let due = RetentionLimits { deleted_before: Some(at(8)), limit: 10, ..RetentionLimits::default() };
    assert_eq!(mirror.harness.store().retain(&due).await.expect("the store retains").rows, 1);
    let lines = mirror.lines(4).await;
    assert_eq!(short(&lines), [(5, "user_1", ChangeKind::Erased), (6, "orgmem_1", ChangeKind::Erased)]);
    assert_eq!(what(&lines[0]), (ChangeKind::Erased, ChangeOrigin::Erase, None));
    assert_eq!(what(&lines[1]), (ChangeKind::Erased, ChangeOrigin::Cascade, None));
    assert!(lines.iter().all(|line| line.event_at.is_none() && line.changed.contains(&"data".to_owned())));
}

fn reading(resource: &'static Resource, object: &Value, millis: i64, is_backfill: bool) -> Change {
    let read_at = Timestamp::from_millis(START + millis);
    let object = object.as_object().cloned().expect("an object");
    let (subject, _) = observed(resource, object, read_at).expect("the object has an id");
    let origin = Origin::reconcile("run_1", &subject, Drift::Missing, read_at).in_backfill(is_backfill);
    Change { origin, effect: Effect::Merge(Box::new(subject)) }
}

pub async fn a_reading_has_its_run_and_whether_it_is_part_of_a_backfill(mirror: Mirror<impl StoreHarness>) {
    mirror.apply_changes(&[reading(&USERS, &user("user_1", START), 5, true)]).await;
    let mut renamed = user("user_1", START + 6);
    renamed["first_name"] = json!("Ida");
    mirror.apply_changes(&[reading(&USERS, &renamed, 7, false)]).await;
    mirror.apply_one("msg_1", user_at(8, |_| ())).await;
    let mut again = user("user_1", START + 9);
    again["first_name"] = json!("Ida");
    mirror.apply_changes(&[reading(&USERS, &again, 10, false)]).await;
    let lines = mirror.lines(0).await;
    let found: Vec<_> = lines.iter().map(what).collect();
    assert_eq!(
        found,
        [
            (ChangeKind::Created, ChangeOrigin::Backfill, Some("run_1")),
            (ChangeKind::Updated, ChangeOrigin::Reconcile, Some("run_1")),
            (ChangeKind::Updated, ChangeOrigin::Webhook, Some("msg_1")),
            (ChangeKind::Updated, ChangeOrigin::Reconcile, Some("run_1")),
        ]
    );
    assert_eq!(lines[1].event_at, Some(at(7)));
}

pub async fn child_rows_of_a_reading_are_a_cascade(mirror: Mirror<impl StoreHarness>) {
    let member = membership("orgmem_1", "org_1", "user_1", START);
    mirror.apply_changes(&[reading(&ORGANIZATION_MEMBERSHIPS, &member, 5, true)]).await;
    let mut end = change_of("msg_end", &user_deleted(7));
    let Effect::Merge(subject) = &end.effect else { panic!("it is a deletion") };
    end.origin = Origin::reconcile("run_2", subject, Drift::NotDeleted, Timestamp::from_millis(START + 7));
    mirror.apply_changes(&[end]).await;
    let lines = mirror.lines(1).await;
    let found: Vec<_> = lines.iter().map(what).collect();
    assert_eq!(
        found,
        [
            (ChangeKind::Deleted, ChangeOrigin::Reconcile, Some("run_2")),
            (ChangeKind::Deleted, ChangeOrigin::Cascade, None),
        ]
    );
}

pub async fn a_reset_row_is_created_again_and_its_child_rows_live_again(mirror: Mirror<impl StoreHarness>) {
    mirror.apply(&[("msg_1", user_at(0, |_| ())), ("msg_2", member(0))]).await;
    mirror.apply_one("msg_end", user_deleted(7)).await;
    super::resetting::reset(&mirror, &USERS, "user_1").await;
    let line = mirror.line(4).await;
    assert_eq!(
        (line.subject_id.as_str(), what(&line)),
        ("orgmem_1", (ChangeKind::Updated, ChangeOrigin::Cascade, None))
    );
    assert_eq!((line.changed.as_slice(), line.event_at), (&["deleted_at".to_owned()][..], None));
    mirror.apply_changes(&[reading(&USERS, &user("user_1", START + 8), 9, false)]).await;
    let line = mirror.line(5).await;
    assert_eq!(what(&line), (ChangeKind::Created, ChangeOrigin::Reconcile, Some("run_1")));
    assert!(
        line.changed.contains(&"first_name".to_owned()) && !line.changed.contains(&"deleted_at".to_owned())
    );
}
