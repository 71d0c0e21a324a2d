//! The event parser against a second implementation: no panic, nothing lost, nothing wrongly accepted.

use std::ops::RangeInclusive;

use rollbook_core::catalog::{self, Kind, Verb};
use rollbook_core::change::{Effect, Field, SubjectChange};
use rollbook_core::event::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX, Parsed, parse, type_of};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::sanitize::{NUMBER_DIGITS_MAX, sanitize};
use rollbook_core::time::Timestamp;

use crate::json::{self, Json, written_out};

/// Maximum nesting depth that the parser accepts.
const DEPTH_MAX: usize = 127;
/// Instance id that is required, if one is.
const INSTANCE: &str = "ins_1";
/// Limit below which a timestamp is in seconds. The stored value is in milliseconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// Accepted timestamps, from 1970 to the last day but one of 9999: every engine stores and prints them.
const MILLIS: RangeInclusive<i64> = 0..=253_402_207_200_000;

/// Checks all properties of parsing a body.
///
/// # Panics
/// Panics if one does not hold.
pub fn check(body: &[u8]) {
    crate::sanitize::check(body);
    let result = parse(body, None);
    assert_eq!(parse(body, None), result, "the same bytes give the same change");
    let event_type = match &result {
        Ok(parsed) => Some(&parsed.event_type),
        Err(failure) => failure.event_type.as_ref(),
    };
    assert_eq!(event_type, type_of(body).as_ref(), "both parsers agree about the event type");
    match (json::read(&sanitize(body).0), &result) {
        (Ok((event, depth)), Ok(parsed)) => {
            assert!(depth <= DEPTH_MAX);
            assert_eq!(expected_failure(&event), None);
            check_change(&event, parsed);
            check_instance(body, &event, &result);
        }
        (Ok((event, depth)), Err(failure)) => {
            let expected = if depth > DEPTH_MAX { Some(Reason::TooDeep) } else { expected_failure(&event) };
            assert_eq!(Some(failure.reason), expected);
        }
        (Err(_), Err(failure)) => {
            assert!(matches!(failure.reason, Reason::InvalidJson | Reason::TooDeep), "{failure:?}");
        }
        (Err(unreadable), Ok(_)) => panic!("parsed, although it is {unreadable:?}"),
    }
    if let Err(failure) = result {
        assert!(failure.reason.is_permanent() && failure.detail.len() < 100, "{failure:?}");
    }
}

fn name(value: Option<&Json>) -> Option<&str> {
    match value? {
        Json::String(text) if (1..=NAME_LENGTH_MAX).contains(&text.len()) => Some(text),
        _ => None,
    }
}

/// Milliseconds, or seconds below the limit, from 1970 to 9999.
fn time(value: Option<&Json>) -> Option<Timestamp> {
    let Json::Number(number) = value? else { return None };
    if written_out(number) > NUMBER_DIGITS_MAX {
        return None;
    }
    let number = whole(number)?;
    let millis = if number < SECONDS_BELOW { number.checked_mul(1000)? } else { number };
    MILLIS.contains(&millis).then(|| Timestamp::from_millis(millis))
}

/// Returns the 64-bit integer that a JSON number stands for, if it is one: all digits written before the
/// point.
fn whole(number: &str) -> Option<i64> {
    if let Ok(number) = number.parse() {
        return Some(number);
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !format!("{before}{behind}").bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        return Some(0);
    }
    let point = i128::try_from(before.len()).ok()? + exponent.parse::<i64>().map(i128::from).ok()?;
    let digits = format!("{before}{behind}");
    // 400 places hold every number of 64 bits, and the fractions that sanitizing leaves.
    let point = usize::try_from(point).ok().filter(|point| *point <= digits.len() + 400)?;
    let padded = format!("{digits}{}", "0".repeat(point.saturating_sub(digits.len())));
    let (whole, fraction) = padded.split_at_checked(point)?;
    if fraction.bytes().any(|byte| byte != b'0') { None } else { whole.parse().ok() }
}

/// Returns the reason why a valid JSON event cannot be applied, if there is one.
fn expected_failure(event: &Json) -> Option<Reason> {
    let event_type = name(event.get("type"));
    let known = event_type.and_then(catalog::find_event);
    let data = event.get("data");
    if event_type.is_none() || time(event.get("timestamp")).is_none() {
        return Some(Reason::NotAnEvent);
    }
    match (known, data) {
        (Some(_), Some(Json::Object(_))) => name(data?.get("id")).is_none().then_some(Reason::MissingId),
        (Some(_), _) => Some(Reason::NotAnEvent),
        (None, _) => None,
    }
}

fn check_change(event: &Json, parsed: &Parsed) {
    assert_eq!(Some(&*parsed.event_type), name(event.get("type")));
    assert_eq!(Some(parsed.event_at), time(event.get("timestamp")));
    let id = event.get("data").and_then(|data| name(data.get("id")));
    let known = catalog::find_event(&parsed.event_type);
    match (known, &parsed.effect) {
        (None, Effect::Ignore { subject_id }) => {
            let never_stored = catalog::NEVER_STORED.contains(&&*parsed.event_type);
            assert_eq!(subject_id.as_deref(), id.filter(|_| !never_stored));
        }
        (Some((resource, verb)), Effect::Merge(subject_change)) => {
            assert_eq!((subject_change.resource, Some(&*subject_change.id)), (resource, id));
            assert_eq!(subject_change.version.event_at, parsed.event_at.as_millis());
            assert_eq!(subject_change.version.is_deleted, verb == Verb::Delete);
            assert_eq!(subject_change.row.is_none(), verb == Verb::Delete);
            check_row(event, subject_change);
            check_again(parsed, subject_change);
        }
        _ => panic!("not what the catalog says about {}", parsed.event_type),
    }
}

fn check_row(event: &Json, subject_change: &SubjectChange) {
    let Some(row) = &subject_change.row else { return };
    let mut sent = event.get("data").expect("the parser read it").clone();
    assert_eq!(
        (row.created_at, row.updated_at),
        (time(sent.get("created_at")), time(sent.get("updated_at")))
    );
    for path in subject_change.resource.secrets {
        sent.remove(path);
    }
    assert!(sent.is(&canonical(&row.data)), "data equals the sent object");
    assert_eq!(row.values.len(), subject_change.resource.columns.len());
    for (column, value) in subject_change.resource.columns.iter().zip(&row.values) {
        let fits = match (column.kind, value) {
            (_, Field::Null) | (Kind::Integer, Field::Integer(_)) | (Kind::Bool, Field::Bool(_)) => true,
            (Kind::Text, Field::Text(text)) => !text.contains('\0'),
            (Kind::IndexedText, Field::Text(text)) => {
                text.len() <= INDEXED_TEXT_LENGTH_MAX && !text.contains('\0')
            }
            (Kind::Id, Field::Text(id)) => (1..=NAME_LENGTH_MAX).contains(&id.len()) && !id.contains('\0'),
            (Kind::Time, Field::Time(at)) => MILLIS.contains(&at.as_millis()),
            (Kind::Json, Field::Json(text)) => !canonical(text).is_null(),
            _ => false,
        };
        assert!(fits, "{} holds {value:?}", column.name);
    }
}

/// Checks that JSON text is as rows store it: it parses, has the canonical form, and every engine can store
/// it.
fn canonical(text: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(value.to_string(), text, "sorted and without white space");
    assert_eq!(sanitize(text.as_bytes()).1, 0, "there is nothing to replace");
    value
}

/// Checks that the stored content of an event gives the same change when it is parsed again.
fn check_again(parsed: &Parsed, subject_change: &SubjectChange) {
    let Some(row) = &subject_change.row else { return };
    if parsed.event_at.as_millis() < SECONDS_BELOW {
        return;
    }
    let (event_type, at) = (&parsed.event_type, parsed.event_at.as_millis());
    let again = format!(r#"{{"type":"{event_type}","timestamp":{at},"data":{}}}"#, row.data);
    let again = parse(again.as_bytes(), None).expect("the stored content is a valid event");
    assert_eq!(again, Parsed { instance_id: None, sanitized: 0, ..parsed.clone() });
}

/// Checks that an event of another instance is refused if an instance is required, unless its type is never
/// stored; everything else is unchanged.
fn check_instance(body: &[u8], event: &Json, result: &Result<Parsed, Failure>) {
    let asked = parse(body, Some(INSTANCE));
    let is_other = matches!(event.get("instance_id"), Some(Json::String(id)) if id != INSTANCE);
    let is_kept = name(event.get("type")).is_none_or(|name| !catalog::NEVER_STORED.contains(&name));
    if is_other && is_kept {
        assert_eq!(asked.map_err(|failure| failure.reason), Err(Reason::WrongInstance));
    } else {
        assert_eq!(&asked, result);
    }
}
