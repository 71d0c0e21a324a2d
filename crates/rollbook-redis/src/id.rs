//! Message ids as they lie in Redis: any bytes, where another program or damage put them there.
//!
//! The port's ids are text. Bytes that are not UTF-8 are shown as `bytes:` and their hexadecimal digits, and read
//! back from there, so that such a message can be settled, removed and found like any other.

use std::borrow::Cow;

use rollbook_core::delivery::MessageId;

const MARK: &str = "bytes:";

/// The name of a message for everyone else.
pub(crate) fn shown(stored: &[u8]) -> MessageId {
    MessageId::new(text(stored))
}

/// The same as text.
pub(crate) fn text(stored: &[u8]) -> String {
    match std::str::from_utf8(stored) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{MARK}{}", hex(stored)),
    }
}

/// The bytes behind a name.
pub(crate) fn stored(id: &str) -> Cow<'_, [u8]> {
    let bytes = id.strip_prefix(MARK).and_then(from_hex);
    match bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()) {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(id.as_bytes()),
    }
}

/// Whether this names bytes that are not text. Such a message may lie in any shard.
pub(crate) fn is_odd(id: &str) -> bool {
    matches!(stored(id), Cow::Owned(_))
}

/// The hexadecimal digits of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The bytes of hexadecimal digits.
pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(|pair| byte(pair).filter(|_| pair.len() == 2 && pair[0] != b'+')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_found_again_by_the_name_that_they_are_shown_by() {
        for id in [&b"msg_1"[..], b"", b"\xff", b"msg_\xc3\x28/x", "bytes:f\u{fc}".as_bytes(), b"bytes:61"] {
            let text = text(id);
            assert_eq!(&*stored(&text), id, "{text}");
            assert_eq!(is_odd(&text), std::str::from_utf8(id).is_err());
        }
        assert_eq!(text(b"m\xff"), "bytes:6dff");
        for no_bytes in ["bytes:f", "bytes:zz", "bytes:+f", "bytes:"] {
            assert_eq!(&*stored(no_bytes), no_bytes.as_bytes());
        }
    }
}
