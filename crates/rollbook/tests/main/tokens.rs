//! `token inspect`: what it says about tokens, and that it repeats none.

use std::fs::File;
use std::process::{Output, Stdio};

use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::tokens::{ISSUER, PARTY, Signer, claims, member_claims};
use serde_json::{Value, json};

use crate::rollbook::Home;

fn now() -> i64 {
    WallClock.now().as_millis() / 1000
}

fn inspect(token: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let home = Home::new().with("token.txt", token);
    let mut command = home.command(&[&["token", "inspect"], arguments].concat(), environment);
    command.stdin(Stdio::from(File::open(home.path().join("token.txt")).expect("it was written")));
    let output = command.output().expect("it runs");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let secret = token.trim().rsplit('.').next().filter(|signature| signature.len() > 20);
    let repeats = secret.is_some_and(|signature| out.contains(signature) || err.contains(signature));
    assert!(!repeats && !err.contains("panicked"), "{out}\n{err}");
    output
}

/// Returns the exit code and the JSON.
fn report(token: &str, environment: &[(&str, &str)]) -> (Option<i32>, Value) {
    let output = inspect(token, &["--output", "json"], environment);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {err}")),
    )
}

/// Returns state and reason of a check.
fn check(report: &Value, name: &str) -> (String, Value) {
    let checks = report["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["check"] == json!(name)).expect("the check");
    (check["state"].as_str().expect("a state").to_owned(), check["reason"].clone())
}

#[test]
fn a_token_is_shown_verified_and_weighed_and_the_exit_code_says_whether_it_is_accepted() {
    let (signer, pem) = (Signer::of_the_instance(), Signer::of_the_instance().pem());
    let settings =
        [("CLERK_ISSUER", ISSUER), ("CLERK_JWT_KEY", pem.as_str()), ("CLERK_AUTHORIZED_PARTIES", PARTY)];
    let claims = member_claims("user_1", "org_1", now());
    let token = signer.token(&claims);
    let (code, good) = report(&format!("{token}\n"), &settings);
    assert_eq!((code, &good["claims"], &good["header"]["alg"]), (Some(0), &claims, &json!("RS256")));
    for name in ["claims", "accepted", "size"] {
        assert_eq!(check(&good, name), ("ok".to_owned(), Value::Null));
    }
    assert_eq!(good["size"]["token_bytes"], json!(token.len()));
    let expired = signer.token(&member_claims("user_1", "org_1", now() - 600));
    let forged = Signer::of_another_instance().token(&claims);
    let of_others = {
        let mut claims = claims.clone();
        claims["azp"] = json!("https://evil.example");
        signer.token(&claims)
    };
    for (token, reason) in [(expired, "expired"), (forged, "signature"), (of_others, "party")] {
        let (code, refused) = report(&token, &settings);
        assert_eq!((code, check(&refused, "accepted")), (Some(1), ("failed".to_owned(), json!(reason))));
    }
    let text = inspect(&token, &[], &settings);
    let text = String::from_utf8_lossy(&text.stdout);
    for words in ["\"sub\": \"user_1\"", "accepted  ok", "claim", "Clerk"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn without_keys_a_token_is_shown_and_the_exit_code_says_whether_it_should_have_been_verified() {
    let token = Signer::of_the_instance().token(&claims("user_1", now() - 600));
    let (code, shown) = report(&token, &[]);
    assert_eq!((code, check(&shown, "accepted")), (Some(0), ("skipped".to_owned(), Value::Null)));
    let unreachable = [("CLERK_ISSUER", ISSUER), ("CLERK_JWKS_URL", "http://127.0.0.1:1/jwks")];
    let (code, shown) = report(&token, &unreachable);
    assert_eq!(
        (code, check(&shown, "accepted")),
        (Some(1), ("failed".to_owned(), json!("keys-unavailable")))
    );
}

#[test]
fn a_heavy_token_names_its_claims_and_one_for_no_cookie_fails() {
    for (bytes, code, state) in [(2_000, 0, "warning"), (5_000, 1, "failed")] {
        let mut claims = claims("user_1", now());
        claims["profile"] = json!("p".repeat(bytes));
        let (ended, shown) = report(&Signer::of_the_instance().token(&claims), &[]);
        assert_eq!((ended, check(&shown, "size").0), (Some(code), state.to_owned()));
        assert_eq!(shown["size"]["claims"][0]["name"], json!("profile"));
        assert!(shown["checks"][2]["found"].as_str().expect("a text").contains("profile"), "{shown}");
    }
}

#[test]
fn what_is_not_a_token_is_an_error_that_does_not_repeat_it() {
    for (input, words) in [
        ("", "standard input has no token"),
        ("hunter2-is-a-password-of-somebody", "not a JWT"),
        ("mt_hunter2-is-a-password-of-somebody", "machine token"),
        ("eyJhbGciOiJub25lIn0.hunter2-is-a-password-of-somebody.", ""),
    ] {
        let output = inspect(input, &[], &[]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && err.contains(words), "{input}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
}
