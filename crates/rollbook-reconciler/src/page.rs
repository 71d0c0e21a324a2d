//! One page of a list in ascending order of `created_at`: comparison, and the window that it proves.

use std::collections::HashSet;

use rollbook_core::catalog::Resource;
use rollbook_core::source::Window;
use rollbook_core::time::Timestamp;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::{Last, Slice};
use crate::readings::{Readings, created_at};

impl Context {
    /// Compares the new objects of a page, which follow [`Slice::last`], and examines the rows of the window
    /// between. Moves `last`.
    pub(crate) async fn take_page(
        &self,
        resource: &'static Resource,
        slice: &mut Slice,
        page: Readings,
    ) -> Result<(), ReconcileError> {
        let (ids, times): (Vec<String>, Vec<Option<i64>>) =
            page.subjects.iter().map(|subject| (subject.id.clone(), created_at(subject))).unzip();
        let known: Vec<i64> = times.iter().flatten().copied().collect();
        let before = slice.last.as_ref().and_then(|last| last.created_at);
        if !known.is_sorted()
            || before.zip(known.first().copied()).is_some_and(|(before, first)| first < before)
        {
            let detail = "it is not in the order of created_at";
            return Err(ReconcileError::Contradiction { table: resource.table, detail });
        }
        let is_complete = page.unreadable == 0;
        self.compare(resource, page).await?;
        let Some((last_id, last_at)) = ids.last().cloned().zip(times.last().copied()) else {
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
        now_tied.extend(ids.into_iter().zip(&times).filter(|(_, at)| **at == last_at).map(|(id, _)| id));
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
