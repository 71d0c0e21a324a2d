//! `migrate`: applies migrations, or says which are pending.

use anyhow::bail;
use serde_json::json;

use crate::cli::{Migrate, Output};
use crate::config::Config;
use crate::output::{Table, print, print_json};
use crate::wire::{self, Migrations};

/// Migrates, or looks.
///
/// # Errors
/// With `--check`, where one is pending.
pub(crate) fn run(config: &Config, arguments: &Migrate) -> anyhow::Result<()> {
    let (all, verb) = if arguments.check {
        (wire::pending_migrations(config)?, "pending")
    } else {
        (wire::apply_migrations(config)?, "applied")
    };
    match arguments.output {
        Output::Json => print_json(&all.iter().map(|one| as_json(one, verb)).collect())?,
        Output::Text => print(&table(&all, verb))?,
    }
    let count: usize = all.iter().map(|one| one.names.len()).sum();
    if arguments.check && count > 0 {
        bail!("{count} migrations are pending; run: rollbook migrate");
    }
    Ok(())
}

fn table(all: &[Migrations], verb: &str) -> String {
    let mut table = Table::new(&["part", verb, "where"]);
    for one in all {
        let names = if one.names.is_empty() { "none".to_owned() } else { one.names.join(", ") };
        table.row([one.part.to_owned(), names, one.place.display().to_string()]);
    }
    table.to_string()
}

fn as_json(one: &Migrations, verb: &str) -> serde_json::Value {
    json!({ "part": one.part, "place": one.place.display().to_string(), verb: one.names })
}
