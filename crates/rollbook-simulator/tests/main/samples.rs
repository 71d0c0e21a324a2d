//! Samples match their file names.

use std::collections::BTreeSet;
use std::path::Path;

use rollbook_simulator::history::INSTANCE_ID;
use rollbook_simulator::samples;
use serde_json::Value;

fn files(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(folder);
    let entries = std::fs::read_dir(folder).expect("the samples are there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("plain names"));
    names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
}

fn read(json: &str) -> Value {
    serde_json::from_str(json).expect("a sample is JSON")
}

#[test]
fn every_file_is_built_in_under_its_name() {
    let names = |all: &[(&str, &str)]| all.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files(""), samples::event_types().map(str::to_owned).collect());
    assert_eq!(files("variants"), names(samples::variants()));
    assert_eq!(files("unconfirmed"), names(samples::unconfirmed()));
}

#[test]
fn each_of_the_45_types_has_a_sample_of_that_type() {
    let types: Vec<&str> = samples::event_types().collect();
    assert_eq!(types.len(), 45);
    assert!(types.is_sorted());
    for event_type in types {
        let event = read(samples::sample(event_type).expect("its own sample"));
        assert_eq!(event["type"], event_type);
        assert_eq!(event["object"], "event");
        assert_eq!(event["instance_id"], INSTANCE_ID);
        assert!(event["timestamp"].is_i64() && event["data"]["id"].is_string(), "{event_type}");
    }
    assert_eq!(samples::sample("user.frobnicated"), None);
}

#[test]
fn the_name_of_a_variant_begins_with_its_event_type() {
    for (name, json) in samples::variants().iter().chain(samples::unconfirmed()) {
        let event: Value = match serde_json::from_str(json) {
            Ok(event) => event,
            // Deliberately nested deeper than serde_json reads.
            Err(error) => {
                assert!(name.ends_with("depth-200"), "{name}: {error}");
                continue;
            }
        };
        let event_type = event["type"].as_str().expect("a type");
        let free = ["envelope.", "unknown."].iter().any(|prefix| name.starts_with(prefix));
        assert!(free || name.starts_with(event_type), "{name}: {event_type}");
    }
}
