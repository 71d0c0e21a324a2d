//! Flags of the settings, made from their declarations.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{About, Environment, FileSource, Kind, SETTINGS, Settings, Sources};

/// Heading of the one line about settings in the help of every command.
const HEADING: &str = "Settings";

/// Settings on the command line.
pub(crate) struct SettingFlags {
    file: Option<PathBuf>,
    values: Vec<(&'static About, String)>,
}

impl SettingFlags {
    /// Loads flags, environment and file.
    pub(crate) fn sources(&self) -> Sources<'_> {
        let file = self.file.as_deref().map_or(FileSource::Default, FileSource::Named);
        Sources { flags: &self.values, environment: Environment::read(), file }
    }

    /// Loads the flags, and from the environment only the settings of the log. For commands that must not
    /// touch the data that the environment may point to.
    pub(crate) fn own_sources(&self) -> Sources<'_> {
        let log = [&Settings::log().about, &Settings::log_format().about];
        let environment = Environment::read().only(&log.map(About::environment));
        let file = self.file.as_deref().map_or(FileSource::None, FileSource::Named);
        Sources { flags: &self.values, environment, file }
    }

    /// Sets a value unless a flag has set it.
    pub(crate) fn set_default(&mut self, setting: &'static About, value: &str) {
        if !self.is_set(setting) {
            self.values.push((setting, value.to_owned()));
        }
    }

    /// Returns whether a flag sets this.
    pub(crate) fn is_set(&self, setting: &About) -> bool {
        self.values.iter().any(|(known, _)| known.key == setting.key)
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("File of settings [default: ./rollbook.toml]. Each is also a flag, such as --data-dir: rollbook config")
            .global(true)
            .help_heading(HEADING);
        let flags = SETTINGS.iter().filter_map(|setting| {
            let default = setting.default.map_or(String::new(), |default| format!(" [default: {default}]"));
            let flag = Arg::new(setting.key)
                .long(setting.flag()?.trim_start_matches('-').to_owned())
                .value_name(form(&setting.kind))
                .help(format!("{}{default}", setting.sentence()))
                .action(ArgAction::Set)
                .hide(true)
                .global(true)
                .help_heading(HEADING);
            Some(flag)
        });
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |setting: &&'static About| {
            setting.flag()?;
            Some((*setting, matches.get_one::<String>(setting.key)?.clone()))
        };
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            values: SETTINGS.iter().filter_map(value).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn form(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Secret => "SECRET",
        Kind::PublicKeys => "KEYS",
        Kind::Url | Kind::Endpoint => "URL",
        Kind::Path => "PATH",
        Kind::Address | Kind::AddressOrSame => "ADDRESS",
        Kind::Choice(_) => "WORD",
        Kind::Duration(_) | Kind::Pause(_) | Kind::Interval(_) => "TIME",
        Kind::Size(_) => "SIZE",
        Kind::Number(_) | Kind::Count(_) | Kind::Share => "NUMBER",
    }
}
