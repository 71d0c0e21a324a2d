//! Tokens in requests: which header and which cookie count.

use std::sync::Arc;
use std::sync::Mutex;

use rollbook_session::limits::SESSION_COOKIES_MAX;
use rollbook_session::{Refusal, Session, Verifier, cookie_suffix};
use serde_json::json;

use crate::mint::{NOW, Signer, claims, claims_with, header, token, verifier, with};

/// Authenticates with values of `Authorization` and of `Cookie`.
fn judge(verifier: &Verifier, authorization: &[&str], cookies: &[&str]) -> Result<String, Refusal> {
    let bytes = |values: &[&str]| values.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
    let (authorization, cookies) = (bytes(authorization), bytes(cookies));
    let session =
        verifier.authenticate(authorization.iter().map(Vec::as_slice), cookies.iter().map(Vec::as_slice));
    session.map(|session: Session| session.user_id().to_owned())
}

fn token_of(user: &str, session: &str) -> String {
    token(&claims_with(&json!({"sub": user, "sid": session})))
}

#[test]
fn a_bearer_token_is_found_in_each_spelling_of_the_scheme() {
    let token = token_of("user_1", "sess_1");
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        assert_eq!(
            judge(&verifier(), &[&format!("{scheme} {token}")], &[]),
            Ok("user_1".to_owned()),
            "{scheme}"
        );
    }
    assert_eq!(judge(&verifier(), &[&format!(" Bearer {token} ")], &[]), Ok("user_1".to_owned()));
}

#[test]
fn a_malformed_or_repeated_bearer_token_is_refused() {
    let token = format!("Bearer {}", token_of("user_1", "sess_1"));
    for (values, refusal) in [
        (&["Bearer"][..], Refusal::CredentialsMalformed),
        (&["Bearer "], Refusal::CredentialsMalformed),
        (&["Bearer a b"], Refusal::CredentialsMalformed),
        (&["Bearer a, Bearer b"], Refusal::CredentialsMalformed),
        (&["Bearer caf\u{e9}"], Refusal::CredentialsMalformed),
        (&[token.as_str(), token.as_str()], Refusal::CredentialsAmbiguous),
        (&["Basic dTpw"], Refusal::TokenMissing),
        (&[], Refusal::TokenMissing),
    ] {
        assert_eq!(judge(&verifier(), values, &[]), Err(refusal), "{values:?}");
    }
    let invalid: [&[u8]; 1] = [b"Bearer \xff"];
    assert_eq!(verifier().authenticate(invalid, []).unwrap_err(), Refusal::CredentialsMalformed);
}

#[test]
fn a_refused_bearer_token_is_not_replaced_by_a_cookie() {
    let cookie = format!("__session={}", token_of("user_1", "sess_1"));
    assert_eq!(judge(&verifier(), &["Bearer x"], &[&cookie]), Err(Refusal::NotAJwt));
    for value in ["Bearer", "bearer\tx", "Bearer:x", "BEARER=x", "Bearerx", "Bearer,x", "Bearer\u{a0}x"] {
        assert_eq!(judge(&verifier(), &[value], &[&cookie]), Err(Refusal::CredentialsMalformed), "{value:?}");
        let twice = judge(&verifier(), &["Bearer x", value], &[&cookie]);
        assert_eq!(twice, Err(Refusal::CredentialsAmbiguous), "{value:?}");
    }
    assert_eq!(
        judge(&verifier(), &["Basic dTpw"], &[&cookie]),
        Ok("user_1".to_owned()),
        "a proxy's own authentication"
    );
}

#[test]
fn the_session_cookie_is_found_among_others() {
    let token = token_of("user_1", "sess_1");
    for cookies in [
        vec![format!("__session={token}")],
        vec![format!("a=b; __session={token}; __client_uat=1")],
        vec![format!("a=b;__session={token}")],
        vec!["a=b".to_owned(), format!("__session={token}")],
        vec![format!("__session_aBc-_123={token}")],
        vec![format!("__session=; __session_aBc-_123={token}")],
        vec![format!("__sessions=x; __session={token}")],
    ] {
        let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
        assert_eq!(judge(&verifier(), &[], &cookies), Ok("user_1".to_owned()), "{cookies:?}");
    }
    let foreign: [&[u8]; 1] = [b"name=\xff\xfe; __session"];
    assert_eq!(verifier().authenticate([], foreign).unwrap_err(), Refusal::TokenMissing);
    assert_eq!(judge(&verifier(), &[], &["__session="]), Err(Refusal::TokenMissing), "a signed-out user");
}

#[test]
fn with_a_suffix_only_its_cookie_or_the_plain_one_counts() {
    let suffix = cookie_suffix("pk_test_Y2xlcmsuZXhhbXBsZS5jb20k");
    let verifier = verifier().cookie_suffix(&suffix);
    let (one, two) = (token_of("user_1", "sess_1"), token_of("user_2", "sess_2"));
    let ours = format!("__session={two}; __session_{suffix}={one}");
    assert_eq!(judge(&verifier, &[], &[&ours]), Ok("user_1".to_owned()));
    assert_eq!(
        judge(&verifier, &[], &[&format!("__session={two}; __session_other123=x")]),
        Ok("user_2".to_owned())
    );
    assert_eq!(judge(&verifier, &[], &[&format!("__session_other123={one}")]), Err(Refusal::TokenMissing));
}

#[test]
fn the_suffix_is_the_beginning_of_the_keys_sha1_in_base64url() {
    // printf pk_test_Y2xlcmsuZXhhbXBsZS5jb20k | openssl sha1 -binary | base64 | tr +/ -_ | cut -c 1-8
    assert_eq!(cookie_suffix("pk_test_Y2xlcmsuZXhhbXBsZS5jb20k"), "l2OS3d9k");
}

#[test]
fn several_cookies_of_one_session_give_the_newest_and_of_two_sessions_none() {
    let old = token(&claims_with(&json!({"iat": NOW - 40, "fva": [1, 1]})));
    let new = token(&claims_with(&json!({"iat": NOW - 2, "fva": [2, 2]})));
    for cookie in
        [format!("__session={old}; __session_a={new}"), format!("__session={new}; __session_a={old}")]
    {
        let session = verifier().authenticate([], [cookie.as_bytes()]).expect("genuine");
        assert_eq!(session.issued_at(), Some(NOW - 2));
    }
    let (one, two) = (token_of("user_1", "sess_1"), token_of("user_2", "sess_2"));
    let both = format!("__session={one}; __session={two}");
    assert_eq!(judge(&verifier(), &[], &[&both]), Err(Refusal::CredentialsAmbiguous));
}

#[test]
fn a_cookie_of_another_instance_hides_neither_ours_nor_its_reason() {
    let theirs = Signer::of_another_instance()
        .token(&with(header(), &json!({"kid": "ins_3"})).to_string(), &claims().to_string());
    let ours = token_of("user_1", "sess_1");
    let expired = token(&claims_with(&json!({"exp": NOW - 60})));
    for cookie in
        [format!("__session={theirs}; __session_a={ours}"), format!("__session={ours}; __session_a={theirs}")]
    {
        assert_eq!(judge(&verifier(), &[], &[&cookie]), Ok("user_1".to_owned()));
    }
    for cookie in [
        format!("__session={theirs}; __session_a={expired}"),
        format!("__session={expired}; __session_a={theirs}"),
    ] {
        assert_eq!(judge(&verifier(), &[], &[&cookie]), Err(Refusal::Expired));
    }
    assert_eq!(judge(&verifier(), &[], &[&format!("__session={theirs}")]), Err(Refusal::KeyUnknown));
}

#[test]
fn more_session_cookies_than_the_limit_are_refused() {
    let cookie = |number: usize| format!("__session_a{number}=x{number}; ");
    let cookies = |count: usize| (0..count).map(cookie).collect::<Vec<_>>().concat();
    let judge = |cookie: &str| verifier().authenticate([], [cookie.as_bytes()]).unwrap_err();
    assert_eq!(judge(&cookies(SESSION_COOKIES_MAX)), Refusal::NotAJwt);
    assert_eq!(judge(&cookies(SESSION_COOKIES_MAX + 1)), Refusal::CredentialsAmbiguous);
    assert_eq!(judge(&(cookies(SESSION_COOKIES_MAX) + "__session=y")), Refusal::CredentialsAmbiguous);
}

#[test]
fn each_refused_request_is_reported_once() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let verifier = verifier().on_refusal(move |refusal| sink.lock().expect("a lock").push(refusal.name()));
    let genuine = token_of("user_1", "sess_1");
    assert!(verifier.verify(&genuine).is_ok());
    assert_eq!(judge(&verifier, &[&format!("Bearer {genuine}")], &[]), Ok("user_1".to_owned()));
    assert!(verifier.verify("x").is_err());
    assert!(judge(&verifier, &[], &["__session=ak_1; __session_a=mt_1"]).is_err());
    assert!(judge(&verifier, &[], &[]).is_err());
    assert_eq!(*seen.lock().expect("a lock"), ["not_a_jwt", "api_key", "token_missing"]);
    assert!(!format!("{verifier:?}").is_empty());
}

#[test]
fn the_token_that_counts_is_returned_with_its_session() {
    let (header, older) = (token_of("user_1", "sess_1"), token_of("user_2", "sess_2"));
    let newer =
        token(&claims_with(&json!({"sub": "user_2", "sid": "sess_2", "iat": NOW - 1, "jti": "newer"})));
    let cookies = format!("__session={older}; __session_abcdefgh={newer}");
    let bearer = format!("Bearer {header}");
    let verifier = verifier();
    let (session, found) =
        verifier.authenticate_with_token([bearer.as_bytes()], [cookies.as_bytes()]).expect("a session");
    assert_eq!((session.user_id(), found), ("user_1", header.as_str()));
    let (session, found) = verifier.authenticate_with_token([], [cookies.as_bytes()]).expect("a session");
    assert_eq!((session.user_id(), found), ("user_2", newer.as_str()), "the newest");
}
