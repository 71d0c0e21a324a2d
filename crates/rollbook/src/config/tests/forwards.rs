//! Settings of forwards.

use rollbook_forwarder::{FORWARDS_MAX, NAME_LENGTH_MAX};

use super::*;

/// A forward with this name and these lines in addition.
fn forward(name: &str, more: &str) -> String {
    format!("[forward.{name}]\nsecret = \"{SECRET}\"\n{more}\n")
}

const URL: &str = "url = \"https://app.example/hooks/ImASecret\"";

#[test]
fn a_forward_is_read_with_its_defaults_and_shown_without_its_secret_and_the_path_of_its_url() {
    let secrets = file(&format!("{SECRET}\nwhsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"));
    let more = format!("{URL}\nresources = \"users\"\nexpand = \"yes\"\ntimeout = \"30s\"");
    let text = format!("[forward.crm]\nsecret_file = \"{}\"\n{more}\n", secrets.path().display());
    let config = load(&[], &[], Some(file(&text).path())).unwrap_or_else(|problems| panic!("{problems}"));
    let crm = &config.forwards["crm"];
    assert_eq!((crm.secret.len(), crm.expand, crm.backfill, crm.kinds.len()), (2, true, false, 0));
    assert_eq!((crm.timeout, crm.concurrency, crm.blocked_max), (Duration::from_secs(30), 8, 1_000));
    let shown = format!("{}{}", config.text(&[]), config.json(&[]));
    assert!(shown.contains("forward.crm.url") && shown.contains("https://app.example/…"), "{shown}");
    assert!(!shown.contains("ImASecret") && !shown.contains("whsec_M"), "{shown}");
    assert_eq!(config.json(&[])["forward.crm.url"]["environment"], serde_json::Value::Null);
    assert!(config.files_read().iter().any(|read| read.path == secrets.path() && read.is_secret));
}

#[test]
fn a_forward_that_could_not_work_or_would_be_unsafe_is_refused_by_the_name_of_its_setting() {
    let long = "n".repeat(NAME_LENGTH_MAX + 1);
    let many: String = (0..=FORWARDS_MAX).map(|number| forward(&format!("f{number}"), URL)).collect();
    for (text, found) in [
        (forward("crm", ""), "forward.crm.url: is not set"),
        (format!("[forward.crm]\n{URL}\n"), "forward.crm.secret: is not set"),
        (forward("crm", "url = \"http://app.internal/ImASecret\""), "forward.crm.url ("),
        (forward("crm", &format!("{URL}\ntimeout = \"31s\"")), "forward.crm.timeout ("),
        (forward("crm", &format!("{URL}\nconcurrency = 65")), "forward.crm.concurrency ("),
        (forward("crm", &format!("{URL}\nbackoff = \"11m\"")), "forward.crm.backoff ("),
        (forward("crm", &format!("{URL}\nblocked_max = 10001")), "forward.crm.blocked_max ("),
        (forward("crm", &format!("{URL}\nresources = \"user\"")), "did you mean users?"),
        (forward("crm", &format!("{URL}\nurls = 1")), "forward.crm.urls ("),
        (format!("changes = \"no\"\n{}", forward("crm", URL)), "there would be nothing to send"),
        (forward(&long, URL), "at most 64"),
        (forward("\"\"", URL), "write [forward.NAME]"),
        (forward("\"a b\"", URL), "write [forward.NAME]"),
        (many, "there are 17 forwards; at most 16"),
    ] {
        let refusal = refusal(load(&[], &[], Some(file(&text).path())));
        assert!(refusal.contains(found), "{found} in {refusal}");
        assert!(!refusal.contains("ImASecret") && refusal.lines().count() == 1, "{refusal}");
    }
    let allowed = forward("crm", "url = \"http://app.internal/\"\nallow_http = \"yes\"");
    assert!(load(&[], &[], Some(file(&allowed).path())).is_ok());
    let longest = forward(&long[1..], URL);
    assert!(load(&[], &[], Some(file(&longest).path())).is_ok());
}
