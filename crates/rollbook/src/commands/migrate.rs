//! `migrate`: applies migrations, or says which are pending.

use std::fmt::Write as _;

use anyhow::{anyhow, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::on_all_cores;
use crate::cli::Migrate;
use crate::config::Config;
use crate::output::{harmless, print_as};
use crate::url_notes;
use crate::wire::{self, Component, Migrations};

/// Applies migrations, or only reports them.
///
/// # Errors
/// A migration fails; with `--check`, one is pending.
pub(crate) fn run(config: &Config, arguments: &Migrate) -> anyhow::Result<()> {
    url_notes::log(config);
    let verb = if arguments.check { "pending" } else { "applied" };
    let all = on_all_cores(each_part(config, arguments.check))?;
    let views: Vec<_> = all.iter().map(|one| as_json(one, verb)).collect();
    print_as(arguments.output, &views, |_| {
        let parts = all.iter().map(|one| (one.part.name(), one.place.as_str(), one.names.as_slice()));
        text(&parts.collect::<Vec<_>>(), verb)
    })?;
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
            wire::pending_migrations(config, part).await.map_err(|error| error.to_string())
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

/// Columns of the text.
const WIDTH: usize = 100;
/// Indentation of what continues on the next line.
const INDENT: &str = "   ";

/// Formats each part as a paragraph: its place, and the names of the migrations, broken between names.
fn text(all: &[(&str, &str, &[&str])], verb: &str) -> String {
    let mut text = String::new();
    for (part, place, names) in all {
        let none = ["none"];
        let names = if names.is_empty() { &none[..] } else { names };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{part}: {}", harmless(place));
        let mut line = format!("  {verb}:");
        for (index, name) in names.iter().enumerate() {
            let comma = if index + 1 < names.len() { "," } else { "" };
            if line.len() + name.len() + 2 > WIDTH {
                let _ = writeln!(text, "{line}");
                INDENT.clone_into(&mut line);
            }
            let _ = write!(line, " {name}{comma}");
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

fn as_json(one: &Migrations, verb: &str) -> serde_json::Value {
    json!({ "part": one.part.name(), "place": one.place, verb: one.names })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_migrations_fits_a_terminal_and_all_are_named() {
        let names: Vec<String> =
            (1..40).map(|number| format!("{number:04}_a_step_with_a_long_name")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let parts = [("queue", "Redis at h:6379", &[][..]), ("store", "Postgres at h:5432", &names[..])];
        let text = text(&parts, "pending");
        assert!(text.starts_with(
            "queue: Redis at h:6379\n  pending: none\nstore: Postgres at h:5432\n  pending: 0001_"
        ));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(
            names.iter().all(|name| text.contains(name)) && text.ends_with("0039_a_step_with_a_long_name\n"),
            "{text}"
        );
    }
}
