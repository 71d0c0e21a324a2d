//! Arguments of `dead-letters`.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;

use super::Output;
use crate::arguments;
use crate::config::values::{self, AGE_MAX};

#[derive(Subcommand)]
pub(crate) enum DeadLetters {
    /// Sums dead letters by reason and event type
    #[command(after_help = "Example:\n  rollbook dead-letters summary --since 2h")]
    Summary {
        #[command(flatten)]
        filter: Filter,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Lists dead letters: their sums, then the newest ones first
    #[command(after_help = "Examples:\n  rollbook dead-letters list --type user.updated --since 2h\n  \
                            rollbook dead-letters list --follow --reason store_refused")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Prints the last ones, and then each new one as it comes, one line each; --output json: one object a line
        #[arg(long)]
        follow: bool,
        /// Maximum number of dead letters, newest first
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Shows one dead letter; its body only when asked for, since it holds personal data
    #[command(after_help = "Example:\n  rollbook dead-letters show msg_2b6vK1… --body")]
    Show {
        /// The svix-id of the delivery
        #[arg(value_parser = arguments::name)]
        id: String,
        /// Also the signed bytes
        #[arg(long)]
        body: bool,
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Sends dead letters back to the queue: same id, same body, attempts from zero
    #[command(after_help = "Examples:\n  rollbook dead-letters redrive msg_2b6vK1…\n  \
                            rollbook dead-letters redrive --reason store_refused --rate 50 --dry-run")]
    Redrive(Bulk),
    /// Removes dead letters permanently
    #[command(after_help = "Example:\n  rollbook dead-letters discard --reason wrong_instance --dry-run")]
    Discard(Bulk),
}

/// Filter of dead letters: all given conditions must hold.
#[derive(clap::Args)]
pub(crate) struct Filter {
    /// The dead letter with this svix-id
    #[arg(value_name = "ID", value_parser = arguments::name)]
    pub(crate) id: Option<String>,
    /// The dead letter with this svix-id
    #[arg(long = "id", value_name = "ID", conflicts_with = "id", hide = true, value_parser = arguments::name)]
    pub(crate) id_flag: Option<String>,
    /// Events of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = arguments::name)]
    pub(crate) event_type: Option<String>,
    /// Dead letters with this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::as_str)))]
    pub(crate) reason: Option<String>,
    /// Moved to the dead letters at this time or later: RFC 3339, or an age (30m, 2h)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<Since>,
}

#[derive(clap::Args)]
pub(crate) struct Bulk {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// All dead letters; needed if no filter is given
    #[arg(long)]
    pub(crate) all: bool,
    /// Counts the dead letters and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Maximum number of dead letters, oldest first
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Maximum number of dead letters a second [default: as fast as it goes]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// A time, or an age.
#[derive(Clone, Copy)]
pub(crate) enum Since {
    Moment(Timestamp),
    Ago(Duration),
}

impl Since {
    /// The moment.
    pub(crate) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Moment(moment) => moment,
            Self::Ago(span) => now.minus(span),
        }
    }
}

pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Some(moment) = Timestamp::parse_rfc_3339(text) {
        return Ok(Since::Moment(moment));
    }
    let refusal = "write a moment such as 2026-07-29T08:00:00Z, or how long ago such as 30m or 2h";
    values::duration(text, AGE_MAX).map(Since::Ago).map_err(|_| refusal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_or_a_span() {
        assert!(matches!(since("2026-07-29T08:00:00Z"), Ok(Since::Moment(_))));
        assert!(matches!(since("2h"), Ok(Since::Ago(span)) if span.as_secs() == 7200));
        for text in ["yesterday", "2026-07-29T08:00:00+25:00", "9999-12-31T23:59:59Z"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
