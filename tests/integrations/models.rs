//! The ready models of `ops/integrations`, made from the catalog: one file for each library.
//!
//! Models leave out what is internal to Rollbook (`version_…`), and add what introspection can't find, because the tables have
//! no foreign keys: the relations between rows.

use std::fmt::Write as _;

use rollbook_core::catalog::{Kind, RESOURCES, Resource};

/// Type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Integer,
    Bool,
    Time,
    Json,
    /// A list of texts.
    Texts,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) of: Type,
    pub(super) required: bool,
}

/// A column that holds the id of a row of another model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relation {
    pub(super) column: &'static str,
    pub(super) parent: &'static str,
}

/// A table or view. Its first field is the key.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) table: &'static str,
    pub(super) fields: Vec<Field>,
    pub(super) relations: Vec<Relation>,
}

const fn required(name: &'static str, of: Type) -> Field {
    Field { name, of, required: true }
}

const fn optional(name: &'static str, of: Type) -> Field {
    Field { name, of, required: false }
}

/// Columns that only Rollbook uses, in tables that applications read.
pub(super) const INTERNAL: [&str; 9] = [
    "version_updated_at",
    "version_event_at",
    "version_hash",
    "version_floor",
    "version_deleted_at",
    "version_revision",
    "version_parents_deleted_at",
    "version_links",
    // Time of the last position; `-infinity` at first, which few languages can hold.
    "last_at",
];

/// Views and tables that are not resources.
fn others() -> [Model; 4] {
    let text = |name| optional(name, Type::Text);
    let model = |table, fields| Model { table, fields, relations: Vec::new() };
    [
        model(
            "current_members",
            vec![
                required("membership_id", Type::Text),
                text("organization_id"),
                text("organization_name"),
                text("organization_slug"),
                text("user_id"),
                text("first_name"),
                text("last_name"),
                text("primary_email_address"),
                text("role"),
                optional("member_since", Type::Time),
            ],
        ),
        model(
            "freshness",
            vec![
                required("resource", Type::Text),
                optional("complete_since", Type::Time),
                optional("last_walk_at", Type::Time),
                optional("drift", Type::Integer),
                optional("applied_through", Type::Time),
            ],
        ),
        model(
            "changes",
            vec![
                required("position", Type::Integer),
                required("resource", Type::Text),
                required("subject_id", Type::Text),
                required("kind", Type::Text),
                required("changed", Type::Texts),
                required("origin", Type::Text),
                text("cause"),
                optional("event_at", Type::Time),
                required("at", Type::Time),
            ],
        ),
        model(
            "changes_state",
            vec![
                required("single", Type::Bool),
                required("last_position", Type::Integer),
                required("removed_through", Type::Integer),
                required("generation", Type::Integer),
            ],
        ),
    ]
}

fn of_resource(resource: &'static Resource) -> Model {
    let typed = resource.columns.iter().map(|column| {
        let of = match column.kind {
            Kind::Text | Kind::IndexedText | Kind::Id => Type::Text,
            Kind::Integer => Type::Integer,
            Kind::Bool => Type::Bool,
            Kind::Time => Type::Time,
            Kind::Json => Type::Json,
        };
        optional(column.name, of)
    });
    let common = [
        optional("data", Type::Json),
        optional("created_at", Type::Time),
        optional("updated_at", Type::Time),
        optional("deleted_at", Type::Time),
        required("synced_at", Type::Time),
        required("synced_by", Type::Text),
    ];
    let mut relations: Vec<Relation> = resource
        .links
        .iter()
        .map(|link| Relation { column: link.column, parent: link.parent.table })
        .collect();
    if resource.table == "subscription_items" {
        relations.push(Relation { column: "subscription_id", parent: "subscriptions" });
    }
    let fields = std::iter::once(required("id", Type::Text)).chain(typed).chain(common).collect();
    Model { table: resource.table, fields, relations }
}

/// All models: one for each resource, then the others.
pub(super) fn models() -> Vec<Model> {
    RESOURCES.into_iter().map(of_resource).chain(others()).collect()
}

/// Returns `OrganizationMembership` for `organization_membership`.
fn pascal(name: &str) -> String {
    name.split('_').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Returns `organizationMembership` for `organization_membership`.
pub(super) fn camel(name: &str) -> String {
    let (first, rest) = name.split_once('_').unwrap_or((name, ""));
    format!("{first}{}", pascal(rest))
}

fn singular(table: &str) -> String {
    match table {
        "changes_state" | "freshness" => table.to_owned(),
        _ => table
            .strip_suffix("ies")
            .map_or_else(|| table.trim_end_matches('s').to_owned(), |stem| format!("{stem}y")),
    }
}

impl Model {
    /// Name of the class, with a prefix: applications have a `User` of their own.
    pub(super) fn class(&self) -> String {
        class_of(self.table)
    }

    /// Name of the list of rows of this model in their parent.
    pub(super) fn children(&self) -> &'static str {
        if self.table == "subscription_items" {
            return "subscription_items";
        }
        self.table.strip_prefix("organization_").unwrap_or(self.table)
    }

    /// Returns the lists of rows that name a row of this model as their parent: the child's model and its column.
    pub(super) fn lists<'a>(&self, all: &'a [Model]) -> Vec<(&'a Model, &'static str)> {
        let of = |child: &'a Model| {
            let named = child.relations.iter().filter(|relation| relation.parent == self.table);
            named.map(move |relation| (child, relation.column))
        };
        all.iter().flat_map(of).collect()
    }
}

/// Returns the name of the class of a table.
pub(super) fn class_of(table: &str) -> String {
    format!("Clerk{}", pascal(&singular(table)))
}

impl Relation {
    /// Name of the parent in the child.
    pub(super) fn name(&self) -> &'static str {
        self.column.trim_end_matches("_id")
    }
}

/// First lines of each file, with the language's sign of a comment.
pub(super) fn heading(sign: &str) -> String {
    let mut text = String::new();
    for line in [
        "Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.",
        "Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).",
        "There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query",
        "needs `deleted_at` null.",
    ] {
        _ = writeln!(text, "{sign} {line}");
    }
    text
}
