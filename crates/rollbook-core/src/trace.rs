//! Trace context of a delivery: W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>).
//!
//! Constraints:
//!
//! * The header is not signed. Anyone who can reach the receiver can set it, so it controls nothing: it is
//!   stored with the message and shown in logs.
//! * A header that violates the standard is ignored. It never makes a delivery fail.
//! * Only the parsed values are stored, not the text of the header, so logs show nothing but hexadecimal
//!   digits.

use std::fmt;

/// Length of the header in version 00, and of the readable part of a later version.
const LENGTH: usize = 55;
/// The only flag that is defined for later versions too: the sender records the trace.
const SAMPLED: u8 = 1;

/// `traceparent` header: trace id, parent id and flags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// Trace id. Never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl Traceparent {
    /// Number of bytes that [`Self::to_bytes`] returns.
    pub const BYTES: usize = 25;

    /// Parses the value of a `traceparent` header. Of a later version only the parts defined in version 00
    /// are read.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, beyond) = value.split_first_chunk::<LENGTH>()?;
        if [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
            return None;
        }
        let [version] = hex(&known[..2])?;
        let [flags] = hex(&known[53..])?;
        let flags = match (version, beyond.first()) {
            (0, None) => flags,
            (1..=0xfe, None | Some(b'-')) => flags & SAMPLED,
            _ => return None,
        };
        Self { trace_id: hex(&known[3..35])?, parent_id: hex(&known[36..52])?, flags }.checked()
    }

    /// Returns the bytes that a queue stores.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [self.flags; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent_id);
        bytes
    }

    /// Parses the bytes of [`Self::to_bytes`]; `None` if they are not valid.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (parent_id, rest) = rest.split_first_chunk()?;
        let &[flags] = rest else { return None };
        Self { trace_id: *trace_id, parent_id: *parent_id, flags }.checked()
    }

    /// Returns `None` if one of the ids is zero: the standard defines zero as invalid.
    fn checked(self) -> Option<Self> {
        (self.trace_id != [0; 16] && self.parent_id != [0; 8]).then_some(self)
    }

    /// Returns the trace id.
    pub const fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }
}

/// Parses hexadecimal digits in lower case, as the standard requires.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

const fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Traceparent {
    /// Prints a header of version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace_id(), u64::from_be_bytes(self.parent_id), self.flags)
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traceparent({self})")
    }
}

impl fmt::Display for TraceId {
    /// Prints 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn read(value: impl AsRef<[u8]>) -> Option<String> {
        Traceparent::parse(value.as_ref()).map(|read| read.to_string())
    }

    #[test]
    fn a_header_of_version_00_prints_as_it_was_sent() {
        for flags in ["00", "01", "02", "ff"] {
            let value = format!("00-{TRACE}-{PARENT}-{flags}");
            assert_eq!(read(&value).as_ref(), Some(&value));
        }
        let read = Traceparent::parse(format!("00-{TRACE}-{PARENT}-01").as_bytes());
        assert_eq!(read.map(|read| read.trace_id().to_string()).as_deref(), Some(TRACE));
    }

    #[test]
    fn of_a_later_version_only_the_parts_of_version_00_are_read() {
        let known = Some(format!("00-{TRACE}-{PARENT}-01"));
        for (version, flags, beyond) in [
            ("01", "01", ""),
            ("01", "09", ""),
            ("01", "01", "-"),
            ("cc", "03", "-what-the-future-will-be-like"),
            ("fe", "ff", "-\u{e9}"),
        ] {
            let value = format!("{version}-{TRACE}-{PARENT}-{flags}{beyond}");
            assert_eq!(read(&value), known, "{value}");
        }
        assert_eq!(read(format!("01-{TRACE}-{PARENT}-02")), Some(format!("00-{TRACE}-{PARENT}-00")));
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        let whole = format!("00-{TRACE}-{PARENT}-01");
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
        for value in [
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01more"),
            format!("01-{TRACE}-{PARENT}-01.-"),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", PARENT.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-0A"),
            format!("0A-{TRACE}-{PARENT}-01"),
            format!("0x-{TRACE}-{PARENT}-01"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}_{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}_01"),
        ] {
            assert_eq!(read(&value), None, "{value}");
        }
    }

    #[test]
    fn invalid_bytes_are_not_a_traceparent() {
        let mut bytes = [1; Traceparent::BYTES];
        assert!(Traceparent::from_bytes(&bytes).is_some());
        assert_eq!(Traceparent::from_bytes(&bytes[1..]), None);
        assert_eq!(Traceparent::from_bytes(&[1; Traceparent::BYTES + 1]), None);
        bytes[..16].fill(0);
        assert_eq!(Traceparent::from_bytes(&bytes), None);
        bytes.fill(1);
        bytes[16..24].fill(0);
        assert_eq!(Traceparent::from_bytes(&bytes), None);
    }

    proptest! {
        #[test]
        fn stored_bytes_round_trip_and_print_as_a_header_that_parses_to_the_same(
            bytes in any::<[u8; Traceparent::BYTES]>(),
        ) {
            let kept = Traceparent::from_bytes(&bytes);
            prop_assume!(kept.is_some());
            prop_assert_eq!(kept.map(Traceparent::to_bytes), Some(bytes));
            prop_assert_eq!(kept.and_then(|kept| Traceparent::parse(kept.to_string().as_bytes())), kept);
        }

        #[test]
        fn any_value_is_parsed_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(shown) = read(&value) {
                prop_assert_eq!(shown.len(), LENGTH);
            }
        }
    }
}
