//! Reading the typed columns from an object.

use serde_json::{Map, Value};

use super::numbers::whole;
use super::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX, text_of};
use crate::catalog::{Kind, Source};
use crate::change::Field;
use crate::time::Timestamp;

/// A value of another type than the catalog expects, at the path or on the way to it.
#[derive(Debug)]
pub(super) struct Mismatch;

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
                Some(id) => id.as_str().ok_or(Mismatch)?,
            };
            let elements = match data.get(list) {
                None | Some(Value::Null) => return Ok(None),
                Some(list) => list.as_array().ok_or(Mismatch)?,
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
            Some(_) => return Err(Mismatch),
        };
    }
    Ok(found)
}

/// Converts the value to a column of this kind. A missing value and null fit every kind.
pub(super) fn field(value: Option<&Value>, kind: Kind) -> Result<Field, Mismatch> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Field::Null);
    };
    let field = match kind {
        Kind::Text => value.as_str().map(text),
        Kind::IndexedText => value.as_str().filter(|text| text.len() <= INDEXED_TEXT_LENGTH_MAX).map(text),
        Kind::Id => value.as_str().filter(|id| id.len() <= NAME_LENGTH_MAX).map(id),
        Kind::Integer => whole(value).map(Field::Integer),
        Kind::Bool => value.as_bool().map(Field::Bool),
        Kind::Time => whole(value).and_then(Timestamp::from_clerk).map(Field::Time),
        Kind::Json => Some(Field::Json(text_of(value))),
    };
    field.ok_or(Mismatch)
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
