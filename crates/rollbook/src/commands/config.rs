//! `config`: shows the effective settings, where each came from, and which signing secrets the process that runs here has matched.

use super::on_all_cores;
use crate::cli::{ConfigCommand, Output};
use crate::config::{Config, Settings, reference, report};
use crate::flags::SettingFlags;
use crate::output::{print, print_json};
use crate::secret_use;
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
    let running = on_all_cores(async { Ok(secret_use::of_running(&config).await) })?;
    let signing = secret_use::Report::new(&config, running);
    match arguments.output {
        Output::Text => {
            let signing = signing.map(|report| format!("\n{}", report.text())).unwrap_or_default();
            print(&format!("{}{signing}", config.text(&unusable)))?;
        }
        Output::Json => {
            let mut settings = config.json(&unusable);
            if let Some(report) = signing {
                settings[Settings::clerk_webhook_signing_secret().about.key]["secrets"] = report.json();
            }
            print_json(&settings)?;
        }
    }
    Ok(())
}
