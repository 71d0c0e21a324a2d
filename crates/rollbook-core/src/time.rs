//! Timestamps and clocks.

use std::fmt;
use std::time::Duration;

/// Timestamp, in milliseconds since 1970-01-01T00:00:00Z. Any `i64` is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Limit below which a number of Clerk is in seconds, not milliseconds: Clerk's API description shows seconds
/// where the payloads have milliseconds. In milliseconds the limit is a day in March 1973.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// Latest timestamp that can be printed, a day before the year 10000.
const LAST_MILLIS: i64 = 253_402_207_200_000;

impl Timestamp {
    /// Creates the timestamp `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Creates the timestamp `seconds` seconds after the epoch; saturates on overflow.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Converts a number that Clerk sent as a time, in milliseconds or (below 10^11) in seconds. `None` if it
    /// is before 1970 or after the year 9999, which Clerk never means.
    pub const fn from_clerk(number: i64) -> Option<Self> {
        let millis = if number < SECONDS_BELOW { number.saturating_mul(1000) } else { number };
        if number < 0 || millis > LAST_MILLIS { None } else { Some(Self(millis)) }
    }

    /// Returns the milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the timestamp later by `span`; saturates on overflow.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns the timestamp earlier by `span`; saturates on overflow.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns the duration since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses an RFC 3339 timestamp such as `2026-07-29T08:00:00.015Z`. `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|moment| Self(moment.as_millisecond()))
    }

    /// Parses a timestamp that a person or a program gave: RFC 3339 to the letter, with an offset of at most 23:59, and before
    /// the last day of the year 9999, which is the last that can be stored and printed. `None` for anything else.
    pub fn parse_rfc_3339(text: &str) -> Option<Self> {
        let (date_time, offset) = text.split_at_checked("2026-07-29T08:00:00".len())?;
        let fits = |part: &str, form: &str| {
            part.len() == form.len()
                && part.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    form => byte.eq_ignore_ascii_case(&form),
                })
        };
        let offset = offset.strip_prefix('.').map_or(Some(offset), |fraction| {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (rest.len() < fraction.len()).then_some(rest)
        })?;
        let is_utc = offset.eq_ignore_ascii_case("z");
        let is_offset = offset
            .strip_prefix(['+', '-'])
            .is_some_and(|offset| fits(offset, "00:00") && offset[..2] <= *"23" && offset[3..] <= *"59");
        let is_valid = fits(date_time, "0000-00-00T00:00:00") && (is_utc || is_offset);
        Self::parse(text).filter(|at| is_valid && at.0 <= LAST_MILLIS)
    }
}

impl fmt::Display for Timestamp {
    /// Prints ISO 8601 in UTC with milliseconds, as in the rows: `2026-07-29T08:00:00.015Z`. A timestamp
    /// outside the printable years is printed as the nearest that is printable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.clamp(-62_135_596_800_000, LAST_MILLIS);
        let moment = jiff::Timestamp::from_millisecond(millis).map_err(|_| fmt::Error)?;
        write!(f, "{moment:.3}")
    }
}

/// Source of the current time. The only real clock is in the binary; tests bring their own.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_iso_8601_in_utc_with_milliseconds_and_parses_back() {
        let moment = Timestamp::from_millis(1_785_312_000_015);
        assert_eq!(moment.to_string(), "2026-07-29T08:00:00.015Z");
        assert_eq!(Timestamp::parse("2026-07-29T08:00:00.015Z"), Some(moment));
        assert_eq!(Timestamp::from_millis(1_785_312_000_000).to_string(), "2026-07-29T08:00:00.000Z");
    }

    #[test]
    fn a_timestamp_of_a_person_is_rfc_3339_to_the_letter_and_can_be_stored() {
        let moment = Timestamp::from_millis(1_785_312_000_015);
        for text in [
            "2026-07-29T08:00:00.015Z",
            "2026-07-29t08:00:00.015z",
            "2026-07-29T10:00:00.015+02:00",
            "2026-07-28T08:01:00.015-23:59",
            "2026-07-30T07:59:00.015000000+23:59",
        ] {
            assert_eq!(Timestamp::parse_rfc_3339(text), Some(moment), "{text}");
        }
        assert!(Timestamp::parse_rfc_3339("9999-12-30T21:59:59Z").is_some());
        for text in [
            "",
            "yesterday",
            "99999999999",
            "2026-07-29T08:00:00",
            "2026-07-29T08:00Z",
            "2026-07-29 08:00:00Z",
            "20260729T080000Z",
            "2026-07-29T08:00:00.Z",
            "2026-07-29T08:00:00,5Z",
            "2026-07-29T08:00:00+02",
            "2026-07-29T08:00:00+0200",
            "2026-07-29T08:00:00+24:00",
            "2026-07-29T08:00:00+25:00",
            "2026-07-29T08:00:00+02:60",
            "2026-07-29T08:00:00+02:00[Europe/Berlin]",
            "2026-02-30T08:00:00Z",
            "9999-12-31T23:59:59Z",
            "+99999-01-01T00:00:00Z",
            "2026-07-29T08:00:0\u{e9}Z",
        ] {
            assert_eq!(Timestamp::parse_rfc_3339(text), None, "{text}");
        }
    }

    #[test]
    fn any_timestamp_prints() {
        for millis in [i64::MIN, -1, 0, i64::MAX] {
            assert!(!Timestamp::from_millis(millis).to_string().is_empty());
        }
    }

    #[test]
    fn seconds_are_distinguished_from_milliseconds_and_out_of_range_numbers_are_refused() {
        assert_eq!(Timestamp::from_clerk(1_716_883_200), Some(Timestamp(1_716_883_200_000)));
        assert_eq!(Timestamp::from_clerk(1_716_883_200_000), Some(Timestamp(1_716_883_200_000)));
        assert_eq!(Timestamp::from_clerk(-1), None);
        assert_eq!(Timestamp::from_clerk(1_000_000_000_000_000_000), None);
        assert_eq!(Timestamp::from_clerk(i64::MAX), None);
    }
}
