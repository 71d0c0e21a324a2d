//! Command line: commands and arguments. The modules of `commands` run them.

mod changes;
mod dead_letters;
mod forwards;
mod reconciliation;
mod token;
mod top;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use self::changes::{ChangesCommand, Which};
pub(crate) use self::dead_letters::{Bulk, DeadLetters, Filter};
pub(crate) use self::forwards::{Failed, FailedOf, OneForward, Replay};
pub(crate) use self::reconciliation::{OfRuns, Ready, ReconcileCommand, Resync, RunArguments};
pub(crate) use self::token::TokenCommand;
pub(crate) use self::top::Top;
use crate::arguments;
use crate::flags::SettingFlags;

/// Release, and the commit that it was built from with its date.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ROLLBOOK_BUILD"), ")");

const SERVE_HELP: &str = "\
Example:
  CLERK_WEBHOOK_SIGNING_SECRET=whsec_… rollbook serve --listen 0.0.0.0:8080

Clerk's dashboard, Webhooks, wants the URL https://YOUR.HOST/webhooks/clerk

Often set:
  --listen ADDRESS      deliveries [default: 127.0.0.1:8080]
  --ops-listen ADDRESS  health and metrics, private [default: 127.0.0.1:9464]
  --data-dir PATH       folder of queue and store, if they are files [default: ./rollbook-data]
  --database-url URL    Postgres in place of the store's file [default: a file in data_dir]
  --queue-url URL       Redis in place of the queue's file [default: a file in data_dir]";

const RECEIVE_HELP: &str = "\
Example:
  CLERK_WEBHOOK_SIGNING_SECRET=whsec_… rollbook receive --queue-url redis://redis.internal:6379

Needs no database: it takes deliveries while the store is unreachable. rollbook work applies them.

Often set:
  --listen ADDRESS      deliveries [default: 127.0.0.1:8080]
  --ops-listen ADDRESS  health and metrics, private [default: 127.0.0.1:9464]
  --queue-url URL       the queue, shared with the workers [default: a file in data_dir]";

const WORK_HELP: &str = "\
Example:
  rollbook work --queue-url redis://redis.internal:6379 --database-url postgres://me@db.internal/app

Needs no signing secret and no public port. A second Rollbook process on one machine needs another
ops port: --ops-listen 127.0.0.1:9465

Often set:
  --ops-listen ADDRESS  health and metrics, private [default: 127.0.0.1:9464]
  --queue-url URL       the queue, shared with the receivers [default: a file in data_dir]
  --database-url URL    the store [default: a file in data_dir]
  --lanes NUMBER        batches at the same time; each holds a connection to Postgres [default: 3]";

/// Keeps your own SQL database in sync with Clerk
///
/// Receives Clerk's webhooks, stores each durably before it acknowledges it, and applies them. In
/// whatever order they arrive, the rows become those of Clerk.
#[derive(Parser)]
#[command(
    name = "rollbook",
    version = VERSION,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example, to see it all work on this machine, with nothing set up:\n  rollbook demo"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Receives deliveries and applies them to the store, in one process: the way to begin, and enough for most
    #[command(after_help = SERVE_HELP)]
    Serve(Start),
    /// Receives deliveries and queues them, without applying them: run work too, to scale or restart one without the other
    #[command(after_help = RECEIVE_HELP)]
    Receive(Start),
    /// Applies the deliveries that receive has queued to the store; run as many as you like
    #[command(after_help = WORK_HELP)]
    Work(Start),
    /// Sends signed webhooks of a simulated Clerk, in random order and partly twice, and checks every row
    #[command(after_help = "Examples:\n  rollbook demo --deliveries 50000 --keep\n  \
                            rollbook demo --queue redis://127.0.0.1:6379/9 --store postgres://me@127.0.0.1/scratch\n\n\
                            Needs no configuration and reads none but its own flags. Exit code 0 means that the\n\
                            rows are those of the simulated Clerk.")]
    Demo(Demo),
    /// Signs an event and posts it to a running receiver
    #[command(after_help = "Examples:\n  rollbook send user.created\n  \
                            rollbook send --file event.json --count 100 --url http://127.0.0.1:8080/webhooks/clerk\n\n\
                            A built-in event is always of the same object, so a second user.created updates its row.\n\
                            user.deleted is about another user, since a deleted user stays deleted. The least that a file\n\
                            of your own needs (timestamp: milliseconds since 1970; date +%s%3N):\n  \
                            {\"type\":\"user.created\",\"timestamp\":1785312000032,\"data\":{\"id\":\"user_1\"}}")]
    Send(Send),
    /// Creates or updates the tables, or says which migrations are pending: before the first start, and with each update
    #[command(
        after_help = "Examples:\n  rollbook migrate --database-url postgres://owner@db.internal/app\n  rollbook migrate --check\n\n\
                            Run it as the owner of the tables; workers need fewer rights. serve migrates files of SQLite by\n\
                            itself. Exit code 1: a migration failed; with --check: one is pending."
    )]
    Migrate(Migrate),
    /// Reads Clerk's API and repairs rows that differ: once to fill the tables, later to find missed events
    Reconcile(ReconcileCommand),
    /// Reads single users or organizations at Clerk now, and repairs their rows
    Resync(Resync),
    /// Says whether the rows are complete, caught up and fresh: exit code 0 or 1, for deployments
    Ready(Ready),
    /// Shows deliveries that could not be applied (dead letters) and why, and redrives or discards them
    #[command(
        subcommand,
        after_help = "Examples:\n  rollbook dead-letters summary\n  rollbook dead-letters list --reason store_refused --since 2h\n  \
                      rollbook dead-letters redrive --reason store_refused --dry-run\n\n\
                      A dead letter keeps its body until you redrive or discard it. Look when doctor, top or the alert\n\
                      RollbookDeadLetters says that there are some: list says why, then remove the cause, then redrive."
    )]
    DeadLetters(DeadLetters),
    /// Lists or follows the changes of rows, to react to them; shows and repairs the forwards that push them
    #[command(
        subcommand,
        after_help = "Examples:\n  rollbook changes tail --resource users\n  rollbook changes list --since 2h\n  \
                      rollbook changes status\n\n\
                      Each change is listed once, in the order of the commits, with a position: a number that only grows.\n\
                      A reader keeps the last position that it has handled, and begins after it the next time (--after)."
    )]
    Changes(ChangesCommand),
    /// Shows what a session token says, whether it is accepted, and what makes it long
    #[command(subcommand, after_help = "Example:\n  rollbook token inspect <token.txt")]
    Token(TokenCommand),
    /// Shows the history of one user, organization or delivery: what arrived, what it changed, and why not
    #[command(after_help = "Examples:\n  rollbook explain user_29w83sxmDNGwOuEthce5gg56FcC\n  \
                            rollbook explain msg_2b6vK1…\n  rollbook explain acme-corp\n\nShows ids, types and times; no names, no addresses, no bodies. Exit code 1: several subjects have\nthe name, or the store or the queue cannot be read; then the other one is shown. 3: nothing is\nknown of it.")]
    Explain(Explain),
    /// Removes a person's data from rows, ledger, queue and dead letters, permanently
    #[command(after_help = "Examples:\n  rollbook erase user_29w83sxmDNGwOuEthce5gg56FcC --dry-run\n  \
                            rollbook erase user_29w83sxmDNGwOuEthce5gg56FcC --yes\n  \
                            rollbook erase ann@kilnworks.example --dry-run\n\n\
                            Several subjects with the name: none is erased, and they are listed. Nothing is known of it: exit\n\
                            code 3, and nothing is written.\n\n\
                            Workers may run meanwhile. No later delivery restores erased data. At the end it lists copies\n\
                            that it cannot reach, and how long they live. A second run is harmless.")]
    Erase(Erase),
    /// Checks configuration, clock, files, queue and store, and says how to fix what is wrong
    #[command(after_help = "Examples:\n  rollbook doctor\n  rollbook doctor --face work --output json\n  \
                            rollbook doctor --send\n\n\
                            Give it the settings of the process it is about. Without --send it stores nothing: what it\n\
                            tries is rolled back (in Redis one field of the queue's own is written). Exit code 0: nothing\n\
                            has failed (there may be warnings); 1: something has; 2: the configuration is wrong.")]
    Doctor(Doctor),
    /// Shows on one screen whether running processes keep up, what waits, and what fails
    Top(Top),
    /// Shows every setting with its value, its source and its meaning
    #[command(after_help = "Examples:\n  rollbook config\n  rollbook config --sample > rollbook.toml")]
    Config(ConfigCommand),
    /// Asks a running process for its health: exit code 0 or 1, for containers
    #[command(after_help = "Example:\n  HEALTHCHECK CMD [\"rollbook\", \"healthcheck\"]")]
    Healthcheck(Healthcheck),
    /// Prints completions for a shell
    #[command(after_help = "Example:\n  rollbook completions bash > /etc/bash_completion.d/rollbook")]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

/// Form of printed data.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Arguments of a face's start.
#[derive(clap::Args)]
pub(crate) struct Start {
    /// Applies pending migrations before it starts; serve always does in files of SQLite [default: off]
    #[arg(long)]
    pub(crate) migrate: bool,
}

#[derive(clap::Args)]
pub(crate) struct Demo {
    /// URL of an empty Redis, in place of a file that is removed afterwards
    #[arg(long, value_name = "URL")]
    pub(crate) queue: Option<String>,
    /// URL of a Postgres, in place of a file; the rows get their own schema, which is dropped at the end
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Sends at least this many deliveries, including those that are sent twice
    #[arg(long, value_name = "NUMBER", default_value_t = 12_500, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) deliveries: u32,
    /// Also shows the damage that a common nightly job would have done to the same users
    #[arg(long)]
    pub(crate) naive: bool,
    /// Continues to serve when the demo is done, until Ctrl-C, and keeps its data
    #[arg(long)]
    pub(crate) keep: bool,
    /// Makes the history of this seed again [default: another seed each time]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Prints the report for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Send {
    /// Type of a built-in event, such as user.created; the event has the current time
    #[arg(value_name = "TYPE", required_unless_present_any = ["file", "list"], value_parser = arguments::name)]
    pub(crate) event_type: Option<String>,
    /// Lists the types of all built-in events and sends nothing
    #[arg(long, conflicts_with_all = ["event_type", "file", "count", "url"])]
    pub(crate) list: bool,
    /// Sends this file, byte for byte, in place of a built-in event
    #[arg(long, value_name = "PATH", conflicts_with = "event_type")]
    pub(crate) file: Option<PathBuf>,
    /// Number of deliveries to send, each with its own id
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
    /// URL of the receiver [default: the receiver at the setting `listen`]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Prints the answers for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Migrate {
    /// Lists pending migrations and changes nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Explain {
    /// An id of Clerk's (user_…, org_…, orgmem_…, sess_…, …), the svix-id of a delivery (msg_…), an e-mail address or
    /// phone number, the slug of an organization, or the external id or username of a user
    #[arg(value_name = "ID or NAME", value_parser = arguments::name)]
    pub(crate) id: String,
    /// Maximum number of deliveries and of memberships to show, the latest
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    /// Maximum number of messages of the queue to read, for ten seconds at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    pub(crate) scan: u32,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Erase {
    /// Id of a user, an organization or any other row; or an address, slug, external id or username that only one
    /// subject has
    #[arg(value_name = "ID or NAME", value_parser = arguments::name)]
    pub(crate) id: String,
    /// Also erases everything with this e-mail address or phone number, without checking the owner; addresses
    /// that the user has verified are included anyway
    #[arg(long = "also", visible_alias = "address", value_name = "ADDRESS", value_parser = arguments::address)]
    pub(crate) addresses: Vec<String>,
    /// Also erases an id of which nothing is known here: it writes a tombstone, so that nothing is stored of
    /// deliveries about it that may still arrive
    #[arg(long)]
    pub(crate) tombstone: bool,
    /// Shows what would be removed, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask for confirmation
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// Then rewrites the files of SQLite, so that no removed bytes remain; deliveries wait meanwhile
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) vacuum: bool,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Command that runs on this machine: only its needs are checked
    #[arg(long, value_enum, default_value = "serve")]
    pub(crate) face: FaceName,
    /// Also sends a signed test event to the running receiver and waits until it is applied: no row changes,
    /// the ledger has one line more
    #[arg(long)]
    pub(crate) send: bool,
    /// URL of the receiver [default: the receiver at the setting `listen`]
    #[arg(long, value_name = "URL", requires = "send")]
    pub(crate) url: Option<String>,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Commands that serve.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaceName {
    Serve,
    Receive,
    Work,
}

#[derive(clap::Args)]
pub(crate) struct ConfigCommand {
    /// Prints a file with every setting at its default instead
    #[arg(long)]
    pub(crate) sample: bool,
    /// Prints the reference of all settings instead, as Markdown
    #[arg(long, conflicts_with = "sample")]
    pub(crate) reference: bool,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Healthcheck {
    /// Question to ask at `ops_listen`: does it answer, do its loops make progress, can its parts be reached
    #[arg(long, value_enum, default_value = "healthz")]
    pub(crate) probe: ProbeName,
}

/// Questions to the ops port.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ProbeName {
    Healthz,
    Livez,
    Readyz,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_settings_that_the_help_names_exist_with_the_defaults_that_it_says() {
        let lines = [SERVE_HELP, RECEIVE_HELP, WORK_HELP].into_iter().flat_map(str::lines);
        let named = lines.filter_map(|line| {
            let (flag, rest) = line.strip_prefix("  --")?.split_once(' ')?;
            Some((format!("--{flag}"), rest.split_once("[default: ")?.1.trim_end_matches(']')))
        });
        let mut seen = 0;
        for (flag, default) in named {
            let setting = SETTINGS.iter().find(|setting| setting.flag().as_ref() == Some(&flag));
            let setting = setting.unwrap_or_else(|| panic!("{flag} is not a setting"));
            assert_eq!(setting.default.unwrap_or("a file in data_dir"), default, "{flag}");
            seen += 1;
        }
        assert!(seen > 10, "{seen}");
    }
}

#[cfg(test)]
mod version_tests {
    use super::VERSION;

    #[test]
    fn the_version_names_release_and_commit_with_its_date_or_says_that_it_is_unknown() {
        let rest = VERSION.strip_prefix(concat!(env!("CARGO_PKG_VERSION"), " (")).expect("the release");
        let build = rest.strip_suffix(')').expect("the build in brackets");
        let (commit, date) = build.split_once(' ').expect("two words");
        let is_date = date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        assert!(
            build == "unknown commit"
                || option_env!("ROLLBOOK_COMMIT").is_some()
                || (commit.len() >= 12 && is_date),
            "{VERSION}"
        );
    }
}
