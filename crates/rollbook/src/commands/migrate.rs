//! `migrate`: applies migrations, or says which are pending.

use anyhow::{anyhow, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::on_all_cores;
use crate::cli::{Migrate, Output};
use crate::config::Config;
use crate::output::{Table, print, print_json};
use crate::wire::{self, Component, Migrations};

/// Applies migrations, or only reports them.
///
/// # Errors
/// A migration fails; with `--check`, one is pending.
pub(crate) fn run(config: &Config, arguments: &Migrate) -> anyhow::Result<()> {
    let verb = if arguments.check { "pending" } else { "applied" };
    let all = on_all_cores(each_part(config, arguments.check))?;
    match arguments.output {
        Output::Json => print_json(&all.iter().map(|one| as_json(one, verb)).collect::<Vec<_>>())?,
        Output::Text => print(&table(&all, verb))?,
    }
    let count: usize = all.iter().map(|one| one.names.len()).sum();
    if arguments.check && count > 0 {
        bail!("{count} migrations are pending; run: rollbook migrate");
    }
    Ok(())
}

async fn each_part(config: &Config, check: bool) -> anyhow::Result<Vec<Migrations>> {
    let mut all = Vec::new();
    for part in Component::ALL {
        wire::check_server(config, part)?;
        let asked = if check {
            wire::pending_migrations(config, part).await
        } else {
            wire::apply_migrations(config, part, &CancellationToken::new()).await
        };
        let asked = asked.map_err(|why| anyhow!(why))?;
        if let Some(refusal) = asked.refusal {
            bail!(refusal);
        }
        all.push(asked);
    }
    Ok(all)
}

fn table(all: &[Migrations], verb: &str) -> String {
    let mut table = Table::new(&["part", verb, "where"]);
    for one in all {
        let names = if one.names.is_empty() { "none".to_owned() } else { one.names.join(", ") };
        table.row([one.part.name().to_owned(), names, one.place.clone()]);
    }
    table.to_string()
}

fn as_json(one: &Migrations, verb: &str) -> serde_json::Value {
    json!({ "part": one.part.name(), "place": one.place, verb: one.names })
}
