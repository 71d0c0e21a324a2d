//! Arguments of the commands of `changes` that are about forwards.

use clap::Args;

use super::Output;
use crate::arguments;

/// Name of a forward, and the form of the output.
#[derive(Args)]
pub(crate) struct OneForward {
    /// NAME of a [forward.NAME]
    #[arg(value_name = "FORWARD", value_parser = arguments::name)]
    pub(crate) forward: String,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) of: OneForward,
    /// Sends every change after this position; 0 for all
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: u64,
}

#[derive(Args)]
pub(crate) struct Failed {
    /// NAME of a [forward.NAME]; without it all forwards
    #[arg(value_name = "FORWARD", value_parser = arguments::name)]
    pub(crate) forward: Option<String>,
    /// Lists changes that wait for their next attempt, or behind such a change, instead
    #[arg(long)]
    pub(crate) waiting: bool,
    /// At most so many of each forward
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// Prints for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Selection of dead letters of a forward.
#[derive(Args)]
pub(crate) struct FailedOf {
    #[command(flatten)]
    pub(crate) of: OneForward,
    /// The dead letter at this position; may be given several times
    #[arg(long, value_name = "POSITION", conflicts_with = "all")]
    pub(crate) position: Vec<u64>,
    /// All dead letters of the forward
    #[arg(long)]
    pub(crate) all: bool,
}
