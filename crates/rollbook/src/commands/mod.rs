//! Commands of the program.

mod changes;
mod config;
mod dead_letters;
mod demo;
mod doctor;
mod erase;
mod explain;
mod forwards;
pub(crate) mod healthcheck;
mod migrate;
mod ready;
mod reconcile;
mod resync;
mod send;
mod serve;
mod subjects;
mod token;
mod top;

use anyhow::Context as _;
use clap::CommandFactory as _;

pub(crate) use self::subjects::NothingKnown;
use crate::cli::{Cli, Command};
use crate::config::{Config, Environment, Examined, Problems, missing_secret};
use crate::faces::Faces;
use crate::flags::SettingFlags;
use crate::wire;
use crate::{logging, output};

/// Runs the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { settings, command } = cli;
    match command {
        Command::Serve(arguments) => serve::run(settings, Faces::ALL, &arguments),
        Command::Receive(arguments) => {
            serve::run(settings, Faces { receiver: true, worker: false }, &arguments)
        }
        Command::Work(arguments) => serve::run(settings, Faces { receiver: false, worker: true }, &arguments),
        Command::Demo(arguments) => demo::run(settings, &arguments),
        Command::Send(arguments) => send::run(&load(&settings)?, &arguments),
        Command::Migrate(arguments) => migrate::run(&load(&settings)?, &arguments),
        Command::Reconcile(command) => reconcile::run(&load(&settings)?, &command),
        Command::Resync(arguments) => resync::run(&load(&settings)?, &arguments),
        Command::Ready(arguments) => ready::run(&load(&settings)?, &arguments),
        Command::DeadLetters(command) => dead_letters::run(&load(&settings)?, command),
        Command::Changes(command) => changes::run(&load(&settings)?, command),
        Command::Token(command) => token::run(&load(&settings)?, &command),
        Command::Explain(arguments) => explain::run(&load(&settings)?, &arguments),
        Command::Erase(arguments) => erase::run(&load(&settings)?, &arguments),
        Command::Doctor(arguments) => doctor::run(&settings, &arguments),
        Command::Top(arguments) => top::run(&load(&settings)?, &arguments),
        Command::Config(arguments) => config::run(&settings, &arguments),
        Command::Healthcheck(arguments) => healthcheck::run(&load(&settings)?, &arguments),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rollbook", &mut text);
            Ok(output::print(&String::from_utf8_lossy(&text))?)
        }
    }
}

/// Reads the configuration and starts the log.
fn load(settings: &SettingFlags) -> anyhow::Result<Config> {
    let config = Config::load(&settings.sources())?;
    logging::start(&config.settings, &Environment::read())?;
    Ok(config)
}

/// Reads the configuration of a process with these faces and starts the log.
///
/// # Errors
/// Everything that is wrong: values, settings that do not fit together, missing secrets, URLs that can't be used.
fn load_for(settings: &SettingFlags, faces: Faces) -> anyhow::Result<Config> {
    let Examined { config, mut problems, has_secret, hints } = Config::examine(&settings.sources());
    if faces.receiver && !has_secret {
        problems.0.extend(missing_secret(&hints).0);
    }
    if let Some(config) = &config {
        let wrong = faces.parts().iter().filter_map(|part| wire::check_server(config, *part).err());
        problems.0.extend(wrong.flat_map(|wrong| wrong.0));
    }
    problems.check()?;
    let config = config.ok_or_else(Problems::default)?;
    logging::start(&config.settings, &Environment::read())?;
    Ok(config)
}

/// Runs a future on all cores.
fn on_all_cores<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime can't start")?.block_on(work)
}
