//! Shared parts of the results in JSON.

use rollbook_core::catalog::Resource;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A row, named by its table and its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowRef {
    /// Kind of the row. The JSON has the name of its table.
    #[serde(rename = "table")]
    pub resource: &'static Resource,
    /// Id of the row.
    pub id: String,
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
