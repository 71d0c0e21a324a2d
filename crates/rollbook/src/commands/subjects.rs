//! Subjects that a name stands for, as `explain` and `erase` show them.

use std::{fmt, io};

use rollbook_operator::lookup::{ACCEPTED, Lookup};

use crate::cli::Output;
use crate::output::{Table, print, print_json};

/// An id, an address or another name of which nothing is known here: exit code 3.
#[derive(Debug)]
pub(crate) struct NothingKnown(pub(crate) String);

impl fmt::Display for NothingKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NothingKnown {}

/// Returns the forms of a name that a command takes, as a sentence.
pub(super) fn accepted(command: &str) -> String {
    format!("{command} takes {ACCEPTED}, or the svix-id of a delivery (msg_…)")
}

/// Prints the subjects that a name stands for.
pub(super) fn show(lookup: &Lookup, output: Output) -> io::Result<()> {
    if output == Output::Json {
        return print_json(lookup);
    }
    let end = if lookup.is_cut_short { "The search ended early: there may be more.\n" } else { "" };
    if lookup.matches.is_empty() {
        return print(if end.is_empty() { "no subject matches" } else { end });
    }
    let mut table = Table::new(&["id", "table", "found by", "row"]);
    for found in &lookup.matches {
        let state = if found.is_deleted { "deleted" } else { "alive" };
        let cells = [&found.id, found.resource.table, found.by.text(), state];
        table.row(cells.map(str::to_owned));
    }
    print(&format!("{table}{end}"))
}
