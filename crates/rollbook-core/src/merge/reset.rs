//! An operator's reset of a subject, for a fresh start from a reading of Clerk's API.

use super::{Content, Named, SubjectState};
use crate::catalog::LINKS_MAX;

impl SubjectState {
    /// Returns the state after an operator has reset the subject: no content and no deletion, and a floor at the
    /// latest event time known. Changes at or below the floor are ignored; a later one starts anew. The ids of
    /// parents stay known. A subject that an operator has erased stays as it is.
    #[must_use]
    pub fn reset(self) -> Self {
        if self.is_erased_by_operator() {
            return self;
        }
        let of_content = match self.content {
            Content::At(version) => version.event_at,
            Content::Unknown | Content::Erased => 0,
        };
        let of_links = self.links.0.iter().map(|named| match named {
            Named::Before(version) => version.event_at,
            Named::Nowhere | Named::InContent => 0,
        });
        let floor = of_links.chain([of_content, self.deleted_at.unwrap_or(0)]).fold(self.floor, i64::max);
        let links = self.links.after_content(self.content, [false; LINKS_MAX]);
        Self { content: Content::Unknown, deleted_at: None, floor, links }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Applied, Version};
    use crate::merge::{DeletedRows, Links, outcome_of};
    use crate::time::Timestamp;

    fn live(updated_at: i64, event_at: i64) -> Version {
        Version { is_deleted: false, updated_at, event_at, hash: [7; 16] }
    }

    fn delete(event_at: i64) -> Version {
        Version { is_deleted: true, updated_at: 0, event_at, hash: [0; 16] }
    }

    #[test]
    fn a_reset_subject_ignores_all_events_up_to_the_latest_known_and_starts_anew_with_a_later_one() {
        let links = Links([Named::InContent, Named::Before(live(1, 8))]);
        let stored = SubjectState { content: Content::At(live(5, 6)), deleted_at: Some(7), floor: 3, links };
        let reset = stored.reset();
        let known = Links([Named::Before(live(5, 6)), Named::Before(live(1, 8))]);
        assert_eq!(
            reset,
            SubjectState { content: Content::Unknown, deleted_at: None, floor: 8, links: known }
        );
        assert_eq!(reset.reset(), reset);
        for older in [live(9, 8), delete(8)] {
            assert_eq!(outcome_of(&older, &reset, DeletedRows::Keep), Applied::Ignored);
        }
        assert_eq!(outcome_of(&live(2, 9), &reset, DeletedRows::Keep), Applied::Inserted);
        assert_eq!(outcome_of(&delete(9), &reset, DeletedRows::Keep), Applied::Deleted);
    }

    #[test]
    fn what_an_operator_erased_stays_erased_and_what_retention_erased_starts_anew() {
        let erased = SubjectState::default().erased_by_operator(Timestamp::from_millis(5));
        assert_eq!(erased.reset(), erased);
        let by_retention =
            SubjectState { content: Content::Erased, deleted_at: Some(4), ..SubjectState::default() };
        assert_eq!(by_retention.reset(), SubjectState { floor: 4, ..SubjectState::default() });
    }

    #[test]
    fn a_deletion_after_a_reset_is_not_an_erasure_by_an_operator() {
        let reset = SubjectState { floor: 4, ..SubjectState::default() };
        let erased = reset.after(&delete(5), [false; LINKS_MAX], DeletedRows::Erase);
        assert!(!erased.is_erased_by_operator());
        for late in [live(9, 3), live(9, 9)] {
            assert_eq!(outcome_of(&late, &erased, DeletedRows::Erase), Applied::Stale);
        }
        let by_operator = reset.erased_by_operator(Timestamp::from_millis(6));
        assert!(
            by_operator.after(&delete(9), [false; LINKS_MAX], DeletedRows::Erase).is_erased_by_operator()
        );
    }
}
