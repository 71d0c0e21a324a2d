//! Classes of answers: what is read, what proves absence, what is repeated, and what needs manual action.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, DATE, RETRY_AFTER};
use hyper::http::HeaderValue;
use jiff::fmt::rfc2822::DateTimeParser;
use rollbook_core::source::SourceError;
use rollbook_core::time::Timestamp;
use rollbook_http::pool::PoolAnswer;
use tokio::sync::Semaphore;

use super::Decode;
use super::copies::stored_in_cache;
use crate::decode;
use crate::request::Request;

/// Clerk's code of a 404 that means: there is no such object. Any other 404 may be a wrong URL.
const NOT_FOUND: &str = "resource_not_found";
/// Part of Clerk's codes for a feature that the instance does not have, such as
/// `organization_not_enabled_in_instance`.
const NOT_ENABLED: &str = "not_enabled";

/// Length of an answer in bytes up to which the caller's thread decodes it. A megabyte takes milliseconds, in which other tasks
/// of the thread would wait, such as acknowledgements.
const DECODED_HERE_MAX: usize = 64 * 1024;

/// A complete answer of Clerk's.
pub(super) struct Answer(pub(super) PoolAnswer);

/// Reason why an attempt failed. The text contains no id and no body.
pub(super) struct Failure {
    class: fn(String) -> SourceError,
    pub(super) text: String,
    /// Whether a repetition may succeed.
    pub(super) is_temporary: bool,
    /// Whether the rate limit was exceeded.
    pub(super) is_excess: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    fn new(class: fn(String) -> SourceError, text: String, is_temporary: bool) -> Self {
        Self { class, text, is_temporary, is_excess: false, retry_after: None }
    }

    pub(super) fn unavailable(text: String) -> Self {
        Self::new(SourceError::Unavailable, text, true)
    }

    pub(super) fn refused(text: String) -> Self {
        Self::new(SourceError::Refused, text, false)
    }

    pub(super) fn unreadable(text: String) -> Self {
        Self::new(SourceError::Unreadable, text, true)
    }

    /// A repetition would be as large.
    pub(super) fn too_large(text: String) -> Self {
        Self::new(SourceError::TooLarge, text, false)
    }

    pub(super) fn into_error(self, request: &Request, attempts: u32) -> SourceError {
        let tries = if attempts > 1 { format!(" (tried {attempts} times)") } else { String::new() };
        (self.class)(request.describe(&format!("{}{tries}", self.text)))
    }
}

impl Answer {
    /// As [`Self::judge`]. A long answer waits for its turn, and is decoded on a thread for long work.
    pub(super) async fn judge_apart<T: Send + 'static>(
        self,
        decode: Decode<T>,
        turns: &Semaphore,
    ) -> Result<(Option<T>, Timestamp), Failure> {
        if self.0.body.len() <= DECODED_HERE_MAX {
            return self.judge(decode);
        }
        // The semaphore is never closed.
        let _turn = turns.acquire().await;
        let judged = tokio::task::spawn_blocking(move || self.judge(decode)).await;
        judged.unwrap_or_else(|_| Err(Failure::unavailable("the answer was not decoded".to_owned())))
    }

    /// Returns the decoded body and Clerk's time. `None` if Clerk says that there is no such object.
    fn judge<T>(&self, decode: Decode<T>) -> Result<(Option<T>, Timestamp), Failure> {
        if self.0.status == StatusCode::OK {
            let clock = self.clock()?;
            return Ok((Some(decode(self.plain_body()?).map_err(Failure::unreadable)?), clock));
        }
        let code = decode::code(&self.0.body).unwrap_or_default();
        if self.0.status == StatusCode::NOT_FOUND && code == NOT_FOUND {
            return Ok((None, self.clock()?));
        }
        let said = format!("{} {code}", self.0.status.as_u16()).trim_end().to_owned();
        Err(match self.0.status.as_u16() {
            429 => Failure { is_excess: true, retry_after: self.retry_after(), ..Failure::unavailable(said) },
            408 | 425 | 500..=599 => {
                Failure { retry_after: self.retry_after(), ..Failure::unavailable(said) }
            }
            401 => Failure::refused(format!(
                "{said}; the secret key is wrong or revoked. Check CLERK_SECRET_KEY"
            )),
            400..=499 if code.contains(NOT_ENABLED) => Failure::new(SourceError::NotEnabled, said, false),
            300..=399 | 404 => Failure::refused(format!(
                "{said}; the URL is not the one of Clerk's API. Check CLERK_API_URL"
            )),
            400..=499 => Failure::refused(said),
            _ => Failure::unreadable(format!("{said}, where 200 is expected")),
        })
    }

    /// Returns Clerk's time. An answer that a cache has stored proves nothing, whatever its time.
    fn clock(&self) -> Result<Timestamp, Failure> {
        if let Some(how) = stored_in_cache(&self.0.headers) {
            return Err(Failure::unreadable(how));
        }
        self.date().ok_or_else(|| Failure::unreadable("the answer has no valid Date header".to_owned()))
    }

    fn plain_body(&self) -> Result<&[u8], Failure> {
        let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if self.0.headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
            return Ok(&self.0.body);
        }
        Err(Failure::unreadable(
            "the body is compressed, although the request asks for a plain one".to_owned(),
        ))
    }

    fn date(&self) -> Option<Timestamp> {
        http_date(self.0.headers.get(DATE)?.to_str().ok()?)
    }

    /// Returns the time to wait: a number of seconds, or a date, which counts from Clerk's own.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.0.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
        }
        Some(http_date(text)?.since(self.date()?))
    }
}

fn http_date(text: &str) -> Option<Timestamp> {
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_millis(date.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const DATE_TEXT: &str = "Sun, 29 Nov 2026 09:30:00 GMT";

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        Answer(PoolAnswer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: headers.collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date_from_clerks_own() {
        for (retry_after, date, seconds) in [
            ("7", None, Some(7)),
            ("0", None, Some(0)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("Sun, 29 Nov 2026 09:30:12 GMT", Some(DATE_TEXT), Some(12)),
            ("Sun, 29 Nov 2026 09:29:12 GMT", Some(DATE_TEXT), Some(0)),
            ("Sun, 29 Nov 2026 09:30:12 GMT", None, None),
            ("-1", Some(DATE_TEXT), None),
            ("soon", Some(DATE_TEXT), None),
            ("", Some(DATE_TEXT), None),
        ] {
            let mut headers = vec![("retry-after", retry_after)];
            headers.extend(date.map(|date| ("date", date)));
            let found = answer(429, &headers, "").retry_after();
            assert_eq!(found, seconds.map(Duration::from_secs), "{retry_after}");
        }
    }

    #[test]
    fn the_clock_is_the_date_of_the_answer_and_without_one_the_answer_is_unreadable() {
        let clock = |headers: &[(&'static str, &str)]| {
            answer(200, headers, "").judge(|_| Ok(())).map(|(_, clock)| clock.to_string()).map_err(|f| f.text)
        };
        assert_eq!(clock(&[("date", DATE_TEXT)]).as_deref(), Ok("2026-11-29T09:30:00.000Z"));
        for headers in [&[][..], &[("date", "now")], &[("date", "")]] {
            assert_eq!(clock(headers), Err("the answer has no valid Date header".to_owned()));
        }
    }

    #[test]
    fn an_answer_of_a_cache_is_neither_an_object_nor_a_proof_of_absence() {
        let not_found = r#"{"errors":[{"code":"resource_not_found","message":"m"}]}"#;
        for (status, body) in [(200, "{}"), (404, not_found)] {
            let judge = |header: (&'static str, &str)| {
                answer(status, &[("date", DATE_TEXT), header], body).judge(|_| Ok(())).map_err(|failure| {
                    assert!(failure.is_temporary, "the copy may expire");
                    failure.text
                })
            };
            assert!(judge(("age", "0")).is_ok());
            let text = judge(("age", "7")).expect_err("a copy");
            assert!(text.starts_with("the answer comes from a cache (header age)"), "{text}");
        }
    }

    #[test]
    fn a_compressed_body_is_unreadable() {
        let judge = |encoding: &str| {
            let headers = [("date", DATE_TEXT), ("content-encoding", encoding)];
            answer(200, &headers, "[]").judge(|_| Ok(())).map(|_| ()).map_err(|failure| failure.text)
        };
        assert_eq!(judge("identity"), Ok(()));
        for encoding in ["gzip", "br", "identity, gzip"] {
            let text = "the body is compressed, although the request asks for a plain one";
            assert_eq!(judge(encoding), Err(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn long_answers_are_decoded_on_another_thread_than_short_ones() {
        let here = std::thread::current().id();
        for (length, is_here) in [(0, true), (DECODED_HERE_MAX, true), (DECODED_HERE_MAX + 1, false)] {
            let answer = answer(200, &[("date", DATE_TEXT)], &"x".repeat(length));
            let judged = answer.judge_apart(|_| Ok(std::thread::current().id()), &Semaphore::new(1)).await;
            let (decoded_by, _) = judged.map_err(|failure| failure.text).expect("an answer");
            assert_eq!(decoded_by == Some(here), is_here, "{length} bytes");
        }
    }

    #[test]
    fn every_status_has_its_class() {
        let body = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"user_1"}}]}}"#);
        let judge = |status, code: &str| {
            let judged = answer(status, &[("date", DATE_TEXT)], &body(code)).judge(|_| Ok(()));
            judged.map(|(found, _)| found).map_err(|failure| {
                let is_temporary = failure.is_temporary;
                (failure.into_error(&Request::new("/x"), 1), is_temporary)
            })
        };
        let refused = |text: &str| Err((SourceError::Refused(format!("GET /x: {text}")), false));
        assert_eq!(judge(404, "resource_not_found"), Ok(None));
        assert_eq!(
            judge(404, ""),
            refused("404; the URL is not the one of Clerk's API. Check CLERK_API_URL")
        );
        assert_eq!(
            judge(308, ""),
            refused("308; the URL is not the one of Clerk's API. Check CLERK_API_URL")
        );
        assert_eq!(
            judge(401, "clerk_key_invalid"),
            refused("401 clerk_key_invalid; the secret key is wrong or revoked. Check CLERK_SECRET_KEY")
        );
        assert_eq!(judge(422, "form_param_invalid"), refused("422 form_param_invalid"));
        for status in [400, 402, 403, 405, 407, 410, 413, 414, 451] {
            assert_eq!(judge(status, ""), refused(&status.to_string()));
        }
        for status in [402, 403] {
            let text = format!("GET /x: {status} organization_not_enabled_in_instance");
            let expected = Err((SourceError::NotEnabled(text), false));
            assert_eq!(judge(status, "organization_not_enabled_in_instance"), expected);
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 520, 599] {
            let expected = Err((SourceError::Unavailable(format!("GET /x: {status} x")), true));
            assert_eq!(judge(status, "x"), expected);
        }
        for status in [201, 204, 206, 600] {
            let text = format!("GET /x: {status}, where 200 is expected");
            assert_eq!(judge(status, ""), Err((SourceError::Unreadable(text), true)));
        }
    }
}
