//! Numbers and times, as metadata, in columns, and of the event itself.

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::retry::Reason::NotAnEvent;
use serde_json::json;

use super::payloads::{AT, event, metadata, parked, slug, user};
use super::stage::Case;

/// Numbers beyond machine types, in metadata.
pub(super) fn numbers() -> Vec<Case> {
    let digits = "1234567890".repeat(40);
    let all = [
        "0",
        "-0",
        "-0.0",
        "0e0",
        "0e400",
        "-0E-400",
        "1e400",
        "-1e400",
        "1e-400",
        "1E+5",
        "1.10",
        "1e15",
        "123456789e-3",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "1.7976931348623159e308",
        "5e-325",
        "0.1000000000000000055511151231257827021181583404541015625",
        &digits,
    ];
    let numbers = all.iter().map(|number| metadata(&format!("the number {number:.30}"), number));
    let fraction = format!("0.{digits}");
    numbers
        .chain([metadata("a number of 400 digits behind the point", &fraction)])
        .chain(long_numbers())
        .collect()
}

/// Numbers beyond the limits of Postgres, and some that it would hold and write out at full length for a
/// reader.
fn long_numbers() -> impl Iterator<Item = Case> {
    let digits =
        ["9".repeat(1000), "9".repeat(1001), "9".repeat(131_073), format!("0.{}", "9".repeat(16_384))];
    let exponents = ["1e999", "1e+1000", "-1e+131072", "1e-1000", "1e-16384", "1e+999999999999999999999"];
    digits.into_iter().chain(exponents.map(str::to_owned)).enumerate().map(|(position, number)| {
        let is_kept = number == "1e999" || number.len() == 1000;
        let kept = if is_kept { serde_json::from_str(&number).expect("a number") } else { json!(number) };
        let name = format!("long number {position}, {number:.30}");
        user(&name, &format!(r#""public_metadata":{{"number":[{number}]}}"#))
            .with("public_metadata", json!({ "number": [kept] }))
            .sanitized(usize::from(!is_kept))
    })
}

/// Numbers in a column of whole numbers of 64 bits.
pub(super) fn integers() -> Vec<Case> {
    let of = |(sent, kept): (&str, Option<i64>)| {
        let name = format!("{sent} members");
        let id = format!("org_{}", slug(&format!("{sent:.40}")));
        let body = event(&format!(r#"{{"id":"{id}","members_count":{sent}}}"#));
        let body = body.replace("user.updated", "organization.updated");
        Case::row(name, body, &ORGANIZATIONS, id)
            .with("members_count", json!(kept))
            .mismatched(usize::from(kept.is_none()))
    };
    let digits = "9".repeat(400);
    let all = [
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("-0", Some(0)),
        ("1.0", Some(1)),
        ("1e2", Some(100)),
        ("1.5", None),
        ("1e400", None),
        ("-1e400", None),
        ("1e-400", None),
        (&*digits, None),
    ];
    all.into_iter().map(of).collect()
}

/// Times of Clerk and their results; numbers below 10^11 are seconds.
const TIMES: [(&str, Option<&str>); 17] = [
    ("0", Some("1970-01-01T00:00:00.000Z")),
    ("-0", Some("1970-01-01T00:00:00.000Z")),
    ("1", Some("1970-01-01T00:00:01.000Z")),
    ("99999999999", Some("5138-11-16T09:46:39.000Z")),
    ("100000000000", Some("1973-03-03T09:46:40.000Z")),
    ("253402207200000", Some("9999-12-30T22:00:00.000Z")),
    ("253402207200001", None),
    // The year 300,000.
    ("9404957520000000", None),
    ("9223372036854775807", None),
    ("9223372036854775808", None),
    ("-1", None),
    ("-9223372036854775808", None),
    ("1785312000032.5", None),
    ("1785312000033.0", Some("2026-07-29T08:00:00.033Z")),
    ("1.785312e12", Some("2026-07-29T08:00:00.000Z")),
    ("1e400", None),
    (r#""2026-07-29T08:00:00Z""#, None),
];

/// Times of columns.
pub(super) fn times() -> Vec<Case> {
    let of = |(sent, kept): (&str, Option<&str>)| {
        let name = format!("times are {sent}");
        user(&name, &format!(r#""last_sign_in_at":{sent},"created_at":{sent},"updated_at":{sent}"#))
            .with("last_sign_in_at", json!(kept))
            .with("created_at", json!(kept))
            .with("updated_at", json!(kept))
            .mismatched(if kept.is_none() { 3 } else { 0 })
    };
    TIMES.into_iter().map(of).collect()
}

/// Times of events. The epoch itself is not a valid time of an event.
pub(super) fn event_times() -> Vec<Case> {
    let of = |(sent, kept): (&str, Option<&str>)| {
        let name = format!("the event was at {sent}");
        let id = format!("user_{}", slug(&name));
        let body = event(&format!(r#"{{"id":"{id}"}}"#)).replace(AT, sent);
        match kept {
            Some("1970-01-01T00:00:00.000Z") => Case::ignored(name, body),
            Some(_) => Case::row(name, body, &USERS, id),
            None => parked(&name, body, NotAnEvent),
        }
    };
    TIMES.into_iter().map(of).collect()
}
