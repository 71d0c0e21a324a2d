//! `config`: what is in force, and where it came from.

use crate::cli::{ConfigCommand, Output};
use crate::config::{Config, report};
use crate::flags::SettingFlags;
use crate::output::{print, print_json};

/// Prints the configuration, or a sample of one.
pub(crate) fn run(settings: &SettingFlags, arguments: &ConfigCommand) -> anyhow::Result<()> {
    if arguments.sample {
        return Ok(print(&report::sample())?);
    }
    let config = Config::load(&settings.sources())?;
    match arguments.output {
        Output::Text => print(&config.table())?,
        Output::Json => print_json(&config.json())?,
    }
    Ok(())
}
