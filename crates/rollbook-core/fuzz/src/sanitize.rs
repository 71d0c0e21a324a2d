//! `sanitize` against a second implementation that finds the escapes.

use std::borrow::Cow;

use rollbook_core::sanitize::sanitize;

/// Private keys of `serde_json`.
const PRIVATE: [&str; 2] = ["$serde_json::private::Number", "$serde_json::private::RawValue"];

/// Checks that the text changes only in the escapes of NULs and lone surrogates and in the first character of
/// private keys.
///
/// # Panics
/// Panics if that does not hold.
pub fn check(text: &[u8]) {
    let (clean, replaced) = sanitize(text);
    assert_eq!(clean.len(), text.len());
    let mut expected = text.to_vec();
    let mut count = 0;
    let mut after_pair = None;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| matches!(**byte, b'\\' | b'$')) {
        if is_private(text, at) {
            let to = if text[at] == b'$' { &b"_"[..] } else { b"\\u005f" };
            expected[at..at + to.len()].copy_from_slice(to);
            count += 1;
        }
        let Some(unit) = unit(text, at).filter(|_| after_pair != Some(at)) else { continue };
        let is_pair = (0xd800..0xdc00).contains(&unit)
            && self::unit(text, at + 6).is_some_and(|low| (0xdc00..0xe000).contains(&low));
        if is_pair {
            after_pair = Some(at + 6);
        } else if unit == 0 || (0xd800..0xe000).contains(&unit) {
            expected[at..at + 6].copy_from_slice(b"\\ufffd");
            count += 1;
        }
    }
    let text_of = String::from_utf8_lossy;
    assert!(*clean == expected, "{} became {}, not {}", text_of(text), text_of(&clean), text_of(&expected));
    assert_eq!(replaced, count, "{}", text_of(text));
    assert_eq!(matches!(clean, Cow::Borrowed(_)), count == 0, "a copy is made only if something is replaced");
    let again = sanitize(&clean);
    assert_eq!((&*again.0, again.1), (&*expected, 0), "sanitizing is idempotent");
}

/// Returns whether a private key begins at `at`: the decoded text between two quotation marks, followed by a
/// colon.
fn is_private(text: &[u8], at: usize) -> bool {
    let Some(before) = text[..at].strip_suffix(b"\"").filter(|before| !before.ends_with(b"\\")) else {
        return false;
    };
    let inside = text[before.len() + 1..].split(|byte| *byte == b'"').next().unwrap_or_default();
    let colon = text[before.len() + 1 + inside.len()..].strip_prefix(b"\"");
    if inside.len() > 6 * PRIVATE[1].len()
        || !colon.is_some_and(|rest| rest.trim_ascii_start().starts_with(b":"))
    {
        return false;
    }
    let mut name = String::new();
    let mut at = 0;
    while at < inside.len() {
        let escaped = unit(inside, at);
        name.push(escaped.map_or(Some(char::from(inside[at])), char::from_u32).unwrap_or_default());
        at += if escaped.is_some() { 6 } else { 1 };
    }
    PRIVATE.contains(&&*name)
}

/// Returns the UTF-16 unit escaped at `at`. A backslash starts an escape if the backslashes before it pair
/// up.
fn unit(text: &[u8], at: usize) -> Option<u32> {
    let escape = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let before = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
    let digits: Option<Vec<u32>> = escape.iter().map(|digit| char::from(*digit).to_digit(16)).collect();
    let unit = digits?.into_iter().fold(0, |unit, digit| unit * 16 + digit);
    before.is_multiple_of(2).then_some(unit)
}
