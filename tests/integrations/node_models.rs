//! Models for Prisma and Drizzle.

use std::fmt::Write as _;

use super::models::{Field, Model, Type, camel, class_of, heading, models};

/// Renders `prisma/clerk.prisma`.
pub(super) fn prisma() -> String {
    let all = models();
    let mut text = heading("//");
    for model in &all {
        _ = writeln!(text, "\nmodel {} {{", model.class());
        for (position, field) in model.fields.iter().enumerate() {
            let name = camel(field.name);
            let key = if position == 0 { " @id" } else { "" };
            let map = if name == field.name { String::new() } else { format!(" @map(\"{}\")", field.name) };
            let native = if field.of == Type::Time { " @db.Timestamptz(6)" } else { "" };
            _ = writeln!(text, "  {name} {}{key}{map}{native}", prisma_type(field));
        }
        for relation in &model.relations {
            let (name, column) = (camel(relation.name()), camel(relation.column));
            _ = writeln!(
                text,
                "  {name} {}? @relation(fields: [{column}], references: [id], onDelete: NoAction, onUpdate: NoAction)",
                class_of(relation.parent)
            );
        }
        for (child, _) in model.lists(&all) {
            _ = writeln!(text, "  {} {}[]", camel(child.children()), child.class());
        }
        _ = writeln!(text, "\n  @@map(\"{}\")\n  @@schema(\"clerk\")\n}}", model.table);
    }
    text
}

/// Renders `prisma/prisma.config.ts` with all tables and views of a schema.
pub(super) fn prisma_config<'a>(tables: impl Iterator<Item = &'a str>) -> String {
    let mut text = heading("//");
    text += "\nimport { defineConfig } from \"prisma/config\";\n\nexport default defineConfig({\n  schema: \"prisma\",\n  \
             datasource: { url: process.env.DATABASE_URL ?? \"\" },\n  // Every table of Rollbook's: your migrations leave them alone.\n  \
             experimental: { externalTables: true },\n  tables: {\n    external: [\n";
    for table in tables {
        _ = writeln!(text, "      \"clerk.{table}\",");
    }
    text += "    ],\n  },\n  migrations: {\n    path: \"prisma/migrations\",\n    \
             // What foreign keys of yours refer to, for the shadow database.\n    initShadowDb: `\n      \
             CREATE SCHEMA IF NOT EXISTS clerk;\n      CREATE TABLE clerk.users (id text PRIMARY KEY);\n      \
             CREATE TABLE clerk.organizations (id text PRIMARY KEY);\n    `,\n  },\n});\n";
    text
}

fn prisma_type(field: &Field) -> String {
    let name = match field.of {
        Type::Text => "String",
        Type::Integer => "BigInt",
        Type::Bool => "Boolean",
        Type::Time => "DateTime",
        Type::Json => "Json",
        Type::Texts => return "String[]".to_owned(),
    };
    format!("{name}{}", if field.required { "" } else { "?" })
}

/// Returns `clerkUsers` for `users`.
fn table_of(table: &str) -> String {
    camel(&format!("clerk_{table}"))
}

/// Renders `drizzle/clerk.ts`.
pub(super) fn drizzle() -> String {
    let all = models();
    let mut text = heading("//");
    text += "\nimport { relations } from \"drizzle-orm\";\n\
             import { bigint, boolean, jsonb, pgSchema, text, timestamp } from \"drizzle-orm/pg-core\";\n\n\
             export const clerk = pgSchema(\"clerk\");\n";
    for model in &all {
        // A view is read like a table.
        _ = writeln!(text, "\nexport const {} = clerk.table(\"{}\", {{", table_of(model.table), model.table);
        for (position, field) in model.fields.iter().enumerate() {
            let key = match position {
                0 => ".primaryKey()",
                _ if field.required => ".notNull()",
                _ => "",
            };
            _ = writeln!(text, "  {}: {}{key},", camel(field.name), drizzle_column(field));
        }
        text += "});\n";
    }
    for model in &all {
        drizzle_relations(&mut text, model, &all);
    }
    text
}

fn drizzle_column(field: &Field) -> String {
    let name = field.name;
    match field.of {
        Type::Text => format!("text(\"{name}\")"),
        Type::Integer => format!("bigint(\"{name}\", {{ mode: \"number\" }})"),
        Type::Bool => format!("boolean(\"{name}\")"),
        Type::Time => format!("timestamp(\"{name}\", {{ withTimezone: true }})"),
        Type::Json => format!("jsonb(\"{name}\")"),
        Type::Texts => format!("text(\"{name}\").array()"),
    }
}

fn drizzle_relations(text: &mut String, model: &Model, all: &[Model]) {
    let (table, lists) = (table_of(model.table), model.lists(all));
    let used = match (model.relations.is_empty(), lists.is_empty()) {
        (true, true) => return,
        (false, true) => "one",
        (true, false) => "many",
        (false, false) => "one, many",
    };
    _ = writeln!(text, "\nexport const {table}Relations = relations({table}, ({{ {used} }}) => ({{");
    for relation in &model.relations {
        let parent = table_of(relation.parent);
        _ = writeln!(
            text,
            "  {}: one({parent}, {{ fields: [{table}.{}], references: [{parent}.id] }}),",
            camel(relation.name()),
            camel(relation.column)
        );
    }
    for (child, _) in lists {
        _ = writeln!(text, "  {}: many({}),", camel(child.children()), table_of(child.table));
    }
    text.push_str("}));\n");
}
