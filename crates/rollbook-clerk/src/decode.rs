//! Decoding of answers: bytes to JSON objects.
//!
//! The bytes pass through [`rollbook_core::sanitize`], as those of webhooks do. The objects of a list are checked to
//! be JSON objects, and stay texts until a caller decodes them ([`RawObject`]): one with a member that is nested too
//! deeply must not make a page of 500 unreadable.

use std::collections::BTreeMap;

use rollbook_core::json::Document;
use rollbook_core::sanitize::sanitize;
use rollbook_core::source::RawObject;
use serde_json::value::RawValue;

/// Maximum length of an error code of Clerk that errors and logs repeat, in bytes.
const CODE_LENGTH_MAX: usize = 64;

/// Decodes a list: a bare array, or `{data, total_count}`. Returns the objects, which are valid JSON and stay texts,
/// and the total, where there is one.
pub(crate) fn list(body: &[u8]) -> Result<(Vec<RawObject>, Option<u64>), String> {
    let (text, _) = sanitize(body);
    let invalid = |error: serde_json::Error| not_json(body, &error);
    match text.trim_ascii_start().first() {
        Some(b'[') => Ok((objects(serde_json::from_slice(&text).map_err(invalid)?)?, None)),
        Some(b'{') => {
            let list: BTreeMap<String, &RawValue> = serde_json::from_slice(&text).map_err(invalid)?;
            let total = match list.get("total_count").map(|total| total.get()) {
                None | Some("null") => None,
                Some(total) => Some(total.parse().map_err(|_| "the list's total_count is not a number")?),
            };
            let data = list.get("data").and_then(|data| serde_json::from_str(data.get()).ok());
            Ok((objects(data.ok_or("the list has no data")?)?, total))
        }
        _ => {
            serde_json::from_slice::<&RawValue>(&text).map_err(invalid)?;
            Err("the answer is not a list".to_owned())
        }
    }
}

fn objects(elements: Vec<Box<RawValue>>) -> Result<Vec<RawObject>, String> {
    let object = |element| RawObject::new(element).ok_or("an element of the list is not an object");
    Ok(elements.into_iter().map(object).collect::<Result<_, _>>()?)
}

/// Decodes one object.
pub(crate) fn object(body: &[u8]) -> Result<Document, String> {
    let (text, _) = sanitize(body);
    let value = serde_json::from_slice(&text).map_err(|error| not_json(body, &error))?;
    Ok(RawObject::new(value).ok_or("the answer is not an object")?.decode())
}

/// Returns the code of an error answer, if it is a short lower-case word.
pub(crate) fn code(body: &[u8]) -> Option<String> {
    let answer = Document::read(body).ok()?;
    let code = answer.get("errors")?.elements().next()?.get("code")?.as_text()?;
    let is_code = (1..=CODE_LENGTH_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_code.then(|| code.into_owned())
}

/// Describes a body that is not valid JSON.
fn not_json(body: &[u8], error: &serde_json::Error) -> String {
    match body.trim_ascii_start().first() {
        None => "the body is empty".to_owned(),
        Some(b'<') => "the body is HTML or XML, not JSON".to_owned(),
        _ => format!("the body is not valid JSON, at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Result<(Vec<String>, Option<u64>), String> {
        let (objects, total) = list(body.as_bytes())?;
        Ok((objects.iter().map(|object| object.decode().as_str().to_owned()).collect(), total))
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
        assert_eq!(one.as_str(), expected);
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
