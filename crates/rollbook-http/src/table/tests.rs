//! Order of dropping and time limits. Tests set the timestamps, so that no time needs to pass.

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
/// Time at which no connection of these tests counts as new any more, in milliseconds.
const LATER: u64 = 60_000;

fn connections(connections_max: usize) -> Connections {
    let (header_timeout, idle_timeout, write_timeout, age_max) = (LIMIT, 2 * LIMIT, LIMIT, LIMIT);
    let head_length_max = HEAD_LENGTH_MAX;
    Connections::new(Limits {
        connections_max,
        head_length_max,
        header_timeout,
        idle_timeout,
        write_timeout,
        age_max,
    })
}

fn phase(slot: &Slot) -> Phase {
    slot.connection.stamp().phase
}

fn closed(connections: &Connections, closed: CloseReason) -> u64 {
    connections.counts().closed[closed as usize]
}

fn slot(connections: &Connections, phase: Phase, since: u64, trusted: bool) -> Slot {
    let slot = connections.try_slot().expect("a free slot");
    slot.connection.put(phase, since);
    if trusted {
        slot.connection.authenticated();
    }
    slot
}

#[test]
fn a_full_port_drops_the_oldest_unauthenticated_connection_and_then_the_longest_idle_one() {
    let connections = connections(5);
    let idle_longest = slot(&connections, Phase::Idle, 1, true);
    let idle = slot(&connections, Phase::Idle, 2, true);
    let stalled = slot(&connections, Phase::Body, 4, false);
    let silent = slot(&connections, Phase::New, 3, false);
    let refused = slot(&connections, Phase::Closing, 5, false);
    assert!(connections.try_slot().is_none());
    for (turn, dropped) in [silent, stalled, refused, idle_longest, idle].into_iter().enumerate() {
        assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
        assert_eq!(phase(&dropped), Phase::Dropped, "{turn}");
        assert_eq!(closed(&connections, CloseReason::Full), turn as u64 + 1);
    }
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::AllBusy);
}

#[test]
fn a_listed_connection_that_became_busy_or_authenticated_is_skipped() {
    let connections = connections(4);
    let slots: Vec<Slot> = (0..4).map(|since| slot(&connections, Phase::New, since, false)).collect();
    connections.table.drop_oldest(LATER);
    slots[1].connection.answer_begins();
    slots[2].connection.authenticated();
    connections.table.drop_oldest(LATER);
    let phases: Vec<Phase> = slots.iter().map(phase).collect();
    assert_eq!(phases, [Phase::Dropped, Phase::Answering, Phase::New, Phase::Dropped]);
}

#[test]
fn a_used_up_list_is_rebuilt_before_an_authenticated_connection_is_dropped() {
    let connections = connections(4);
    let authenticated = slot(&connections, Phase::Idle, 1, true);
    let [first, gone] = [2, 3].map(|since| slot(&connections, Phase::New, since, false));
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
    drop(gone);
    let newer = slot(&connections, Phase::New, 4, false);
    assert_eq!(connections.table.drop_oldest(LATER), Dropped::One);
    assert_eq!([&authenticated, &first, &newer].map(phase), [Phase::Idle, Phase::Dropped, Phase::Dropped]);
}

#[test]
fn a_new_connection_is_protected_and_no_authenticated_one_is_dropped_instead() {
    let connections = connections(2);
    let authenticated = slot(&connections, Phase::Idle, 1, true);
    let new = slot(&connections, Phase::New, 10, false);
    assert_eq!(connections.table.drop_oldest(10 + PROTECTED_FOR - 1), Dropped::TooNew);
    assert_eq!([&authenticated, &new].map(phase), [Phase::Idle, Phase::New]);
    assert_eq!(connections.table.drop_oldest(10 + PROTECTED_FOR), Dropped::One);
    assert_eq!([&authenticated, &new].map(phase), [Phase::Idle, Phase::Dropped]);
}

#[tokio::test]
async fn answering_connections_keep_their_slots_until_they_answer_and_a_new_client_waits() {
    let connections = connections(1);
    let busy = slot(&connections, Phase::Answering, 0, false);
    assert!(timeout(3 * RETRY_INTERVAL, connections.slot()).await.is_err());
    assert_eq!((phase(&busy), closed(&connections, CloseReason::Full)), (Phase::Answering, 0));
    assert!(connections.table.is_wanted(), "the next response closes its connection");
    assert!(!connections.table.is_wanted(), "only one response closes its connection");
    drop(busy);
    assert!(timeout(LIMIT, connections.slot()).await.is_ok());
}

#[test]
fn each_time_limit_closes_the_connection_at_its_edge_and_not_before() {
    let connections = connections(4);
    let (header, idle) = (10_000, 20_000);
    for (phase, limit, reason) in [
        (Phase::New, header, CloseReason::HeaderTimeout),
        (Phase::Head, header, CloseReason::HeaderTimeout),
        (Phase::Idle, idle, CloseReason::IdleTimeout),
    ] {
        let slot = slot(&connections, phase, 7, true);
        let before = closed(&connections, reason);
        connections.table.end_overdue(&connections.limits, 7 + limit - 1);
        assert_eq!(slot.connection.stamp().phase, phase);
        connections.table.end_overdue(&connections.limits, 7 + limit);
        assert_eq!(slot.connection.stamp().phase, Phase::Dropped);
        assert_eq!(closed(&connections, reason), before + 1);
    }
    for phase in [Phase::Body, Phase::Answering, Phase::Closing] {
        let slot = slot(&connections, phase, 7, false);
        connections.table.end_overdue(&connections.limits, u64::from(u32::MAX));
        assert_eq!(slot.connection.stamp().phase, phase, "other limits apply to this phase");
    }
}

#[test]
fn every_connection_is_counted_in_its_state() {
    let connections = connections(5);
    let phases = [Phase::New, Phase::Head, Phase::Answering, Phase::Idle, Phase::Closing];
    let slots = phases.map(|phase| slot(&connections, phase, 0, false));
    assert_eq!(connections.counts().open, [1, 1, 1, 1, 1]);
    drop(slots);
    assert_eq!(connections.counts(), Counts::default());
}
