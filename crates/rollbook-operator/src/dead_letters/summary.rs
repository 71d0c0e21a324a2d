//! Numbers of dead letters by reason and event type.

use std::collections::BTreeMap;

use rollbook_core::queue::{DeadLetterFilter, DeadLetterSum, DeadLetterSums, QueueAdmin, QueueError};
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;
use serde::Serialize;

/// Dead letters per step, which reads no bodies.
const STEP: usize = 5_000;
/// Maximum number of groups. Dead letters of further event types are counted together.
const GROUPS_MAX: usize = 1_000;

/// Dead letters with one reason and one event type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Reason of the last failure.
    pub reason: Reason,
    /// Event type, if known.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Number of dead letters.
    pub count: u64,
    /// Time at which the newest one became a dead letter.
    pub newest_at: Timestamp,
}

/// Numbers of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of dead letters that match.
    pub total: u64,
    /// Groups, the largest ones first.
    pub groups: Vec<Group>,
    /// Number of dead letters of event types beyond the first 1,000 groups.
    pub others: u64,
}

/// Sums the dead letters that match, in steps.
///
/// # Errors
/// The queue cannot be read.
pub async fn summary(queue: &dyn QueueAdmin, filter: &DeadLetterFilter) -> Result<Summary, QueueError> {
    let (mut sums, mut others, mut after) = (DeadLetterSums::default(), 0_u64, None);
    loop {
        let step = queue.sum_dead_letters(&filter.page(after, STEP)).await?;
        others = others.saturating_add(add(&mut sums, step.groups));
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    let of_group = |((reason, event_type), sum): (_, DeadLetterSum)| Group {
        reason,
        event_type,
        count: sum.count,
        newest_at: sum.newest_at,
    };
    let mut groups: Vec<Group> = sums.groups.into_iter().map(of_group).collect();
    groups.sort_by(|one, other| {
        (other.count, one.reason, &one.event_type).cmp(&(one.count, other.reason, &other.event_type))
    });
    let total = groups.iter().fold(others, |sum, group| sum.saturating_add(group.count));
    Ok(Summary { total, groups, others })
}

/// Adds the groups of a step. Returns the number of dead letters of groups that have no room.
fn add(sums: &mut DeadLetterSums, groups: BTreeMap<(Reason, Option<String>), DeadLetterSum>) -> u64 {
    let mut others = 0_u64;
    for (group, sum) in groups {
        if sums.groups.len() < GROUPS_MAX || sums.groups.contains_key(&group) {
            sums.add_sum(group, sum);
        } else {
            others = others.saturating_add(sum.count);
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_beyond_the_maximum_are_counted_together() {
        let sum = DeadLetterSum { count: 2, newest_at: Timestamp::from_millis(1) };
        let group = |number: usize| ((Reason::StoreRefused, Some(format!("type_{number:04}"))), sum);
        let mut sums = DeadLetterSums::default();
        assert_eq!(add(&mut sums, (0..GROUPS_MAX).map(group).collect()), 0);
        assert_eq!(add(&mut sums, (0..=GROUPS_MAX).map(group).collect()), 2, "one type has no room");
        assert_eq!(sums.groups.len(), GROUPS_MAX);
        assert!(sums.groups.values().all(|sum| sum.count == 4));
    }
}
