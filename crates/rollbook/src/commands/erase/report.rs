//! Plan and result of an erasure as text.

use std::fmt::Write as _;

use rollbook_operator::erase::{Found, Mentions, Report};
use rollbook_operator::words::{a_kind, many};

use crate::output::{Table, harmless};

/// Text for an id that is unknown here.
const UNKNOWN: &str = ": this id is not known here: no row, no ledger entry and no message has it. Check that it is written correctly";
/// Maximum number of rows that are named.
const LISTED_MAX: usize = 20;

/// Formats a plan.
pub(super) fn plan(report: &Report) -> String {
    let mut text = String::new();
    let id = harmless(&report.id);
    let row = if !report.was_known {
        UNKNOWN
    } else if report.had_row {
        ""
    } else {
        "; it has no row with content"
    };
    _ = writeln!(text, "{id}: {}{row}", a_kind(report.resource));
    if report.addresses > 0 {
        _ = writeln!(
            text,
            "also removed: everything with one of the verified addresses or phone numbers ({} known)",
            report.addresses
        );
    }
    let mut table = Table::new(&["to remove", ""]);
    for (name, number) in &report.rows_by_table {
        table.row([(*name).to_owned(), many(*number, "row")]);
    }
    table.row(["ledger".to_owned(), "all entries about it and these rows".to_owned()]);
    queue(&mut table, &report.queue);
    _ = write!(text, "\n{table}");
    stays(&mut text, &report.queue, &report.mentions);
    not_taken(&mut text, report);
    text
}

/// Formats what is said about an id that is unknown here, whether it was to be erased or not.
pub(super) fn unknown(report: &Report) -> String {
    let id = harmless(&report.id);
    let mut text = format!(
        "{id}: {}{UNKNOWN}.\nTo block deliveries about it that may still arrive: rollbook erase {id} --tombstone\n",
        a_kind(report.resource)
    );
    stays(&mut text, &report.queue, &report.mentions);
    not_taken(&mut text, report);
    text
}

fn queue(table: &mut Table, found: &Found) {
    let places = [
        ("queue, waiting", found.waiting),
        ("queue, delayed", found.delayed),
        ("queue, leased by a worker", found.leased),
        ("dead letters", found.dead_letters),
    ];
    for (place, number) in places {
        table.row([place.to_owned(), many(number, "message")]);
    }
    if found.unreadable > 0 {
        let unreadable = format!(
            "{} of these cannot be read as an event, but contain the id or an address",
            found.unreadable
        );
        table.row([String::new(), unreadable]);
    }
}

/// Returns whether the erasure is complete, and whether there was anything to erase.
fn heading(report: &Report) -> String {
    let id = harmless(&report.id);
    let left = report.left.as_deref().unwrap_or_default();
    if !left.is_empty() {
        let mut text = format!("{id} is not erased completely. Left to do:\n");
        for left in left {
            _ = writeln!(text, "  - {}", harmless(left));
        }
        text.push_str("Done so far, which no delivery restores:\n\n");
        return text;
    }
    if report.was_known {
        return format!("{id} is erased. No delivery restores anything.\n\n");
    }
    format!("{id}{UNKNOWN}. A tombstone blocks every later delivery about this id.\n\n")
}

/// Formats a result.
pub(super) fn done(report: &Report) -> String {
    let mut text = heading(report);
    if let Some(removed) = &report.removed {
        let mut table = Table::new(&["removed", ""]);
        let rows = if report.was_known {
            format!("{} without content now", many(removed.rows, "row"))
        } else {
            "none; one tombstone was written".to_owned()
        };
        table.row(["rows".to_owned(), rows]);
        table.row(["ledger".to_owned(), many(removed.ledger, "entry")]);
        queue(&mut table, &report.queue);
        let all = report.queue.all();
        if removed.messages < all {
            let settled = all - removed.messages;
            let settled = format!("{settled} of these were settled by workers before they could be removed");
            table.row([String::new(), settled]);
        }
        _ = write!(text, "{table}");
        if removed.coming > 0 {
            let number = many(removed.coming, "message");
            _ = writeln!(text, "{number} about it arrived meanwhile; workers discard them");
        }
    }
    stays(&mut text, &report.queue, &report.mentions);
    not_taken(&mut text, report);
    _ = writeln!(text, "\nnot reached, and how long it lives:");
    let mut place = "";
    for copy in &report.not_reached {
        if copy.place != place {
            place = &copy.place;
            _ = writeln!(text, "  {}", harmless(place));
        }
        _ = writeln!(text, "  - {}", copy.what);
        if let Some(fix) = &copy.fix {
            _ = writeln!(text, "      sooner: {}", harmless(fix));
        }
    }
    text
}

/// Lists what stays, since it belongs to others.
fn stays(text: &mut String, found: &Found, mentions: &Mentions) {
    let mut lines = Vec::new();
    if found.mentions > 0 {
        let number = many(found.mentions, "message");
        lines.push(format!("{number} in the queue about others that mention the id or an address"));
    }
    let copies = [
        ("invitation", "that this user sent, with a copy of name and address", &mentions.invitations),
        ("domain", "verified by an address of this user", &mentions.domains),
        ("billing row", "with the id or an address, for example as the payer", &mentions.billing),
    ];
    for (one, what, ids) in copies {
        if let Some(first) = ids.first() {
            let number = many(ids.len() as u64, one);
            lines.push(format!(
                "{number} of organizations {what}, such as {}; rollbook erase removes each by its id",
                harmless(first)
            ));
        }
    }
    if mentions.organizations > 0 {
        lines.push(format!("the id, in created_by of {}", many(mentions.organizations, "organization")));
    }
    if lines.is_empty() {
        return;
    }
    _ = writeln!(text, "\nstays, since it belongs to others:");
    for line in lines {
        _ = writeln!(text, "  - {line}");
    }
}

/// Lists rejected addresses, the rows that contain them, and messages that cannot be read.
fn not_taken(text: &mut String, report: &Report) {
    if !report.rejected_addresses.is_empty() {
        _ = writeln!(text, "\naddresses not taken, so that nothing of another person is erased:");
        for rejected in &report.rejected_addresses {
            _ = writeln!(text, "  - {}: {}", harmless(&rejected.address), rejected.reason.text());
        }
        let rows = &report.rejected_rows;
        if !rows.is_empty() {
            let names: Vec<String> =
                rows.iter().take(LISTED_MAX).map(|row| format!("{} {}", row.table, row.id)).collect();
            let number = many(rows.len() as u64, "row");
            let more = if names.len() < rows.len() { ", …" } else { "" };
            let names = harmless(&names.join(", "));
            _ = writeln!(text, "    rows with these addresses ({number}) stay: {names}{more}");
        }
        let id = harmless(&report.id);
        _ = writeln!(text, "    if an address belongs to this person: rollbook erase {id} --also ADDRESS");
    }
    if report.queue.unrecognized > 0 {
        let number = many(report.queue.unrecognized, "message");
        _ = writeln!(
            text,
            "\nnot recognized: {number} in the queue or the dead letters cannot be read as an event. The id and the \
             addresses were not found in them as text, with JSON and URL escapes decoded; check them with rollbook \
             dead-letters show"
        );
    }
}
