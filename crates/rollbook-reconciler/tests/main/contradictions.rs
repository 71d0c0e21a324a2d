//! Lists by offset that contradict themselves, or that change while they are read. A run is complete only if no row is
//! missing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::source::{Page, PageRequest, Position, RawObject};
use rollbook_core::store::RunState;
use rollbook_reconciler::{ReconcileError, RunReport};
use rollbook_testkit::events::{START, organization};
use rollbook_testkit::memory::clerk::MemoryClerk;
use serde_json::{Map, json};

use super::lying::{Answer, Lying};
use super::world::{World, organization_id};

/// Number of organizations. A page has 50.
const NUMBER: usize = 130;

fn world() -> World {
    let world = World::new();
    world.populate(1, NUMBER, 0);
    world
}

fn offset(request: &PageRequest) -> usize {
    match request.position {
        Position::Offset(offset) => usize::try_from(offset).expect("a small number"),
        Position::After { .. } => 0,
    }
}

fn assert_contradiction(result: Result<RunReport, ReconcileError>, words: &str) {
    let error = result.expect_err("no run that reached its end");
    assert!(matches!(error, ReconcileError::Contradiction { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

/// Replaces the total of pages of organizations.
fn totals(
    total: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer {
    move |_, resource, _, page| {
        let page = page?;
        let total = page.total.map(|of| if resource == &ORGANIZATIONS { total(of) } else { of });
        Ok(Page { total, ..page })
    }
}

#[tokio::test(start_paused = true)]
async fn a_total_that_never_agrees_with_the_list_is_named_and_every_row_is_there() {
    for total in [|of| of / 2, |_| 0, |of| of - 1, |of| of + 1, |of| of + 500] {
        let world = world();
        let source = Lying::new(&world).pages(totals(total));
        assert_contradiction(source.run(&world, &[&ORGANIZATIONS]).await, "organizations");
        assert_eq!(world.living(&ORGANIZATIONS).await.len(), NUMBER);
        let walks = world.store.freshness().await.expect("freshness");
        assert!(walks.iter().all(|of| of.table != "organizations"), "{walks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_total_that_is_wrong_for_a_moment_costs_some_requests() {
    for wrong in 0..5 {
        let world = world();
        let pages = AtomicU64::new(0);
        let total = move |of| if pages.fetch_add(1, Ordering::Relaxed) == wrong { of / 2 } else { of };
        let report = Lying::new(&world).pages(totals(total)).run(&world, &[&ORGANIZATIONS]).await;
        assert_eq!(report.expect("a run").state, RunState::Complete);
        assert_eq!(world.living(&ORGANIZATIONS).await.len(), NUMBER, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_the_offset_is_named_in_a_bounded_number_of_requests() {
    for total in [80, 99, 500] {
        let world = world();
        let ignore =
            move |clerk: &MemoryClerk, resource: &'static Resource, request: &PageRequest, page: Answer| {
                let objects = clerk.change(|objects| {
                    let first = objects.list(resource).into_iter().take(request.limit);
                    first.map(|of| of.clone().into()).collect()
                });
                Ok(Page { objects, total: Some(total), ..page? })
            };
        let result = Lying::new(&world).pages(ignore).run(&world, &[&ORGANIZATIONS]).await;
        assert_contradiction(result, "organizations");
        assert!(world.clerk.calls().0 < 60, "{:?}", world.clerk.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_asked_for_again_in_another_way() {
    let world = world();
    let pages = AtomicU64::new(0);
    let empty_once = move |_: &MemoryClerk, _: &'static Resource, _: &PageRequest, page: Answer| {
        let page = page?;
        let is_first = pages.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if is_first { Page { objects: Vec::new(), total: Some(0), ..page } } else { page })
    };
    let report = Lying::new(&world).pages(empty_once).run(&world, &[&ORGANIZATIONS]).await.expect("a run");
    assert_eq!((report.state, world.living(&ORGANIZATIONS).await.len()), (RunState::Complete, NUMBER));
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_of_objects_that_can_be_read_alone_is_not_complete() {
    let world = world();
    world.run().await.expect("a run");
    world.pass(3600);
    let empty = |_: &MemoryClerk, _: &'static Resource, _: &PageRequest, page: Answer| {
        Ok(Page { objects: Vec::new(), total: Some(0), ..page? })
    };
    let source = Lying::new(&world).pages(empty).counts(|_, _| 0);
    assert_contradiction(source.run(&world, &[&ORGANIZATIONS]).await, "it is empty");
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), NUMBER);
}

/// Organizations in the order of `order`, which may change at each page.
fn ordered(
    order: impl Fn(usize, &mut Vec<RawObject>) + Send + Sync + 'static,
) -> impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer {
    let (list, pages) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    move |clerk, resource, request, page| {
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            *list = clerk
                .change(|objects| objects.list(resource).into_iter().map(|of| of.clone().into()).collect());
        }
        let number = pages.fetch_add(1, Ordering::Relaxed);
        order(usize::try_from(number).expect("a small number"), &mut list);
        let objects = list.iter().skip(offset(request)).take(request.limit).cloned().collect();
        Ok(Page { objects, total: Some(list.len() as u64), ..page? })
    }
}

/// Organizations of which this many have the same `created_at`.
fn tied(number: usize, ties: usize) -> World {
    let world = World::new();
    world.clerk.change(|objects| {
        for number in 0..number {
            let mut object = organization(&organization_id(number), START);
            object["created_at"] = json!(START + i64::try_from(number / ties).expect("a small number"));
            objects.put(&ORGANIZATIONS, &object);
        }
    });
    world
}

#[tokio::test(start_paused = true)]
async fn objects_that_move_to_the_end_of_their_millisecond_hide_no_other() {
    // The last object of the first page alone, some before it, and both.
    for moved in [vec![49], vec![3], vec![3, 10, 49], (0..40).collect(), (10..50).collect()] {
        for ties in [60, 70, 120] {
            let world = tied(120, ties);
            let moving = moved.clone();
            let order = move |page, list: &mut Vec<RawObject>| {
                if page == 1 {
                    for at in moving.iter().rev() {
                        let object = list.remove(*at);
                        list.insert(ties - 1, object);
                    }
                }
            };
            let source = Lying::new(&world).pages(ordered(order));
            let report = source.run(&world, &[&ORGANIZATIONS]).await.expect("a run");
            assert_eq!(report.state, RunState::Complete);
            assert_eq!(world.living(&ORGANIZATIONS).await.len(), 120, "{moved:?} of {ties}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_in_another_order_at_each_page_is_complete_only_if_no_row_is_missing() {
    for seed in 0..20 {
        let world = tied(120, 120);
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let order = move |_, list: &mut Vec<RawObject>| {
            random.lock().unwrap_or_else(PoisonError::into_inner).shuffle(list);
        };
        let result = Lying::new(&world).pages(ordered(order)).run(&world, &[&ORGANIZATIONS]).await;
        assert!(world.clerk.calls().0 < 200, "{:?} requests", world.clerk.calls());
        match result {
            Ok(report) => {
                let found = (report.state, world.living(&ORGANIZATIONS).await.len());
                assert_eq!(found, (RunState::Complete, 120));
            }
            error => assert_contradiction(error, "organizations"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_appears_among_those_read_already_is_found_by_another_walk() {
    let world = tied(120, 1);
    let order = |page, list: &mut Vec<RawObject>| {
        if page == 1 {
            let older = organization(&organization_id(9_999), START);
            list.insert(0, older.as_object().cloned().expect("an object").into());
        }
    };
    let source = Lying::new(&world).pages(ordered(order));
    let report = source.run(&world, &[&ORGANIZATIONS]).await.expect("a run");
    assert_eq!((report.state, world.living(&ORGANIZATIONS).await.len()), (RunState::Complete, 121));
}

/// Takes the ids of the organizations at these positions.
fn without_ids(
    is_without: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> impl Fn(&MemoryClerk, &'static Resource, &PageRequest, Answer) -> Answer {
    move |_, resource, request, page| {
        let mut page = page?;
        if resource == &ORGANIZATIONS {
            for (at, object) in page.objects.iter_mut().enumerate() {
                if is_without(offset(request) + at) {
                    *object = Map::from_iter([("organization".to_owned(), json!({}))]).into();
                }
            }
        }
        Ok(page)
    }
}

#[tokio::test(start_paused = true)]
async fn objects_without_an_id_anywhere_in_a_list_are_counted_and_the_walk_ends() {
    type Rule = fn(usize) -> bool;
    let rules: [(Rule, usize); 5] = [
        (|_| true, 0),
        (|at| at < 50, 80),
        (|at| (40..120).contains(&at), 50),
        (|at| at == 49, 129),
        (|at| at >= 50, 50),
    ];
    for (rule, readable) in rules {
        let world = world();
        let source = Lying::new(&world).pages(without_ids(rule));
        let report = source.run(&world, &[]).await.expect("a run");
        assert_eq!(report.state, RunState::Held, "something could not be read");
        let unreadable = report.progress.resources[0].unreadable;
        assert!(unreadable >= (NUMBER - readable) as u64, "{unreadable} of {}", NUMBER - readable);
        assert_eq!(world.living(&ORGANIZATIONS).await.len(), readable);
        assert_eq!(world.living(&USERS).await.len(), 1, "the other resources are read");
        let walks = world.store.freshness().await.expect("freshness");
        assert!(walks.iter().all(|of| of.table != "organizations" || of.complete_since.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_objects_without_an_id_do_not_go_on_for_ever() {
    let world = World::new();
    world.populate(0, 1, 0);
    let calls = Arc::new(AtomicU64::new(0));
    let seen = calls.clone();
    let endless = move |_: &MemoryClerk, _: &'static Resource, request: &PageRequest, page: Answer| {
        seen.fetch_add(1, Ordering::Relaxed);
        let objects = (0..10).map(|_| Map::new().into()).collect();
        Ok(Page { objects, total: Some(offset(request) as u64 + 1_000), ..page? })
    };
    let result = Lying::new(&world).pages(endless).run(&world, &[&ORGANIZATIONS]).await;
    assert_contradiction(result, "organizations is not reliable now: its objects can't be read");
    assert!(calls.load(Ordering::Relaxed) < 20);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_twice_on_a_page_hides_no_other_one() {
    for (resource, lasts) in
        [(&ORGANIZATIONS, false), (&ORGANIZATIONS, true), (&USERS, false), (&USERS, true)]
    {
        let world = World::new();
        world.populate(NUMBER, NUMBER, 0);
        let pages = AtomicU64::new(0);
        let source = Lying::new(&world).pages(move |_, of, _, page| {
            let mut page = page?;
            let is_due = of == resource && page.objects.len() > 1;
            if is_due && (lasts || pages.fetch_add(1, Ordering::Relaxed) < 3) {
                page.objects[1] = page.objects[0].clone();
            }
            Ok(page)
        });
        let run = source.run(&world, &[resource]).await;
        if lasts {
            assert_contradiction(run, resource.table);
        } else {
            assert_eq!(run.expect("a run").state, RunState::Complete, "{resource:?}");
            assert_eq!(world.living(resource).await.len(), NUMBER, "{resource:?}");
        }
    }
}
