//! The search for texts in the content of rows.

use serde_json::Value;

/// Maximum rows that [`super::Rows::ids_holding`] reads at once. A row may have a megabyte of content.
pub(super) const HOLDING_PAGE: usize = 200;

/// Returns whether any text in a JSON value, at any depth, contains one of these lower-case texts.
pub(super) fn holds_any(value: &Value, texts: &[String]) -> bool {
    match value {
        Value::String(text) => {
            let text = text.to_lowercase();
            texts.iter().any(|wanted| text.contains(wanted.as_str()))
        }
        Value::Array(elements) => elements.iter().any(|element| holds_any(element, texts)),
        Value::Object(object) => object.values().any(|value| holds_any(value, texts)),
        _ => false,
    }
}
