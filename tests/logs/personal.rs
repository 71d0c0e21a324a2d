//! Parts of an event that no log may hold: every text that is neither an id nor a word of Clerk's
//! description.

use std::collections::BTreeSet;

use serde_json::Value;

/// Minimum length of searched texts: shorter ones occur everywhere.
const LENGTH_MIN: usize = 4;
/// Length of a beginning that no log may hold of a longer text.
const BEGINNING: usize = 32;

/// Keys with values that are words of Clerk's description, or ids. In metadata these keys have no meaning.
const PLAIN_KEYS: [&str; 14] = [
    "currency",
    "enrollment_mode",
    "id",
    "object",
    "payment_method",
    "plan_period",
    "role",
    "role_name",
    "slug",
    "status",
    "strategy",
    "type",
    "event_type",
    "verification",
];

/// Returns every text of these bodies that a log must not contain.
pub(super) fn texts<'a>(bodies: impl Iterator<Item = &'a [u8]>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for body in bodies {
        if let Ok(Value::Object(event)) = serde_json::from_slice(body) {
            collect(&Value::Object(event), false, &mut found);
        }
    }
    found
}

fn collect(value: &Value, in_metadata: bool, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.chars().count() >= LENGTH_MIN && !is_id(text) => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, in_metadata, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                let in_metadata = in_metadata || key.ends_with("_metadata");
                let is_plain = !in_metadata && (PLAIN_KEYS.contains(&&**key) || key.ends_with("_id"));
                if !(is_plain && value.is_string()) {
                    collect(value, in_metadata, found);
                }
            }
        }
        _ => {}
    }
}

/// Returns whether a text is an id of Clerk's or Svix's: a prefix and 27 random characters.
fn is_id(text: &str) -> bool {
    let (of, random) = text.rsplit_once('_').unwrap_or_default();
    !of.is_empty() && random.len() == 27 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Returns whether the log contains the text, plain or escaped, or the beginning of a long one.
pub(super) fn is_in(log: &str, text: &str) -> bool {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Times contain many digits.
        return log.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == text);
    }
    let beginning: String = text.chars().take(BEGINNING).collect();
    let json = serde_json::to_string(&beginning).expect("a text");
    let debug = format!("{beginning:?}");
    [&beginning, json.trim_matches('"'), debug.trim_matches('"')].into_iter().any(|form| log.contains(form))
}
