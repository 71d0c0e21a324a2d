//! Progress of an erasure.

use std::fmt;

use rollbook_core::store::ErasedCounts;

use crate::words::many;

/// Progress of an erasure. It may take minutes: whole tables are searched, and child rows are erased in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A table is searched for addresses.
    Searching {
        /// Name of the table.
        table: &'static str,
        /// Rows read so far.
        rows: u64,
    },
    /// Rows and ledger entries were erased.
    Erasing(ErasedCounts),
}

/// Callback with the progress of an erasure.
pub type ReportProgress<'a> = dyn Fn(Progress) + Send + Sync + 'a;

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Searching { table, rows } => {
                write!(f, "searching {table} for addresses: {} read", many(*rows, "row"))
            }
            Self::Erasing(ErasedCounts { rows, ledger }) => {
                let (rows, entries) = (many(*rows, "row"), many(*ledger, "entry"));
                write!(f, "erased so far: {rows}, {entries} of the ledger")
            }
        }
    }
}
