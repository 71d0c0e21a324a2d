//! Kinds of drift: how an object at Clerk can differ from its row.

crate::named! {
    /// Kind of difference between Clerk's API and a row; also the reason for a change that a reading made.
    pub enum Drift {
        /// Clerk has the object, and there is no row with content.
        Missing = "missing",
        /// Clerk's object has a later `updated_at` than the row.
        Stale = "stale",
        /// The content differs at an equal `updated_at`: Clerk changed it without moving `updated_at`.
        Undated = "undated",
        /// The row is deleted, and Clerk has the object. Never repaired silently.
        WronglyDeleted = "wrongly_deleted",
        /// The row is not deleted, and Clerk has proved that the object does not exist.
        NotDeleted = "not_deleted",
        /// Not a difference: an operator asked for a fresh reading of the object.
        Resync = "resync",
    }
}

impl Drift {
    /// All kinds that a reconciliation counts.
    pub const COUNTED: [Self; 5] =
        [Self::Missing, Self::Stale, Self::Undated, Self::WronglyDeleted, Self::NotDeleted];

    /// Returns the event type of the ledger entry of a change with this reason.
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::Missing => "reconcile.missing",
            Self::Stale => "reconcile.stale",
            Self::Undated => "reconcile.undated",
            Self::WronglyDeleted => "reconcile.wrongly_deleted",
            Self::NotDeleted => "reconcile.not_deleted",
            Self::Resync => "reconcile.resync",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_kinds_round_trip() {
        for drift in Drift::ALL {
            assert_eq!(Drift::parse(drift.as_str()), Some(drift));
            assert_eq!(drift.event_type(), format!("reconcile.{}", drift.as_str()));
        }
    }
}
