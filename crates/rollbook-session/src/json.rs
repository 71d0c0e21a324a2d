//! Reads JSON objects strictly: a key must not occur twice, at any depth, and members and depth have limits.
//!
//! Values stay text until a reader asks for them. Numbers are therefore read the same with each feature of
//! `serde_json` that another crate of the build may enable.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{CLAIMS_MAX, NESTING_MAX};
use crate::refusal::Refusal;

/// Members of an object in their order, with unparsed values.
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads a text that is one object, with everything in it.
    ///
    /// # Errors
    /// `malformed`, [`Refusal::DuplicateKey`], [`Refusal::ClaimsTooMany`] or [`Refusal::NestingTooDeep`].
    pub(crate) fn read(text: &'a str, malformed: Refusal) -> Result<Self, Refusal> {
        Self::at_depth(text, 1, malformed)
    }

    fn at_depth(text: &'a str, depth: usize, malformed: Refusal) -> Result<Self, Refusal> {
        if depth > NESTING_MAX {
            return Err(Refusal::NestingTooDeep);
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json.deserialize_map(Members).map_err(|_| malformed)?;
        json.end().map_err(|_| malformed)?;
        if members.len() > CLAIMS_MAX {
            return Err(Refusal::ClaimsTooMany);
        }
        for (at, (key, value)) in members.iter().enumerate() {
            if members[..at].iter().any(|(earlier, _)| earlier == key) {
                return Err(Refusal::DuplicateKey);
            }
            check(value.get(), depth + 1, malformed)?;
        }
        Ok(Self(members))
    }

    /// Returns the unparsed value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.get())
    }

    /// Returns every key with its unparsed value.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.get()))
    }
}

/// Checks a value that is an array or an object: each object in it as [`Object::read`] does.
fn check(text: &str, depth: usize, malformed: Refusal) -> Result<(), Refusal> {
    match text.as_bytes().first() {
        Some(b'{') => Object::at_depth(text, depth, malformed).map(drop),
        Some(b'[') if depth > NESTING_MAX => Err(Refusal::NestingTooDeep),
        Some(b'[') => {
            let items = serde_json::from_str::<Vec<&RawValue>>(text).map_err(|_| malformed)?;
            items.into_iter().try_for_each(|item| check(item.get(), depth + 1, malformed))
        }
        _ => Ok(()),
    }
}

/// Returns the text of a JSON string; `None` if the value is not a string.
pub(crate) fn string(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(value).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Returns the value of a JSON number without fraction or exponent that fits into 64 bits.
pub(crate) fn integer(value: &str) -> Option<i64> {
    // Rust also accepts a leading plus sign, which is not valid JSON.
    value.parse().ok()
}

/// Returns the texts of a JSON array of strings.
pub(crate) fn strings(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// A key, borrowed from the text if it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(24);
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            members.push((key, value));
        }
        Ok(members)
    }
}
