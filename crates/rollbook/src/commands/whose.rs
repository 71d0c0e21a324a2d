//! Whose a message is: what its body says of that, also where no worker could ever apply it.

use std::iter::successors;

use rollbook_core::catalog::{self, Resource};
use rollbook_core::change::Field;
use rollbook_core::event::{self, NAME_LENGTH_MAX};
use rollbook_core::sanitize::sanitize;
use serde_json::{Map, Value};

/// What a body says of whose it is.
#[derive(Default)]
pub(super) struct About {
    /// The event's type.
    pub(super) event_type: Option<String>,
    /// Whether it is an event with an object in `data`, and that has an id where the type has a table. What is
    /// not will never be applied.
    pub(super) readable: bool,
    /// Where the type has a table: which.
    pub(super) resource: Option<&'static Resource>,
    /// The object's id.
    pub(super) id: Option<String>,
    /// What the object hangs on or belongs to.
    pub(super) parents: Vec<(&'static Resource, String)>,
    /// The addresses of persons who need not be users.
    pub(super) addresses: Vec<String>,
    /// The object.
    pub(super) data: Map<String, Value>,
}

impl About {
    /// Reads a body. Nothing is refused.
    pub(super) fn read(body: &[u8]) -> Self {
        let (text, _) = sanitize(body);
        let Ok(Value::Object(mut event)) = serde_json::from_slice(&text) else {
            return Self { event_type: event::type_of(body), ..Self::default() };
        };
        let event_type = name(event.get("type"));
        let Some(Value::Object(data)) = event.remove("data") else {
            return Self { event_type, ..Self::default() };
        };
        let resource = event_type.as_deref().and_then(catalog::find_event).map(|(resource, _)| resource);
        let id = name(data.get("id"));
        let mut about = Self {
            readable: event_type.is_some() && (resource.is_none() || id.is_some()),
            event_type,
            resource,
            id,
            ..Self::default()
        };
        for column in resource.into_iter().flat_map(|resource| resource.columns.iter()) {
            let Field::Text(value) = event::value_of(&data, column) else { continue };
            let of = |resource: &Resource| resource.addresses.contains(&column.name);
            if resource.is_some_and(of) {
                about.addresses.push(value);
            } else if let Some(link) = resource.and_then(|resource| resource.link(column.name)) {
                about.parents.push((link.parent, value));
            }
        }
        Self { data, ..about }
    }

    /// Whether its object is the one with this id.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.readable && self.id.as_deref() == Some(id)
    }

    /// Whether its object hangs on or belongs to this one.
    pub(super) fn belongs_to(&self, resource: &Resource, id: &str) -> bool {
        self.readable && self.parents.iter().any(|(parent, of)| *parent == resource && of == id)
    }
}

fn name(value: Option<&Value>) -> Option<String> {
    let name = value?.as_str().filter(|text| (1..=NAME_LENGTH_MAX).contains(&text.len()));
    name.map(str::to_owned)
}

/// Whether a text holds this id or address as a whole: not `ann@x.example` in `joann@x.example`. Upper and lower
/// case are the same. The text may be JSON, and torn; escapes of JSON (`\u0040`) and of URLs (`%40`) are undone.
pub(super) fn holds(text: &[u8], wanted: &str) -> bool {
    holds_plain(text, wanted)
        || successors(unescaped(text), |text| unescaped(text.as_slice()))
            .take(ESCAPES_MAX)
            .any(|text| holds_plain(&text, wanted))
}

fn holds_plain(text: &[u8], wanted: &str) -> bool {
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
            // At the beginning, or behind an escape of JSON, such as a line break.
            [] | [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => true,
            [.., last] => !is_part(*last) && !matches!(last, b'.' | b'+' | b'%'),
        };
        let free_after = match after {
            // At the end of a sentence it is still itself.
            [b'.', next, ..] => !is_part(*next),
            [first, ..] => !is_part(*first),
            [] => true,
        };
        free_before && free_after
    })
}

/// How many times a text is unescaped: JSON within JSON within a URL is three.
const ESCAPES_MAX: usize = 4;

/// The text with its escapes of JSON and of URLs undone once; `None` where it has none. What is no escape stays.
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

/// The character of an escape of four hexadecimal digits, or of two escapes that are a surrogate pair, and the length of
/// the text. `None` where there is no such escape.
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

    fn about(event_type: &str) -> About {
        About::read(samples::sample(event_type).expect("a sample").as_bytes())
    }

    #[test]
    fn an_event_says_what_it_is_about_and_what_that_belongs_to_also_when_it_ends() {
        let membership = about("organizationMembership.deleted");
        assert_eq!(membership.resource, Some(&ORGANIZATION_MEMBERSHIPS));
        assert!(membership.is_of("orgmem_3HAtfdaKL2lBUoxIsG8l4YKd2H2"));
        assert!(membership.belongs_to(&USERS, "user_3HAtf2fCAI6vwgS7ZUNF2TbP8mA"));
        assert!(membership.belongs_to(&ORGANIZATIONS, "org_3HAY0sZgBMdgmTEOYeWxvwASv2f"));
        assert!(!membership.belongs_to(&USERS, "org_3HAY0sZgBMdgmTEOYeWxvwASv2f"));
        let invitation = about("organizationInvitation.created");
        assert_eq!(invitation.resource, Some(&ORGANIZATION_INVITATIONS));
        assert_eq!(invitation.addresses, ["rafael.dimitrov@kilnworks.example"]);
    }

    #[test]
    fn what_can_not_be_applied_still_tells_its_type_where_it_has_one() {
        let deep = format!("{{\"type\":\"user.updated\",\"data\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        let no_id = "{\"type\":\"user.updated\",\"data\":{}}";
        for body in [deep.as_str(), no_id, "{\"type\":\"user.updated\"}"] {
            let about = About::read(body.as_bytes());
            assert_eq!(
                (about.event_type.as_deref(), about.readable),
                (Some("user.updated"), false),
                "{body}"
            );
        }
        for body in ["", "null", "{\"type\": \"user.upd", "{}"] {
            assert!(!About::read(body.as_bytes()).readable, "{body}");
        }
        assert!(About::read(b"{\"type\":\"user.frobnicated\",\"data\":{\"id\":\"user_1\"}}").is_of("user_1"));
    }

    #[test]
    fn an_address_is_found_as_a_whole_wherever_it_stands() {
        for text in [
            "ann@x.example",
            "{\"a\":\"ANN@x.example\"}",
            "Write to ann@x.example.",
            "a line\\nann@x.example\\n",
            "<ann@x.example>,",
        ] {
            assert!(holds(text.as_bytes(), "Ann@x.example"), "{text}");
        }
        for text in
            ["joann@x.example", "ann@x.example.org", "jo.ann@x.example", "ann@x.examples", "ann@x", ""]
        {
            assert!(!holds(text.as_bytes(), "ann@x.example"), "{text}");
        }
        for spelled in [
            "ann\\u0040x.example",
            "\\u0061nn@x\\u002Eexample",
            "ann\\\\u0040x.example",
            "?a=ann%40x.example",
        ] {
            assert!(holds(spelled.as_bytes(), "ann@x.example"), "{spelled}");
        }
        // Torn escapes, pairs and halves of them are no reason to stop reading.
        for torn in ["\\u00", "\\", "%4", "\\ud83d\\ude00 ann@x.example", "\\ud83d ann@x.example\\u12"] {
            assert_eq!(holds(torn.as_bytes(), "ann@x.example"), torn.contains("ann"), "{torn}");
        }
        assert!(holds("\\ud83d\\ude00x".as_bytes(), "😀x"));
        assert!(holds(b"\"user_1\"", "user_1") && !holds(b"user_12", "user_1") && !holds(b"x", ""));
    }
}
