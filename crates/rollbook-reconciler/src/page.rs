//! One page of a list in ascending order of `created_at`: comparison, and the window that it proves.

use rollbook_core::catalog::Resource;
use rollbook_core::source::{Page, Window};
use rollbook_core::time::Timestamp;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::{Last, Slice};
use crate::readings::{Readings, created_at};

/// Work on a page that was taken: its objects are compared, and the window that it proves is examined.
pub(crate) struct PageWork {
    page: Readings,
    /// The window between the last object before the page and its last object, if it proves anything.
    window: Option<Window>,
    /// Ids that Clerk shows in the window.
    present: Vec<String>,
}

impl PageWork {
    /// Takes the new objects of a page, which follow [`Slice::last`], and moves `last`.
    pub(crate) fn take(
        resource: &'static Resource,
        slice: &mut Slice,
        page: Readings,
    ) -> Result<Self, ReconcileError> {
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
        let Some((last_id, last_at)) = ids.last().cloned().zip(times.last().copied()) else {
            // Objects without any id: the walk goes on, and proves nothing here.
            return Ok(Self { page, window: None, present: ids });
        };
        let is_dated = known.len() == times.len() && slice.last.as_ref().is_none_or(|_| before.is_some());
        let window = last_at.filter(|_| page.unreadable == 0 && is_dated).map(|to| {
            let from = before.unwrap_or(slice.from);
            Window { from: Timestamp::from_millis(from), to: Timestamp::from_millis(to) }
        });
        let mut tied: Vec<String> = slice.last.take().map(|last| last.ties).unwrap_or_default();
        let at_last: Vec<String> =
            ids.iter().zip(&times).filter(|(_, at)| **at == last_at).map(|(id, _)| id.clone()).collect();
        // Many users may have one `created_at`, after an import. Their window is empty, and needs no ids.
        let (latest, present) = if before == last_at {
            tied.extend(at_last);
            (tied, Vec::new())
        } else {
            (at_last, [ids, tied].concat())
        };
        slice.last = Some(Last { id: last_id, created_at: last_at, ties: latest });
        Ok(Self { page, window: window.filter(|of| of.from < of.to), present })
    }
}

impl Context {
    /// Decodes a page. In the background the run pauses after each part.
    pub(crate) async fn decode(
        &self,
        resource: &'static Resource,
        page: Page,
    ) -> Result<Readings, ReconcileError> {
        Ok(self.decoder.decode(resource, page, &self.stop).await?)
    }

    /// Does the work on a page.
    pub(crate) async fn finish_page(
        &self,
        resource: &'static Resource,
        PageWork { page, window, present }: PageWork,
    ) -> Result<(), ReconcileError> {
        self.compare(resource, page).await?;
        let Some(window) = window else { return Ok(()) };
        self.prove(resource, window, &present.iter().map(String::as_str).collect()).await
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
