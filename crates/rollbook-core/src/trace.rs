//! The trace that a delivery is part of: W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>).
//!
//! Constraints:
//!
//! * The header is not signed. Whoever can reach the receiver may write anything there, so it steers nothing: it is
//!   kept with the message and shown in logs.
//! * What is not as the standard says is as if it were not there. A delivery never fails by it.
//! * No text of the header is kept, only what was read: what is shown is hexadecimal, whatever came.

use std::fmt;

/// The length of the header in version 00, and of the part of a later version that may be read.
const LENGTH: usize = 55;
/// The one flag that a later version still has: whoever sent this records its trace.
const SAMPLED: u8 = 1;

/// A `traceparent`: which trace, which step of it made the request, and its flags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// The name of a trace. Never zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl Traceparent {
    /// How many bytes [`Self::to_bytes`] gives.
    pub const BYTES: usize = 25;

    /// Reads the value of a `traceparent` header. Of a later version what version 00 knows.
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

    /// What a queue keeps of it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [self.flags; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent_id);
        bytes
    }

    /// Reads back what [`Self::to_bytes`] gave; `None` where that can't be what it gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (parent_id, rest) = rest.split_first_chunk()?;
        let &[flags] = rest else { return None };
        Self { trace_id: *trace_id, parent_id: *parent_id, flags }.checked()
    }

    /// Zero means "none" for either id.
    fn checked(self) -> Option<Self> {
        (self.trace_id != [0; 16] && self.parent_id != [0; 8]).then_some(self)
    }

    /// The name of the trace.
    pub const fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }
}

/// Hexadecimal digits in lower case, as the standard wants them.
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
    /// As a header of version 00.
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
    /// 32 hexadecimal digits.
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
    fn a_header_of_this_version_is_shown_as_it_came() {
        for flags in ["00", "01", "02", "ff"] {
            let value = format!("00-{TRACE}-{PARENT}-{flags}");
            assert_eq!(read(&value).as_ref(), Some(&value));
        }
        let read = Traceparent::parse(format!("00-{TRACE}-{PARENT}-01").as_bytes());
        assert_eq!(read.map(|read| read.trace_id().to_string()).as_deref(), Some(TRACE));
    }

    #[test]
    fn of_a_later_version_only_what_this_one_knows_is_read() {
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
    fn what_the_standard_rules_out_is_as_if_it_were_not_there() {
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
    fn bytes_that_are_no_traceparent_are_none() {
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
        fn whatever_is_kept_is_read_back_and_shown_as_a_header_that_reads_the_same(
            bytes in any::<[u8; Traceparent::BYTES]>(),
        ) {
            let kept = Traceparent::from_bytes(&bytes);
            prop_assume!(kept.is_some());
            prop_assert_eq!(kept.map(Traceparent::to_bytes), Some(bytes));
            prop_assert_eq!(kept.and_then(|kept| Traceparent::parse(kept.to_string().as_bytes())), kept);
        }

        #[test]
        fn no_value_can_do_harm(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(shown) = read(&value) {
                prop_assert_eq!(shown.len(), LENGTH);
            }
        }
    }
}
