//! `config`: what is in force, and where it came from.

use crate::cli::{ConfigCommand, Output};
use crate::config::{Config, reference, report};
use crate::flags::SettingFlags;
use crate::output::{print, print_json};
use crate::wire::{self, Part};

/// Prints the configuration, a sample of one, or the reference.
pub(crate) fn run(settings: &SettingFlags, arguments: &ConfigCommand) -> anyhow::Result<()> {
    if arguments.sample {
        return Ok(print(&report::sample())?);
    }
    if arguments.reference {
        return Ok(print(&reference::page())?);
    }
    let config = Config::load(&settings.sources())?;
    let wrong = |part: &Part| wire::wrong_server(&config, *part).is_some();
    let unusable: Vec<&str> =
        Part::ALL.iter().filter(|part| wrong(part)).map(|part| wire::url_key(&config, *part)).collect();
    match arguments.output {
        Output::Text => print(&config.table(&unusable))?,
        Output::Json => print_json(&config.json(&unusable))?,
    }
    Ok(())
}
