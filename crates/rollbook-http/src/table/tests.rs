//! Who yields, and when time is up: by stamps that the tests put, so that no time need pass.

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
/// In milliseconds: when nothing that these tests make is new any more.
const LATER: u64 = 60_000;

fn connections(connections_max: usize) -> Connections {
    let (header_timeout, idle_timeout, write_timeout, age_max) = (LIMIT, 2 * LIMIT, LIMIT, LIMIT);
    Connections::new(Limits { connections_max, header_timeout, idle_timeout, write_timeout, age_max })
}

fn phase(place: &Place) -> Phase {
    place.connection.stamp().phase
}

fn closed(connections: &Connections, closed: Closed) -> u64 {
    connections.counts().closed[closed as usize]
}

fn place(connections: &Connections, phase: Phase, since: u64, trusted: bool) -> Place {
    let place = connections.try_place().expect("a free place");
    place.connection.put(phase, since);
    if trusted {
        place.connection.trust();
    }
    place
}

#[test]
fn a_full_port_drops_the_oldest_unproven_connection_and_then_the_longest_idle_one() {
    let connections = connections(5);
    let idle_longest = place(&connections, Phase::Idle, 1, true);
    let idle = place(&connections, Phase::Idle, 2, true);
    let stalled = place(&connections, Phase::Body, 4, false);
    let silent = place(&connections, Phase::New, 3, false);
    let refused = place(&connections, Phase::Closing, 5, false);
    assert!(connections.try_place().is_none());
    for (turn, yields) in [silent, stalled, refused, idle_longest, idle].into_iter().enumerate() {
        assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
        assert_eq!(phase(&yields), Phase::Cut, "{turn}");
        assert_eq!(closed(&connections, Closed::Full), turn as u64 + 1);
    }
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::AllBusy);
}

#[test]
fn one_that_became_busy_or_proved_itself_since_it_was_listed_is_passed_over() {
    let connections = connections(4);
    let places: Vec<Place> = (0..4).map(|since| place(&connections, Phase::New, since, false)).collect();
    connections.table.drop_oldest(LATER);
    places[1].connection.answering();
    places[2].connection.trust();
    connections.table.drop_oldest(LATER);
    let phases: Vec<Phase> = places.iter().map(phase).collect();
    assert_eq!(phases, [Phase::Cut, Phase::Answering, Phase::New, Phase::Cut]);
}

#[test]
fn a_list_that_is_used_up_is_made_anew_before_a_proven_connection_yields() {
    let connections = connections(4);
    let proven = place(&connections, Phase::Idle, 1, true);
    let [first, gone] = [2, 3].map(|since| place(&connections, Phase::New, since, false));
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
    drop(gone);
    let newer = place(&connections, Phase::New, 4, false);
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
    assert_eq!([&proven, &first, &newer].map(phase), [Phase::Idle, Phase::Cut, Phase::Cut]);
}

#[test]
fn a_new_connection_is_spared_for_a_moment_and_a_proven_one_is_not_dropped_in_its_place() {
    let connections = connections(2);
    let proven = place(&connections, Phase::Idle, 1, true);
    let new = place(&connections, Phase::New, 10, false);
    assert_eq!(connections.table.drop_oldest(10 + SPARED_FOR - 1), Dropped::TooNew);
    assert_eq!([&proven, &new].map(phase), [Phase::Idle, Phase::New]);
    assert_eq!(connections.table.drop_oldest(10 + SPARED_FOR), Dropped::One);
    assert_eq!([&proven, &new].map(phase), [Phase::Idle, Phase::Cut]);
}

#[tokio::test]
async fn requests_that_are_being_answered_keep_their_places_until_their_answer_and_a_newcomer_waits() {
    let connections = connections(1);
    let busy = place(&connections, Phase::Answering, 0, false);
    assert!(timeout(3 * LOOK_AGAIN, connections.place()).await.is_err());
    assert_eq!((phase(&busy), closed(&connections, Closed::Full)), (Phase::Answering, 0));
    assert!(connections.table.is_wanted(), "the next answer ends its connection");
    assert!(!connections.table.is_wanted(), "and no other one");
    drop(busy);
    assert!(timeout(LIMIT, connections.place()).await.is_ok());
}

#[test]
fn each_limit_in_time_ends_at_its_edge_and_not_before() {
    let connections = connections(4);
    let (header, idle) = (10_000, 20_000);
    for (phase, limit, reason) in [
        (Phase::New, header, Closed::HeaderTimeout),
        (Phase::Head, header, Closed::HeaderTimeout),
        (Phase::Idle, idle, Closed::IdleTimeout),
    ] {
        let place = place(&connections, phase, 7, true);
        let before = closed(&connections, reason);
        connections.table.end_overdue(&connections.limits, 7 + limit - 1);
        assert_eq!(place.connection.stamp().phase, phase);
        connections.table.end_overdue(&connections.limits, 7 + limit);
        assert_eq!(place.connection.stamp().phase, Phase::Cut);
        assert_eq!(closed(&connections, reason), before + 1);
    }
    for phase in [Phase::Body, Phase::Answering, Phase::Closing] {
        let place = place(&connections, phase, 7, false);
        connections.table.end_overdue(&connections.limits, u64::from(u32::MAX));
        assert_eq!(place.connection.stamp().phase, phase, "it has limits of its own");
    }
}

#[test]
fn every_connection_is_counted_in_its_state() {
    let connections = connections(5);
    let phases = [Phase::New, Phase::Head, Phase::Answering, Phase::Idle, Phase::Closing];
    let places = phases.map(|phase| place(&connections, phase, 0, false));
    assert_eq!(connections.counts().open, [1, 1, 1, 1, 1]);
    drop(places);
    assert_eq!(connections.counts(), Counts::default());
}
