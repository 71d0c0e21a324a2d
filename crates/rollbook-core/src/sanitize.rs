//! Replaces the parts of a JSON text that not every engine can store.
//!
//! JSON allows `\u0000` and lone surrogates in strings. Postgres refuses both, and a Rust string cannot hold
//! lone surrogates. Each is replaced by U+FFFD, in place: the escape has the same length.
//!
//! `serde_json` marks its own numbers and raw values by objects with private keys. An object from outside
//! with such a key would be read as whatever its value spells: a NUL in a string within a string, nesting
//! that is counted anew, or a number. The `$` of such a key is therefore replaced by `_`, so that metadata
//! cannot be misread.
//!
//! Numbers in JSON have no limit. Numbers in Postgres have one, and Postgres writes out every digit of
//! `1e9999` whenever the row is read. A number with more than [`NUMBER_DIGITS_MAX`] digits, written out, becomes a text
//! ([`crate::json`] replaces it, where numbers are parsed).

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

const REPLACEMENT: &[u8; 6] = b"\\ufffd";
const ESCAPE_LENGTH: usize = REPLACEMENT.len();
const DOLLAR: u16 = b'$' as u16;

/// Maximum number of digits of a number, written out. The longest number of a 64-bit float, `5e-324`, has
/// 324. Postgres accepts 131,072 before the point and 16,383 after it, but a body full of those takes
/// gigabytes when it is read.
pub const NUMBER_DIGITS_MAX: usize = 1000;

/// Key by which `serde_json` says that an object is a number.
pub(crate) const NUMBER_KEY: &str = "$serde_json::private::Number";

/// Private keys of `serde_json`, with the features that this or another crate enables.
const PRIVATE_KEYS: [&[u8]; 2] = [NUMBER_KEY.as_bytes(), b"$serde_json::private::RawValue"];

/// Replaces every escaped NUL, every lone surrogate and every private key of `serde_json` in a JSON text.
/// Returns the text, borrowed if nothing was replaced, and the number of replacements. Accepts any bytes;
/// text that is not valid JSON stays invalid.
pub fn sanitize(text: &[u8]) -> (Cow<'_, [u8]>, usize) {
    let mut clean = Cow::Borrowed(text);
    let mut replaced = 0;
    let mut at = 0;
    while let Some(offset) = memchr(b'\\', &text[at..]) {
        at += offset;
        let Some(unit) = escaped_unit(text, at) else {
            // A plain escape such as `\n` or `\\`: its second byte must not be read as the start of another one.
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
    // Private keys without an escaped `$`. Few bodies have any.
    for at in memchr_iter(b'$', text).filter(|at| is_private_key(text, *at)) {
        clean.to_mut()[at] = b'_';
        replaced += 1;
    }
    (clean, replaced)
}

/// Returns whether a number has more than [`NUMBER_DIGITS_MAX`] digits, including the zeros that its exponent stands for.
pub(crate) fn is_too_long(number: &str) -> bool {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let zeros = exponent.parse::<i64>().map_or(u64::MAX, i64::unsigned_abs);
    zeros.saturating_add(digits.len() as u64) > NUMBER_DIGITS_MAX as u64
}

/// Returns whether a private key of `serde_json` begins at `at`, after its quotation mark.
fn is_private_key(text: &[u8], at: usize) -> bool {
    let is_begin = text[..at].ends_with(b"\"") && !text[..at].ends_with(b"\\\"");
    let is_key = |key: &&[u8]| {
        let rest = strip_characters(text, at, key).and_then(|rest| rest.strip_prefix(b"\""));
        rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    };
    is_begin && PRIVATE_KEYS.iter().any(is_key)
}

/// Returns the text after `characters` if they are at `at`, each plain or escaped.
fn strip_characters<'a>(text: &'a [u8], mut at: usize, characters: &[u8]) -> Option<&'a [u8]> {
    for character in characters {
        at += match text.get(at)? {
            byte if byte == character => 1,
            _ if escaped_unit(text, at)? == u16::from(*character) => ESCAPE_LENGTH,
            _ => return None,
        };
    }
    text.get(at..)
}

/// Returns the UTF-16 unit of a `\u` escape at `at`.
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
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn clean(text: &str) -> (String, usize) {
        let (bytes, replaced) = sanitize(text.as_bytes());
        (String::from_utf8(bytes.into_owned()).expect("text stays text"), replaced)
    }

    #[test]
    fn a_nul_and_each_lone_surrogate_is_replaced() {
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
    fn a_private_key_of_serde_json_becomes_an_ordinary_key() {
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
    fn a_text_that_only_resembles_a_private_key_stays() {
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
        fn any_bytes_are_accepted_and_keep_their_length(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sanitize(&text).0.len(), text.len());
        }

        #[test]
        fn the_result_for_any_escaped_units_is_valid_json(units in proptest::collection::vec(any::<u16>(), 0..50)) {
            let text = units.iter().fold(String::from("\""), |text, unit| format!("{text}\\u{unit:04x}")) + "\"";
            let value: Value = serde_json::from_slice(&sanitize(text.as_bytes()).0)?;
            prop_assert!(!value.as_str().is_some_and(|text| text.contains('\0')));
        }
    }
}
