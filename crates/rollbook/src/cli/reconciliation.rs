//! Arguments of `reconcile`, `resync` and `ready`.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use rollbook_core::source::RECONCILED;

use super::Output;
use crate::arguments;
use crate::config::values::{self, AGE_MAX};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  CLERK_SECRET_KEY=sk_live_… rollbook reconcile --dry-run\n  \
                        rollbook reconcile\n  rollbook reconcile --only users --only organizations\n\n\
                        Needs CLERK_SECRET_KEY. The first run is the backfill: objects from before the endpoint existed. A\n\
                        later one writes only what differs, such as after missed events. A worker with the key does it every\n\
                        reconcile_every (24h) by itself: run this one to have it now, and --dry-run to see what differs.\n\n\
                        Exit code 0: every difference is repaired; 1: something waits for you (rollbook reconcile\n\
                        status), or the run did not finish.")]
pub(crate) struct ReconcileCommand {
    #[command(subcommand)]
    pub(crate) other: Option<OfRuns>,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// Arguments of a reconciliation.
#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// Counts the differences, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Resource to read instead of all; may be given several times
    #[arg(long, value_name = "RESOURCE", value_parser = PossibleValuesParser::new(RECONCILED.map(|resource| resource.table)))]
    pub(crate) only: Vec<String>,
    /// Continues the run that was stopped or killed
    #[arg(long, conflicts_with_all = ["dry_run", "only"])]
    pub(crate) resume: bool,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Commands about runs of the past.
#[derive(Subcommand)]
pub(crate) enum OfRuns {
    /// Shows the last runs, what waits for your approval, and how fresh each resource is
    #[command(after_help = "Example:\n  rollbook reconcile status --output json")]
    Status {
        /// Maximum number of waiting objects of each kind to list
        #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Approves the deletions that a run holds, once; each is confirmed at Clerk again
    #[command(after_help = "Example:\n  rollbook reconcile approve run_19acf3b2a0c4f1d2e\n\n\
                            rollbook reconcile status lists the runs and what they hold.")]
    Approve {
        /// Id of the run
        #[arg(value_parser = arguments::name)]
        run: String,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  rollbook resync user_29w83sxmDNGwOuEthce5gg56FcC\n  \
                        rollbook resync --force user_29w83sxmDNGwOuEthce5gg56FcC\n\n\
                        Exit code 1: a row is deleted here and present at Clerk (--force revives it), a trigger or\n\
                        constraint prevents a change, or an id is not of a user or an organization and has no row.")]
pub(crate) struct Resync {
    /// Ids of users and organizations (user_…, org_…), or of any other object that has a row
    #[arg(value_name = "ID", required = true, value_parser = arguments::name)]
    pub(crate) ids: Vec<String>,
    /// Revives a row that is deleted here and present at Clerk
    #[arg(long)]
    pub(crate) force: bool,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(clap::Args)]
#[command(after_help = "Example, before a release that reads the rows:\n  rollbook ready --max-age 10m\n\n\
                        Reads store and queue only, and needs no key. Prints one reason per line.")]
pub(crate) struct Ready {
    /// Maximum age of the oldest message in the queue
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = age)]
    pub(crate) max_age: Duration,
    /// Maximum time since a reconciliation, or a check that found equal numbers, of each resource [default:
    /// twice the interval of reconciliations; 48h if workers start none]
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) max_walk_age: Option<Duration>,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

fn age(text: &str) -> Result<Duration, String> {
    values::duration(text, AGE_MAX).map_err(|wrong| format!("{}; {}", wrong.what, wrong.fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_span_of_time() {
        assert_eq!(age("10m"), Ok(Duration::from_secs(600)));
        assert!(["", "10", "0s", "1000000d"].iter().all(|text| age(text).is_err()));
    }
}
