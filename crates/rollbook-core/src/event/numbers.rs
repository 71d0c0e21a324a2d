//! Integers in any JSON notation.
//!
//! JSON has one kind of number: `1785312000000.0` and `1.785312e12` are the integer 1785312000000. Senders
//! written in languages with floating-point numbers only use such notations (RFC 8259, section 6; I-JSON, RFC
//! 7493, section 2.2).

/// Maximum number of digits of an `i64`.
const DIGITS_MAX: usize = 19;

/// Returns a number of JSON if it is an integer of 64 bits. The text decides, digit by digit: nothing is rounded.
pub(super) fn whole(number: &str) -> Option<i64> {
    number.parse().ok().or_else(|| parse_notation(number))
}

fn parse_notation(number: &str) -> Option<i64> {
    let (sign, text) = number.strip_prefix('-').map_or(("", number), |text| ("-", text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{behind}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // An exponent that does not fit belongs to a number that is far too large or far too small.
    let exponent: i64 = exponent.parse().ok()?;
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let zeros = exponent.checked_add(zeros)?.checked_sub(i64::try_from(behind.len()).ok()?)?;
    let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros <= DIGITS_MAX)?;
    let significant = significant.trim_start_matches('0');
    if significant.len() + zeros > DIGITS_MAX {
        return None;
    }
    format!("{sign}{significant}{}", "0".repeat(zeros)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        let number: serde_json::Number = serde_json::from_str(text).expect("a number");
        let numbers = [text, number.as_str()].map(whole);
        assert_eq!(numbers[0], numbers[1], "{text}");
        numbers[0]
    }

    #[test]
    fn an_integer_is_recognised_in_every_notation() {
        for (text, number) in [
            ("1785312000000", 1_785_312_000_000),
            ("1785312000000.0", 1_785_312_000_000),
            ("1785312000000.000", 1_785_312_000_000),
            ("1.7e12", 1_700_000_000_000),
            ("1.785312E+12", 1_785_312_000_000),
            ("17853120000000e-1", 1_785_312_000_000),
            ("0.5e1", 5),
            ("0.00012e5", 12),
            ("-1.5e1", -15),
            ("0.0", 0),
            ("-0.0", 0),
            ("0e999999999999999999999", 0),
            ("9223372036854775807.0", i64::MAX),
            ("-9223372036854775808.0", i64::MIN),
            ("9.223372036854775807e18", i64::MAX),
        ] {
            assert_eq!(read(text), Some(number), "{text}");
        }
    }

    #[test]
    fn a_fraction_and_an_integer_of_more_than_64_bits_are_not_integers() {
        for text in [
            "1.5",
            "1785312000000.5",
            "1e-1",
            "15e-2",
            "9223372036854775808",
            "9223372036854775808.0",
            "-9223372036854775809.0",
            "1e19",
            "1e20",
            "1e400",
            "1e999999999999999999999",
            "1e-999999999999999999999",
            "0.1000000000000000055511151231257827021181583404541015625",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
