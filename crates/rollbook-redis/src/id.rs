//! Message ids as stored in Redis: any bytes, since another program or damage may have written them.
//!
//! Ids in the queue port are text. Bytes that are not UTF-8 are shown as `bytes:` and their hexadecimal
//! digits, and converted back, so that such a message can be settled, removed and found like any other.

use std::borrow::Cow;

use rollbook_core::delivery::MessageId;

const BINARY_PREFIX: &str = "bytes:";

/// Converts a stored id to a message id.
pub(crate) fn to_message_id(stored: &[u8]) -> MessageId {
    MessageId::new(text(stored))
}

/// Converts a stored id to text.
pub(crate) fn text(stored: &[u8]) -> String {
    match std::str::from_utf8(stored) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{BINARY_PREFIX}{}", hex(stored)),
    }
}

/// Converts the text of an id back to the stored bytes.
pub(crate) fn stored(id: &str) -> Cow<'_, [u8]> {
    let bytes = id.strip_prefix(BINARY_PREFIX).and_then(from_hex);
    match bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()) {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(id.as_bytes()),
    }
}

/// Returns whether the id stands for bytes that are not UTF-8. Such a message may be in any shard.
pub(crate) fn is_binary(id: &str) -> bool {
    matches!(stored(id), Cow::Owned(_))
}

/// Encodes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Decodes hexadecimal digits.
pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(|pair| byte(pair).filter(|_| pair.len() == 2 && pair[0] != b'+')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_not_utf8_are_found_again_by_their_shown_text() {
        for id in [&b"msg_1"[..], b"", b"\xff", b"msg_\xc3\x28/x", "bytes:f\u{fc}".as_bytes(), b"bytes:61"] {
            let text = text(id);
            assert_eq!(&*stored(&text), id, "{text}");
            assert_eq!(is_binary(&text), std::str::from_utf8(id).is_err());
        }
        assert_eq!(text(b"m\xff"), "bytes:6dff");
        for no_bytes in ["bytes:f", "bytes:zz", "bytes:+f", "bytes:"] {
            assert_eq!(&*stored(no_bytes), no_bytes.as_bytes());
        }
    }
}
