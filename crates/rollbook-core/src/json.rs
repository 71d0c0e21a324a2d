//! JSON in canonical form: sorted keys, no white space, the last of several values of a key, and nothing that not
//! every engine can store.
//!
//! Constraints:
//!
//! * The text is all there is: no tree of values. A tree of `serde_json` takes forty times the text of a list of
//!   numbers, and each thread that parses keeps that memory for its next one.
//! * Memory and time have bounds whatever the text is. Writing takes memory for the text and its objects' keys. Its time
//!   grows with the text's length times its depth, which `serde_json` limits to 127.
//! * Reading never fails and never allocates. Only a text with escapes is decoded to a new one.

mod value;
mod writer;

use std::collections::BTreeMap;

use serde::ser::{Error, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use self::value::Place;
pub(crate) use self::value::below;
pub use self::value::{Json, Members};
use self::writer::{DATA, Written};

/// JSON value in canonical form.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    replaced: usize,
    members: Option<Vec<Place>>,
    data: Option<Vec<Place>>,
}

impl Document {
    /// Parses a JSON text, replaces what not every engine can store (see [`crate::sanitize`]), and writes the rest in
    /// canonical form.
    ///
    /// # Errors
    /// The text is not valid JSON, or is nested too deeply.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Written { text, replaced, members, data } = writer::write(text)?;
        let mut document = Self { text, replaced, members, data };
        if let Some(places) = &mut document.members {
            value::sort(places, &document.text);
        }
        if let Some(mut places) = document.data.take() {
            if let Some(data) = document.get(DATA) {
                value::sort(&mut places, data.as_json());
            }
            document.data = Some(places);
        }
        Ok(document)
    }

    /// Returns the text of a value in canonical form as a document.
    const fn of(text: String, replaced: usize) -> Self {
        Self { text, replaced, members: None, data: None }
    }

    /// Returns an object with these members.
    pub fn object(members: &BTreeMap<String, Self>) -> Self {
        let (mut text, mut replaced) = (String::from("{"), 0);
        for (key, member) in members {
            let separator = if text.len() > 1 { "," } else { "" };
            text.extend([separator, &Value::from(key.as_str()).to_string(), ":", &member.text]);
            replaced += member.replaced;
        }
        text.push('}');
        Self::of(text, replaced)
    }

    /// Returns the value.
    pub fn value(&self) -> Json<'_> {
        Json::new(&self.text)
    }

    /// Returns the members if the value is an object.
    pub fn members(&self) -> Option<Members<'_>> {
        let noted = self.members.as_ref().map(|places| Members::at(&self.text, places));
        noted.or_else(|| Members::of(self.value()))
    }

    /// Returns the members of the member `data`, if that is an object.
    pub fn data(&self) -> Option<Members<'_>> {
        let data = self.get(DATA)?;
        let noted = self.data.as_ref().map(|places| Members::at(data.as_json(), places));
        noted.or_else(|| Members::of(data))
    }

    /// Returns the value of this key if the value is an object that has it.
    pub fn get(&self, key: &str) -> Option<Json<'_>> {
        self.members()?.get(key)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the number of characters, keys and numbers that were replaced.
    pub const fn replaced(&self) -> usize {
        self.replaced
    }
}

/// The value, as it is in another JSON text.
impl Serialize for Document {
    fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.text).map_err(Error::custom)?;
        raw.serialize(target)
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Document {}

impl Default for Document {
    fn default() -> Self {
        Self::of("null".to_owned(), 0)
    }
}

impl From<&str> for Document {
    fn from(text: &str) -> Self {
        Self::of(Value::from(text).to_string(), 0)
    }
}

/// Values that a program has made, such as those of tests. One that is nested too deeply becomes null.
impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        Self::read(value.to_string().as_bytes()).unwrap_or_default()
    }
}

impl From<Map<String, Value>> for Document {
    fn from(object: Map<String, Value>) -> Self {
        Self::from(&Value::Object(object))
    }
}
