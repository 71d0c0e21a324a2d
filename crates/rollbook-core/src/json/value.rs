//! Reading values in canonical form: by skipping what is not asked for.
//!
//! A text that is not in canonical form is never read wrongly by accident: only a [`Document`](super::Document) gives out
//! values. No text makes the functions panic.

use std::borrow::Cow;
use std::iter;
use std::str::FromStr;

use memchr::memchr2;

/// JSON value in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Returns the JSON text.
    pub const fn as_json(self) -> &'a str {
        self.0
    }

    /// Returns the JSON type, with an article.
    pub fn type_name(self) -> &'static str {
        match self.0.as_bytes().first() {
            Some(b'"') => "a text",
            Some(b'[') => "a list",
            Some(b'{') => "an object",
            Some(b't' | b'f') => "true or false",
            Some(b'-' | b'0'..=b'9') => "a number",
            _ => "null",
        }
    }

    /// Returns whether the value is null.
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Returns whether the value is a list.
    pub fn is_list(self) -> bool {
        self.0.starts_with('[')
    }

    /// Returns whether the value is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Returns the value if it is true or false.
    pub fn as_bool(self) -> Option<bool> {
        self.0.parse().ok()
    }

    /// Returns the digits if the value is a number.
    pub fn as_number(self) -> Option<&'a str> {
        self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then_some(self.0)
    }

    /// Returns the value if it is a number without a fraction or an exponent, and `T` can hold it.
    pub fn as_integer<T: FromStr>(self) -> Option<T> {
        self.as_number()?.parse().ok()
    }

    /// Returns the text if the value is a text.
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        let plain = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if !plain.contains('\\') {
            return Some(Cow::Borrowed(plain));
        }
        serde_json::from_str(self.0).ok().map(Cow::Owned)
    }

    /// Returns the value of this key if the value is an object that has it.
    pub fn get(self, key: &str) -> Option<Self> {
        self.members().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns the keys, as they are between quotation marks, and values of an object. None if the value is not an object.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Self)> {
        let mut rest = self.0.strip_prefix('{').unwrap_or_default();
        iter::from_fn(move || {
            let (key, after) = split_value(rest)?;
            let (value, after) = split_value(after.strip_prefix(':')?)?;
            rest = after.strip_prefix(',').unwrap_or_default();
            Some((key.strip_prefix('"')?.strip_suffix('"')?, Self(value)))
        })
    }

    /// Returns the elements of a list. None if the value is not a list.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let mut rest = self.0.strip_prefix('[').unwrap_or_default();
        iter::from_fn(move || {
            let (value, after) = split_value(rest)?;
            rest = after.strip_prefix(',').unwrap_or_default();
            Some(Self(value))
        })
    }

    /// Returns the JSON text without the values at these paths of keys.
    pub fn without(self, paths: &[&[&str]]) -> Cow<'a, str> {
        if paths.is_empty() || !self.is_object() {
            return Cow::Borrowed(self.0);
        }
        let mut text = String::from("{");
        for (key, value) in self.members() {
            let below = below(paths, key);
            if !below.iter().any(|path| path.is_empty()) {
                let separator = if text.len() > 1 { ",\"" } else { "\"" };
                text.extend([separator, key, "\":", &value.without(&below)]);
            }
        }
        text.push('}');
        Cow::Owned(text)
    }
}

/// Returns the rests of the paths that begin with this key.
pub(crate) fn below<'p>(paths: &[&'p [&'p str]], key: &str) -> Vec<&'p [&'p str]> {
    let parts = paths.iter().filter_map(|path| path.split_first());
    parts.filter(|(first, _)| **first == key).map(|(_, rest)| rest).collect()
}

/// Place of a member in the text of its object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) begin: u32,
    pub(super) value: u32,
    pub(super) end: u32,
}

impl Place {
    /// Returns the key, as it is between quotation marks.
    fn key<'a>(&self, object: &'a str) -> &'a str {
        // After the key there are a quotation mark and a colon.
        object.get(self.begin as usize + 1..(self.value as usize).saturating_sub(2)).unwrap_or_default()
    }

    fn value<'a>(&self, object: &'a str) -> Json<'a> {
        Json(object.get(self.value as usize..self.end as usize).unwrap_or_default())
    }
}

/// Sorts places by their keys as they are between quotation marks. They are in the order of their decoded keys, which is
/// another one only if keys have escapes.
pub(super) fn sort(places: &mut [Place], object: &str) {
    if !places.is_sorted_by_key(|place| place.key(object)) {
        places.sort_unstable_by_key(|place| place.key(object));
    }
}

/// Members of an object, to be found by their keys.
#[derive(Debug)]
pub struct Members<'a> {
    object: &'a str,
    places: Cow<'a, [Place]>,
}

impl<'a> Members<'a> {
    /// Returns the members of an object. `None` if the value is not an object.
    pub fn of(value: Json<'a>) -> Option<Self> {
        if !value.is_object() {
            return None;
        }
        let object = value.0;
        let mut begin = 1_usize;
        let places = value.members().map_while(|(key, value)| {
            let at = begin + key.len() + 3;
            let end = at + value.0.len();
            let [from, at, to] = [begin, at, end].map(|at| u32::try_from(at).ok());
            begin = end + 1;
            Some(Place { begin: from?, value: at?, end: to? })
        });
        let mut places: Vec<Place> = places.collect();
        sort(&mut places, object);
        Some(Self { object, places: Cow::Owned(places) })
    }

    /// Takes members that are sorted already.
    pub(super) const fn at(object: &'a str, places: &'a [Place]) -> Self {
        Self { object, places: Cow::Borrowed(places) }
    }

    /// Returns the object.
    pub const fn object(&self) -> Json<'a> {
        Json(self.object)
    }

    /// Returns the value of a key, which is as between quotation marks.
    pub fn get(&self, key: &str) -> Option<Json<'a>> {
        let number = self.places.binary_search_by_key(&key, |place| place.key(self.object)).ok()?;
        self.places.get(number).map(|place| place.value(self.object))
    }
}

/// Splits a text after the value at its beginning. `None` if there is none.
fn split_value(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let end = match bytes.first()? {
        b'"' => end_of_text(bytes, 0)?,
        b'[' | b'{' => end_of_parts(bytes)?,
        _ => bytes.iter().position(|byte| matches!(byte, b',' | b']' | b'}')).unwrap_or(bytes.len()),
    };
    text.split_at_checked(end).filter(|(value, _)| !value.is_empty())
}

/// Returns the end of the list or object at the beginning.
fn end_of_parts(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = end_of_text(bytes, at)?;
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 1 => return Some(at + 1),
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the end of the text that begins at `at`.
fn end_of_text(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}
