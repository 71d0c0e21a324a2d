//! What is logged goes to standard error: standard output is for data.

use std::io::IsTerminal as _;

use anyhow::{Context as _, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Environment, Log};

/// Logs from here on. The filter has been checked with the configuration.
pub(crate) fn start(log: &Log, environment: &Environment) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.filter).context("the filter of the log")?;
    let on_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(on_terminal && !environment.no_color());
    let started = match log.format {
        Some("json") => builder.json().try_init(),
        None if !on_terminal => builder.json().try_init(),
        _ => builder.compact().try_init(),
    };
    started.map_err(|error| anyhow!("the log can't be started: {error}"))
}
