//! A message as it lies in Redis: one byte that says how, eight of time, then the body.
//!
//! Redis's memory and the disk behind its log are what a user pays for: packed, a message takes 2.6
//! times less of both, at no more CPU in all (figures in crates/README.md).
//!
//! * Format 0: the body as it came. Format 1: its length in four bytes, then one LZ4 block against
//!   [`DICTIONARY`]. Whichever is shorter is written; every version reads both.
//! * LZ4 has no checksum: another dictionary gives other bytes and no error. So the dictionary never
//!   changes; a better one is a new file and a new format, and the old one stays to read what waits.

use bytes::Bytes;
use lz4_flex::block::{compress_into_with_dict, decompress_into_with_dict, get_maximum_output_size};

const PLAIN: u8 = 0;
const LZ4: u8 = 1;
const HEAD: usize = 1 + 8;
const LENGTH: usize = 4;
/// No LZ4 block grows more than this: a length beyond is no length, and nothing is reserved for it.
const GROWTH_MAX: usize = 255;

/// Clerk's keys and fixed values. No data of anybody.
static DICTIONARY: &[u8] = include_bytes!("dictionary.lz4.1");

/// Why stored bytes are no message. The bytes themselves are never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("a stored message breaks off")]
    Short,
    #[error("a stored message has format {0}, which a newer version may know")]
    UnknownFormat(u8),
    #[error("a stored message is damaged")]
    Damaged,
}

/// What is written for a message.
pub(crate) fn encode(received_at_millis: i64, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + LENGTH + get_maximum_output_size(body.len()));
    value.push(LZ4);
    value.extend_from_slice(&received_at_millis.to_be_bytes());
    if let Ok(length) = u32::try_from(body.len()) {
        value.extend_from_slice(&length.to_be_bytes());
        value.resize(HEAD + LENGTH + get_maximum_output_size(body.len()), 0);
        let packed = compress_into_with_dict(body, &mut value[HEAD + LENGTH..], DICTIONARY);
        if let Some(packed) = packed.ok().filter(|packed| LENGTH + packed < body.len()) {
            value.truncate(HEAD + LENGTH + packed);
            return value;
        }
    }
    value[0] = PLAIN;
    value.truncate(HEAD);
    value.extend_from_slice(body);
    value
}

/// Gives back `received_at_millis` and the body.
pub(crate) fn decode(value: &[u8]) -> Result<(i64, Bytes), DecodeError> {
    let (&format, rest) = value.split_first().ok_or(DecodeError::Short)?;
    let (at, rest) = rest.split_first_chunk::<8>().ok_or(DecodeError::Short)?;
    let body = match format {
        PLAIN => Bytes::copy_from_slice(rest),
        LZ4 => {
            let (length, packed) = rest.split_first_chunk::<LENGTH>().ok_or(DecodeError::Short)?;
            let length = u32::from_be_bytes(*length) as usize;
            if length > packed.len().saturating_mul(GROWTH_MAX) {
                return Err(DecodeError::Damaged);
            }
            let mut body = vec![0; length];
            match decompress_into_with_dict(packed, &mut body, DICTIONARY) {
                Ok(written) if written == length => body.into(),
                _ => return Err(DecodeError::Damaged),
            }
        }
        unknown => return Err(DecodeError::UnknownFormat(unknown)),
    };
    Ok((i64::from_be_bytes(*at), body))
}

/// What a person may look at: `received_at_millis` and the body, or as much as there is of them.
pub(crate) fn show(value: &[u8]) -> (i64, Bytes) {
    decode(value).unwrap_or_else(|_| (received_at(value).unwrap_or_default(), unread(value)))
}

/// What is behind the head of a value that can't be read.
fn unread(value: &[u8]) -> Bytes {
    Bytes::copy_from_slice(value.get(HEAD..).unwrap_or_default())
}

/// The moment of receipt in the head of a value, whatever its format.
pub(crate) fn received_at(value: &[u8]) -> Option<i64> {
    value.get(1..HEAD)?.try_into().ok().map(i64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_dictionary_never_changes_or_what_waits_would_be_read_wrong() {
        let digest = Sha256::digest(DICTIONARY);
        assert_eq!(digest[..4], [0x34, 0x4c, 0xf5, 0x33]);
    }

    #[test]
    fn a_body_in_clerks_shape_shrinks_and_one_that_would_grow_is_kept_as_it_came() {
        let body = br#"{"data":{"id":"user_3","object":"user","email_addresses":[],"first_name":"","last_name":null},"type":"user.updated"}"#;
        assert!(encode(1, body).len() < body.len());
        let noise: Vec<u8> =
            (0..200_u64).map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let value = encode(1, &noise);
        assert_eq!((value[0], value.len()), (PLAIN, HEAD + noise.len()));
    }

    #[test]
    fn what_a_newer_version_wrote_is_told_from_what_is_damaged() {
        let mut value = encode(7, b"a body");
        value[0] = 99;
        assert_eq!(decode(&value), Err(DecodeError::UnknownFormat(99)));
        assert_eq!((received_at(&value), &unread(&value)[..]), (Some(7), &b"a body"[..]));
        assert_eq!(decode(&[]), Err(DecodeError::Short));
        assert_eq!(decode(&[LZ4, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]), Err(DecodeError::Damaged));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(at in any::<i64>(), body in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(decode(&encode(at, &body)), Ok((at, Bytes::from(body))));
        }

        #[test]
        fn no_bytes_can_do_harm(value in proptest::collection::vec(any::<u8>(), 0..4000), format in 0_u8..3) {
            let mut value = value;
            if let Some(first) = value.first_mut() { *first = format; }
            let _ = decode(&value);
        }
    }
}
