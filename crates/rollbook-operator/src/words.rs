//! Numbers, durations and kinds of rows as text.

use std::time::Duration;

use rollbook_core::catalog::Resource;
use rollbook_core::time::Timestamp;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Formats a time that may be unknown.
pub fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string())
}

/// Formats a duration in milliseconds, without its sign: `15 ms`, `1.4 s`, `5 min 3 s`, `27 h 35 min`, `12 d 4 h`.
pub fn span(millis: i64) -> String {
    let millis = millis.unsigned_abs();
    let two = |large: u64, large_name: &str, small: u64, small_name: &str| {
        let (whole, rest) = (millis / large, millis % large / small);
        if rest == 0 {
            format!("{} {large_name}", thousands(whole))
        } else {
            format!("{} {large_name} {rest} {small_name}", thousands(whole))
        }
    };
    match millis {
        0..SECOND => format!("{millis} ms"),
        SECOND..MINUTE if millis % SECOND < 100 => format!("{} s", millis / SECOND),
        SECOND..MINUTE => format!("{}.{} s", millis / SECOND, millis % SECOND / 100),
        MINUTE..HOUR => two(MINUTE, "min", SECOND, "s"),
        // Svix retries for two days at most: up to there, hours are the useful unit.
        HOUR..=172_800_000 => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

/// Formats a duration as [`span`] does.
pub fn duration(duration: Duration) -> String {
    span(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// Formats a number with its noun: `1 message`, `12,480 messages`, `3 tries`.
pub fn many(number: u64, one: &str) -> String {
    let number_of = thousands(number);
    match one.strip_suffix('y') {
        _ if number == 1 => format!("{number_of} {one}"),
        Some(stem) => format!("{number_of} {stem}ies"),
        None => format!("{number_of} {one}s"),
    }
}

/// Returns the name of one row of a table: `user`, `waitlist entry`.
pub fn kind(resource: &Resource) -> String {
    let table = resource.table.replace('_', " ");
    match table.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => table.trim_end_matches('s').to_owned(),
    }
}

/// Returns the name of one row with its article: `a user`, `an organization`.
pub fn a_kind(resource: &Resource) -> String {
    let kind = kind(resource);
    let article = if kind.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// Formats a whole number with separators between thousands: `12,480`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use rollbook_core::catalog::RESOURCES;

    use super::*;

    #[test]
    fn a_duration_has_at_most_two_units() {
        let spans = [
            0,
            999,
            31_000,
            1_400,
            59_999,
            60_000,
            303_000,
            -303_000,
            99_300_000,
            172_800_000,
            1_051_200_000,
        ];
        let expected = [
            "0 ms",
            "999 ms",
            "31 s",
            "1.4 s",
            "59.9 s",
            "1 min",
            "5 min 3 s",
            "5 min 3 s",
            "27 h 35 min",
            "48 h",
            "12 d 4 h",
        ];
        assert_eq!(spans.map(span), expected);
        assert_eq!(span(i64::MIN), "106,751,991,167 d 7 h");
    }

    #[test]
    fn a_noun_is_plural_unless_the_number_is_one() {
        assert_eq!([0, 1, 12_480].map(|number| many(number, "line")), ["0 lines", "1 line", "12,480 lines"]);
        assert_eq!([1, 2].map(|number| many(number, "try")), ["1 try", "2 tries"]);
    }

    #[test]
    fn thousands_are_separated_by_commas() {
        let texts = [0, 999, 1000, 12_480, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "12,480", "1,234,567"]);
    }

    #[test]
    fn every_kind_has_a_name() {
        let kinds: Vec<String> = RESOURCES.into_iter().map(a_kind).collect();
        assert_eq!(
            kinds[..4],
            ["an organization", "a user", "an organization membership", "an organization invitation"]
        );
        assert!(kinds.contains(&"a waitlist entry".to_owned()), "{kinds:?}");
    }
}
