//! A second JSON parser, according to RFC 8259: slow, strict and without regard to memory use.

use std::collections::BTreeMap;

use rollbook_core::sanitize::NUMBER_DIGITS_MAX;

/// Maximum nesting depth: the parser is recursive.
const DEPTH_MAX: usize = 500;

/// A JSON value. Numbers stay text.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the six kinds of JSON")]
pub enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

/// Reason why there is no value.
#[derive(Debug, PartialEq)]
pub enum Unreadable {
    /// The text is not valid JSON.
    Wrong,
    /// The nesting is too deep to decide.
    TooDeep,
}

/// Parses a complete text. Returns the value and its nesting depth. If a key occurs twice, the last value
/// counts.
///
/// # Errors
/// [`Unreadable`].
pub fn read(text: &[u8]) -> Result<(Json, usize), Unreadable> {
    let rest = std::str::from_utf8(text).map_err(|_| Unreadable::Wrong)?;
    let mut reader = Reader { rest, depth: 0, deepest: 0 };
    let value = reader.value()?;
    reader.space();
    if reader.rest.is_empty() { Ok((value, reader.deepest)) } else { Err(Unreadable::Wrong) }
}

impl Json {
    /// Returns the value of this key, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(key),
            _ => None,
        }
    }

    /// Removes the value at a path of keys, if there is one.
    pub fn remove(&mut self, path: &[&str]) {
        let Self::Object(members) = self else { return };
        match path {
            [] => {}
            [key] => drop(members.remove(*key)),
            [first, rest @ ..] => {
                if let Some(member) = members.get_mut(*first) {
                    member.remove(rest);
                }
            }
        }
    }

    /// Returns whether `serde_json` has the same value. A number that is too long must be its text there.
    pub fn is(&self, value: &serde_json::Value) -> bool {
        use serde_json::Value;
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(ours), Value::Bool(theirs)) => ours == theirs,
            (Self::Number(ours), Value::Number(theirs)) => {
                written_out(ours) <= NUMBER_DIGITS_MAX && spelled(ours) == spelled(&theirs.to_string())
            }
            (Self::Number(ours), Value::String(theirs)) => {
                written_out(ours) > NUMBER_DIGITS_MAX && spelled(ours) == spelled(theirs)
            }
            (Self::String(ours), Value::String(theirs)) => ours == theirs,
            (Self::Array(ours), Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| ours.is(theirs))
            }
            (Self::Object(ours), Value::Object(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| ours.is(theirs)))
            }
            _ => false,
        }
    }
}

/// Normalises the exponent, which may be written as `e5`, `E5`, `e+5` or `E+5`.
fn spelled(number: &str) -> String {
    number.replace('E', "e").replace('+', "")
}

/// Returns the number of characters when the exponent is written out too, including the sign and the point.
pub fn written_out(number: &str) -> usize {
    let number = spelled(number);
    let (digits, exponent) = number.split_once('e').unwrap_or((&number, "0"));
    exponent
        .trim_start_matches('-')
        .parse()
        .map_or(usize::MAX, |zeros: usize| zeros.saturating_add(digits.len()))
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    deepest: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Consumes `text` if it comes next. Returns whether it did.
    fn took(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, text: &str) -> Result<(), Unreadable> {
        if self.took(text) { Ok(()) } else { Err(Unreadable::Wrong) }
    }

    fn value(&mut self) -> Result<Json, Unreadable> {
        self.space();
        for (name, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))]
        {
            if self.took(name) {
                return Ok(value);
            }
        }
        match self.rest.bytes().next() {
            Some(b'"') => self.string().map(Json::String),
            Some(b'[' | b'{') => self.nested(),
            _ => self.number().map(Json::Number),
        }
    }

    fn nested(&mut self) -> Result<Json, Unreadable> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > DEPTH_MAX {
            return Err(Unreadable::TooDeep);
        }
        let value = if self.took("[") {
            let mut elements = Vec::new();
            self.list("]", |reader| {
                elements.push(reader.value()?);
                Ok(())
            })?;
            Json::Array(elements)
        } else {
            self.expect("{")?;
            let mut members = BTreeMap::new();
            self.list("}", |reader| {
                reader.space();
                let key = reader.string()?;
                reader.space();
                reader.expect(":")?;
                members.insert(key, reader.value()?);
                Ok(())
            })?;
            Json::Object(members)
        };
        self.depth -= 1;
        Ok(value)
    }

    fn list(
        &mut self,
        end: &str,
        mut element: impl FnMut(&mut Self) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        self.space();
        if self.took(end) {
            return Ok(());
        }
        loop {
            element(self)?;
            self.space();
            if !self.took(",") {
                return self.expect(end);
            }
        }
    }

    fn string(&mut self) -> Result<String, Unreadable> {
        self.expect("\"")?;
        let mut text = String::new();
        loop {
            let next = self.rest.chars().next().filter(|c| *c >= ' ').ok_or(Unreadable::Wrong)?;
            self.rest = &self.rest[next.len_utf8()..];
            match next {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                plain => text.push(plain),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Unreadable> {
        const PLAIN: [(&str, char); 8] = [
            ("\"", '"'),
            ("\\", '\\'),
            ("/", '/'),
            ("b", '\u{8}'),
            ("f", '\u{c}'),
            ("n", '\n'),
            ("r", '\r'),
            ("t", '\t'),
        ];
        if let Some((_, escaped)) = PLAIN.into_iter().find(|(name, _)| self.took(name)) {
            return Ok(escaped);
        }
        self.expect("u")?;
        let mut units = vec![self.unit()?];
        if (0xd800..0xdc00).contains(&units[0]) {
            self.expect("\\u")?;
            units.push(self.unit()?);
        }
        let mut decoded = char::decode_utf16(units);
        decoded.next().and_then(Result::ok).filter(|_| decoded.next().is_none()).ok_or(Unreadable::Wrong)
    }

    fn unit(&mut self) -> Result<u16, Unreadable> {
        let digits =
            self.rest.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let digits = digits.ok_or(Unreadable::Wrong)?;
        self.rest = &self.rest[4..];
        u16::from_str_radix(digits, 16).map_err(|_| Unreadable::Wrong)
    }

    fn number(&mut self) -> Result<String, Unreadable> {
        let whole = self.rest;
        self.took("-");
        if !self.took("0") {
            self.digits()?;
        }
        if self.took(".") {
            self.digits()?;
        }
        if self.took("e") || self.took("E") {
            _ = self.took("+") || self.took("-");
            self.digits()?;
        }
        Ok(whole[..whole.len() - self.rest.len()].to_owned())
    }

    fn digits(&mut self) -> Result<(), Unreadable> {
        let after = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let any = after.len() < self.rest.len();
        self.rest = after;
        if any { Ok(()) } else { Err(Unreadable::Wrong) }
    }
}
