//! One page of a list in ascending order of `created_at`: comparison, and the window that it proves.

use std::collections::HashSet;

use rollbook_core::catalog::Resource;
use rollbook_core::event::id_of;
use rollbook_core::source::Window;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value};

use crate::compare::Objects;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::{Last, Slice};

impl Context {
    /// Compares the new objects of a page, which follow [`Slice::last`], and examines the rows of the window
    /// between. Moves `last`.
    pub(crate) async fn take_page(
        &self,
        resource: &'static Resource,
        slice: &mut Slice,
        page: Objects,
    ) -> Result<(), ReconcileError> {
        let times: Vec<Option<i64>> = page.objects.iter().map(created_at).collect();
        let known: Vec<i64> = times.iter().flatten().copied().collect();
        let before = slice.last.as_ref().and_then(|last| last.created_at);
        if !known.is_sorted()
            || before.zip(known.first().copied()).is_some_and(|(before, first)| first < before)
        {
            let detail = "it is not in the order of created_at";
            return Err(ReconcileError::Contradiction { table: resource.table, detail });
        }
        let named =
            page.objects.iter().filter_map(|object| Some((id_of(object)?.to_owned(), created_at(object))));
        let (ids, named_times): (Vec<String>, Vec<Option<i64>>) = named.unzip();
        let is_complete = self.compare(resource, page).await?;
        let Some((last_id, last_at)) = ids.last().cloned().zip(named_times.last().copied()) else {
            // Objects without any id: the walk goes on, and proves nothing here.
            return Ok(());
        };
        let mut present: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let tied = slice.last.iter().flat_map(|last| &last.ties);
        present.extend(tied.clone().map(String::as_str));
        let is_dated = known.len() == times.len() && slice.last.as_ref().is_none_or(|_| before.is_some());
        if is_complete
            && is_dated
            && let Some(to) = last_at
        {
            let from = before.unwrap_or(slice.from);
            let window = Window { from: Timestamp::from_millis(from), to: Timestamp::from_millis(to) };
            self.prove(resource, window, &present).await?;
        }
        let mut now_tied: Vec<String> = if before == last_at { tied.cloned().collect() } else { Vec::new() };
        now_tied
            .extend(ids.into_iter().zip(&named_times).filter(|(_, at)| **at == last_at).map(|(id, _)| id));
        slice.last = Some(Last { id: last_id, created_at: last_at, ties: now_tied });
        Ok(())
    }

    /// Examines the rows after the last page of a part of a list.
    pub(crate) async fn prove_rest(
        &self,
        resource: &'static Resource,
        slice: &Slice,
        clock: Timestamp,
    ) -> Result<(), ReconcileError> {
        let from = match &slice.last {
            None => slice.from,
            Some(Last { created_at: Some(at), .. }) => *at,
            Some(Last { created_at: None, .. }) => return Ok(()),
        };
        let window = Window { from: Timestamp::from_millis(from), to: slice.window().to.min(clock) };
        let present = slice.last.iter().flat_map(|last| &last.ties).map(String::as_str).collect();
        self.prove(resource, window, &present).await
    }
}

/// Whether a page begins with an object that was created after the run's start. The walk ends there: what is
/// newer comes by webhook or in the next run, and a list that grows as fast as it is read has no end.
pub(crate) fn begins_after(objects: &[Map<String, Value>], start: Timestamp) -> bool {
    objects.first().and_then(created_at).is_some_and(|at| at > start.as_millis())
}

/// Returns `created_at` of an object, in milliseconds.
pub(crate) fn created_at(object: &Map<String, Value>) -> Option<i64> {
    let number = object.get("created_at")?;
    Timestamp::from_clerk(number.as_i64()?).map(Timestamp::as_millis)
}
