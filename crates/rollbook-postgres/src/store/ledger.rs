//! Removal of ledger entries about an erased parent and its child rows, in steps.
//!
//! Content is erased first, so a ledger that refuses to lose entries does not keep content from being erased.
//! Entries that refuse their removal are isolated by halving the step, as rows are, and skipped.

use std::time::Instant;

use rollbook_core::store::StoreError;
use rollbook_core::store::cascades::Entry;

use super::PostgresStore;
use super::cascade::{Ended, SEARCH_MAX, Turn};
use super::entries::{Forget, about};
use super::parents::BATCH_MAX;

impl PostgresStore {
    /// Removes the ledger entries about these ids, in steps.
    pub(super) async fn forget(
        &self,
        ids: &[String],
        entry: &Entry,
        turn: &mut Turn<'_>,
    ) -> Result<Ended, StoreError> {
        let before = turn.kept.count;
        for ids in ids.chunks(BATCH_MAX) {
            let mut after = String::new();
            loop {
                let search = about(&self.statements, ids, &after);
                let found = self.steps().long(SEARCH_MAX, &search).await?;
                let Some(last) = found.last() else { break };
                after.clone_from(last);
                let mut open = vec![found];
                while let Some(some) = open.pop() {
                    if turn.is_over(Instant::now()) {
                        // The next try begins with the same entries: it waits longer each time.
                        let is_kept = turn.kept.count > before;
                        return Ok(if is_kept { Ended::Kept } else { Ended::Unfinished });
                    }
                    self.hold(entry, turn).await?;
                    self.remove_entries(some, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
        Ok(if turn.kept.count > before { Ended::Kept } else { Ended::Done })
    }

    /// Runs one step, with as many of these entries as the pace allows. The rest goes back to `open`, as do
    /// halves of a step that failed.
    pub(super) async fn remove_entries(
        &self,
        mut some: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.ledger_pace.size();
        if some.len() > size {
            open.push(some.split_off(size));
        }
        let forget = Forget { statements: &self.statements, entries: &some };
        match self.steps().paced(&self.ledger_pace, some.len(), &forget).await? {
            Ok((gone, left, example)) => {
                turn.ledger += gone;
                if let Some(example) = example {
                    turn.kept.add(
                        left,
                        example,
                        "a trigger, rule or policy of the table deliveries keeps them",
                    );
                }
            }
            Err(_) if some.len() > 1 => {
                let later = some.split_off(some.len() / 2);
                open.extend([later, some]);
            }
            Err(why) => turn.kept.add(1, some.swap_remove(0), why.text()),
        }
        Ok(())
    }
}
