//! Damage that a common nightly job would have done to the same users: it reads the first page of Clerk's
//! list, writes it over the rows, and deletes every user that the page lacks.
//!
//! The damage is only computed: the demo's rows stay right.

use rollbook_core::time::Timestamp;
use rollbook_simulator::history::History;
use serde::Serialize;
use serde_json::Value;

/// Objects on the largest page of Clerk's API. The job reads one page.
const PAGE: usize = 500;
/// Share of the history that is left when the job reads: webhooks arrive while it works.
const LATER_SHARE: usize = 20;

/// Damage of the nightly job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Naive {
    /// Users at Clerk.
    #[serde(rename = "users")]
    pub(crate) living: usize,
    /// Rows of living users that the job deletes.
    pub(crate) wrongly_deleted: usize,
    /// Rows that the job overwrites with an older state.
    pub(crate) overwritten: usize,
    /// Users deleted meanwhile that the job restores.
    pub(crate) brought_back: usize,
}

impl Naive {
    /// Computes the damage.
    pub(super) fn of(history: &History) -> Self {
        let (then, now) =
            (history.state_after(history.events.len() - history.events.len() / LATER_SHARE), history.state());
        let users = |state: &rollbook_simulator::state::ClerkState| -> Vec<(Option<i64>, String, Value)> {
            let ids = state.ids("users");
            let objects = ids.into_iter().filter_map(|id| Some((state.object("users", &id)?, id)));
            objects.map(|(object, id)| (created_at(&object), id, Value::Object(object))).collect()
        };
        // Newest first: the default order of Clerk's list.
        let mut page = users(&then);
        page.sort_by_key(|(created_at, ..)| std::cmp::Reverse(*created_at));
        page.truncate(PAGE);
        let living = now.ids("users");
        let mut naive = Self { living: living.len(), ..Self::default() };
        naive.wrongly_deleted =
            living.iter().filter(|id| !page.iter().any(|(_, listed, _)| listed == *id)).count();
        for (_, id, read) in &page {
            match now.object("users", id) {
                None => naive.brought_back += 1,
                Some(current) if Value::Object(current.clone()) != *read => naive.overwritten += 1,
                Some(_) => {}
            }
        }
        naive
    }
}

fn created_at(object: &serde_json::Map<String, Value>) -> Option<i64> {
    Some(Timestamp::from_millis(object.get("created_at")?.as_i64()?).as_millis())
}

#[cfg(test)]
mod tests {
    use rollbook_simulator::history::HistorySettings;

    use super::*;

    #[test]
    fn a_job_of_one_page_deletes_living_users_beyond_that_page_only() {
        let history = |users, changes| {
            History::generate(&HistorySettings {
                users,
                changes,
                organizations: 5,
                ..HistorySettings::default()
            })
        };
        let few = Naive::of(&history(100, 800));
        assert!(few.living <= 100 && few.wrongly_deleted < 10, "{few:?}");
        let many = Naive::of(&history(800, 4_000));
        assert!(many.wrongly_deleted >= many.living - PAGE, "{many:?}");
        assert!(many.overwritten > 0, "{many:?}");
    }
}
