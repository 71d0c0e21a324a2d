//! Comparison of an object as Clerk's API shows it with its row.
//!
//! The rule decides what a reconciliation passes on to the merge. A row that differs in nothing is not
//! written at all, so that no trigger fires.

mod number;

use crate::catalog::Resource;
use crate::change::{SubjectChange, Version};
use crate::drift::Drift;
use crate::json::{Json, Members, below};
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
pub fn is_same_content(resource: &Resource, observed: Json<'_>, stored: Json<'_>) -> bool {
    let paths: Vec<&[&str]> = resource.volatile.iter().chain(resource.secrets).copied().collect();
    is_same_value(&paths, observed, stored)
}

fn is_same_value(skipped: &[&[&str]], observed: Json<'_>, stored: Json<'_>) -> bool {
    if let (true, Some(stored)) = (observed.is_object(), Members::of(stored)) {
        return observed.members().all(|(key, value)| {
            let Some(other) = stored.get(key) else { return true };
            if METADATA.contains(&key) {
                return is_same_json(value, other);
            }
            let below = below(skipped, key);
            below.iter().any(|path| path.is_empty()) || is_same_value(&below, value, other)
        });
    }
    if observed.is_list() && stored.is_list() {
        let is_same = |observed, stored| is_same_value(skipped, observed, stored);
        return all_pairs(observed.elements(), stored.elements(), is_same);
    }
    is_same_json(observed, stored)
}

/// Whether two values are equal, numbers by their value: an engine may write them in another form.
fn is_same_json(one: Json<'_>, other: Json<'_>) -> bool {
    if one.is_object() && other.is_object() {
        // Both have their keys in the same order.
        let is_same = |(key, one), (other_key, other)| key == other_key && is_same_json(one, other);
        return all_pairs(one.members(), other.members(), is_same);
    }
    if one.is_list() && other.is_list() {
        return all_pairs(one.elements(), other.elements(), is_same_json);
    }
    let numbers = one.as_number().zip(other.as_number());
    numbers.map_or(one == other, |(one, other)| number::is_equal(one, other))
}

/// Whether both have as many elements, and those at each position are the same.
fn all_pairs<T: Copy>(
    mut one: impl Iterator<Item = T>,
    mut other: impl Iterator<Item = T>,
    is_same: impl Fn(T, T) -> bool,
) -> bool {
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if is_same(one, other) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
