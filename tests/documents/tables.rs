//! The part of `migrations/README.md` that is made from the catalog: every table, its events and its columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rollbook_core::catalog::{Column, Kind, Link, NEVER_STORED, RESOURCES, Resource, Source, Verb};

/// Columns of each index that serves applications, by table.
pub(super) type Indexes = BTreeMap<String, Vec<String>>;

/// Renders the whole part.
pub(super) fn render(indexes: &Indexes) -> String {
    let mut text = String::new();
    for resource in RESOURCES {
        render_table(&mut text, resource, indexes.get(resource.table).map_or(&[], Vec::as_slice));
    }
    let never = NEVER_STORED.map(code).join(" and ");
    _ = writeln!(
        text,
        "{never} carry one-time passwords: the store keeps only a ledger entry without a subject of \
         them. Their bytes stay on the\nqueue's disk until that room is used again (see \"Promises and limits\" in the top README): do \
         not subscribe to these two event types."
    );
    text
}

fn render_table(text: &mut String, resource: &Resource, indexes: &[String]) {
    _ = writeln!(text, "### {}\n", resource.table);
    let events = |verb| resource.events.iter().filter(move |event| event.verb == verb);
    _ = writeln!(text, "- written by {}", listed(events(Verb::Upsert).map(|event| event.name)));
    let ends = listed(events(Verb::Delete).map(|event| event.name));
    if ends.is_empty() {
        assert!(
            resource.columns.iter().any(|column| column.name == "status"),
            "{resource:?} has neither an event for its deletion nor a status"
        );
        _ = writeln!(text, "- no event deletes it: see its `status`");
    } else {
        _ = writeln!(text, "- deleted by {ends}");
    }
    for link in resource.links {
        _ = writeln!(text, "- {}", parent_of(link));
    }
    for secret in resource.secrets {
        _ = writeln!(text, "- `{}` is removed from `data`: it lets its reader in", secret.join("."));
    }
    if !indexes.is_empty() {
        _ = writeln!(text, "- indexes: {}", indexes.join("; "));
    }
    _ = writeln!(text, "\n| column | Postgres | SQLite | in `data` |\n| --- | --- | --- | --- |");
    for column in resource.columns {
        let (postgres, sqlite) = types(column.kind);
        _ = writeln!(text, "| {} | {postgres} | {sqlite} | {} |", code(column.name), found_at(column));
    }
    text.push('\n');
}

fn parent_of(link: &Link) -> String {
    let fate = if link.cascades { "deleted with" } else { "not deleted with" };
    format!("{fate} the row of {} that {} names", code(link.parent.table), code(link.column))
}

fn found_at(column: &Column) -> String {
    match column.source {
        Source::Path(path) => code(&path.join(".")),
        Source::Either(first, second) => {
            format!("{}, else {}", code(&first.join(".")), code(&second.join(".")))
        }
        Source::Chosen { list, id_of, field } => {
            format!("{} of the element of {} with `id` = {}", code(field), code(list), code(id_of))
        }
    }
}

/// Returns the declared type of a column of this kind.
pub(super) const fn types(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => ("text", "TEXT"),
        Kind::Integer => ("bigint", "INTEGER"),
        Kind::Bool => ("boolean", "INTEGER"),
        Kind::Time => ("timestamptz", "TEXT"),
        Kind::Json => ("jsonb", "TEXT"),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(code).collect::<Vec<_>>().join(", ")
}
