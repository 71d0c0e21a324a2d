//! Reading the typed columns from an object.

use std::borrow::Cow;

use super::numbers::whole;
use super::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX};
use crate::catalog::{Kind, Resource, Source};
use crate::change::Field;
use crate::json::{Json, Members};
use crate::time::Timestamp;

/// Reason why a value does not fit its column, without the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The value, or an object on the way to it, has another JSON type.
    #[error("{found} in place of {expected}")]
    Type {
        /// JSON type that was found.
        found: &'static str,
        /// JSON type that fits.
        expected: &'static str,
    },
    /// The text is longer than the column allows.
    #[error("a text of more than {max} bytes")]
    Length {
        /// Maximum length, in bytes.
        max: usize,
    },
    /// The number is not an integer of 64 bits, or not a time that every engine can store.
    #[error("a number outside of the range of the column")]
    Range,
}

impl Mismatch {
    fn of_type(found: Json<'_>, expected: &'static str) -> Self {
        Self::Type { found: found.type_name(), expected }
    }
}

/// Returns the columns that are null because the value in `data` does not fit them, with the reason, in the order of the
/// table. The `data` is that of a stored row: the result is the same as when its event was parsed.
pub fn mismatches(resource: &Resource, data: Json<'_>) -> Vec<(&'static str, Mismatch)> {
    let Some(data) = Members::of(data) else { return Vec::new() };
    let times = ["created_at", "updated_at"].map(|key| (key, Ok(data.get(key)), Kind::Time));
    let columns =
        resource.columns.iter().map(|column| (column.name, find(&data, column.source), column.kind));
    times
        .into_iter()
        .chain(columns)
        .filter_map(|(name, found, kind)| {
            let field = found.and_then(|value| field(value, kind));
            field.err().map(|mismatch| (name, mismatch))
        })
        .collect()
}

/// Returns the value at a source, or `None` if the value or anything on the way to it is missing or null.
pub(super) fn find<'a>(data: &Members<'a>, source: Source) -> Result<Option<Json<'a>>, Mismatch> {
    match source {
        Source::Path(path) => at(data, path),
        Source::Either(first, second) => match at(data, first)? {
            Some(value) if !is_empty_id(value) => Ok(Some(value)),
            _ => at(data, second),
        },
        Source::Chosen { list, id_of, field } => {
            let Some(id) = data.get(id_of).filter(|id| !id.is_null()) else { return Ok(None) };
            let chosen = id.as_text().ok_or_else(|| Mismatch::of_type(id, "a text"))?;
            let Some(list) = data.get(list).filter(|list| !list.is_null()) else { return Ok(None) };
            if !list.is_list() {
                return Err(Mismatch::of_type(list, "a list"));
            }
            let is_chosen = |id: Json<'_>| id.as_text().is_some_and(|id| id == chosen);
            let element = list.elements().find(|element| element.get("id").is_some_and(is_chosen));
            Ok(element.and_then(|element| element.get(field)))
        }
    }
}

/// Returns whether the id is missing: Clerk then sends null or an empty string.
fn is_empty_id(value: Json<'_>) -> bool {
    value.is_null() || value.as_text().is_some_and(|text| text.is_empty())
}

fn at<'a>(data: &Members<'a>, path: &[&str]) -> Result<Option<Json<'a>>, Mismatch> {
    let Some((first, rest)) = path.split_first() else { return Ok(None) };
    let mut found = data.get(first);
    for key in rest {
        found = match found {
            Some(object) if object.is_object() => object.get(key),
            Some(other) if !other.is_null() => return Err(Mismatch::of_type(other, "an object")),
            _ => return Ok(None),
        };
    }
    Ok(found)
}

/// Converts the value to a column of this kind. A missing value and null fit every kind.
pub(super) fn field(value: Option<Json<'_>>, kind: Kind) -> Result<Field, Mismatch> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Field::Null);
    };
    match kind {
        Kind::Text => as_text(value, usize::MAX).map(Field::Text),
        Kind::IndexedText => as_text(value, INDEXED_TEXT_LENGTH_MAX).map(Field::Text),
        Kind::Id => as_text(value, NAME_LENGTH_MAX).map(id),
        Kind::Integer => as_whole(value).map(Field::Integer),
        Kind::Bool => {
            value.as_bool().map(Field::Bool).ok_or_else(|| Mismatch::of_type(value, "true or false"))
        }
        Kind::Time => Timestamp::from_clerk(as_whole(value)?).map(Field::Time).ok_or(Mismatch::Range),
        Kind::Json => Ok(Field::Json(value.as_json().to_owned())),
    }
}

/// Returns a text of at most this many bytes.
fn as_text(value: Json<'_>, max: usize) -> Result<String, Mismatch> {
    let text = value.as_text().ok_or_else(|| Mismatch::of_type(value, "a text"))?;
    if text.len() <= max { Ok(Cow::into_owned(text)) } else { Err(Mismatch::Length { max }) }
}

/// Returns an integer of 64 bits.
fn as_whole(value: Json<'_>) -> Result<i64, Mismatch> {
    let number = value.as_number().ok_or_else(|| Mismatch::of_type(value, "a number"))?;
    whole(number).ok_or(Mismatch::Range)
}

fn id(text: String) -> Field {
    if text.is_empty() { Field::Null } else { Field::Text(text) }
}
