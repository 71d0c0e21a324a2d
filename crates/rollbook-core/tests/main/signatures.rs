//! Rules of the verifier, one by one, each at its limit.

use std::time::Duration;

use rollbook_core::signature::{
    CANDIDATES_MAX, SECRETS_MAX, SIGNATURE_HEADER_LENGTH_MAX, SecretError, SignedHeaders, SigningSecrets,
    VerifyError, verify,
};
use rollbook_core::time::Timestamp;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const SECONDS: i64 = 1_649_367_553;
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
const TOLERANCE: Duration = Duration::from_secs(300);

fn secrets(text: &str) -> SigningSecrets {
    SigningSecrets::parse(text).expect("good secrets")
}

fn verify_at(headers: &[(&str, &str)], body: &[u8], now: i64) -> Result<(), VerifyError> {
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let headers = SignedHeaders::read(pairs)?;
    verify(&secrets(SECRET), &headers, body, Timestamp::from_seconds(now), TOLERANCE).map(|_| ())
}

fn check(id: &str, timestamp: &str, signature: &str) -> Result<(), VerifyError> {
    verify_at(&[("svix-id", id), ("svix-timestamp", timestamp), ("svix-signature", signature)], BODY, SECONDS)
}

fn check_signature(signature: &str) -> Result<(), VerifyError> {
    check(ID, &SECONDS.to_string(), signature)
}

#[test]
fn the_published_known_answer_is_reproduced() {
    assert_eq!(secrets(SECRET).first().sign(ID, Timestamp::from_seconds(SECONDS), BODY), SIGNATURE);
    assert_eq!(check_signature(SIGNATURE), Ok(()));
}

#[test]
fn an_empty_signature_verifies_nothing() {
    // CVE-2024-21491: the comparison stopped at the shorter length, so `v1,` matched everything.
    for empty in ["v1,", "v1", "", " ", ",", "v1, v1,", "v1,=", "v1,AA=="] {
        assert_eq!(check_signature(empty), Err(VerifyError::NoMatch), "{empty:?}");
    }
}

#[test]
fn a_signature_that_is_shorter_longer_or_not_strict_base64_is_skipped() {
    let cut = &SIGNATURE[..SIGNATURE.len() - 4];
    let unpadded = SIGNATURE.trim_end_matches('=');
    // The last character carries two bits that must be zero.
    let loose = SIGNATURE.replace("Kkw=", "Kkx=");
    let url_safe = SIGNATURE.replace('+', "-").replace('/', "_");
    for wrong in [cut, unpadded, &loose, &url_safe, &format!("{SIGNATURE}AAAA"), &format!("{SIGNATURE}\n")] {
        assert_eq!(check_signature(wrong), Err(VerifyError::NoMatch), "{wrong:?}");
    }
}

#[test]
fn any_of_several_candidates_is_enough_and_other_versions_are_skipped() {
    let other = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let asymmetric = SIGNATURE.replace("v1,", "v1a,");
    for all in [
        format!("{other} {SIGNATURE}"),
        format!("{SIGNATURE} {other}"),
        format!("{asymmetric} v2,xyz garbage {SIGNATURE}"),
    ] {
        assert_eq!(check_signature(&all), Ok(()), "{all}");
    }
    assert_eq!(check_signature(&asymmetric), Err(VerifyError::NoMatch));
}

#[test]
fn sixteen_candidates_are_accepted_and_one_more_is_refused() {
    let with = |count: usize| format!("{}{SIGNATURE}", "v1,x ".repeat(count - 1));
    assert_eq!(check_signature(&with(CANDIDATES_MAX)), Ok(()));
    assert_eq!(check_signature(&with(CANDIDATES_MAX + 1)), Err(VerifyError::MalformedSignature));
    let long = |length: usize| format!("{SIGNATURE} {}", "x".repeat(length - SIGNATURE.len() - 1));
    assert_eq!(check_signature(&long(SIGNATURE_HEADER_LENGTH_MAX)), Ok(()));
    assert_eq!(check_signature(&long(SIGNATURE_HEADER_LENGTH_MAX + 1)), Err(VerifyError::MalformedSignature));
}

#[test]
fn every_configured_secret_is_tried() {
    let both = secrets(&format!("{OTHER_SECRET}, {SECRET}"));
    assert_eq!(both.len(), 2);
    let timestamp = SECONDS.to_string();
    let headers = [("svix-id", ID), ("svix-timestamp", timestamp.as_str()), ("svix-signature", SIGNATURE)];
    let headers = SignedHeaders::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    let headers = headers.expect("good headers");
    let now = Timestamp::from_seconds(SECONDS);
    let verified = verify(&both, &headers, BODY, now, TOLERANCE).expect("a genuine delivery");
    assert_eq!(
        [0, 1, 2, SECRETS_MAX].map(|position| verified.matches(position)),
        [false, true, false, false]
    );
    assert_eq!(verify(&secrets(OTHER_SECRET), &headers, BODY, now, TOLERANCE), Err(VerifyError::NoMatch));
}

#[test]
fn the_tolerance_ends_after_its_last_second_on_both_sides() {
    let timestamp = SECONDS.to_string();
    let headers = [("svix-id", ID), ("svix-timestamp", timestamp.as_str()), ("svix-signature", SIGNATURE)];
    assert_eq!(verify_at(&headers, BODY, SECONDS + 300), Ok(()));
    assert_eq!(verify_at(&headers, BODY, SECONDS + 301), Err(VerifyError::TooOld));
    assert_eq!(verify_at(&headers, BODY, SECONDS - 300), Ok(()));
    assert_eq!(verify_at(&headers, BODY, SECONDS - 301), Err(VerifyError::TooNew));
}

#[test]
fn no_timestamp_overflows_and_a_wrong_one_differs_from_a_wrong_signature() {
    let all = secrets(SECRET);
    for (seconds, expected) in [(0, VerifyError::TooOld), (999_999_999_999, VerifyError::TooNew)] {
        let signature = all.first().sign(ID, Timestamp::from_seconds(seconds), BODY);
        assert_eq!(check(ID, &seconds.to_string(), &signature), Err(expected));
        assert_eq!(check(ID, &seconds.to_string(), SIGNATURE), Err(VerifyError::NoMatch));
    }
    let timestamp = SECONDS.to_string();
    let headers = [("svix-id", ID), ("svix-timestamp", timestamp.as_str()), ("svix-signature", SIGNATURE)];
    assert_eq!(verify_at(&headers, BODY, i64::MAX), Err(VerifyError::TooOld));
    assert_eq!(verify_at(&headers, BODY, i64::MIN), Err(VerifyError::TooNew));
}

#[test]
fn a_timestamp_is_one_to_twelve_digits_and_nothing_else() {
    for wrong in ["", "+1649367553", "-1", " 1649367553", "1649367553.0", "0x1", "1234567890123", "१२३"]
    {
        assert_eq!(check(ID, wrong, SIGNATURE), Err(VerifyError::MalformedTimestamp), "{wrong:?}");
    }
    // The timestamp is not normalised: these are other bytes than the signed ones.
    assert_eq!(check(ID, "01649367553", SIGNATURE), Err(VerifyError::NoMatch));
}

#[test]
fn an_id_has_no_dot_that_could_shift_the_boundary_of_the_signed_text() {
    let longest = "m".repeat(128);
    assert_eq!(check(&longest, &SECONDS.to_string(), SIGNATURE), Err(VerifyError::NoMatch));
    for wrong in ["", "msg.1", "msg 1", "msg_é", "a\u{0}b", &"m".repeat(129)] {
        assert_eq!(check(wrong, &SECONDS.to_string(), SIGNATURE), Err(VerifyError::MalformedId), "{wrong:?}");
    }
}

#[test]
fn each_header_must_be_there_exactly_once() {
    let timestamp = SECONDS.to_string();
    let all = [("svix-id", ID), ("svix-timestamp", timestamp.as_str()), ("svix-signature", SIGNATURE)];
    for (position, (name, _)) in all.iter().enumerate() {
        let mut missing = all.to_vec();
        missing.remove(position);
        assert_eq!(verify_at(&missing, BODY, SECONDS), Err(VerifyError::MissingHeader(name)));
        let mut repeated = all.to_vec();
        repeated.push(all[position]);
        assert_eq!(verify_at(&repeated, BODY, SECONDS), Err(VerifyError::RepeatedHeader(name)));
    }
    assert_eq!(verify_at(&[], BODY, SECONDS), Err(VerifyError::MissingHeader("svix-id")));
}

#[test]
fn either_family_of_headers_is_accepted_and_a_mixture_is_not() {
    let timestamp = SECONDS.to_string();
    let svix = [("svix-id", ID), ("svix-timestamp", timestamp.as_str()), ("svix-signature", SIGNATURE)];
    let standard =
        [("webhook-id", ID), ("webhook-timestamp", timestamp.as_str()), ("webhook-signature", SIGNATURE)];
    assert_eq!(verify_at(&standard, BODY, SECONDS), Ok(()));
    let both: Vec<_> = svix.into_iter().chain(standard).collect();
    assert_eq!(verify_at(&both, BODY, SECONDS), Ok(()), "both families with equal values");
    let across = [svix[0], svix[1], standard[2]];
    assert_eq!(verify_at(&across, BODY, SECONDS), Err(VerifyError::MixedHeaders));
    let mut disagreeing = both;
    disagreeing[3].1 = "msg_other";
    assert_eq!(verify_at(&disagreeing, BODY, SECONDS), Err(VerifyError::MixedHeaders));
    let missing = [standard[0], standard[1]];
    assert_eq!(verify_at(&missing, BODY, SECONDS), Err(VerifyError::MissingHeader("webhook-signature")));
}

#[test]
fn a_wrong_secret_is_refused_by_position_and_never_repeated() {
    let refuse = |text: &str| SigningSecrets::parse(text).expect_err("a wrong secret");
    assert_eq!(refuse(""), SecretError::Empty);
    assert_eq!(refuse(" , "), SecretError::Empty);
    assert_eq!(refuse("sk_live_abc"), SecretError::Prefix(1));
    assert_eq!(refuse(&format!("{SECRET},nonsense")), SecretError::Prefix(2));
    assert_eq!(refuse("whsec_?"), SecretError::Base64(1));
    assert_eq!(refuse("whsec_AAAA"), SecretError::Length(1, 3));
    assert_eq!(refuse(&format!("{SECRET} {SECRET}")), SecretError::Repeated(2));
    let key = |length: usize| format!("whsec_{}", "AAAA".repeat(length / 3));
    assert_eq!(refuse(&key(21)), SecretError::Length(1, 21));
    assert_eq!(refuse(&key(78)), SecretError::Length(1, 78));
    let many = |count: usize| {
        (0..count).map(|n| format!("whsec_{}{n:04}", "A".repeat(28))).collect::<Vec<_>>().join(",")
    };
    assert_eq!(secrets(&many(SECRETS_MAX)).len(), SECRETS_MAX);
    assert_eq!(refuse(&many(SECRETS_MAX + 1)), SecretError::TooMany);
    for text in ["whpk_geheim", "whsk_geheim"] {
        let error = refuse(&format!("{SECRET} {text}")).to_string();
        assert!(
            error.contains("secret 2") && error.contains(&text[..5]) && error.contains("whsec_"),
            "{error}"
        );
        assert!(error.contains("key") && !error.contains("geheim"), "{error}");
    }
    let printed = format!("{:?} {:?} {}", secrets(SECRET), secrets(SECRET).first(), refuse("whsec_geheim"));
    assert!(!printed.contains("C2FVsB") && !printed.contains("geheim"), "{printed}");
}
