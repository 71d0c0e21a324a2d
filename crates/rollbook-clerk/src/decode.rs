//! Decoding of answers: bytes to JSON objects.
//!
//! The bytes pass through [`rollbook_core::sanitize`], as those of webhooks do. A member that is nested too deeply
//! to be parsed safely becomes its own text: users can write such metadata themselves, and one of them must not
//! make a page of 500 unreadable.

use std::collections::BTreeMap;

use rollbook_core::sanitize::sanitize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Maximum length of an error code of Clerk that errors and logs repeat, in bytes.
const CODE_LENGTH_MAX: usize = 64;

/// Decodes a list: a bare array, or `{data, total_count}`. Returns the objects and the total, where there is one.
pub(crate) fn list(body: &[u8]) -> Result<(Vec<Object>, Option<u64>), String> {
    let (elements, total) = match json(body, shallow_list)? {
        Value::Array(elements) => (elements, None),
        Value::Object(mut list) => {
            let total = match list.get("total_count") {
                None | Some(Value::Null) => None,
                Some(total) => Some(total.as_u64().ok_or("the list's total_count is not a number")?),
            };
            match list.remove("data") {
                Some(Value::Array(elements)) => (elements, total),
                _ => return Err("the list has no data".to_owned()),
            }
        }
        _ => return Err("the answer is not a list".to_owned()),
    };
    let objects = elements.into_iter().map(|element| match element {
        Value::Object(object) => Ok(object),
        _ => Err("an element of the list is not an object".to_owned()),
    });
    Ok((objects.collect::<Result<_, _>>()?, total))
}

/// Decodes one object.
pub(crate) fn object(body: &[u8]) -> Result<Object, String> {
    match json(body, |text| Ok(Value::Object(shallow(serde_json::from_slice(text)?))))? {
        Value::Object(object) => Ok(object),
        _ => Err("the answer is not an object".to_owned()),
    }
}

/// Returns the code of an error answer, if it is a short lower-case word.
pub(crate) fn code(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(&sanitize(body).0).ok()?;
    let code = answer.get("errors")?.get(0)?.get("code")?.as_str()?;
    let is_code = (1..=CODE_LENGTH_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_code.then(|| code.to_owned())
}

/// Parses a body; with `parse_shallow` if it is nested too deeply for the parser.
fn json(body: &[u8], parse_shallow: impl Fn(&[u8]) -> serde_json::Result<Value>) -> Result<Value, String> {
    let (text, _) = sanitize(body);
    let parsed = match serde_json::from_slice(&text) {
        Err(error) if is_too_deep(&error) => parse_shallow(&text),
        parsed => parsed,
    };
    parsed.map_err(|error| match body.trim_ascii_start().first() {
        None => "the body is empty".to_owned(),
        Some(b'<') => "the body is HTML or XML, not JSON".to_owned(),
        _ => format!("the body is not valid JSON, at line {} column {}", error.line(), error.column()),
    })
}

/// The recursion limit has no error category of its own.
fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit")
}

type Members = BTreeMap<String, Box<RawValue>>;

/// Parses a list, each element member by member.
fn shallow_list(text: &[u8]) -> serde_json::Result<Value> {
    let elements = |text: &[u8]| -> serde_json::Result<Value> {
        let elements: Vec<Members> = serde_json::from_slice(text)?;
        Ok(elements.into_iter().map(|members| Value::Object(shallow(members))).collect())
    };
    if text.trim_ascii_start().first() == Some(&b'[') {
        return elements(text);
    }
    let mut list: Members = serde_json::from_slice(text)?;
    let data = list.remove("data").map(|data| elements(data.get().as_bytes())).transpose()?;
    let mut list = shallow(list);
    list.extend(data.map(|data| ("data".to_owned(), data)));
    Ok(Value::Object(list))
}

/// Parses each member. One that is nested too deeply becomes its text.
fn shallow(members: Members) -> Object {
    let parse = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into());
    members.into_iter().map(|(name, raw)| (name, parse(&raw))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Result<(Vec<String>, Option<u64>), String> {
        let (objects, total) = list(body.as_bytes())?;
        Ok((objects.into_iter().map(|object| Value::Object(object).to_string()).collect(), total))
    }

    #[test]
    fn both_forms_of_lists_are_decoded() {
        let objects = vec![r#"{"id":"a"}"#.to_owned()];
        assert_eq!(texts(r#"[{"id":"a"}]"#), Ok((objects.clone(), None)));
        assert_eq!(texts(r#"{"data":[{"id":"a"}],"total_count":7}"#), Ok((objects.clone(), Some(7))));
        assert_eq!(texts(r#"{"data":[{"id":"a"}]}"#), Ok((objects, None)));
        assert_eq!(texts("[]"), Ok((vec![], None)));
        assert_eq!(texts(r#" {"total_count":0,"data":[]} "#), Ok((vec![], Some(0))));
    }

    #[test]
    fn what_is_not_a_list_of_objects_is_an_error_and_never_an_empty_list() {
        for (body, error) in [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("<!DOCTYPE html><p>user_1", "the body is HTML or XML, not JSON"),
            ("{}", "the list has no data"),
            ("null", "the answer is not a list"),
            ("7", "the answer is not a list"),
            (r#"{"data":null,"total_count":0}"#, "the list has no data"),
            (r#"{"data":{},"total_count":0}"#, "the list has no data"),
            (r#"{"data":[],"total_count":"0"}"#, "the list's total_count is not a number"),
            (r#"{"data":[],"total_count":-1}"#, "the list's total_count is not a number"),
            (r#"[{"id":"user_1"},7]"#, "an element of the list is not an object"),
            ("[null]", "an element of the list is not an object"),
            (r#"[{"id":"user_1"}"#, "the body is not valid JSON, at line 1 column 16"),
            ("[] []", "the body is not valid JSON, at line 1 column 4"),
        ] {
            assert_eq!(texts(body), Err(error.to_owned()), "{body}");
        }
    }

    #[test]
    fn characters_that_a_database_refuses_are_replaced_and_numbers_keep_their_digits() {
        let (objects, _) = texts(r#"[{"a":"\ud800\u0000","n":1.230000000000000000000001}]"#).expect("a list");
        assert_eq!(objects, ["{\"a\":\"\u{fffd}\u{fffd}\",\"n\":1.230000000000000000000001}"]);
    }

    #[test]
    fn a_member_that_is_nested_too_deeply_becomes_its_text_and_spoils_no_other() {
        let deep = format!("{}{}", "[".repeat(4000), "]".repeat(4000));
        let member = format!(r#"{{"id":"a","unsafe_metadata":{deep}}}"#);
        let expected = format!(r#"{{"id":"a","unsafe_metadata":"{deep}"}}"#);
        let bare = texts(&format!(r#"[{member},{{"id":"b","n":1.0}}]"#)).expect("a list");
        assert_eq!(bare, (vec![expected.clone(), r#"{"id":"b","n":1.0}"#.to_owned()], None));
        let wrapped = texts(&format!(r#"{{"total_count":1,"data":[{member}]}}"#)).expect("a list");
        assert_eq!(wrapped, (vec![expected.clone()], Some(1)));
        let one = object(member.as_bytes()).expect("an object");
        assert_eq!(Value::Object(one).to_string(), expected);
        assert!(texts(&format!("[{deep}]")).is_err(), "an element that is not an object");
        assert!(texts(&format!(r"[{member}")).is_err(), "cut off");
    }

    #[test]
    fn only_a_short_lower_case_code_is_repeated() {
        let body = |code: &str| format!(r#"{{"errors":[{{"message":"m","code":"{code}"}}]}}"#);
        let read = |code_: &str| code(body(code_).as_bytes());
        assert_eq!(read("resource_not_found").as_deref(), Some("resource_not_found"));
        assert_eq!(read(&"x".repeat(CODE_LENGTH_MAX)), Some("x".repeat(CODE_LENGTH_MAX)));
        for odd in ["", "user_1", "sk live", "A", &"x".repeat(CODE_LENGTH_MAX + 1)] {
            assert_eq!(read(odd), None, "{odd}");
        }
        for body in ["", "<html>", "{}", r#"{"errors":[]}"#, r#"{"errors":[{"code":7}]}"#] {
            assert_eq!(code(body.as_bytes()), None);
        }
    }
}
