//! The canonical form of JSON against a tree of values, which takes forty times the memory.

use proptest::prelude::*;
use rollbook_core::change::Effect;
use rollbook_core::event::parse;
use rollbook_core::json::{Document, Json, Members};
use rollbook_core::sanitize::{NUMBER_DIGITS_MAX, sanitize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Maximum depth of a value that `serde_json` reads.
const DEPTH_MAX: usize = 127;

/// Parses a text to a tree of values. Returns the tree and the number of replacements.
fn tree(text: &[u8]) -> Result<(Value, usize), serde_json::Error> {
    let (text, replaced) = sanitize(text);
    let mut value = serde_json::from_slice(&text)?;
    let numbers = replace_long_numbers(&mut value);
    Ok((value, replaced + numbers))
}

fn replace_long_numbers(value: &mut Value) -> usize {
    match value {
        Value::Number(number) if is_too_long(number.as_str()) => {
            *value = Value::String(number.to_string());
            1
        }
        Value::Array(elements) => elements.iter_mut().map(replace_long_numbers).sum(),
        Value::Object(members) => members.values_mut().map(replace_long_numbers).sum(),
        _ => 0,
    }
}

/// Whether a number has too many digits when its exponent is written out as zeros.
fn is_too_long(number: &str) -> bool {
    let (digits, zeros) = number.split_once('e').unwrap_or((number, "0"));
    let zeros = zeros.trim_start_matches(['+', '-']).parse().unwrap_or(usize::MAX);
    zeros.saturating_add(digits.len()) > NUMBER_DIGITS_MAX
}

/// Asserts that a text has the canonical form, the replacements and the error of its tree.
fn check(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    match (Document::read(text), tree(text)) {
        (Ok(document), Ok((value, replaced))) => {
            assert_eq!(document.as_str(), value.to_string(), "{shown}");
            assert_eq!(document.replaced(), replaced, "{shown}");
            check_reading(document.value(), &value);
            check_members(document.members(), document.value());
            let null = Document::default();
            check_members(document.data(), document.get("data").unwrap_or(null.value()));
        }
        (document, value) => {
            let [ours, theirs] =
                [document.map(drop), value.map(drop)].map(|of| of.map_err(|e| e.to_string()));
            assert_eq!(ours, theirs, "{shown}");
        }
    }
}

/// Asserts that the members of a value are found by their keys, and no others.
fn check_members(members: Option<Members<'_>>, value: Json<'_>) {
    assert_eq!(members.is_some(), value.is_object());
    let Some(members) = members else { return };
    assert_eq!(members.object(), value);
    assert_eq!(members.get("no such key"), None);
    for (key, member) in value.members() {
        assert_eq!(members.get(key), Some(member), "{key}");
    }
}

/// Asserts that reading a value gives the same as its tree.
fn check_reading(json: Json<'_>, value: &Value) {
    assert_eq!(json.as_json(), value.to_string());
    assert_eq!(json.as_text().as_deref(), value.as_str());
    assert_eq!(json.as_bool(), value.as_bool());
    assert_eq!(json.as_number().map(str::to_owned), value.as_number().map(ToString::to_string));
    assert_eq!(json.as_integer::<i64>(), value.as_i64());
    assert_eq!(
        (json.is_null(), json.is_list(), json.is_object()),
        (value.is_null(), value.is_array(), value.is_object())
    );
    let elements: Vec<_> = json.elements().collect();
    assert_eq!(elements.len(), value.as_array().map_or(0, Vec::len));
    elements
        .into_iter()
        .zip(value.as_array().into_iter().flatten())
        .for_each(|(one, other)| check_reading(one, other));
    let members: Vec<_> = json.members().collect();
    assert_eq!(members.len(), value.as_object().map_or(0, Map::len));
    for ((key, one), (name, other)) in members.into_iter().zip(value.as_object().into_iter().flatten()) {
        assert_eq!(format!("\"{key}\""), Value::from(name.as_str()).to_string());
        assert_eq!(json.get(key), Some(one));
        check_reading(one, other);
    }
}

/// Removes the value at a path of keys.
fn remove(value: &mut Value, path: &[&str]) {
    match path {
        [key] => drop(value.as_object_mut().and_then(|object| object.remove(*key))),
        [first, rest @ ..] => value.get_mut(*first).into_iter().for_each(|inner| remove(inner, rest)),
        [] => {}
    }
}

/// White space, mostly none.
fn space() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec!["", "", "", " ", "\n\t", "\r "])
}

/// A text between quotation marks, as a sender may write it. Few different ones, so that keys repeat.
fn quoted() -> impl Strategy<Value = String> {
    let parts = vec![
        "a",
        "b",
        "B",
        "_",
        "id",
        " ",
        "\u{e9}",
        "\u{ffff}",
        "\u{1f600}",
        "\u{7f}",
        "\u{2028}",
        "[",
        "{",
        ",",
        ":",
        r"\u0000",
        r"\ud800",
        r"\udc00",
        r"\ud83d\ude00",
        r"\u00e9",
        r"\u001f",
        r"\n",
        r"\b",
        r"\/",
        r"\\",
        r#"\""#,
        r"\u0041",
        r"\u0024",
        "$serde_json::private::Number",
        r"\u0024serde_json::private::RawValue",
    ];
    let parts = prop::collection::vec(prop::sample::select(parts), 0..4);
    let any = parts.prop_map(|parts| format!("\"{}\"", parts.concat()));
    prop_oneof![9 => any, 1 => Just("\"data\"".to_owned())]
}

fn number() -> impl Strategy<Value = String> {
    let digits = "9".repeat(NUMBER_DIGITS_MAX);
    let odd = [
        "-0",
        "-0.0",
        "0E5",
        "1e+5",
        "1E-5",
        "18446744073709551615",
        "18446744073709551616",
        "1e999",
        "1e1000",
    ];
    let odd = odd.map(str::to_owned).into_iter().chain([digits.clone(), format!("{digits}9")]);
    prop_oneof![
        3 => "-?(0|[1-9][0-9]{0,25})",
        3 => r"-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,8})?([eE][+-]?[0-9]{1,4})?",
        1 => prop::sample::select(odd.collect::<Vec<_>>()),
    ]
}

/// A JSON text as a sender may write it.
fn text() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec!["null", "true", "false"]).prop_map(str::to_owned);
    let leaf = prop_oneof![1 => plain, 3 => number(), 3 => quoted()];
    leaf.prop_recursive(6, 60, 8, |inner| {
        let padded =
            (space(), inner, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (space(), quoted(), space(), padded.clone());
        let member = member.prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            prop::collection::vec(padded, 0..6).prop_map(|elements| format!("[{}]", elements.join(","))),
            prop::collection::vec(member, 0..8).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

#[test]
fn a_text_is_read_to_the_depth_that_a_tree_is_read_to() {
    for (open, close) in [("[", "]"), (r#"{"b":0,"a":"#, "}")] {
        let nested = |depth: usize| format!("{}7{}", open.repeat(depth), close.repeat(depth));
        for depth in [1, DEPTH_MAX, DEPTH_MAX + 1, 100_000] {
            check(nested(depth).as_bytes());
            assert_eq!(Document::read(nested(depth).as_bytes()).is_ok(), depth <= DEPTH_MAX);
        }
    }
}

#[test]
fn a_number_with_too_many_digits_becomes_a_text() {
    let (long, longer) = ("9".repeat(NUMBER_DIGITS_MAX), "9".repeat(NUMBER_DIGITS_MAX + 1));
    for (number, is_text) in [
        ("1e+999", false),
        ("-1e+998", false),
        ("1e-999", false),
        ("5e-324", false),
        ("-0.0", false),
        (&*long, false),
        ("1e+1000", true),
        ("1e-1000", true),
        ("1e+131072", true),
        ("1e-99999999999999999999", true),
        (&*longer, true),
    ] {
        let document = Document::read(format!("[{number}]").as_bytes()).expect("JSON");
        let expected = if is_text { format!("[\"{number}\"]") } else { format!("[{number}]") };
        assert_eq!((document.as_str(), document.replaced()), (&*expected, usize::from(is_text)));
    }
}

#[test]
fn a_value_that_another_one_of_its_key_replaces_leaves_nothing() {
    let document = Document::read(br#"{"b":1e9999,"a":{"x":[1e9999],"x":[]},"b":2}"#).expect("JSON");
    assert_eq!((document.as_str(), document.replaced()), (r#"{"a":{"x":[]},"b":2}"#, 0));
}

#[test]
fn members_are_found_whatever_their_keys_and_their_number_of_values() {
    for text in [
        "{}",
        r#"{"data":{}}"#,
        r#"{"data":{"a":1},"data":5}"#,
        r#"{"data":5,"data":{"b":2,"a":{}}}"#,
        r#"{"data":{"a":1},"data":{"b":2,"a":{},"b":3}}"#,
        r#"{"x":{"data":{"b":1}},"data":[{"c":1}],"a":{"data":{"b":1}}}"#,
        r#"[{"data":{"b":1}}]"#,
        r#"{"\u0064ata":{"\n":1,"!":2,"a":3,"\"":4},"\n":1,"!":2}"#,
    ] {
        check(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_has_the_canonical_form_of_its_tree(text in text()) {
        check(text.as_bytes());
    }

    #[test]
    fn a_damaged_text_is_read_or_refused_as_a_tree_is(text in text(), at: prop::sample::Index, byte: u8, is_cut: bool) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        if is_cut {
            text.truncate(at);
        } else {
            text[at] = byte;
        }
        check(&text);
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_a_tree_is(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        check(&bytes);
    }

    #[test]
    fn the_stored_content_and_its_hash_are_those_of_the_tree(
        member in text(), key in quoted(), url in text(),
        kind in prop::sample::select(vec!["user.updated", "waitlistEntry.updated", "organizationInvitation.created"]),
    ) {
        let body = format!(
            r#"{{"data":{{"url":{url},"invitation":{{{key}:{member},"url":{url}}},{key}:{member},"id":"a"}},"type":"{kind}","timestamp":1}}"#
        );
        check(body.as_bytes());
        let Effect::Merge(subject) = parse(body.as_bytes(), None).expect("an event").effect else { panic!("ignored") };
        let (mut event, _) = tree(body.as_bytes()).expect("JSON");
        let mut data = event["data"].take();
        for path in subject.resource.secrets {
            remove(&mut data, path);
        }
        let data = data.to_string();
        prop_assert_eq!(&subject.version.hash[..], &Sha256::digest(data.as_bytes())[..16]);
        let row = subject.row.expect("a row with content");
        prop_assert_eq!(&row.data, &data);
    }

    #[test]
    fn a_value_of_a_program_has_the_canonical_form_too(text in text()) {
        let (value, _) = tree(text.as_bytes()).expect("JSON");
        let document = Document::from(&json!({ "a": value.clone() }));
        prop_assert_eq!(document.get("a").map(|a| a.as_json().to_owned()), Some(value.to_string()));
    }
}
