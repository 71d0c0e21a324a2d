//! Serialization of types of the core, which does not depend on `serde`.

use std::fmt::Display;

use rollbook_core::catalog::Resource;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A row, named by its table and its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowRef {
    /// Kind of the row. The JSON has the name of its table.
    #[serde(rename = "table", serialize_with = "table")]
    pub resource: &'static Resource,
    /// Id of the row.
    pub id: String,
}

/// Serializes a value as its text.
pub(crate) fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes a value as its text, or as null.
#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(crate) fn optional_text<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Serializes a resource as the name of its table.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn table<S: Serializer>(resource: &&'static Resource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(resource.table)
}

/// Serializes pairs as an object.
pub(crate) fn object<S: Serializer>(
    pairs: &[(&'static str, Value)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// Serializes a value, or `{"error": …}` if it could not be read.
pub(crate) fn or_error<T: Serialize, S: Serializer>(
    value: &Result<T, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Ok(value) => value.serialize(serializer),
        Err(why) => serializer.collect_map([("error", why)]),
    }
}
