//! `config`: shows the effective settings, and where each came from.

use crate::cli::{ConfigCommand, Output};
use crate::config::{Config, reference, report};
use crate::flags::SettingFlags;
use crate::output::{print, print_json};
use crate::wire::{self, Component};

/// Prints the configuration, a sample of one, or the reference.
pub(crate) fn run(settings: &SettingFlags, arguments: &ConfigCommand) -> anyhow::Result<()> {
    if arguments.sample {
        return Ok(print(&report::sample())?);
    }
    if arguments.reference {
        return Ok(print(&reference::page())?);
    }
    let config = Config::load(&settings.sources())?;
    let wrong = Component::ALL.into_iter().filter(|part| wire::backend(&config, *part).check().is_err());
    let unusable: Vec<&str> = wrong.map(|part| wire::url_setting(&config, part).key).collect();
    match arguments.output {
        Output::Text => print(&config.text(&unusable))?,
        Output::Json => print_json(&config.json(&unusable))?,
    }
    Ok(())
}
