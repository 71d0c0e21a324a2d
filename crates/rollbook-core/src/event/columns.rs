//! Reading the typed columns from an object.

use std::fmt;

use serde_json::{Map, Value};

use super::numbers::whole;
use super::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX, text_of};
use crate::catalog::{Kind, Resource, Source};
use crate::change::Field;
use crate::time::Timestamp;

/// Reason why a value does not fit its column, without the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The value, or an object on the way to it, has another JSON type.
    Type {
        /// JSON type that was found.
        found: &'static str,
        /// JSON type that fits.
        expected: &'static str,
    },
    /// The text is longer than the column allows.
    Length {
        /// Maximum length, in bytes.
        max: usize,
    },
    /// The number is not an integer of 64 bits, or not a time that every engine can store.
    Range,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { found, expected } => write!(f, "{found} in place of {expected}"),
            Self::Length { max } => write!(f, "a text of more than {max} bytes"),
            Self::Range => write!(f, "a number outside of the range of the column"),
        }
    }
}

impl Mismatch {
    const fn of_type(found: &Value, expected: &'static str) -> Self {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        Self::Type { found, expected }
    }
}

/// Returns the columns that are null because the value in `data` does not fit them, with the reason, in the order of the
/// table. The `data` is that of a stored row: the result is the same as when its event was parsed.
pub fn mismatches(resource: &Resource, data: &Map<String, Value>) -> Vec<(&'static str, Mismatch)> {
    let times = ["created_at", "updated_at"].map(|key| (key, Ok(data.get(key)), Kind::Time));
    let columns = resource.columns.iter().map(|column| (column.name, find(data, column.source), column.kind));
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
pub(super) fn find(data: &Map<String, Value>, source: Source) -> Result<Option<&Value>, Mismatch> {
    match source {
        Source::Path(path) => at(data, path),
        Source::Either(first, second) => match at(data, first)? {
            Some(value) if !is_empty_id(value) => Ok(Some(value)),
            _ => at(data, second),
        },
        Source::Chosen { list, id_of, field } => {
            let chosen = match data.get(id_of) {
                None | Some(Value::Null) => return Ok(None),
                Some(id) => id.as_str().ok_or_else(|| Mismatch::of_type(id, "a text"))?,
            };
            let elements = match data.get(list) {
                None | Some(Value::Null) => return Ok(None),
                Some(list) => list.as_array().ok_or_else(|| Mismatch::of_type(list, "a list"))?,
            };
            let is_chosen = |element: &&Value| element.get("id").and_then(Value::as_str) == Some(chosen);
            Ok(elements.iter().find(is_chosen).and_then(|element| element.get(field)))
        }
    }
}

/// Returns whether the id is missing: Clerk then sends null or an empty string.
fn is_empty_id(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

fn at<'a>(data: &'a Map<String, Value>, path: &[&str]) -> Result<Option<&'a Value>, Mismatch> {
    let Some((first, rest)) = path.split_first() else { return Ok(None) };
    let mut found = data.get(*first);
    for key in rest {
        found = match found {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(object)) => object.get(*key),
            Some(other) => return Err(Mismatch::of_type(other, "an object")),
        };
    }
    Ok(found)
}

/// Converts the value to a column of this kind. A missing value and null fit every kind.
pub(super) fn field(value: Option<&Value>, kind: Kind) -> Result<Field, Mismatch> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Field::Null);
    };
    match kind {
        Kind::Text => as_text(value, usize::MAX).map(text),
        Kind::IndexedText => as_text(value, INDEXED_TEXT_LENGTH_MAX).map(text),
        Kind::Id => as_text(value, NAME_LENGTH_MAX).map(id),
        Kind::Integer => as_whole(value).map(Field::Integer),
        Kind::Bool => {
            value.as_bool().map(Field::Bool).ok_or_else(|| Mismatch::of_type(value, "true or false"))
        }
        Kind::Time => Timestamp::from_clerk(as_whole(value)?).map(Field::Time).ok_or(Mismatch::Range),
        Kind::Json => Ok(Field::Json(text_of(value))),
    }
}

/// Returns a text of at most this many bytes.
fn as_text(value: &Value, max: usize) -> Result<&str, Mismatch> {
    let text = value.as_str().ok_or_else(|| Mismatch::of_type(value, "a text"))?;
    if text.len() <= max { Ok(text) } else { Err(Mismatch::Length { max }) }
}

/// Returns an integer of 64 bits.
fn as_whole(value: &Value) -> Result<i64, Mismatch> {
    match whole(value) {
        Some(number) => Ok(number),
        None if value.is_number() => Err(Mismatch::Range),
        None => Err(Mismatch::of_type(value, "a number")),
    }
}

fn text(text: &str) -> Field {
    Field::Text(text.to_owned())
}

fn id(text: &str) -> Field {
    if text.is_empty() { Field::Null } else { Field::Text(text.to_owned()) }
}

/// Removes the value at a path of keys, if there is one.
pub(super) fn remove(data: &mut Map<String, Value>, path: &[&str]) {
    match path {
        [] => {}
        [key] => drop(data.remove(*key)),
        [first, rest @ ..] => {
            if let Some(Value::Object(inner)) = data.get_mut(*first) {
                remove(inner, rest);
            }
        }
    }
}
