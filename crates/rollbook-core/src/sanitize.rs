//! JSON text that not every engine can hold, made into JSON text that all can.
//!
//! JSON allows `\u0000` and halves of surrogate pairs in strings; Postgres refuses both, and a Rust
//! string can't hold the halves. Each is replaced by U+FFFD, in place: the escape has the same length.
//!
//! `serde_json` tells its own numbers and texts from objects by a key. An object from outside that has such a key
//! would be read as whatever its value spells: a NUL in a string in a string, a depth that is counted anew, or a
//! number. So that anyone's metadata can say nothing but what it says, the `$` of such a key becomes `_`.
//!
//! JSON's numbers have no end. Postgres's have, and it writes every digit of `1e9999` out for whoever reads the row. A
//! number that is longer, written out, than anyone means becomes a text of itself.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};
use serde_json::{Number, Value};

const REPLACEMENT: &[u8; 6] = b"\\ufffd";
const ESCAPE_LENGTH: usize = REPLACEMENT.len();
const DOLLAR: u16 = b'$' as u16;

/// The most digits that a number may have, written out. A machine's longest, `5e-324`, has 324; Postgres takes 131,072
/// before the point and 16,383 behind it, but a body full of those is gigabytes when it is read.
pub const NUMBER_DIGITS_MAX: usize = 1000;

/// The keys that mean something to `serde_json`, with the features that this or another crate asks for.
const PRIVATE_KEYS: [&[u8]; 2] = [b"$serde_json::private::Number", b"$serde_json::private::RawValue"];

/// Replaces every escaped NUL, every lone surrogate and every private key of `serde_json` in a JSON text.
/// Returns the text, borrowed where nothing had to go, and how many were replaced. Any bytes are taken; what is
/// no JSON stays so.
pub fn sanitize(text: &[u8]) -> (Cow<'_, [u8]>, usize) {
    let mut clean = Cow::Borrowed(text);
    let mut replaced = 0;
    let mut at = 0;
    while let Some(offset) = memchr(b'\\', &text[at..]) {
        at += offset;
        let Some(unit) = escaped_unit(text, at) else {
            // A plain escape such as `\n` or `\\`: its second byte must not be taken for a new one.
            at = (at + 2).min(text.len());
            continue;
        };
        let is_pair = is_high(unit) && escaped_unit(text, at + ESCAPE_LENGTH).is_some_and(is_low);
        if is_pair {
            at += 2 * ESCAPE_LENGTH;
            continue;
        }
        let replacement = match unit {
            0 => Some(REPLACEMENT),
            _ if is_high(unit) || is_low(unit) => Some(REPLACEMENT),
            DOLLAR if is_private_key(text, at) => Some(b"\\u005f"),
            _ => None,
        };
        if let Some(replacement) = replacement {
            clean.to_mut()[at..at + ESCAPE_LENGTH].copy_from_slice(replacement);
            replaced += 1;
        }
        at += ESCAPE_LENGTH;
    }
    // Of those that are spelled plainly. Few bodies have any.
    for at in memchr_iter(b'$', text).filter(|at| is_private_key(text, *at)) {
        clean.to_mut()[at] = b'_';
        replaced += 1;
    }
    (clean, replaced)
}

/// Turns every number in `value` that has more than [`NUMBER_DIGITS_MAX`] digits, written out, into a text of
/// itself. Returns how many there were.
pub fn sanitize_numbers(value: &mut Value) -> usize {
    match value {
        Value::Number(number) if is_too_long(number) => {
            *value = Value::String(number.to_string());
            1
        }
        Value::Array(elements) => elements.iter_mut().map(sanitize_numbers).sum(),
        Value::Object(members) => members.values_mut().map(sanitize_numbers).sum(),
        _ => 0,
    }
}

/// Whether the number is too long, zeros that its exponent stands for included.
fn is_too_long(number: &Number) -> bool {
    let number = number.as_str();
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let zeros = exponent.parse::<i64>().map_or(u64::MAX, i64::unsigned_abs);
    zeros.saturating_add(digits.len() as u64) > NUMBER_DIGITS_MAX as u64
}

/// Whether a key begins at this place, behind its quotation mark, that is private to `serde_json`.
fn is_private_key(text: &[u8], at: usize) -> bool {
    let is_begin = text[..at].ends_with(b"\"") && !text[..at].ends_with(b"\\\"");
    let is_key = |key: &&[u8]| {
        let rest = behind(text, at, key).and_then(|rest| rest.strip_prefix(b"\""));
        rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    };
    is_begin && PRIVATE_KEYS.iter().any(is_key)
}

/// What follows on these characters, where they stand at this place, each of them plain or escaped.
fn behind<'a>(text: &'a [u8], mut at: usize, characters: &[u8]) -> Option<&'a [u8]> {
    for character in characters {
        at += match text.get(at)? {
            byte if byte == character => 1,
            _ if escaped_unit(text, at)? == u16::from(*character) => ESCAPE_LENGTH,
            _ => return None,
        };
    }
    text.get(at..)
}

/// The UTF-16 unit that a `\u` escape at this place stands for.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPE_LENGTH)?.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const fn is_high(unit: u16) -> bool {
    matches!(unit, 0xD800..=0xDBFF)
}

const fn is_low(unit: u16) -> bool {
    matches!(unit, 0xDC00..=0xDFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(text: &str) -> (String, usize) {
        let (bytes, replaced) = sanitize(text.as_bytes());
        (String::from_utf8(bytes.into_owned()).expect("text stays text"), replaced)
    }

    #[test]
    fn a_nul_and_each_lone_half_is_replaced() {
        assert_eq!(clean(r#""a\u0000b""#), (r#""a\ufffdb""#.into(), 1));
        assert_eq!(clean(r#""\ud800""#), (r#""\ufffd""#.into(), 1));
        assert_eq!(clean(r#""\udc00x""#), (r#""\ufffdx""#.into(), 1));
        assert_eq!(clean(r#""\ud800\ud800\udc00""#), (r#""\ufffd\ud800\udc00""#.into(), 1));
    }

    #[test]
    fn pairs_other_escapes_and_escaped_backslashes_stay() {
        for text in [r#""\ud83d\ude00""#, r#""\u00e9\n""#, r#""\\u0000""#, r#""\\\\u0000""#, r"\u00", r"\"] {
            assert_eq!(clean(text), (text.into(), 0));
        }
    }

    #[test]
    fn a_key_that_serde_json_takes_for_its_own_is_an_ordinary_key() {
        let read =
            |text: &str| -> Value { serde_json::from_slice(&sanitize(text.as_bytes()).0).expect("JSON") };
        for name in ["Number", "RawValue"] {
            let expected = format!(r#"{{"_serde_json::private::{name}":"1"}}"#);
            for dollar in ["$", r"\u0024"] {
                let text = format!("{{ \"{dollar}serde_json::pr\\u0069vate::{name}\" \n: \"1\" }}");
                assert_eq!(read(&text).to_string(), expected, "{text}");
                assert_eq!(clean(&text).1, 1);
            }
        }
    }

    #[test]
    fn a_number_that_is_too_long_written_out_becomes_a_text() {
        let text = |number: &str| {
            let mut value = serde_json::from_str(&format!(r#"{{"a":[{number}]}}"#)).expect("JSON");
            let replaced = sanitize_numbers(&mut value);
            assert_eq!(replaced, usize::from(value["a"][0].is_string()));
            value["a"][0].as_str().map(str::to_owned)
        };
        let (long, longer) = ("9".repeat(NUMBER_DIGITS_MAX), "9".repeat(NUMBER_DIGITS_MAX + 1));
        for number in ["1e999", "-1e998", "1e-999", "5e-324", "-0.0", &long] {
            assert_eq!(text(number), None, "{number}");
        }
        for number in ["1e+1000", "1e-1000", "1e+131072", "1e-99999999999999999999", &longer] {
            assert_eq!(text(number).as_deref(), Some(number));
        }
    }

    #[test]
    fn what_only_looks_like_such_a_key_stays() {
        for text in [
            r#"{"a":"$serde_json::private::Number"}"#,
            r#"{"$serde_json::private::Numbers":1,"$serde_json::private::":2,"$":3,"\u0024":4}"#,
            r#"{"x\"$serde_json::private::Number":5}"#,
            "$",
            "\"$",
            r#""$serde_json::private::Number"#,
        ] {
            assert_eq!(clean(text), (text.into(), 0));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_keep_their_length(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sanitize(&text).0.len(), text.len());
        }

        #[test]
        fn what_comes_out_is_json_wherever_its_strings_were(units in proptest::collection::vec(any::<u16>(), 0..50)) {
            let text = units.iter().fold(String::from("\""), |text, unit| format!("{text}\\u{unit:04x}")) + "\"";
            let value: Value = serde_json::from_slice(&sanitize(text.as_bytes()).0)?;
            prop_assert!(!value.as_str().is_some_and(|text| text.contains('\0')));
        }
    }
}
