//! JSON text that not every engine can hold, made into JSON text that all can.
//!
//! JSON allows `\u0000` and halves of surrogate pairs in strings; Postgres refuses both, and a Rust
//! string can't hold the halves. Each is replaced by U+FFFD, in place: the escape has the same length.

use std::borrow::Cow;

const REPLACEMENT: &[u8; 6] = b"\\ufffd";
const ESCAPE_LENGTH: usize = REPLACEMENT.len();

/// Replaces every escaped NUL and every lone surrogate of a JSON text. Returns the text, borrowed
/// where nothing had to go, and how many were replaced. Any bytes are taken; what is no JSON stays so.
pub fn sanitize(text: &[u8]) -> (Cow<'_, [u8]>, usize) {
    let mut clean = Cow::Borrowed(text);
    let mut replaced = 0;
    let mut at = 0;
    while let Some(offset) = text[at..].iter().position(|byte| *byte == b'\\') {
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
        if unit == 0 || is_high(unit) || is_low(unit) {
            clean.to_mut()[at..at + ESCAPE_LENGTH].copy_from_slice(REPLACEMENT);
            replaced += 1;
        }
        at += ESCAPE_LENGTH;
    }
    (clean, replaced)
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

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_keep_their_length(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sanitize(&text).0.len(), text.len());
        }

        #[test]
        fn what_comes_out_is_json_wherever_its_strings_were(units in proptest::collection::vec(any::<u16>(), 0..50)) {
            let text = units.iter().fold(String::from("\""), |text, unit| format!("{text}\\u{unit:04x}")) + "\"";
            let value: serde_json::Value = serde_json::from_slice(&sanitize(text.as_bytes()).0)?;
            prop_assert!(!value.as_str().is_some_and(|text| text.contains('\0')));
        }
    }
}
