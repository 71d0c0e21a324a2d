//! Comparison of an object as Clerk's API shows it with its row.
//!
//! The rule decides what a reconciliation passes on to the merge. A row that differs in nothing is not
//! written at all, so that no trigger fires.

use serde_json::{Map, Value};

use crate::catalog::Resource;
use crate::change::{SubjectChange, Version};
use crate::drift::Drift;
use crate::merge::{Content, SubjectState};

/// Keys of JSON that the team defines. It is compared as a whole: a key that only one side has is a difference.
const METADATA: [&str; 3] = ["public_metadata", "private_metadata", "unsafe_metadata"];

/// Verdict of [`judge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row shows the object, or something newer.
    Same,
    /// The row differs.
    Drifted(Drift),
    /// The versions do not decide: compare the contents with [`is_same_content`].
    CompareContent,
}

/// Compares an object of Clerk's API with the state of its row, without the contents. `stored` is `None` if
/// there is no row.
///
/// A row that an operator erased counts as equal whatever Clerk shows: the erasure was on purpose. The
/// deletion that a row inherits from a parent is the parent's drift, not its own.
pub fn judge(observed: &SubjectChange, stored: Option<&SubjectState>) -> Verdict {
    let Some(stored) = stored else { return Verdict::Drifted(Drift::Missing) };
    if stored.is_erased_by_operator() || observed.version.event_at <= stored.floor {
        return Verdict::Same;
    }
    if let Some(deleted_at) = stored.deleted_at {
        // A deletion later than the reading may be a webhook that overtook the page.
        let overtook = deleted_at >= observed.version.event_at;
        return if overtook { Verdict::Same } else { Verdict::Drifted(Drift::WronglyDeleted) };
    }
    match stored.content {
        Content::Unknown => Verdict::Drifted(Drift::Missing),
        Content::Erased => Verdict::Same,
        Content::At(known) => judge_content(observed, &known),
    }
}

fn judge_content(observed: &SubjectChange, known: &Version) -> Verdict {
    let seen = &observed.version;
    if seen.hash == known.hash || seen.event_at <= known.event_at && seen.updated_at <= known.updated_at {
        return Verdict::Same;
    }
    let is_dated = observed.row.as_ref().is_some_and(|row| row.updated_at.is_some());
    match seen.updated_at.cmp(&known.updated_at) {
        _ if !is_dated => Verdict::CompareContent,
        std::cmp::Ordering::Greater => Verdict::Drifted(Drift::Stale),
        std::cmp::Ordering::Equal => Verdict::CompareContent,
        std::cmp::Ordering::Less => Verdict::Same,
    }
}

/// Returns whether the contents of an object at Clerk and of a row are equal, on the keys that both have and
/// without the resource's volatile paths. Metadata is compared as a whole.
pub fn is_same_content(
    resource: &Resource,
    observed: &Map<String, Value>,
    stored: &Map<String, Value>,
) -> bool {
    let paths: Vec<&[&str]> = resource.volatile.iter().chain(resource.secrets).copied().collect();
    is_same_object(&paths, observed, stored)
}

fn is_same_object(skipped: &[&[&str]], observed: &Map<String, Value>, stored: &Map<String, Value>) -> bool {
    observed.iter().all(|(key, value)| {
        let Some(other) = stored.get(key) else { return true };
        if METADATA.contains(&key.as_str()) {
            return value == other;
        }
        let below: Vec<&[&str]> = skipped
            .iter()
            .filter(|path| path.first() == Some(&key.as_str()))
            .map(|path| &path[1..])
            .collect();
        below.iter().any(|path| path.is_empty()) || is_same_value(&below, value, other)
    })
}

fn is_same_value(skipped: &[&[&str]], observed: &Value, stored: &Value) -> bool {
    match (observed, stored) {
        (Value::Object(observed), Value::Object(stored)) => is_same_object(skipped, observed, stored),
        (Value::Array(observed), Value::Array(stored)) => {
            let mut pairs = observed.iter().zip(stored);
            observed.len() == stored.len()
                && pairs.all(|(observed, stored)| is_same_value(skipped, observed, stored))
        }
        (observed, stored) => observed == stored,
    }
}

#[cfg(test)]
mod tests;
