//! What an erasure would do or has done, as text and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::look::Found;
use super::person::{Key, Person};
use super::remains::Remain;
use crate::output::{Table, harmless};
use crate::words::{a_kind, many};

/// Said of an id that is unknown here.
const UNKNOWN: &str = ": nothing is known of this id here: no row, no line of the ledger, no message. Check that it is \
                       written correctly";
/// Rows that are named one by one.
const LISTED_MAX: usize = 20;

/// What has been done.
#[derive(Default)]
pub(super) struct Done {
    /// Rows without content now.
    pub(super) rows: u64,
    /// Lines of the ledger that are gone.
    pub(super) ledger: u64,
    /// Messages that were found, and are gone.
    pub(super) found: Found,
    /// How many of those were still there to be removed.
    pub(super) removed: u64,
    /// Why some rows keep their content, where some do.
    pub(super) refused: Option<String>,
    /// What is not done, in sentences; empty where the erasure is complete.
    pub(super) left: Vec<String>,
    /// How many came last, and are left to the workers.
    pub(super) coming: u64,
}

/// Rows of others that hold a copy of their name or address.
#[derive(Default)]
pub(super) struct Mentions {
    /// Invitations that they sent.
    pub(super) invitations: Vec<String>,
    /// Domains that were verified by an address of theirs.
    pub(super) domains: Vec<String>,
    /// Subscriptions, items and payments of organizations of theirs that name them or an address of theirs.
    pub(super) billing: Vec<String>,
    /// Organizations that they made: only their id is there.
    pub(super) organizations: u64,
}

fn by_table(keys: &BTreeSet<Key>) -> BTreeMap<&'static str, u64> {
    let mut numbers = BTreeMap::new();
    for (table, _) in keys {
        *numbers.entry(*table).or_default() += 1;
    }
    numbers
}

/// What would go.
pub(super) fn plan(person: &Person, found: &Found, mentions: &Mentions) -> String {
    let mut text = String::new();
    let id = harmless(&person.id);
    let key = (person.resource.table, person.id.clone());
    let row = if !is_known(person, found) {
        UNKNOWN
    } else if person.rows.contains(&key) {
        ""
    } else {
        "; no row tells anything of it, and none will"
    };
    _ = writeln!(text, "{id}: {}{row}", a_kind(person.resource));
    let addresses = person.addresses.own().len() as u64;
    if addresses > 0 {
        _ = writeln!(
            text,
            "also removed: whatever names their verified addresses or phone numbers ({addresses} known)"
        );
    }
    let mut table = Table::new(&["would go", ""]);
    for (name, number) in by_table(&person.rows) {
        table.row([name.to_owned(), many(number, "row")]);
    }
    table.row(["ledger".to_owned(), "all lines about it and these rows".to_owned()]);
    queue(&mut table, found);
    _ = write!(text, "\n{table}");
    stays(&mut text, "would stay", found, mentions);
    not_taken(&mut text, person, found);
    text
}

fn queue(table: &mut Table, found: &Found) {
    let places = [
        ("queue, waiting", found.waiting),
        ("queue, delayed", found.delayed),
        ("queue, with a worker", found.leased),
        ("dead letters", found.dead),
    ];
    for (place, number) in places {
        table.row([place.to_owned(), many(number, "message")]);
    }
    if found.unreadable > 0 {
        let told = format!(
            "no events that can be read, but hold the id or an address: {} of these",
            found.unreadable
        );
        table.row([String::new(), told]);
    }
}

/// Whether anything of the id was here: a row, a line of the ledger, a message, or a row that names it or an address.
fn is_known(person: &Person, found: &Found) -> bool {
    let known = person.was_known.unwrap_or_default();
    known || found.all() + found.mentions > 0 || !person.rows.is_empty()
}

/// Whether the erasure is complete, and whether there was anything to erase.
fn heading(person: &Person, done: &Done) -> String {
    let id = harmless(&person.id);
    if !done.left.is_empty() {
        let mut text = format!("{id} is not erased completely. Left to do:\n");
        for left in &done.left {
            _ = writeln!(text, "  - {}", harmless(left));
        }
        text.push_str("Done so far, which no delivery brings back:\n\n");
        return text;
    }
    if is_known(person, &done.found) {
        return format!("{id} is erased. No delivery brings anything back.\n\n");
    }
    format!("{id}{UNKNOWN}. A tombstone keeps out every later delivery about this id.\n\n")
}

/// What has been done, and what was not reached.
pub(super) fn done(person: &Person, done: &Done, mentions: &Mentions, remains: &[Remain]) -> String {
    let mut text = heading(person, done);
    let mut table = Table::new(&["removed", ""]);
    let rows = if is_known(person, &done.found) {
        format!("{} without content now", many(done.rows, "row"))
    } else {
        "none; one tombstone was written".to_owned()
    };
    table.row(["rows".to_owned(), rows]);
    table.row(["ledger".to_owned(), many(done.ledger, "line")]);
    queue(&mut table, &done.found);
    let all = done.found.all();
    if done.removed < all {
        let told = format!("{} of these had been done before they could be removed", all - done.removed);
        table.row([String::new(), told]);
    }
    _ = write!(text, "{table}");
    if done.coming > 0 {
        let number = many(done.coming, "message");
        _ = writeln!(
            text,
            "{number} about them came meanwhile, and go once a worker has seen that nothing is to be kept"
        );
    }
    stays(&mut text, "stays", &done.found, mentions);
    not_taken(&mut text, person, &done.found);
    _ = writeln!(text, "\nnot reached, and how long it lives:");
    let mut place = "";
    for remain in remains {
        if remain.place != place {
            place = &remain.place;
            _ = writeln!(text, "  {}", harmless(place));
        }
        _ = writeln!(text, "  - {}", remain.what);
        if let Some(fix) = &remain.fix {
            _ = writeln!(text, "      sooner: {}", harmless(fix));
        }
    }
    text
}

fn stays(text: &mut String, word: &str, found: &Found, mentions: &Mentions) {
    let mut lines = Vec::new();
    if found.mentions > 0 {
        let number = many(found.mentions, "message");
        lines.push(format!("{number} about others in the queue that name them"));
    }
    let copies = [
        ("invitation", "that they sent, with a copy of their name and address", &mentions.invitations),
        ("domain", "whose owner was verified by an address of theirs", &mentions.domains),
        (
            "billing row",
            "in which their id or an address of theirs stands, as the payer's for one",
            &mentions.billing,
        ),
    ];
    for (one, what, ids) in copies {
        if let Some(first) = ids.first() {
            let number = many(ids.len() as u64, one);
            lines.push(format!(
                "{number} of organizations {what}, such as {}; each goes by rollbook erase",
                harmless(first)
            ));
        }
    }
    if mentions.organizations > 0 {
        lines.push(format!("their id, in created_by of {}", many(mentions.organizations, "organization")));
    }
    if lines.is_empty() {
        return;
    }
    _ = writeln!(text, "\n{word}, since it is another's:");
    for line in lines {
        _ = writeln!(text, "  - {line}");
    }
}

/// The addresses that are not proven to be theirs, the rows that name those, and the messages that can't be read.
fn not_taken(text: &mut String, person: &Person, found: &Found) {
    let doubted = person.addresses.doubted();
    if !doubted.is_empty() {
        _ = writeln!(text, "\nnot taken as theirs, so that nothing of another person is erased:");
        for (address, doubt) in doubted {
            _ = writeln!(text, "  - {}: {}", harmless(address), doubt.text());
        }
        if !person.doubted_rows.is_empty() {
            let rows: Vec<String> = person
                .doubted_rows
                .iter()
                .take(LISTED_MAX)
                .map(|(table, id)| format!("{table} {id}"))
                .collect();
            let number = many(person.doubted_rows.len() as u64, "row");
            let more = if rows.len() < person.doubted_rows.len() { ", …" } else { "" };
            _ = writeln!(
                text,
                "    these addresses stand in {number}, which stay: {}{more}",
                harmless(&rows.join(", "))
            );
        }
        _ = writeln!(
            text,
            "    if an address is theirs all the same: rollbook erase {} --also ADDRESS",
            harmless(&person.id)
        );
    }
    if found.unrecognized > 0 {
        let number = many(found.unrecognized, "message");
        _ = writeln!(
            text,
            "\nnot judged: {number} in the queue or the dead letters can't be read as an event. The id and the \
             addresses were looked for in them as text, with JSON and URL escapes undone, and not found; look at \
             them with rollbook dead-letters show"
        );
    }
}

/// The same for programs.
pub(super) fn json(
    person: &Person,
    found: &Found,
    done: Option<&Done>,
    mentions: &Mentions,
    remains: &[Remain],
) -> Value {
    let subjects = |keys: &mut dyn Iterator<Item = &Key>| {
        keys.map(|(table, id)| json!({ "table": table, "id": id })).collect::<Vec<_>>()
    };
    let found = done.map_or(found, |done| &done.found);
    json!({
        "id": person.id,
        "table": person.resource.table,
        "dry_run": done.is_none(),
        "was_known": is_known(person, found),
        "complete": done.map(|done| done.left.is_empty()),
        "left": done.map(|done| &done.left),
        "addresses": person.addresses.own().len(),
        "addresses_not_taken": person.addresses.doubted().iter().map(|(address, doubt)| {
            json!({ "address": address, "reason": doubt.name() })
        }).collect::<Vec<_>>(),
        "rows_by_address_not_taken": subjects(&mut person.doubted_rows.iter()),
        "subjects": subjects(&mut person.subjects.iter()),
        "rows_by_table": by_table(&person.rows),
        "queue": {
            "waiting": found.waiting,
            "delayed": found.delayed,
            "leased": found.leased,
            "dead_letters": found.dead,
            "unreadable": found.unreadable,
            "mentions": found.mentions,
            "unrecognized": found.unrecognized,
        },
        "removed": done.map(|done| json!({
            "rows": done.rows,
            "ledger": done.ledger,
            "messages": done.removed,
            "messages_still_coming": done.coming,
        })),
        "stays": {
            "invitations_sent": mentions.invitations,
            "domains_verified": mentions.domains,
            "billing_naming_them": mentions.billing,
            "organizations_made": mentions.organizations,
        },
        "not_reached": remains.iter().map(Remain::json).collect::<Vec<_>>(),
    })
}
