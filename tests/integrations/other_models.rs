//! Models for Django, `SQLAlchemy` and Active Record.

use std::fmt::Write as _;

use super::models::{Field, INTERNAL, Model, Relation, Type, class_of, heading, models};

/// Renders `django/clerk_models.py`.
pub(super) fn django() -> String {
    let mut text = heading("#");
    text += "\nfrom django.contrib.postgres.fields import ArrayField\nfrom django.db import models\n\n\n\
             def table(name):\n    \"\"\"Quoted as Django's own names are, so that the schema is named.\"\"\"\n    \
             return f'\"clerk\".\"{name}\"'\n";
    for model in models() {
        _ = writeln!(text, "\n\nclass {}(models.Model):", model.class());
        for (position, field) in model.fields.iter().enumerate() {
            match model.relations.iter().find(|relation| relation.column == field.name) {
                Some(relation) => django_relation(&mut text, &model, *relation),
                None => _ = writeln!(text, "    {} = {}", field.name, django_field(field, position == 0)),
            }
        }
        _ = writeln!(
            text,
            "\n    class Meta:\n        managed = False\n        db_table = table(\"{}\")",
            model.table
        );
    }
    text
}

fn django_relation(text: &mut String, model: &Model, relation: Relation) {
    _ = writeln!(
        text,
        "    {} = models.ForeignKey(\n        {}, models.DO_NOTHING, db_column=\"{}\", db_constraint=False, null=True, \
         related_name=\"{}\"\n    )",
        relation.name(),
        class_of(relation.parent),
        relation.column,
        model.children()
    );
}

fn django_field(field: &Field, is_key: bool) -> String {
    let arguments = match (is_key, field.required) {
        (true, _) => "primary_key=True",
        (false, true) => "",
        (false, false) => "null=True",
    };
    let name = match field.of {
        Type::Text => "TextField",
        Type::Integer => "BigIntegerField",
        Type::Bool => "BooleanField",
        Type::Time => "DateTimeField",
        Type::Json => "JSONField",
        Type::Texts => return "ArrayField(models.TextField())".to_owned(),
    };
    format!("models.{name}({arguments})")
}

/// Renders `sqlalchemy/clerk_models.py`.
pub(super) fn sqlalchemy() -> String {
    let all = models();
    let mut text = heading("#");
    text += "\nfrom datetime import datetime\nfrom typing import Any, List, Optional\n\n\
             from sqlalchemy import BigInteger, Boolean, DateTime, MetaData, Text\n\
             from sqlalchemy.dialects.postgresql import ARRAY, JSONB\n\
             from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship\n\n\n\
             class Clerk(DeclarativeBase):\n    metadata = MetaData(schema=\"clerk\")\n";
    for model in &all {
        _ = writeln!(text, "\n\nclass {}(Clerk):\n    __tablename__ = \"{}\"\n", model.class(), model.table);
        for (position, field) in model.fields.iter().enumerate() {
            _ = writeln!(text, "    {}", sqlalchemy_column(field, position == 0));
        }
        for relation in &model.relations {
            let parent = class_of(relation.parent);
            let join = join(&model.class(), relation.column, &parent);
            sqlalchemy_relation(&mut text, relation.name(), &format!("Optional[\"{parent}\"]"), &join);
        }
        for (child, column) in model.lists(&all) {
            let join = join(&child.class(), column, &model.class());
            let of = format!("List[\"{}\"]", child.class());
            sqlalchemy_relation(&mut text, child.children(), &of, &join);
        }
    }
    text
}

fn join(child: &str, column: &str, parent: &str) -> String {
    format!("foreign({child}.{column}) == {parent}.id")
}

fn sqlalchemy_relation(text: &mut String, name: &str, of: &str, join: &str) {
    _ = writeln!(
        text,
        "    {name}: Mapped[{of}] = relationship(\n        primaryjoin=\"{join}\", viewonly=True\n    )"
    );
}

fn sqlalchemy_column(field: &Field, is_key: bool) -> String {
    let (python, sql) = match field.of {
        Type::Text => ("str", "Text"),
        Type::Integer => ("int", "BigInteger"),
        Type::Bool => ("bool", "Boolean"),
        Type::Time => ("datetime", "DateTime(timezone=True)"),
        Type::Json => ("Any", "JSONB"),
        Type::Texts => ("List[str]", "ARRAY(Text)"),
    };
    let python = if field.required { python.to_owned() } else { format!("Optional[{python}]") };
    let key = if is_key { ", primary_key=True" } else { "" };
    format!("{}: Mapped[{python}] = mapped_column({sql}{key})", field.name)
}

/// Renders `activerecord/clerk.rb`.
pub(super) fn active_record() -> String {
    let all = models();
    let mut text = heading("#");
    let internal = INTERNAL[..INTERNAL.len() - 1].join(" ");
    text += "\nmodule Clerk\n  class Record < ActiveRecord::Base\n    self.abstract_class = true\n    \
             self.inheritance_column = :_none # permissions has a column `type`\n";
    _ = writeln!(text, "    self.ignored_columns = %w[{internal}]\n");
    text += "    def readonly?\n      true\n    end\n  end\n";
    for model in &all {
        let class = model.class();
        let class = class.trim_start_matches("Clerk");
        _ = writeln!(text, "\n  class {class} < Record\n    self.table_name = \"clerk.{}\"", model.table);
        if model.fields[0].name != "id" {
            _ = writeln!(text, "    self.primary_key = \"{}\"", model.fields[0].name);
        }
        match model.table {
            // Active Record has a method of this name, and refuses such a column.
            "changes" => text += "    self.ignored_columns = %w[changed]\n",
            "changes_state" => text += "    self.ignored_columns = %w[last_at]\n",
            _ => {}
        }
        for relation in &model.relations {
            let parent = class_of(relation.parent);
            _ = writeln!(
                text,
                "    belongs_to :{}, class_name: \"Clerk::{}\", optional: true",
                relation.name(),
                parent.trim_start_matches("Clerk")
            );
        }
        for (child, column) in model.lists(&all) {
            let class = child.class();
            _ = writeln!(
                text,
                "    has_many :{}, class_name: \"Clerk::{}\", foreign_key: \"{column}\"",
                child.children(),
                class.trim_start_matches("Clerk")
            );
        }
        text += "  end\n";
    }
    text += "end\n";
    text
}
