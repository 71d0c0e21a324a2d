//! Every field that becomes a column, replaced by every type that it may not have.

use bytes::Bytes;
use rollbook_core::catalog::{Column, Kind, Resource, Source, USERS, Verb};
use rollbook_core::retry::Reason;
use rollbook_simulator::samples;
use serde_json::{Value, json};

use super::stage::Case;

/// One value of each type. No sample has any of them.
fn replacements() -> [Value; 6] {
    [Value::Null, json!(true), json!(7), json!("text"), json!([]), json!({})]
}

/// Returns the first sample of an upsert of this resource.
pub(super) fn sample(resource: &Resource) -> Value {
    let event = resource.events.iter().find(|event| event.verb == Verb::Upsert).expect("an upsert");
    serde_json::from_str(samples::sample(event.name).expect("a sample")).expect("JSON")
}

pub(super) fn bytes(event: &Value) -> Bytes {
    event.to_string().into()
}

/// Puts a value at a path of keys. Values on the path that are not objects become objects.
pub(super) fn put(object: &mut Value, path: &[&str], value: Value) {
    let [first, rest @ ..] = path else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    put(&mut object[*first], rest, value);
}

/// Effect of `value` at `path` of `data` on a column: nothing, or the column's value and whether the value
/// does not fit.
type Effect = Option<(Value, bool)>;

/// A column that is read at `source`, a path.
fn effect_on_path(source: &[&str], kind: Kind, path: &[&str], value: &Value) -> Effect {
    let rest = source.strip_prefix(path)?;
    let fits = match (kind, value) {
        (_, Value::Null) => Some(Value::Null),
        _ if !rest.is_empty() => value.is_object().then_some(Value::Null),
        (Kind::Text | Kind::IndexedText | Kind::Id, Value::String(_))
        | (Kind::Integer, Value::Number(_))
        | (Kind::Bool, Value::Bool(_))
        | (Kind::Json, _) => Some(value.clone()),
        (Kind::Time, Value::Number(_)) => Some(json!("1970-01-01T00:00:07.000Z")),
        _ => None,
    };
    Some((fits.clone().unwrap_or_default(), fits.is_none()))
}

fn effect(column: &Column, sample: &Value, path: &[&str], value: &Value) -> Effect {
    match column.source {
        Source::Path(source) => effect_on_path(source, column.kind, path, value),
        // All samples have the first path, so only that counts; without it the second one is used.
        Source::Either(first, _) if !value.is_null() => effect_on_path(first, column.kind, path, value),
        Source::Either(..) => None,
        Source::Chosen { list, id_of, .. } => match path {
            [key] if *key == id_of => Some((Value::Null, !value.is_null() && !value.is_string())),
            // A list is not read if no element of it is chosen.
            [key] if *key == list && sample[id_of].is_null() => Some((Value::Null, false)),
            [key] if *key == list => Some((Value::Null, !value.is_null() && !value.is_array())),
            _ => None,
        },
    }
}

/// Returns the paths in `data` that the column is read from, and their prefixes.
fn paths(column: &Column) -> Vec<Vec<&'static str>> {
    let prefixes = |path: &'static [&'static str]| (1..=path.len()).map(|length| path[..length].to_vec());
    match column.source {
        Source::Path(path) => prefixes(path).collect(),
        Source::Either(first, second) => prefixes(first).chain(prefixes(second)).collect(),
        Source::Chosen { list, id_of, .. } => vec![vec![list], vec![id_of]],
    }
}

/// Returns all cases of one table.
pub(super) fn of(resource: &'static Resource) -> Vec<Case> {
    let mut all: Vec<Vec<&str>> = resource.columns.iter().flat_map(paths).collect();
    all.extend([vec!["created_at"], vec!["updated_at"]]);
    all.extend(resource.secrets.iter().map(|path| path.to_vec()));
    all.sort();
    all.dedup();
    let each = all.iter().flat_map(|path| replacements().map(|value| (path, value)));
    let wrong = each.enumerate().map(|(number, (path, value))| {
        let name = format!("{}: {} is {value}", resource.table, path.join("."));
        let (mut event, id) = (sample(resource), format!("{}_{number}", resource.table));
        let sampled = event["data"].clone();
        event["data"]["id"] = json!(id);
        put(&mut event["data"], path, value.clone());
        let mut case = Case::row(name, bytes(&event), resource, id);
        let mut mismatched = 0;
        let times = ["created_at", "updated_at"]
            .map(|name| (name, effect_on_path(&[name], Kind::Time, path, &value)));
        let columns =
            resource.columns.iter().map(|column| (column.name, effect(column, &sampled, path, &value)));
        for (name, effect) in columns.chain(times) {
            if let Some((expected, is_wrong)) = effect {
                case = case.with(name, expected);
                mismatched += usize::from(is_wrong);
            }
        }
        case.mismatched(mismatched)
    });
    wrong.chain(ids(resource)).collect()
}

/// The only field that a row needs, in every event of a resource.
fn ids(resource: &'static Resource) -> impl Iterator<Item = Case> {
    let each = resource.events.iter().flat_map(|event| replacements().map(|value| (event, value)));
    each.filter(|(_, value)| !value.is_string()).map(|(event, value)| {
        let sample = samples::sample(event.name).expect("a sample");
        let mut body: Value = serde_json::from_str(sample).expect("JSON");
        let name = format!("{}: id is {value}", event.name);
        body["data"]["id"] = value;
        Case::parked(name, bytes(&body), Reason::MissingId, Some(event.name))
    })
}

/// Cases of the fields around `data`, and of `data` itself.
pub(super) fn of_the_envelope() -> impl Iterator<Item = Case> {
    let fields = ["type", "timestamp", "data", "instance_id", "object", "event_attributes"];
    let each = fields.into_iter().flat_map(|field| replacements().map(|value| (field, value)));
    each.enumerate().map(|(number, (field, value))| {
        let (name, id) = (format!("the event's {field} is {value}"), format!("user_envelope_{number}"));
        let mut event = sample(&USERS);
        let event_type = event["type"].as_str().map(str::to_owned);
        event["data"]["id"] = json!(id);
        event[field] = value.clone();
        let body = bytes(&event);
        match (field, value) {
            ("type", Value::String(_)) => Case::ignored(name, body),
            ("type", _) => Case::parked(name, body, Reason::NotAnEvent, None),
            ("timestamp", Value::Number(_)) => Case::row(name, body, &USERS, id),
            ("data", Value::Object(_)) => Case::parked(name, body, Reason::MissingId, event_type.as_deref()),
            ("timestamp" | "data", _) => Case::parked(name, body, Reason::NotAnEvent, event_type.as_deref()),
            _ => Case::row(name, body, &USERS, id),
        }
    })
}
