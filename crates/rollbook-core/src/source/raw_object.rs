//! An object of a list as Clerk sent it: its JSON text.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::json::Document;

/// Object of a list as Clerk sent it. The text takes a fraction of the decoded object's memory, so that many pages
/// can wait for their turn.
#[derive(Clone, Debug)]
pub struct RawObject(Box<RawValue>);

type Members = BTreeMap<String, Box<RawValue>>;

impl RawObject {
    /// Takes a JSON text. `None` if it is not an object.
    pub fn new(text: Box<RawValue>) -> Option<Self> {
        text.get().starts_with('{').then_some(Self(text))
    }

    /// Returns the number of bytes of the text.
    #[expect(clippy::len_without_is_empty, reason = "the text of an object is never empty")]
    pub fn len(&self) -> usize {
        self.0.get().len()
    }

    /// Decodes the object. A member that is nested too deeply to be decoded safely becomes its own text: users can
    /// write such metadata themselves. A text that can't be decoded at all gives an empty object, which has no id.
    pub fn decode(&self) -> Document {
        let text = self.0.get();
        let decode_members = |_| {
            let members: Members = serde_json::from_str(text).unwrap_or_default();
            let decode = |raw: &RawValue| {
                Document::read(raw.get().as_bytes()).unwrap_or_else(|_| Document::from(raw.get()))
            };
            Document::object(&members.into_iter().map(|(key, raw)| (key, decode(&raw))).collect())
        };
        Document::read(text.as_bytes()).unwrap_or_else(decode_members)
    }
}

impl From<Map<String, Value>> for RawObject {
    fn from(object: Map<String, Value>) -> Self {
        // An object has no key that is not a text, so that writing it cannot fail.
        Self(serde_json::value::to_raw_value(&object).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for RawObject {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Option<RawObject> {
        RawObject::new(serde_json::from_str(text).expect("JSON"))
    }

    #[test]
    fn only_an_object_is_taken() {
        for text in ["7", "null", "[]", r#""{}""#] {
            assert_eq!(raw(text), None, "{text}");
        }
        assert_eq!(raw(" {} ").map(|object| object.len()), Some(2));
    }

    #[test]
    fn a_decoded_object_is_the_text_with_every_digit() {
        let text = r#"{"b":1.230000000000000000000001,"a":{"id":"user_1"}}"#;
        let object: Map<String, Value> = serde_json::from_str(text).expect("JSON");
        let decoded = raw(text).expect("an object").decode();
        assert_eq!(decoded.as_str(), Value::Object(object.clone()).to_string());
        assert_eq!(RawObject::from(object).decode(), decoded);
    }

    #[test]
    fn a_member_that_is_nested_too_deeply_becomes_its_text() {
        let deep = format!("{}{}", "[".repeat(4000), "]".repeat(4000));
        let object = raw(&format!(r#"{{"id":"a","unsafe_metadata":{deep}}}"#)).expect("an object").decode();
        assert_eq!(object.as_str(), format!(r#"{{"id":"a","unsafe_metadata":"{deep}"}}"#));
    }
}
