//! The samples as `rollbook send` sends them: one story of one user, with ids that are short and obviously invented.
//!
//! Ines Okafor (`user_sample`) is invited to the organization Kilnworks (`org_sample`) and becomes its member. She signs in
//! with several sessions, and Kilnworks subscribes to a plan and pays. Whoever sends all events, in any order, gets rows that
//! join. An event that deletes is therefore about an object of its own, such as `user_sample_deleted`.
//!
//! The samples themselves keep ids of Clerk's form and the persons of the world they were written for.

use serde_json::Value;

use crate::samples::sample;

/// Length of an id after its prefix, in Clerk's form.
const LENGTH: usize = 27;
/// Number of characters of a sample's id that a made-up id keeps, so that two of them differ.
const KEPT: usize = 4;

/// Texts of the samples with their replacement in the story.
const REPLACED: &[(&str, &str)] = &[
    ("user_3HAXlsF2HZt1LTFMSTEzouK5iZ8", "user_sample"),
    // The samples have a second person as the member. In the story both are one.
    ("user_3HAtf2fCAI6vwgS7ZUNF2TbP8mA", "user_sample"),
    ("Rafael", "Ines"),
    ("Dimitrov", "Okafor"),
    ("rafael.dimitrov@kilnworks.example", "ines.okafor@kilnworks.example"),
    ("org_3HAY0sZgBMdgmTEOYeWxvwASv2f", "org_sample"),
    ("orgmem_3HAtfdaKL2lBUoxIsG8l4YKd2H2", "orgmem_sample"),
    ("orginv_3HAbf57i35BvfSeGieAciJm5YRM", "orginv_sample"),
    ("orginv_3HAcsVycTDlzb7VBaREgjWtZTS8", "orginv_sample_revoked"),
    ("orgdmn_3HAmbfRzSBe9OJfS6GViQqBziOB", "orgdmn_sample"),
    ("role_3FLg84GRRepBHo9XMxLSN7DCAsI", "role_sample"),
    ("perm_3FLYpipiDO2R87zuW8vLzwyfO0C", "perm_sample"),
    ("sess_3HAdMjo227i4PTyED75fmz6FeA7", "sess_sample"),
    ("sess_3HAdUFTalXvLi1uedFKUZJdMQDJ", "sess_sample_pending"),
    ("sess_3HAdbjfbApRaXwgM3UDBn1cVxr7", "sess_sample_removed"),
    ("sess_3HAdjHxGughoSNqLAITscIxwnat", "sess_sample_revoked"),
    ("wle_3Gtb1u05QCQFZWFC91aSMEwWuIk", "wle_sample"),
    ("csub_3HDN8alhP4jsFOlseZRlvx7EvSd", "csub_sample"),
    ("csub_item_3HDbjQ7pwiAp7K2eMS5xikCnLBV", "csub_item_sample"),
    ("csub_item_3HDbjKLmTEBadq1ZzfjbxrBgtFo", "csub_item_sample_upcoming"),
    ("csub_item_3HDbjKnZIs32CqRthRaGNh1Hb1M", "csub_item_sample_abandoned"),
    ("cpa_3HDbjQrzABEMcsKaPMVl3Z3lFuZ", "cpa_sample"),
];

/// Returns the event of this type in the story as JSON, or `None` if Clerk has no such type.
pub fn event(event_type: &str) -> Option<String> {
    let mut event: Value = serde_json::from_str(sample(event_type)?).ok()?;
    let data = event.get_mut("data")?;
    replace(data);
    if event_type.ends_with(".deleted") {
        let id = data.get("id").and_then(Value::as_str).unwrap_or_default();
        let prefix = id.split("sample").next().unwrap_or_default();
        data["id"] = format!("{prefix}sample_deleted").into();
    }
    // Nobody invites herself: the application's server has sent the invitation.
    for inviter in ["inviter_id", "public_inviter_data"] {
        if let Some(inviter) = data.get_mut(inviter) {
            *inviter = Value::Null;
        }
    }
    Some(event.to_string())
}

/// Replaces all texts within a value that have another one in the story.
fn replace(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(new) = replacement(text) {
                *text = new;
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(replace),
        Value::Object(object) => object.values_mut().for_each(replace),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the text in the story; `None` if it is the same.
fn replacement(text: &str) -> Option<String> {
    if let Some((_, new)) = REPLACED.iter().find(|(old, _)| *old == text) {
        return Some((*new).to_owned());
    }
    let (prefix, rest) = text.rsplit_once('_')?;
    let is_id = rest.len() == LENGTH
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    // The id of the instance stays: a process may accept that of one instance only.
    (is_id && prefix != "ins").then(|| format!("{prefix}_sample_{}", &rest[LENGTH - KEPT..]))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::history::INSTANCE_ID;
    use crate::samples::event_types;

    fn texts(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::String(text) => found.push(text.clone()),
            Value::Array(elements) => elements.iter().for_each(|element| texts(element, found)),
            Value::Object(object) => object.values().for_each(|value| texts(value, found)),
            _ => {}
        }
    }

    fn data(json: &str) -> (Value, Vec<String>) {
        let event: Value = serde_json::from_str(json).expect("JSON");
        let mut found = Vec::new();
        texts(&event["data"], &mut found);
        (event["data"].clone(), found)
    }

    #[test]
    fn every_type_has_an_event_of_the_same_form_and_no_other_text_has_one() {
        for event_type in event_types() {
            let story: Value =
                serde_json::from_str(&event(event_type).expect("an event")).expect("it is JSON");
            let sample: Value = serde_json::from_str(sample(event_type).expect("a sample")).expect("JSON");
            assert_eq!(story["type"], event_type);
            assert_eq!(story["timestamp"], sample["timestamp"]);
            let keys =
                |of: &Value| of["data"].as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&story), keys(&sample), "{event_type}");
        }
        assert_eq!(event("user.frobnicated"), None);
    }

    #[test]
    fn ids_and_addresses_are_obviously_invented_and_different_objects_keep_different_ids() {
        let mut new_by_old: BTreeMap<String, String> = BTreeMap::new();
        for event_type in event_types() {
            let (_, old) = data(sample(event_type).expect("a sample"));
            let (_, new) = data(&event(event_type).expect("an event"));
            for text in &new {
                let is_real_id = replacement(text).is_some() && text != INSTANCE_ID;
                assert!(!is_real_id, "{event_type}: {text}");
                let is_address = text.contains('@') && !text.contains(' ') && !text.starts_with('@');
                assert!(!is_address || text.ends_with(".example"), "{event_type}: {text}");
            }
            if !event_type.ends_with(".deleted") && !event_type.starts_with("organizationInvitation") {
                assert_eq!(old.len(), new.len(), "{event_type}");
                new_by_old.extend(old.into_iter().zip(new).filter(|(old, new)| old != new));
            }
        }
        let ids: Vec<&String> = new_by_old.values().filter(|new| new.contains("_sample")).collect();
        let different: BTreeSet<&&String> = ids.iter().collect();
        // The two persons of the samples are one.
        assert_eq!(ids.len(), different.len() + 1, "{ids:?}");
    }

    #[test]
    fn a_deletion_is_about_an_object_that_no_other_event_is_about() {
        let id = |event_type: &str| data(&event(event_type).expect("an event")).0["id"].to_string();
        let (deleted, others): (Vec<_>, Vec<_>) =
            event_types().partition(|event_type| event_type.ends_with(".deleted"));
        let others: BTreeSet<String> = others.into_iter().map(id).collect();
        for event_type in deleted {
            let id = id(event_type);
            assert!(id.ends_with("_sample_deleted\"") && !others.contains(&id), "{event_type}: {id}");
        }
    }
}
