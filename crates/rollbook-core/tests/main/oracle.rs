//! The verifier against the official `svix` crate, on valid deliveries and on deliveries with one defect.

use std::time::Duration;

use proptest::prelude::*;
use rollbook_core::signature::{
    SECRET_LENGTH_MAX, SECRET_LENGTH_MIN, SecretError, SignedHeaders, SigningSecrets, verify,
};
use rollbook_core::time::Timestamp;

const SECRETS: [&str; 2] =
    ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="];

#[derive(Clone, Debug)]
struct Request {
    headers: Vec<(String, String)>,
    body: String,
    seconds: i64,
}

/// A defect of a delivery. Both verifiers must give the same result for each.
#[derive(Clone, Debug)]
enum Mutation {
    None,
    Body(String),
    Id(String),
    Seconds(i64),
    Signature(String),
    FlippedSignature(prop::sample::Index, u8),
    CutSignature(prop::sample::Index),
    OtherVersion(&'static str),
    OtherSecret,
    Candidates(Vec<String>, prop::sample::Index),
    WithoutHeader(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => Just(Mutation::None),
        1 => any::<String>().prop_map(Mutation::Body),
        1 => "[A-Za-z0-9_-]{1,40}".prop_map(Mutation::Id),
        1 => (0..10_000_000_000_i64).prop_map(Mutation::Seconds),
        1 => "(v1,)?[A-Za-z0-9+/=, v]{0,60}".prop_map(Mutation::Signature),
        2 => any::<(prop::sample::Index, u8)>().prop_map(|(at, to)| Mutation::FlippedSignature(at, to)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::CutSignature),
        1 => prop::sample::select(vec!["v1a", "v2", "V1", "", "v1 "]).prop_map(Mutation::OtherVersion),
        1 => Just(Mutation::OtherSecret),
        2 => (prop::collection::vec("(v1a?,[A-Za-z0-9+/]{43}=)|(v1,)|x", 1..8), any::<prop::sample::Index>())
            .prop_map(|(others, at)| Mutation::Candidates(others, at)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::WithoutHeader),
    ]
}

prop_compose! {
    fn request()(
        family in prop::sample::select(vec!["svix", "webhook"]),
        id in "[A-Za-z0-9_-]{1,40}",
        seconds in 0..10_000_000_000_i64,
        body in any::<String>(),
        mutation in mutation(),
    ) -> Request {
        let sign_with = usize::from(matches!(mutation, Mutation::OtherSecret));
        let signer = SigningSecrets::parse(SECRETS[sign_with]).expect("a secret");
        let signature = signer.first().sign(&id, Timestamp::from_seconds(seconds), body.as_bytes());
        let mut values = [id, seconds.to_string(), signature];
        let mut request = Request { headers: Vec::new(), body, seconds };
        let mut without = None;
        match mutation {
            Mutation::None | Mutation::OtherSecret => {}
            Mutation::Body(body) => request.body = body,
            Mutation::Id(id) => values[0] = id,
            Mutation::Seconds(seconds) => {
                request.seconds = seconds;
                values[1] = seconds.to_string();
            }
            Mutation::Signature(signature) => values[2] = signature,
            Mutation::FlippedSignature(at, to) => {
                let at = at.index(values[2].len());
                let to = char::from(b' ' + to % 95);
                values[2].replace_range(at..=at, &to.to_string());
            }
            Mutation::CutSignature(at) => values[2].truncate(at.index(values[2].len())),
            Mutation::OtherVersion(version) => values[2] = values[2].replacen("v1", version, 1),
            Mutation::Candidates(mut others, at) => {
                others.insert(at.index(others.len() + 1), values[2].clone());
                values[2] = others.join(" ");
            }
            Mutation::WithoutHeader(at) => without = Some(at.index(3)),
        }
        let names = ["id", "timestamp", "signature"].map(|name| format!("{family}-{name}"));
        request.headers = names.into_iter().zip(values).collect();
        if let Some(position) = without {
            request.headers.remove(position);
        }
        request
    }
}

fn ours(request: &Request) -> bool {
    let secrets = SigningSecrets::parse(SECRETS[0]).expect("a secret");
    let pairs = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let now = Timestamp::from_seconds(request.seconds);
    SignedHeaders::read(pairs)
        .is_ok_and(|headers| verify(&secrets, &headers, request.body.as_bytes(), now, Duration::ZERO).is_ok())
}

fn theirs(request: &Request) -> bool {
    let mut headers = http::HeaderMap::new();
    for (name, value) in &request.headers {
        let name: http::HeaderName = name.parse().expect("a header's name");
        headers.insert(name, value.parse().expect("a header's value"));
    }
    let webhook = svix::webhooks::Webhook::new(SECRETS[0]).expect("a secret");
    webhook.verify_ignoring_timestamp(request.body.as_bytes(), &headers).is_ok()
}

/// Returns a secret with a key of `length` bytes.
fn secret_of(length: usize) -> String {
    let key: Vec<u8> = (0..length).map(|byte| u8::try_from(byte * 7 % 256).expect("a byte")).collect();
    format!("whsec_{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key))
}

/// Returns whether a delivery that the official crate signed with this secret is accepted here.
fn agrees_with_the_official_crate(secret: &str) -> bool {
    let webhook = svix::webhooks::Webhook::new(secret).expect("a secret there");
    let (id, seconds, body) = ("msg_1", 1_649_367_553, "{}");
    let signature = webhook.sign(id, seconds, body.as_bytes()).expect("a signature");
    let seconds_text = seconds.to_string();
    let pairs = [("svix-id", id), ("svix-timestamp", &*seconds_text), ("svix-signature", &*signature)];
    let pairs = pairs.map(|(name, value)| (name, value.as_bytes()));
    let headers = SignedHeaders::read(pairs.into_iter()).expect("whole headers");
    let now = Timestamp::from_seconds(seconds);
    SigningSecrets::parse(secret)
        .is_ok_and(|secrets| verify(&secrets, &headers, body.as_bytes(), now, Duration::ZERO).is_ok())
}

#[test]
fn every_length_of_secret_that_svix_allows_is_accepted_and_verifies() {
    for length in SECRET_LENGTH_MIN..=SECRET_LENGTH_MAX {
        assert!(agrees_with_the_official_crate(&secret_of(length)), "{length} bytes");
    }
    for length in [1, SECRET_LENGTH_MIN - 1, SECRET_LENGTH_MAX + 1, 200] {
        let refused = SigningSecrets::parse(&secret_of(length)).map(drop);
        assert_eq!(refused, Err(SecretError::Length(1, length)));
    }
}

#[test]
fn the_syntax_of_a_secret_is_that_of_the_official_crate() {
    // 25 bytes: two characters of padding. The encoded key has both characters that base64url replaces.
    let key = [0xfb; 25];
    let standard = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
    for (secret, is_accepted) in [
        (format!("whsec_{standard}"), true),
        (standard.clone(), true),
        (format!("whsec_{}", standard.trim_end_matches('=')), false),
        (format!("whsec_{}", standard.replace('+', "-").replace('/', "_")), false),
        (format!("whsec_{standard}="), false),
        (format!("WHSEC_{standard}"), false),
        (format!("whsec_whsec_{standard}"), false),
        (format!("whsec_\"{standard}\""), false),
        (format!("whpk_{standard}"), false),
        (format!("whsk_{standard}"), false),
        ("whsec_".to_owned(), false),
    ] {
        let theirs = svix::webhooks::Webhook::new(&secret).is_ok();
        assert_eq!((SigningSecrets::parse(&secret).is_ok(), theirs), (is_accepted, is_accepted), "{secret}");
        assert!(!is_accepted || agrees_with_the_official_crate(&secret), "{secret}");
    }
    // White space around a secret comes with copying, and separates secrets.
    assert!(SigningSecrets::parse(&format!(" whsec_{standard}\r\n")).is_ok());
    // A secret that a line break has split is not two secrets.
    let torn = secret_of(SECRET_LENGTH_MAX);
    let (one, other) = torn.split_at("whsec_".len() + 40);
    assert!(SigningSecrets::parse(&format!("{one}\n{other}")).is_err());
    assert_eq!(
        SigningSecrets::parse(&format!("whsec_{standard} {standard}")).map(drop),
        Err(SecretError::Prefix(2))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn the_verifier_agrees_with_the_official_crate(request in request()) {
        prop_assert_eq!(ours(&request), theirs(&request));
    }

    #[test]
    fn a_signature_made_here_is_accepted_by_the_official_crate(id in "[A-Za-z0-9_-]{1,128}", body in any::<String>(), seconds in 0..10_000_000_000_i64) {
        let signer = SigningSecrets::parse(SECRETS[0]).expect("a secret");
        let signature = signer.first().sign(&id, Timestamp::from_seconds(seconds), body.as_bytes());
        let values = [("svix-id", id), ("svix-timestamp", seconds.to_string()), ("svix-signature", signature)];
        let headers = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let request = Request { headers, body, seconds };
        prop_assert!(theirs(&request));
    }

    #[test]
    fn any_bytes_in_any_header_are_verified_without_a_panic(
        values in prop::collection::vec((0..6_usize, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        body in prop::collection::vec(any::<u8>(), 0..200),
        now in any::<i64>(),
    ) {
        let names =
            ["svix-id", "svix-timestamp", "svix-signature", "webhook-id", "webhook-timestamp", "webhook-signature"];
        let pairs = values.iter().map(|(name, value)| (names[*name], value.as_slice()));
        let secrets = SigningSecrets::parse(SECRETS[0]).expect("a secret");
        if let Ok(headers) = SignedHeaders::read(pairs) {
            let verdict = verify(&secrets, &headers, &body, Timestamp::from_millis(now), Duration::MAX);
            prop_assert!(verdict.is_err(), "the request is not signed");
        }
    }
}
