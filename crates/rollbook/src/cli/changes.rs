//! Arguments of `changes`.

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::ChangeKind;

use super::Output;
use super::dead_letters::{Since, since};
use super::forwards::{Failed, FailedOf, OneForward, Replay};
use crate::arguments;

#[derive(Subcommand)]
pub(crate) enum ChangesCommand {
    /// Lists changes in the order of their positions: without a beginning, the last ones
    #[command(after_help = "Examples:\n  rollbook changes list --since 2h --resource users\n  \
                            rollbook changes list --after 4211 --limit 500 --output json\n\n\
                            Exit code 1: changes after the position were removed (changes_kept_for).")]
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Prints each change as it comes, one line each: without a beginning, after the last ten
    #[command(after_help = "Examples:\n  rollbook changes tail\n  \
                            rollbook changes tail --after 4211 --output json | while read -r change; do …; done\n\n\
                            The last position that was printed is where the next run begins: --after. Exit code 1: changes\n\
                            after the position were removed (changes_kept_for).")]
    Tail {
        #[command(flatten)]
        which: Which,
    },
    /// Shows each forward: what it does, its position, what waits, and its dead letters
    #[command(
        after_help = "Examples:\n  rollbook changes status\n  rollbook changes status crm --output json\n\n\
                            Exit code 1: a configured forward stopped."
    )]
    Status {
        /// NAME of a [forward.NAME]; without it all forwards
        #[arg(value_name = "FORWARD", value_parser = arguments::name)]
        forward: Option<String>,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Lists dead letters of forwards, or with --waiting changes that are tried again
    #[command(
        after_help = "Examples:\n  rollbook changes failed crm --output json\n  rollbook changes failed crm --waiting"
    )]
    Failed(Failed),
    /// Sends dead letters of a forward again
    #[command(after_help = "Examples:\n  rollbook changes redrive crm --position 4211\n  \
                            rollbook changes redrive crm --all\n\n\
                            Later changes of the same objects were sent before: the endpoint gets an old change after newer ones.")]
    Redrive(FailedOf),
    /// Removes dead letters of a forward
    #[command(after_help = "Example:\n  rollbook changes discard crm --position 4211")]
    Discard(FailedOf),
    /// Sends every change after a position again, with the same ids
    #[command(after_help = "Example:\n  rollbook changes replay crm --after 4210\n\n\
                            Also starts a forward that stopped. A position ahead of the forward's is refused.")]
    Replay(Replay),
    /// Starts a forward that stopped: it goes on where it was
    #[command(after_help = "Example:\n  rollbook changes resume crm")]
    Resume(OneForward),
    /// Gives the feed a new generation after a restore of its store, so that forwards stop
    #[command(after_help = "Example:\n  rollbook changes renew\n\n\
                            A restored store gives later changes positions that endpoints have seen: run this after\n\
                            each restore, before the workers start. Each forward stops with this reason; start it\n\
                            again when its endpoint has forgotten them: rollbook changes resume.")]
    Renew {
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}

/// Selection of changes.
#[derive(clap::Args)]
pub(crate) struct Which {
    /// Begins after this position
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<u64>,
    /// Begins at this moment: RFC 3339, or how long ago (30m, 2h)
    #[arg(long, value_name = "WHEN", value_parser = since, conflicts_with = "after")]
    pub(crate) since: Option<Since>,
    /// Shows this resource only; may be given several times
    #[arg(long, value_name = "RESOURCE", value_parser = PossibleValuesParser::new(RESOURCES.map(|resource| resource.table)))]
    pub(crate) resource: Vec<String>,
    /// Shows this kind only; may be given several times
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(ChangeKind::ALL.map(ChangeKind::as_str)))]
    pub(crate) kind: Vec<String>,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}
