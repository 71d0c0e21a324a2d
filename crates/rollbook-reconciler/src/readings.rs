//! Objects of Clerk, decoded: the changes that they would make.

use rollbook_core::catalog::Resource;
use rollbook_core::change::SubjectChange;
use rollbook_core::event::observed;
use rollbook_core::json::Document;
use rollbook_core::time::Timestamp;

use crate::settings::MARGIN;

/// Objects of one answer of Clerk, in the list's order.
pub(crate) struct Readings {
    /// Changes of the objects that can be read.
    pub(crate) subjects: Vec<SubjectChange>,
    /// Number of objects without an id, of another type, or marked as deleted.
    pub(crate) unreadable: u64,
    /// Whether an object is there twice. Then others may be missing.
    pub(crate) has_twice: bool,
    /// Position in the answer of the last object that can be read.
    pub(crate) last_at: Option<u64>,
    /// Clerk's clock at the answer.
    pub(crate) clock: Timestamp,
}

impl Readings {
    /// Takes the object of a point read.
    pub(crate) fn of(resource: &'static Resource, object: Document, clock: Timestamp) -> Self {
        let mut readings = Self::new(clock);
        readings.add(resource, object);
        readings
    }

    pub(crate) const fn new(clock: Timestamp) -> Self {
        Self { subjects: Vec::new(), unreadable: 0, has_twice: false, last_at: None, clock }
    }

    pub(crate) fn add(&mut self, resource: &'static Resource, object: Document) {
        match observed(resource, object, reading_time(self.clock)) {
            Some((subject, _)) => {
                self.last_at = Some(self.subjects.len() as u64 + self.unreadable);
                self.subjects.push(subject);
            }
            None => self.unreadable += 1,
        }
    }

    /// Whether there is no object.
    pub(crate) fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.unreadable == 0
    }

    /// Whether the first object was created after the run's start. The walk ends there: what is newer comes by
    /// webhook or in the next run, and a list that grows as fast as it is read has no end.
    pub(crate) fn begin_after(&self, start: Timestamp) -> bool {
        self.subjects.first().and_then(created_at).is_some_and(|at| at > start.as_millis())
    }
}

/// Returns the event time of a reading at this time of Clerk's clock.
pub(crate) fn reading_time(clock: Timestamp) -> Timestamp {
    clock.minus(MARGIN)
}

/// Returns `created_at` of an object, in milliseconds.
pub(crate) fn created_at(subject: &SubjectChange) -> Option<i64> {
    subject.row.as_ref()?.created_at.map(Timestamp::as_millis)
}

#[cfg(test)]
mod tests {
    use rollbook_core::catalog::USERS;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_a_living_object_of_the_resource_is_counted_and_never_read() {
        for (object, is_read) in [
            (json!({}), false),
            (json!({ "id": "user_1" }), true),
            (json!({ "id": "user_1", "object": "user", "deleted": false }), true),
            (json!({ "id": "user_1", "object": null, "deleted": null }), true),
            (json!({ "id": "org_1", "object": "organization" }), false),
            (json!({ "id": "user_1", "object": "session" }), false),
            (json!({ "id": "user_1", "object": ["user"] }), false),
            (json!({ "id": "user_1", "object": "user", "deleted": true }), false),
            (json!({ "id": "user_1", "deleted": "yes" }), false),
        ] {
            let text = object.to_string();
            let readings = Readings::of(&USERS, Document::from(&object), Timestamp::default());
            let expected = (usize::from(is_read), u64::from(!is_read));
            assert_eq!((readings.subjects.len(), readings.unreadable), expected, "{text}");
            assert!(!readings.is_empty());
        }
    }
}
