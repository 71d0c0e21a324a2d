//! Subscription items: counted by id and status, never written.

use std::time::Duration;

use rollbook_core::catalog::SUBSCRIPTION_ITEMS;
use rollbook_core::drift::Drift;
use rollbook_core::source::{Position, RawObject};
use rollbook_core::store::RunState;
use serde_json::{Value, json};

use super::lying::Lying;
use super::world::{World, at};

fn item(id: &str, status: &str) -> Value {
    json!({"id": id, "status": status, "created_at": at(1), "updated_at": at(1)})
}

#[tokio::test]
async fn missing_items_and_other_statuses_are_counted_and_nothing_is_written() {
    let world = World::new();
    for (id, status) in [("csi_1", "active"), ("csi_2", "active"), ("csi_3", "ended")] {
        world.webhook(&format!("msg_{id}"), "subscriptionItem.active", at(1), &item(id, status)).await;
    }
    world.clerk.change(|objects| {
        for (id, status) in [("csi_1", "active"), ("csi_2", "canceled"), ("csi_4", "active")] {
            objects.put(&SUBSCRIPTION_ITEMS, &item(id, status));
        }
        // The webhook of this one is newer than the page.
        let mut old = item("csi_3", "active");
        old["updated_at"] = json!(at(0));
        objects.put(&SUBSCRIPTION_ITEMS, &old);
    });
    let before = world.rows(&SUBSCRIPTION_ITEMS).await;
    let report = world.run().await.expect("a run");
    let of =
        report.progress.resources.iter().find(|of| of.table == "subscription_items").expect("the resource");
    assert_eq!((of.read, of.written), (4, 0));
    assert_eq!((of.drift[Drift::Missing.as_str()], of.drift[Drift::Undated.as_str()]), (1, 1));
    assert_eq!(report.state, RunState::Complete, "nobody can approve anything about them");
    assert_eq!(world.rows(&SUBSCRIPTION_ITEMS).await, before);
}

#[tokio::test]
async fn a_run_of_named_resources_leaves_the_items_out() {
    let world = World::new();
    world.clerk.change(|objects| objects.put(&SUBSCRIPTION_ITEMS, &item("csi_1", "active")));
    let request =
        rollbook_reconciler::RunRequest { only: vec![&rollbook_core::catalog::USERS], ..<_>::default() };
    let report = world.run_as(&request).await.expect("a run");
    assert!(report.progress.resources.iter().all(|of| of.table == "users"));
}

#[tokio::test]
async fn a_list_that_does_not_end_is_given_up() {
    let world = World::new();
    world.clerk.change(|objects| {
        for number in 0..120 {
            objects.put(&SUBSCRIPTION_ITEMS, &item(&format!("csi_{number:04}"), "active"));
        }
    });
    // A server that ignores the offset, one with a total that moves on, and one with both.
    for (ignores, total) in [(true, 1_000_000), (false, 0), (true, 0)] {
        let source = Lying::new(&world).pages(move |clerk, resource, request, page| {
            let mut page = page?;
            if let (true, Position::Offset(offset)) = (resource == &SUBSCRIPTION_ITEMS, &request.position) {
                let all = clerk.change(|objects| {
                    objects.list(resource).into_iter().cloned().map(RawObject::from).collect::<Vec<_>>()
                });
                let begin = if ignores { 0 } else { usize::try_from(*offset).expect("small") % 100 };
                page.objects = all.into_iter().skip(begin).take(request.limit).collect();
                page.total = Some(if total == 0 { offset + 1_000 } else { total });
            }
            Ok(page)
        });
        let run = tokio::time::timeout(Duration::from_secs(60), source.run(&world, &[])).await;
        let error = run.expect("it ends").expect_err("an error").to_string();
        assert!(error.contains("Clerk's list of subscription_items is not reliable now"), "{error}");
    }
}
