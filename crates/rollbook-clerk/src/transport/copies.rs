//! Answers that a cache between Rollbook and Clerk has stored.
//!
//! Every request asks caches for a fresh answer (`Cache-Control: no-cache`). A cache that gives a stored one in spite of it
//! says so in a header, or it repeats the number that Cloudflare, in front of Clerk's API, gives to each request. A stored answer
//! may be hours old although its `Date` is new: some proxies write their own.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::HeaderMap;

/// Number of answers of which the numbers are remembered.
const REMEMBERED_MAX: usize = 4096;
/// Header with a number of each request.
const NUMBER: &str = "cf-ray";
/// Headers in which caches say what they did, each with the words that mean a stored answer.
const SAYINGS: [(&str, &[&str]); 5] = [
    ("cache-status", &["hit"]),
    ("x-cache", &["hit"]),
    ("x-proxy-cache", &["hit", "stale", "updating"]),
    ("x-cache-status", &["hit", "stale", "updating"]),
    ("cf-cache-status", &["hit", "stale", "updating"]),
];
/// Fix of a cache.
const FIX: &str =
    "A proxy in front of Clerk's API must not store answers. Check the proxy that CLERK_API_URL names";

/// Returns the reason why an answer with a known number proves nothing.
pub(super) fn copy() -> String {
    format!("the answer is a copy of an earlier one (header {NUMBER}), so it comes from a cache. {FIX}")
}

/// Returns the reason why an answer is a stored one, if its headers say so.
pub(super) fn stored_in_cache(headers: &HeaderMap) -> Option<String> {
    let texts = |name: &str| {
        headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok().map(str::to_ascii_lowercase))
    };
    let is_aged = texts("age").any(|age| age.trim().bytes().any(|byte| matches!(byte, b'1'..=b'9')));
    let said = SAYINGS.iter().find(|(name, words)| {
        texts(name)
            .any(|text| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word)))
    });
    let name = if is_aged { "age" } else { said?.0 };
    Some(format!("the answer comes from a cache (header {name}). {FIX}"))
}

/// Numbers of the last answers.
#[derive(Default)]
pub(super) struct Numbers {
    state: Mutex<State>,
    hasher: RandomState,
}

/// Hashes of the numbers, which have no maximum length.
#[derive(Default)]
struct State {
    known: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Numbers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().order.is_empty()
    }

    /// Whether no earlier answer has the number of this one. An answer without a number counts as new.
    pub(super) fn is_new(&self, headers: &HeaderMap) -> bool {
        let Some(number) = headers.get(NUMBER).filter(|number| !number.is_empty()) else { return true };
        let hash = self.hasher.hash_one(number.as_bytes());
        let mut state = self.state();
        if !state.known.insert(hash) {
            return false;
        }
        state.order.push_back(hash);
        if state.order.len() > REMEMBERED_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
    }

    #[test]
    fn headers_of_caches_say_whether_an_answer_was_stored() {
        for (name, value, is_stored) in [
            ("age", "0", false),
            ("age", " 00", false),
            ("age", "", false),
            ("age", "1", true),
            ("age", "3600", true),
            ("cache-status", "ExampleCache; fwd=uri-miss; stored", false),
            ("cache-status", "ExampleCache; fwd=stale; fwd-status=200", false),
            ("cache-status", "Origin; fwd=miss, CDN; hit; ttl=376", true),
            ("x-cache", "Miss from cloudfront", false),
            ("x-cache", "MISS from white-squid", false),
            ("x-cache", "Hit from cloudfront", true),
            ("x-cache", "HIT from proxy.internal:3128", true),
            ("x-cache", "TCP_REFRESH_HIT", true),
            ("x-cache-status", "BYPASS", false),
            ("x-cache-status", "EXPIRED", false),
            ("x-cache-status", "STALE", true),
            ("x-proxy-cache", "UPDATING", true),
            ("cf-cache-status", "DYNAMIC", false),
            ("cf-cache-status", "HIT", true),
            ("etag", "hit", false),
        ] {
            let found = stored_in_cache(&headers(name, value));
            assert_eq!(found.is_some(), is_stored, "{name}: {value}");
            assert!(found.is_none_or(|text| text.contains(&format!("(header {name})"))));
        }
    }

    #[test]
    fn a_number_is_new_once_and_the_oldest_is_forgotten() {
        let numbers = Numbers::default();
        let is_new = |number: &str| numbers.is_new(&headers(NUMBER, number));
        assert!(numbers.is_new(&HeaderMap::new()) && numbers.is_new(&HeaderMap::new()) && numbers.is_empty());
        assert!(is_new("0") && !is_new("0") && !numbers.is_empty());
        assert!((1..REMEMBERED_MAX).all(|number| is_new(&number.to_string())));
        assert!(!is_new("0"), "as many as are remembered");
        assert!(is_new("one more") && is_new("0"));
        assert!(numbers.state().known.len() <= REMEMBERED_MAX);
    }
}
