//! Encoding of a stored message: one byte of format, eight bytes of receipt time, 25 bytes of trace if the
//! delivery has one, then the body.
//!
//! Redis's memory and the disk of its log are the main cost for users: a compressed message takes 2.6 times
//! less of both, with no more CPU in total (figures in crates/decisions/TUNINGS.md).
//!
//! * Format 0: the body as received. Format 1: its length in four bytes, then one LZ4 block with
//!   [`DICTIONARY`]. The shorter one is written; every version reads both.
//! * Formats 2 and 3: like 0 and 1, with 25 bytes of trace before the body. Separate formats keep a message
//!   without a trace unchanged, so that a worker that knows only 0 and 1 still reads it.
//! * LZ4 has no checksum: a different dictionary yields wrong bytes and no error. The dictionary therefore
//!   never changes. A better one is a new file and a new format, and the old one stays to read waiting
//!   messages.

use bytes::Bytes;
use lz4_flex::block::{compress_into_with_dict, decompress_into_with_dict, get_maximum_output_size};
use rollbook_core::delivery::Delivery;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// Added to either format if there is a trace.
const TRACED: u8 = 2;
const PLAIN_TRACED: u8 = PLAIN | TRACED;
const LZ4_TRACED: u8 = LZ4 | TRACED;
const HEAD: usize = 1 + 8;
const LENGTH: usize = 4;
/// Maximum expansion factor of an LZ4 block: a greater length is damage, and no memory is reserved for it.
const GROWTH_MAX: usize = 255;

/// Clerk's keys and fixed values. Contains no personal data.
static DICTIONARY: &[u8] = include_bytes!("dictionary.lz4.1");

/// Reason for which stored bytes can't be decoded. Never contains the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the stored message is truncated")]
    Short,
    #[error("the stored message has the unknown format {0}; a newer version may read it")]
    UnknownFormat(u8),
    #[error("the stored message is damaged")]
    Damaged,
}

/// Stored parts of a delivery, without its id.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) received_at: Timestamp,
    pub(crate) traceparent: Option<Traceparent>,
    pub(crate) body: Bytes,
}

/// Parts of a value, with the body still compressed.
struct Parts<'a> {
    format: u8,
    received_at: Timestamp,
    traceparent: Option<Traceparent>,
    packed: &'a [u8],
}

/// Encodes a message.
pub(crate) fn encode(delivery: &Delivery) -> Vec<u8> {
    let Delivery { id: _, received_at, traceparent, body } = delivery;
    let (head, traced) = if traceparent.is_some() { (HEAD + Traceparent::BYTES, TRACED) } else { (HEAD, 0) };
    let mut value = Vec::with_capacity(head + LENGTH + get_maximum_output_size(body.len()));
    value.push(LZ4 | traced);
    value.extend_from_slice(&received_at.as_millis().to_be_bytes());
    if let Some(traceparent) = traceparent {
        value.extend_from_slice(&traceparent.to_bytes());
    }
    if let Ok(length) = u32::try_from(body.len()) {
        value.extend_from_slice(&length.to_be_bytes());
        value.resize(head + LENGTH + get_maximum_output_size(body.len()), 0);
        let packed = compress_into_with_dict(body, &mut value[head + LENGTH..], DICTIONARY);
        if let Some(packed) = packed.ok().filter(|packed| LENGTH + packed < body.len()) {
            value.truncate(head + LENGTH + packed);
            return value;
        }
    }
    value[0] = PLAIN | traced;
    value.truncate(head);
    value.extend_from_slice(body);
    value
}

/// Decodes a message, without its id.
pub(crate) fn decode(value: &[u8]) -> Result<Stored, DecodeError> {
    let Parts { format, received_at, traceparent, packed } = split(value)?;
    let body = match format {
        PLAIN | PLAIN_TRACED => Bytes::copy_from_slice(packed),
        _ => unpack(packed)?,
    };
    Ok(Stored { received_at, traceparent, body })
}

fn split(value: &[u8]) -> Result<Parts<'_>, DecodeError> {
    let (&format, rest) = value.split_first().ok_or(DecodeError::Short)?;
    let (at, rest) = rest.split_first_chunk::<8>().ok_or(DecodeError::Short)?;
    let (traceparent, packed) = match format {
        PLAIN | LZ4 => (None, rest),
        PLAIN_TRACED | LZ4_TRACED => {
            let (trace, rest) = rest.split_at_checked(Traceparent::BYTES).ok_or(DecodeError::Short)?;
            (Traceparent::from_bytes(trace), rest)
        }
        unknown => return Err(DecodeError::UnknownFormat(unknown)),
    };
    Ok(Parts { format, received_at: Timestamp::from_millis(i64::from_be_bytes(*at)), traceparent, packed })
}

fn unpack(packed: &[u8]) -> Result<Bytes, DecodeError> {
    let (length, packed) = packed.split_first_chunk::<LENGTH>().ok_or(DecodeError::Short)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > packed.len().saturating_mul(GROWTH_MAX) {
        return Err(DecodeError::Damaged);
    }
    let mut body = vec![0; length];
    match decompress_into_with_dict(packed, &mut body, DICTIONARY) {
        Ok(written) if written == length => Ok(body.into()),
        _ => Err(DecodeError::Damaged),
    }
}

/// Decodes a message for display: all of it, or the readable parts of a damaged value.
pub(crate) fn show(value: &[u8]) -> Stored {
    decode(value).unwrap_or_else(|_| {
        let parts = split(value).ok();
        let unread =
            parts.as_ref().map_or_else(|| value.get(HEAD..).unwrap_or_default(), |parts| parts.packed);
        Stored {
            received_at: received_at(value).unwrap_or_default(),
            traceparent: parts.and_then(|parts| parts.traceparent),
            body: Bytes::copy_from_slice(unread),
        }
    })
}

/// Reads the receipt time from the head of a value of any format.
pub(crate) fn received_at(value: &[u8]) -> Option<Timestamp> {
    value.get(1..HEAD)?.try_into().ok().map(i64::from_be_bytes).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rollbook_core::delivery::MessageId;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_dictionary_never_changes_since_waiting_messages_need_it() {
        let digest = Sha256::digest(DICTIONARY);
        assert_eq!(digest[..4], [0x34, 0x4c, 0xf5, 0x33]);
    }

    fn delivery(received_at_millis: i64, traceparent: Option<Traceparent>, body: &[u8]) -> Delivery {
        let body = Bytes::copy_from_slice(body);
        Delivery {
            id: MessageId::new("msg_1"),
            received_at: Timestamp::from_millis(received_at_millis),
            traceparent,
            body,
        }
    }

    fn untraced(received_at_millis: i64, body: &[u8]) -> Vec<u8> {
        encode(&delivery(received_at_millis, None, body))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    fn trace() -> Option<Traceparent> {
        Traceparent::from_bytes(&[7; Traceparent::BYTES])
    }

    const CLERKS: &[u8] = br#"{"data":{"id":"user_3","object":"user","email_addresses":[],"first_name":"","last_name":null},"type":"user.updated"}"#;

    #[test]
    fn a_typical_body_shrinks_and_one_that_would_grow_is_stored_as_received() {
        assert!(untraced(1, CLERKS).len() < CLERKS.len());
        let noise: Vec<u8> =
            (0..200_u64).map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let value = untraced(1, &noise);
        assert_eq!((value[0], value.len()), (PLAIN, HEAD + noise.len()));
    }

    /// Values written by Rollbook before traces existed. Earlier workers read exactly these, so they never
    /// change.
    #[test]
    fn a_message_without_a_trace_is_encoded_as_before_traces_existed() {
        let plain = "000000000000000001".to_owned() + &hex(b"a body");
        let packed = "01000000000000000100000074067306001e0201d902012204054c0000e2001f22c505011e5d770401db03068b011a7d74009075706461746564227d";
        for (body, expected) in [(&b"a body"[..], plain.as_str()), (CLERKS, packed)] {
            assert_eq!(hex(&untraced(1, body)), expected);
        }
    }

    #[test]
    fn a_trace_costs_25_bytes_and_uses_a_format_that_an_earlier_worker_refuses_instead_of_misreading() {
        for (body, format) in [(&b"a body"[..], PLAIN_TRACED), (CLERKS, LZ4_TRACED)] {
            let value = encode(&delivery(1, trace(), body));
            assert_eq!((value[0], value.len()), (format, untraced(1, body).len() + Traceparent::BYTES));
            assert_eq!(value[1..HEAD], untraced(1, body)[1..HEAD], "the scripts read the head of any format");
        }
        assert_eq!((PLAIN_TRACED, LZ4_TRACED), (2, 3));
    }

    #[test]
    fn an_unknown_format_is_distinguished_from_damage() {
        let mut value = untraced(7, b"a body");
        value[0] = 99;
        assert_eq!(decode(&value).err(), Some(DecodeError::UnknownFormat(99)));
        let shown = show(&value);
        assert_eq!(
            (shown.received_at.as_millis(), shown.traceparent, &shown.body[..]),
            (7, None, &b"a body"[..])
        );
        assert_eq!(decode(&[]).err(), Some(DecodeError::Short));
        assert_eq!(
            decode(&[LZ4, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]).err(),
            Some(DecodeError::Damaged)
        );
    }

    #[test]
    fn a_damaged_message_is_shown_with_its_trace_and_the_trace_is_not_part_of_the_body() {
        let mut value = encode(&delivery(7, trace(), CLERKS));
        value[HEAD + Traceparent::BYTES] = 255;
        assert_eq!(decode(&value).err(), Some(DecodeError::Damaged));
        let shown = show(&value);
        assert_eq!((shown.received_at.as_millis(), shown.traceparent), (7, trace()));
        assert_eq!(shown.body, value[HEAD + Traceparent::BYTES..]);
        value.truncate(HEAD + Traceparent::BYTES - 1);
        assert_eq!(decode(&value).err(), Some(DecodeError::Short));
        assert_eq!((show(&value).received_at.as_millis(), show(&value).traceparent), (7, None));
    }

    #[test]
    fn an_invalid_trace_is_dropped_and_the_message_is_decoded() {
        let mut value = encode(&delivery(7, trace(), CLERKS));
        value[HEAD..HEAD + 16].fill(0);
        let read = decode(&value).expect("it is read");
        assert_eq!((read.traceparent, &read.body[..]), (None, CLERKS));
    }

    proptest! {
        #[test]
        fn every_encoded_message_decodes_to_itself(
            at in any::<i64>(),
            trace in any::<[u8; Traceparent::BYTES]>(),
            is_traced in any::<bool>(),
            body in proptest::collection::vec(any::<u8>(), 0..4000),
        ) {
            let sent = delivery(at, Traceparent::from_bytes(&trace).filter(|_| is_traced), &body);
            let read = decode(&encode(&sent)).expect("it is read");
            prop_assert_eq!((read.received_at, read.traceparent, read.body), (sent.received_at, sent.traceparent, sent.body));
        }

        #[test]
        fn arbitrary_bytes_never_panic(value in proptest::collection::vec(any::<u8>(), 0..4000), format in 0_u8..5) {
            let mut value = value;
            if let Some(first) = value.first_mut() { *first = format; }
            let _ = decode(&value);
            let _ = show(&value);
        }
    }
}
