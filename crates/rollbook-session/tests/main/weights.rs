//! Weights of tokens: the limits at their edges, and the claims that are named.

use rollbook_session::limits::{CLAIMS_BYTES_ADVISED, COOKIE_BYTES_MAX};
use rollbook_session::{Refusal, Verdict, Weights, weigh};
use serde_json::{Value, json};

use crate::mint::{claims, claims_with, token};

fn weights(changes: &Value) -> Weights {
    weigh(&token(&claims_with(changes))).expect("a token")
}

fn pad(length: usize) -> String {
    "x".repeat(length)
}

#[test]
fn the_weights_are_those_of_the_json() {
    let token = token(&claims());
    let weights = weigh(&token).expect("a token");
    let parts: Vec<usize> = token.split('.').map(str::len).collect();
    assert_eq!(weights.parts.as_slice(), parts);
    assert_eq!((weights.token, weights.cookie), (token.len(), "__session_12345678=".len() + token.len()));
    let json: usize = claims().to_string().len();
    // One comma fewer than claims, and two braces.
    assert_eq!(weights.claims.iter().map(|claim| claim.bytes).sum::<usize>() + 1, json);
    assert!(weights.claims.iter().all(|claim| !claim.is_custom), "{weights:?}");
    assert!(weights.claims.is_sorted_by(|heavy, light| heavy.bytes >= light.bytes));
}

#[test]
fn custom_claims_are_heavy_beyond_the_advised_weight() {
    // Name, quotation marks of name and value, colon and comma.
    let empty = "metadata".len() + 6;
    let at_the_limit = weights(&json!({"metadata": pad(CLAIMS_BYTES_ADVISED - empty)}));
    assert_eq!((at_the_limit.custom_bytes(), at_the_limit.verdict()), (CLAIMS_BYTES_ADVISED, Verdict::Fits));
    let beyond = weights(&json!({"metadata": pad(CLAIMS_BYTES_ADVISED - empty + 1)}));
    assert_eq!(beyond.verdict(), Verdict::Heavy(vec!["metadata".to_owned()]));
    assert!(beyond.claims[0].is_custom);
}

#[test]
fn many_light_claims_together_are_heavy_and_the_heaviest_three_are_named() {
    let light: serde_json::Map<String, Value> =
        (0..12).map(|number| (format!("c{number:02}"), json!(pad(100 + number)))).collect();
    assert_eq!(
        weights(&Value::Object(light)).verdict(),
        Verdict::Heavy(["c11", "c10", "c09"].map(Into::into).to_vec())
    );
}

#[test]
fn a_claim_of_clerk_is_heavy_too() {
    let permissions: Vec<String> = (0..60).map(|number| format!("org:feature{number}:manage")).collect();
    let weights =
        weights(&json!({"v": null, "org_id": "o", "org_role": "r", "org_permissions": permissions}));
    assert_eq!(weights.verdict(), Verdict::Heavy(vec!["org_permissions".to_owned()]));
    assert_eq!(weights.custom_bytes(), 0);
}

#[test]
fn a_cookie_is_too_large_at_its_limit() {
    let cookie = |length: usize| weights(&json!({"metadata": pad(length)}));
    // Each three bytes of JSON are four of the cookie, so that one length is the last that fits.
    let last = (1500..3000).rfind(|length| cookie(*length).cookie <= COOKIE_BYTES_MAX).expect("a length");
    assert_eq!(cookie(last).verdict(), Verdict::Heavy(vec!["metadata".to_owned()]));
    assert!(cookie(last).cookie > COOKIE_BYTES_MAX - 4);
    assert_eq!(cookie(last + 1).verdict(), Verdict::TooLarge(vec!["metadata".to_owned()]));
}

#[test]
fn a_token_that_cannot_be_read_has_no_weights() {
    assert_eq!(weigh("a.b").unwrap_err(), Refusal::NotAJwt);
    assert_eq!(weigh("..").unwrap_err(), Refusal::ClaimsMalformed);
    assert_eq!(weigh(&pad(1 << 17)).unwrap_err(), Refusal::TokenTooLong);
}
