//! Writing JSON in canonical form while it is parsed.
//!
//! A list is written as it is read. So is an object; at its end its members are moved into the order of their keys.
//! Each level of nesting moves the text at most once.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::value::Place;
use crate::sanitize::{NUMBER_KEY, is_too_long, sanitize};

/// Member of which the places of its members are noted too: an event has nearly everything there.
pub(super) const DATA: &str = "data";

/// JSON text in canonical form.
pub(super) struct Written {
    pub(super) text: String,
    /// Number of replacements.
    pub(super) replaced: usize,
    /// Members, if the value is an object.
    pub(super) members: Option<Vec<Place>>,
    /// Members of the member [`DATA`], if that is an object.
    pub(super) data: Option<Vec<Place>>,
}

/// Parses a JSON text and writes it in canonical form.
pub(super) fn write(text: &[u8]) -> Result<Written, serde_json::Error> {
    let (text, replaced) = sanitize(text);
    let mut writer = Writer { text: Vec::with_capacity(text.len()), replaced, ..Writer::default() };
    let mut source = serde_json::Deserializer::from_slice(&text);
    source.deserialize_any(AnyValue(&mut writer))?;
    source.end()?;
    let text = String::from_utf8(writer.text).map_err(de::Error::custom)?;
    Ok(Written { text, replaced: writer.replaced, members: writer.outermost, data: writer.data })
}

#[derive(Default)]
struct Writer {
    text: Vec<u8>,
    replaced: usize,
    /// Members of the objects that have no end yet, the outermost first.
    members: Vec<Member>,
    /// Decoded keys of `members`.
    keys: Vec<u8>,
    /// Room for the members of one object in the order of their keys.
    sorted: Vec<u8>,
    /// Number of objects that have no end yet.
    open: usize,
    outermost: Option<Vec<Place>>,
    data: Option<Vec<Place>>,
}

/// Member of an object: where its parts are. A text of 4 GiB is refused, so that half of the memory is enough.
struct Member {
    key: [u32; 2],
    text: [u32; 2],
    /// Position of the value.
    value: u32,
    /// Number of replacements before the member; at its end, of those in it.
    replaced: u32,
}

/// Position of an object: where its parts begin.
struct Begin {
    text: usize,
    members: usize,
    keys: usize,
    /// Whether the object is the outermost one, or its member [`DATA`].
    is_noted: [bool; 2],
}

impl Member {
    fn key<'a>(&self, keys: &'a [u8]) -> &'a [u8] {
        part(keys, self.key)
    }
}

fn part(text: &[u8], [from, to]: [u32; 2]) -> &[u8] {
    text.get(from as usize..to as usize).unwrap_or_default()
}

fn position<E: de::Error>(length: usize) -> Result<u32, E> {
    u32::try_from(length).map_err(|_| E::custom("longer than 4 GiB"))
}

impl Writer {
    /// Writes a text, a number or another value without parts, as `serde_json` does.
    fn scalar<E: de::Error>(&mut self, value: impl serde::Serialize) -> Result<(), E> {
        serde_json::to_writer(&mut self.text, &value).map_err(E::custom)
    }

    /// Writes a number that does not fit 64 bits, or has a fraction or an exponent.
    fn number<E: de::Error>(&mut self, number: &str) -> Result<(), E> {
        if is_too_long(number) {
            self.replaced += 1;
            return self.scalar(number);
        }
        self.text.extend_from_slice(number.as_bytes());
        Ok(())
    }

    /// Writes a text that needs no escapes.
    fn plain(&mut self, text: &str) {
        self.text.reserve(text.len() + 3);
        self.text.push(b'"');
        self.text.extend_from_slice(text.as_bytes());
        self.text.push(b'"');
    }

    fn begin_object(&mut self) -> Begin {
        let is_data = || {
            let parent = self.members.last().filter(|_| self.open == 1);
            parent.is_some_and(|member| {
                member.value as usize == self.text.len() && member.key(&self.keys) == DATA.as_bytes()
            })
        };
        let is_noted = [self.text.is_empty(), is_data()];
        let begin =
            Begin { text: self.text.len(), members: self.members.len(), keys: self.keys.len(), is_noted };
        self.open += 1;
        self.text.push(b'{');
        begin
    }

    /// Begins a member. `is_plain` is whether its key needs no escapes.
    fn begin_member<E: de::Error>(&mut self, key: &str, is_plain: bool) -> Result<(), E> {
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        if self.open == 1 && key == DATA {
            // The last of several values counts.
            self.data = None;
        }
        let from = [position(self.keys.len())?, position(self.text.len())?];
        self.keys.extend_from_slice(key.as_bytes());
        let key_range = [from[0], position(self.keys.len())?];
        if is_plain {
            self.plain(key);
        } else {
            self.scalar(key)?;
        }
        self.text.push(b':');
        let (value, replaced) = (position(self.text.len())?, position(self.replaced)?);
        self.members.push(Member { key: key_range, text: [from[1], value], value, replaced });
        Ok(())
    }

    fn end_member<E: de::Error>(&mut self) -> Result<(), E> {
        let (end, replaced) = (position(self.text.len())?, position(self.replaced)?);
        // The members of objects in its value are gone: it is the last one.
        if let Some(member) = self.members.last_mut() {
            member.text[1] = end;
            member.replaced = replaced.saturating_sub(member.replaced);
        }
        Ok(())
    }

    fn end_object(&mut self, begin: &Begin) {
        let keys = &self.keys;
        let members = self.members.get_mut(begin.members..).unwrap_or_default();
        if !members.is_sorted_by(|one, next| one.key(keys) < next.key(keys)) {
            members.sort_unstable_by(|one, other| {
                one.key(keys).cmp(other.key(keys)).then(one.text[0].cmp(&other.text[0]))
            });
            self.sorted.clear();
            self.sorted.reserve(self.text.len() - begin.text);
            for (number, member) in members.iter().enumerate() {
                if is_replaced(members, number, keys) {
                    // Nothing is left of what was replaced in it.
                    self.replaced = self.replaced.saturating_sub(member.replaced as usize);
                    continue;
                }
                if !self.sorted.is_empty() {
                    self.sorted.push(b',');
                }
                self.sorted.extend_from_slice(part(&self.text, member.text));
            }
            self.text.truncate(begin.text + 1);
            self.text.extend_from_slice(&self.sorted);
        }
        self.text.push(b'}');
        if begin.is_noted != [false; 2] {
            let places = Some(places(members, keys));
            let [is_outermost, _] = begin.is_noted;
            *(if is_outermost { &mut self.outermost } else { &mut self.data }) = places;
        }
        self.members.truncate(begin.members);
        self.keys.truncate(begin.keys);
        self.open -= 1;
    }
}

/// Returns the places of the members that are left of sorted ones, counted from the beginning of their object.
fn places(members: &[Member], keys: &[u8]) -> Vec<Place> {
    let mut places = Vec::with_capacity(members.len());
    let mut begin = 1;
    for (number, member) in members.iter().enumerate() {
        if !is_replaced(members, number, keys) {
            let [from, to] = member.text;
            let end = begin + (to - from);
            places.push(Place { begin, value: begin + (member.value - from), end });
            begin = end + 1;
        }
    }
    places
}

/// Whether the member after this one has the same key.
fn is_replaced(members: &[Member], number: usize, keys: &[u8]) -> bool {
    let pair = members.get(number).zip(members.get(number + 1));
    pair.is_some_and(|(member, next)| member.key(keys) == next.key(keys))
}

/// Reads any value and writes it.
struct AnyValue<'w>(&'w mut Writer);

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.0.scalar(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.0.scalar(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.0.scalar(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.0.scalar(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.0.scalar(value)
    }

    /// Takes a text that has no escapes, and so no characters that need any.
    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<(), E> {
        self.0.plain(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let writer = self.0;
        writer.text.push(b'[');
        while elements.next_element_seed(AnyValue(&mut *writer))?.is_some() {
            writer.text.push(b',');
        }
        if writer.text.last() == Some(&b',') {
            writer.text.pop();
        }
        writer.text.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let writer = self.0;
        let begin = writer.begin_object();
        while let Some(key) = members.next_key_seed(AnyKey(&mut *writer))? {
            if key == Key::OfNumber {
                writer.text.truncate(begin.text);
                writer.open -= 1;
                return writer.number(&members.next_value::<String>()?);
            }
            members.next_value_seed(AnyValue(&mut *writer))?;
            writer.end_member()?;
        }
        writer.end_object(&begin);
        Ok(())
    }
}

/// Key of a member.
#[derive(PartialEq)]
enum Key {
    /// Key by which `serde_json` says that the object is a number. No object from outside has it any more.
    OfNumber,
    /// Key that is written.
    OfMember,
}

/// Reads a key and begins its member.
struct AnyKey<'w>(&'w mut Writer);

impl<'de> DeserializeSeed<'de> for AnyKey<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Key, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for AnyKey<'_> {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
        self.0.begin_member(key, false)?;
        Ok(Key::OfMember)
    }

    /// Takes a key that has no escapes, and so no characters that need any.
    fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key, E> {
        if key == NUMBER_KEY {
            return Ok(Key::OfNumber);
        }
        self.0.begin_member(key, true)?;
        Ok(Key::OfMember)
    }
}
