//! Parsing an event: from signed bytes to a [`Change`], leniently.
//!
//! Constraints:
//!
//! * Parsing is a pure function of the body: the same bytes always give the same change at the same version.
//! * Only type, timestamp and id are required. Unknown fields and values are kept in `data`. A field of an
//!   unexpected type, or a text too long for its column's index, leaves its column null and is counted. The
//!   reason: Clerk's API description and the actual payloads disagree in a dozen places.
//! * Error texts never repeat a value of the body.
//! * Memory is a small multiple of the body, also for half a million numbers: the body is parsed to a text in canonical
//!   form ([`crate::json`]), from which each value is read where it is needed.

mod columns;
mod numbers;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

pub use self::columns::{Mismatch, mismatches};
use self::columns::{field, find};
use crate::catalog::{self, Column, Kind, Resource, Verb};
use crate::change::{Change, Effect, Field, Origin, Row, SubjectChange, Version};
use crate::json::{Document, Json, Members};
use crate::queue::Lease;
use crate::retry::{Failure, Reason};
use crate::sanitize::sanitize;
use crate::time::Timestamp;

/// Maximum length of an event type and of a subject's id, in bytes. Clerk's own have a tenth of it.
pub const NAME_LENGTH_MAX: usize = 255;

/// Maximum length of a text in an indexed column, in bytes. Together with an id it fits an index of Postgres,
/// which refuses entries longer than 2,704 bytes.
pub const INDEXED_TEXT_LENGTH_MAX: usize = 2000;

/// A parsed event, and what was replaced or dropped while parsing it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Event type.
    pub event_type: String,
    /// Event time.
    pub event_at: Timestamp,
    /// Clerk instance that sent the event, if it names one.
    pub instance_id: Option<String>,
    /// Effect on the tables.
    pub effect: Effect,
    /// Number of characters, keys and numbers that were replaced because not every engine can store them.
    pub sanitized: usize,
    /// Number of fields with a value that did not fit their column.
    pub mismatched: usize,
}

/// Parses the body of an event. With an `instance_id`, an event of another instance is refused; an event
/// without one is accepted (Clerk's dashboard sends its examples without).
///
/// # Errors
/// A [`Failure`] that retrying cannot fix.
pub fn parse(body: &[u8], instance_id: Option<&str>) -> Result<Parsed, Failure> {
    let document = Document::read(body).map_err(|error| not_json(&error, type_of(body)))?;
    let event = document
        .members()
        .ok_or_else(|| failure(Reason::NotAnEvent, "the body is not a JSON object", None))?;
    let event_type = name(event.get("type"))
        .ok_or_else(|| failure(Reason::NotAnEvent, "the event has no type", None))?
        .into_owned();
    let fail = |reason, detail: &str| failure(reason, detail, Some(event_type.clone()));

    let event_at = event
        .get("timestamp")
        .and_then(Json::as_number)
        .and_then(numbers::whole)
        .and_then(Timestamp::from_clerk)
        .ok_or_else(|| fail(Reason::NotAnEvent, "the event has no usable timestamp"))?;
    let never_stored = catalog::NEVER_STORED.contains(&event_type.as_str());
    let instance = event.get("instance_id");
    let is_other = |expected: &str| instance.and_then(Json::as_text).is_some_and(|sent| sent != expected);
    if instance_id.is_some_and(is_other) && !never_stored {
        return Err(fail(
            Reason::WrongInstance,
            "the event is of another Clerk instance than CLERK_INSTANCE_ID",
        ));
    }

    let (effect, mismatched) = match (catalog::find_event(&event_type), document.data()) {
        (None, data) => {
            let id = data.and_then(|data| name(data.get("id"))).filter(|_| !never_stored);
            (Effect::Ignore { subject_id: id.map(Cow::into_owned) }, 0)
        }
        (Some((resource, verb)), Some(data)) => {
            let (subject_change, mismatched) = subject_change(resource, verb, &data, event_at)
                .ok_or_else(|| fail(Reason::MissingId, "data has no usable id"))?;
            (Effect::Merge(Box::new(subject_change)), mismatched)
        }
        (Some(_), _) => return Err(fail(Reason::NotAnEvent, "data is not a JSON object")),
    };
    let (instance_id, sanitized) = (name(instance).map(Cow::into_owned), document.replaced());
    Ok(Parsed { event_type, event_at, instance_id, effect, sanitized, mismatched })
}

impl Parsed {
    /// Returns the change that the event of this message makes.
    pub fn into_change(self, message: &Lease) -> Change {
        let origin = Origin::Delivery {
            message_id: message.id.clone(),
            event_type: self.event_type,
            event_at: self.event_at,
            received_at: message.received_at,
            attempt: message.attempt,
        };
        Change { origin, effect: self.effect }
    }
}

/// Parses an object of Clerk's API as the content of its subject, observed at `read_at`: as the `data` of an
/// upsert event with this event time. Also returns the number of fields that did not fit their column. `None`
/// if the object has no usable id, or is not a living object of the resource ([`is_of`]).
pub fn observed(
    resource: &'static Resource,
    object: impl Into<Document>,
    read_at: Timestamp,
) -> Option<(SubjectChange, usize)> {
    let object = object.into();
    let members = object.members().filter(|_| is_of(resource, object.value()))?;
    subject_change(resource, Verb::Upsert, &members, read_at)
}

/// Returns the columns that a change leaves null because the value does not fit them, with the reason.
pub fn mismatches_of(change: &SubjectChange) -> Vec<(&'static str, Mismatch)> {
    let data = change.row.as_ref().and_then(|row| Document::read(row.data.as_bytes()).ok());
    data.map(|data| mismatches(change.resource, data.value())).unwrap_or_default()
}

/// Whether an object of Clerk's API is a living object of this resource. One with an `object` of another type is not,
/// nor is one with `deleted`. An object without `object` is accepted: its list says what it is.
pub fn is_of(resource: &Resource, object: Json<'_>) -> bool {
    is_a(resource.object, object)
        && object.get("deleted").is_none_or(|deleted| matches!(deleted.as_json(), "null" | "false"))
}

/// Whether the `object` of an object of Clerk's API is this type, or missing.
pub fn is_a(name: &str, object: Json<'_>) -> bool {
    // Clerk writes some types in either form: `waitlist_entry` and `waitlistEntry`.
    let letters = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let is_name = |text: Cow<'_, str>| text == name || letters(&text) == letters(name);
    object.get("object").is_none_or(|of| of.is_null() || of.as_text().is_some_and(is_name))
}

/// Returns the id of an object of Clerk. `None` if it has no usable id.
pub fn id_of(object: Json<'_>) -> Option<Cow<'_, str>> {
    name(object.get("id"))
}

/// Returns the type of an event that cannot be parsed as a whole, such as one that is nested too deeply.
/// Everything except the outermost object is skipped, without recursion. `None` if the body is not a JSON
/// object or has no usable type.
pub fn type_of(body: &[u8]) -> Option<String> {
    let (text, _) = sanitize(body);
    // The message may contain invalid UTF-8 and control characters, a byte order mark before the object and
    // more text after it. The type is readable all the same.
    let text = String::from_utf8_lossy(&text).replace(|c: char| c < ' ', " ");
    let objects = serde_json::Deserializer::from_str(text.trim_start_matches('\u{feff}'));
    let event: BTreeMap<String, &RawValue> = objects.into_iter().next()?.ok()?;
    serde_json::from_str(event.get("type")?.get()).ok().filter(|name: &String| is_name(name))
}

/// Returns the value of a column in an object, including the object of a delete event. A value that does not
/// fit the column is null.
pub fn value_of(data: &Members<'_>, column: &Column) -> Field {
    find(data, column.source).and_then(|value| field(value, column.kind)).unwrap_or(Field::Null)
}

fn failure(reason: Reason, detail: &str, event_type: Option<String>) -> Failure {
    Failure { reason, detail: detail.to_owned(), event_type }
}

/// The error message of `serde_json` says what was expected and where. It quotes no values of untyped JSON.
fn not_json(error: &serde_json::Error, event_type: Option<String>) -> Failure {
    // The recursion limit has no error category of its own.
    let too_deep = error.to_string().starts_with("recursion limit");
    let (reason, what) = if too_deep {
        (Reason::TooDeep, "nested too deeply")
    } else {
        (Reason::InvalidJson, "not valid JSON")
    };
    failure(reason, &format!("{what}, at line {} column {}", error.line(), error.column()), event_type)
}

/// Returns the value if it is a short text, such as an event type or an id.
fn name(value: Option<Json<'_>>) -> Option<Cow<'_, str>> {
    value?.as_text().filter(|text| is_name(text))
}

fn is_name(text: &str) -> bool {
    (1..=NAME_LENGTH_MAX).contains(&text.len())
}

fn subject_change(
    resource: &'static Resource,
    verb: Verb,
    data: &Members<'_>,
    event_at: Timestamp,
) -> Option<(SubjectChange, usize)> {
    let id = name(data.get("id"))?.into_owned();
    if verb == Verb::Delete {
        let version =
            Version { is_deleted: true, updated_at: 0, event_at: event_at.as_millis(), hash: [0; 16] };
        return Some((SubjectChange { resource, id, version, row: None }, 0));
    }
    let mut mismatched = 0;
    let mut read = |found: Result<Option<Json<'_>>, Mismatch>, kind| {
        let field = found.and_then(|value| field(value, kind));
        mismatched += usize::from(field.is_err());
        field.unwrap_or(Field::Null)
    };
    let mut time = |key: &str| match read(Ok(data.get(key)), Kind::Time) {
        Field::Time(moment) => Some(moment),
        _ => None,
    };
    let (created_at, updated_at) = (time("created_at"), time("updated_at"));
    let read_column = |column: &Column| read(find(data, column.source), column.kind);
    let values = resource.columns.iter().map(read_column).collect();
    let data = data.object().without(resource.secrets).into_owned();
    let version = Version {
        is_deleted: false,
        updated_at: updated_at.unwrap_or(event_at).as_millis(),
        event_at: event_at.as_millis(),
        hash: hash(&data),
    };
    let row = Row { values, created_at, updated_at, data };
    Some((SubjectChange { resource, id, version, row: Some(row) }, mismatched))
}

/// Returns 128 bits of a hash over the content. The typed columns are functions of `data`, so `data`
/// represents all of them; they must not be read from its secrets.
fn hash(data: &str) -> [u8; 16] {
    let digest = Sha256::digest(data.as_bytes());
    std::array::from_fn(|index| digest[index])
}
