//! Parameters in the URL of Postgres that have no effect here, and signs of a pooler: logged once by a process and by `migrate`,
//! and a row in `doctor`.

use crate::config::Config;
use crate::wire::{self, Ignored, POOLER_FIX};

/// Parameters of other libraries.
pub(crate) const OTHERS: &str =
    "parameters of the Postgres URL that belong to other libraries have no effect here";
/// Parameters with a wrong value.
pub(crate) const WRONG_VALUES: &str =
    "parameters of the Postgres URL have a value that is not known, and no effect: write true or false";
/// Unknown parameters.
pub(crate) const UNKNOWN: &str = "parameters of the Postgres URL are unknown and have no effect; they are counted from 1 and not named, because a name \
     could be part of a password";

/// Logs what the URL of the store has.
pub(crate) fn log(config: &Config) {
    let Some(Ignored { names, wrong_values, numbers, pooler }) = wire::ignored(config) else { return };
    if let Some(sign) = pooler {
        tracing::warn!("{}. If it pools transactions, {POOLER_FIX}", may_be_pooled(sign));
    }
    if !names.is_empty() {
        tracing::info!(parameters = names.join(", "), "{OTHERS}");
    }
    if !wrong_values.is_empty() {
        tracing::warn!(parameters = wrong_values.join(", "), "{WRONG_VALUES}");
    }
    if !numbers.is_empty() {
        tracing::warn!(numbers = listed(&numbers), "{UNKNOWN}");
    }
}

/// Returns the warning of a pooler, with its sign.
pub(crate) fn may_be_pooled(sign: &str) -> String {
    format!("the URL of Postgres may lead to a pooler: {sign}")
}

/// Formats positions of parameters.
pub(crate) fn listed(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
