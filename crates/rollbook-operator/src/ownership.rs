//! Ownership of a message: the object its body is about and the objects that this belongs to. Works on bodies
//! that no worker could apply, too.

use std::borrow::Cow;
use std::iter::successors;

use rollbook_core::catalog::{self, Resource};
use rollbook_core::change::Field;
use rollbook_core::event::{self, NAME_LENGTH_MAX};
use rollbook_core::json::{Document, Json, Members};
use serde_json::Value;

/// Object of an event, and what it belongs to.
#[derive(Default)]
pub(crate) struct Ownership {
    /// Event type.
    pub(crate) event_type: Option<String>,
    /// Whether the body is an event with an object in `data`, which has an id if the type has a table. Other
    /// bodies are never applied.
    pub(crate) readable: bool,
    /// Resource of the event type, if the type has a table.
    pub(crate) resource: Option<&'static Resource>,
    /// Id of the object.
    pub(crate) id: Option<String>,
    /// Parents of the object, by the catalog's links.
    pub(crate) parents: Vec<(&'static Resource, String)>,
    /// Addresses in the object of persons who need not be users.
    pub(crate) addresses: Vec<String>,
    /// Content of the object, as JSON.
    data: String,
}

impl Ownership {
    /// Reads a body. Accepts every body.
    pub(crate) fn read(body: &[u8]) -> Self {
        let Ok(event) = Document::read(body) else {
            return Self { event_type: event::type_of(body), ..Self::default() };
        };
        let event_type = name(event.get("type"));
        let data = event.get("data").and_then(|data| Some((data, Members::of(data)?)));
        let Some((data, members)) = data else {
            return Self { event_type, ..Self::default() };
        };
        let resource = event_type.as_deref().and_then(catalog::find_event).map(|(resource, _)| resource);
        let id = name(members.get("id"));
        let mut ownership = Self {
            readable: event_type.is_some() && (resource.is_none() || id.is_some()),
            event_type,
            resource,
            id,
            ..Self::default()
        };
        for column in resource.into_iter().flat_map(|resource| resource.columns.iter()) {
            let Field::Text(value) = event::value_of(&members, column) else { continue };
            let of = |resource: &Resource| resource.addresses.contains(&column.name);
            if resource.is_some_and(of) {
                ownership.addresses.push(value);
            } else if let Some(link) = resource.and_then(|resource| resource.link(column.name)) {
                ownership.parents.push((link.parent, value));
            }
        }
        Self { data: data.as_json().to_owned(), ..ownership }
    }

    /// Returns the content of the object. One with many numbers takes forty times its text.
    pub(crate) fn content(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }

    /// Returns whether the object has this id.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        self.readable && self.id.as_deref() == Some(id)
    }

    /// Returns whether the object belongs to this parent.
    pub(crate) fn belongs_to(&self, resource: &Resource, id: &str) -> bool {
        self.readable && self.parents.iter().any(|(parent, of)| *parent == resource && of == id)
    }
}

fn name(value: Option<Json<'_>>) -> Option<String> {
    let name = value?.as_text().filter(|text| (1..=NAME_LENGTH_MAX).contains(&text.len()));
    name.map(Cow::into_owned)
}

/// Returns whether a text contains this id or address as a whole word: `joann@x.example` does not contain
/// `ann@x.example`. Ignores case. The text may be incomplete JSON. Escapes of JSON (`\u0040`) and of URLs
/// (`%40`) are decoded.
pub(crate) fn contains_word(text: &[u8], wanted: &str) -> bool {
    contains_word_plain(text, wanted)
        || successors(unescaped(text), |text| unescaped(text.as_slice()))
            .take(ESCAPES_MAX)
            .any(|text| contains_word_plain(&text, wanted))
}

fn contains_word_plain(text: &[u8], wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    if wanted.is_empty() || text.len() < wanted.len() {
        return false;
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte >= 0x80;
    (0..=text.len() - wanted.len()).any(|start| {
        let end = start + wanted.len();
        if !text[start..end].eq_ignore_ascii_case(wanted) {
            return false;
        }
        let (before, after) = (&text[..start], &text[end..]);
        let free_before = match before {
            // The beginning of the text, or an escape of JSON such as a line break.
            [] | [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => true,
            [.., last] => !is_part(*last) && !matches!(last, b'.' | b'+' | b'%'),
        };
        let free_after = match after {
            // A full stop at the end of a sentence ends the word.
            [b'.', next, ..] => !is_part(*next),
            [first, ..] => !is_part(*first),
            [] => true,
        };
        free_before && free_after
    })
}

/// Maximum number of times a text is decoded. JSON within JSON within a URL needs three.
const ESCAPES_MAX: usize = 4;

/// Decodes the escapes of JSON and of URLs once. Returns `None` if the text has none. Invalid escapes stay.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut left = text;
    while let Some((first, rest)) = left.split_first() {
        let (character, length) = match (first, rest) {
            (b'\\', [b'u', ..]) => code_point(left),
            (b'\\', [b'"', ..]) => (Some('"'), 2),
            (b'\\', [b'\\', ..]) => (Some('\\'), 2),
            (b'\\', [b'/', ..]) => (Some('/'), 2),
            (b'\\', [b'b' | b'f' | b'n' | b'r' | b't', ..]) => (Some(' '), 2),
            (b'%', [high, low, ..]) => {
                let byte = hex(&[*high, *low]).and_then(|byte| u8::try_from(byte).ok());
                plain.extend(byte);
                left = &left[if byte.is_some() { 3 } else { 1 }..];
                plain.extend(byte.is_none().then_some(*first));
                continue;
            }
            _ => (None, 1),
        };
        match character {
            Some(character) => plain.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            None => plain.extend(&left[..length]),
        }
        left = &left[length..];
    }
    (plain != text).then_some(plain)
}

/// Decodes an escape of four hexadecimal digits, or a surrogate pair of two such escapes. Returns the
/// character and the length of the escape; `None` and 1 if there is no such escape.
fn code_point(text: &[u8]) -> (Option<char>, usize) {
    let unit = |at: usize| match text.get(at..at + 6) {
        Some([b'\\', b'u', digits @ ..]) => hex(digits),
        _ => None,
    };
    let Some(first) = unit(0) else { return (None, 1) };
    if let (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) = (first, unit(6)) {
        return (char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)), 12);
    }
    (Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)), 6)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use rollbook_core::catalog::{ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, USERS};
    use rollbook_simulator::samples;

    use super::*;

    fn ownership(event_type: &str) -> Ownership {
        Ownership::read(samples::sample(event_type).expect("a sample").as_bytes())
    }

    #[test]
    fn an_event_and_a_deletion_name_their_object_and_its_parents() {
        let membership = ownership("organizationMembership.deleted");
        assert_eq!(membership.resource, Some(&ORGANIZATION_MEMBERSHIPS));
        assert!(membership.is_of("orgmem_3HAtfdaKL2lBUoxIsG8l4YKd2H2"));
        assert!(membership.belongs_to(&USERS, "user_3HAtf2fCAI6vwgS7ZUNF2TbP8mA"));
        assert!(membership.belongs_to(&ORGANIZATIONS, "org_3HAY0sZgBMdgmTEOYeWxvwASv2f"));
        assert!(!membership.belongs_to(&USERS, "org_3HAY0sZgBMdgmTEOYeWxvwASv2f"));
        let invitation = ownership("organizationInvitation.created");
        assert_eq!(invitation.resource, Some(&ORGANIZATION_INVITATIONS));
        assert_eq!(invitation.addresses, ["rafael.dimitrov@kilnworks.example"]);
    }

    #[test]
    fn a_body_that_cannot_be_applied_still_shows_its_type() {
        let deep = format!("{{\"type\":\"user.updated\",\"data\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        let no_id = "{\"type\":\"user.updated\",\"data\":{}}";
        for body in [deep.as_str(), no_id, "{\"type\":\"user.updated\"}"] {
            let ownership = Ownership::read(body.as_bytes());
            assert_eq!(
                (ownership.event_type.as_deref(), ownership.readable),
                (Some("user.updated"), false),
                "{body}"
            );
        }
        for body in ["", "null", "{\"type\": \"user.upd", "{}"] {
            assert!(!Ownership::read(body.as_bytes()).readable, "{body}");
        }
        assert!(
            Ownership::read(b"{\"type\":\"user.frobnicated\",\"data\":{\"id\":\"user_1\"}}").is_of("user_1")
        );
    }

    #[test]
    fn an_address_is_found_only_as_a_whole_word() {
        for text in [
            "ann@x.example",
            "{\"a\":\"ANN@x.example\"}",
            "Write to ann@x.example.",
            "a line\\nann@x.example\\n",
            "<ann@x.example>,",
        ] {
            assert!(contains_word(text.as_bytes(), "Ann@x.example"), "{text}");
        }
        for text in
            ["joann@x.example", "ann@x.example.org", "jo.ann@x.example", "ann@x.examples", "ann@x", ""]
        {
            assert!(!contains_word(text.as_bytes(), "ann@x.example"), "{text}");
        }
        for spelled in [
            "ann\\u0040x.example",
            "\\u0061nn@x\\u002Eexample",
            "ann\\\\u0040x.example",
            "?a=ann%40x.example",
        ] {
            assert!(contains_word(spelled.as_bytes(), "ann@x.example"), "{spelled}");
        }
        // Incomplete escapes and unpaired surrogates do not end the search.
        for torn in ["\\u00", "\\", "%4", "\\ud83d\\ude00 ann@x.example", "\\ud83d ann@x.example\\u12"] {
            assert_eq!(contains_word(torn.as_bytes(), "ann@x.example"), torn.contains("ann"), "{torn}");
        }
        assert!(contains_word("\\ud83d\\ude00x".as_bytes(), "😀x"));
        assert!(
            contains_word(b"\"user_1\"", "user_1")
                && !contains_word(b"user_12", "user_1")
                && !contains_word(b"x", "")
        );
    }
}
