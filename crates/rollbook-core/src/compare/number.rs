//! Numbers of JSON, by value.
//!
//! `jsonb` of Postgres writes a number in another form: `1e5` becomes `100000`, `-0` becomes `0`.

/// Whether two numbers have the same value. Every digit counts.
pub(super) fn is_equal(one: &str, other: &str) -> bool {
    one == other || parse(one).zip(parse(other)).is_some_and(|(one, other)| one == other)
}

/// Value of a number: digits without zeros at either end, times a power of ten.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

/// Returns the value. `None` if the exponent has too many digits.
fn parse(text: &str) -> Option<Decimal> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let zeros = all.len() - digits.len();
    let digits = digits.trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return Some(Decimal { is_negative: false, digits, exponent: 0 });
    }
    let exponent =
        exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(i64::try_from(zeros).ok()?)?;
    Some(Decimal { is_negative, digits, exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(one: &str, other: &str) -> bool {
        assert_eq!(is_equal(one, other), is_equal(other, one), "{one} {other}");
        is_equal(one, other)
    }

    #[test]
    fn forms_of_one_value_are_equal_and_other_values_are_not() {
        for (one, other) in [
            ("1e5", "100000"),
            ("1E+2", "100"),
            ("1e-3", "0.001"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e9", "0.000"),
            ("1.50", "1.5"),
            ("1.0", "1"),
            ("12.5e1", "125"),
            ("1e21", "1000000000000000000000"),
        ] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("1", "-1"),
            ("1", "10"),
            ("0.1", "0.01"),
            ("1e5", "1e6"),
            ("0", "1e-400"),
            ("9007199254740993", "9007199254740992"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("0.1", "0.1000000000000000055511151231257827"),
            ("1e99999999999999999999", "2e99999999999999999999"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    proptest! {
        /// The power of ten may stand in the exponent, in the zeros, or in the position of the point.
        #[test]
        fn every_form_of_a_value_is_equal(digits in "[1-9][0-9]{0,40}", power in 0..40_usize, negative: bool) {
            let sign = if negative { "-" } else { "" };
            let zeros = "0".repeat(power);
            let plain = format!("{sign}{digits}{zeros}");
            let forms = [
                format!("{sign}{digits}e{power}"),
                format!("{sign}{digits}{zeros}.{zeros}0"),
                format!("{sign}{}.{}0E+{}", &digits[..1], &digits[1..], digits.len() - 1 + power),
                format!("{sign}0.{digits}e{}", digits.len() + power),
                format!("{sign}{digits}{zeros}{zeros}e-{power}"),
            ];
            for form in forms {
                prop_assert!(same(&form, &plain), "{form} {plain}");
            }
        }

        #[test]
        fn integers_are_equal_only_if_they_are_the_same(one: i128, other in prop_oneof![any::<i128>(), -3..3_i128]) {
            prop_assert_eq!(same(&one.to_string(), &other.to_string()), one == other);
            let next = one.wrapping_add(other % 4);
            prop_assert_eq!(same(&one.to_string(), &next.to_string()), one == next);
        }
    }
}
