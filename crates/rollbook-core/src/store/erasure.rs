//! Erasure of subjects on request of an operator.

use async_trait::async_trait;

use super::StoreError;
use crate::catalog::Resource;
use crate::time::Timestamp;

/// Port of an operator who erases subjects.
#[async_trait]
pub trait Erasure: Send + Sync {
    /// Erases these subjects, whether anything is stored or not. Each becomes a tombstone: a row without
    /// content, with an erasure floor of `at` or later, so that no later delivery restores content. Child rows
    /// (by the catalog's links) lose their content too, now or when they arrive later. Ledger entries of the
    /// subjects and of their child rows are removed.
    ///
    /// An engine that can hold many child rows works in steps, commits each and reports its progress: first the
    /// tombstones, which prevent any restoration, then the child rows and the ledger entries. After an error the
    /// completed steps stay; the same call again continues.
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError>;

    /// Erases as [`Self::erase_in_steps`] does, without a report of the progress.
    async fn erase(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
    ) -> Result<ErasedCounts, StoreError> {
        self.erase_in_steps(subjects, at, &|_| ()).await
    }

    /// Returns the tables of which policies of the database may hide rows from this store: rows that it can neither
    /// erase nor check.
    async fn hidden_tables(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

/// Counts of what an erasure removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedCounts {
    /// Rows that lost their content.
    pub rows: u64,
    /// Ledger entries removed.
    pub ledger: u64,
}

/// Callback with the counts of an erasure so far.
pub type ErasureProgress<'a> = dyn Fn(ErasedCounts) + Send + Sync + 'a;
