//! Session tokens: nothing is forged, nothing panics, and claims mean the same to a second implementation.
//!
//! The input is used as a token, as claims, as a key document and as headers of a request.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use rollbook_session::limits::{CLAIMS_MAX, NESTING_MAX};
use rollbook_session::unverified::{self, Unverified};
use rollbook_session::{KeySet, Keys, Policy, Refusal, Session, Verifier, Version, weigh};

use crate::json::{self, Json};

/// The only token that verifies: Clerk published it.
const GENUINE: &str = include_str!("../../../rollbook-session/tests/vectors/token.txt");
const JWKS: &[u8] = include_bytes!("../../../rollbook-session/tests/vectors/jwks.json");
/// Time at which the genuine token is valid, in seconds since 1970.
const NOW: u64 = 1_666_648_260;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let policy = Policy::for_any_party("https://clerk.inspired.puma-74.lcl.dev").expect("a policy");
    let keys = Keys::new(KeySet::from_jwks(JWKS).expect("a JWKS"));
    Verifier::new(keys, policy).clock(|| UNIX_EPOCH + Duration::from_secs(NOW))
});

/// Checks all properties of an input.
///
/// # Panics
/// Panics if one does not hold.
pub fn check(input: &[u8]) {
    let _ = KeySet::from_jwks(input);
    let _ = VERIFIER.authenticate([input], [input]);
    let cookie = [b"__session_x=", input].concat();
    if let Ok(session) = VERIFIER.authenticate([], [cookie.as_slice()]) {
        let genuine = GENUINE.trim_end().as_bytes();
        assert!(input.windows(genuine.len()).any(|window| window == genuine), "forged: {session:?}");
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = KeySet::from_pem(text);
    let _ = weigh(text);
    let verified = VERIFIER.verify(text);
    assert_eq!(verified.is_ok(), text == GENUINE.trim_end(), "forged, or refused: {verified:?}");
    if let Ok(token) = Unverified::read(text) {
        check_claims(token.claims());
    }
    check_claims(text);
}

/// Compares the decoded claims with the second implementation, in both directions.
fn check_claims(text: &str) {
    let decoded = unverified::session_of(text);
    match (json::read(text.as_bytes()), decoded) {
        (Ok((claims, depth)), Ok(session)) => {
            assert!(depth <= NESTING_MAX, "{depth}");
            agree(&claims, &session);
        }
        (Err(_), Ok(session)) => panic!("decoded, although it is not JSON: {session:?}"),
        (Ok((claims, depth)), Err(refusal)) => {
            let is_expected = match refusal {
                Refusal::ClaimsMalformed => !matches!(claims, Json::Object(_)),
                Refusal::NestingTooDeep => depth > NESTING_MAX,
                Refusal::ClaimsTooMany => text.matches(':').count() > CLAIMS_MAX,
                Refusal::MachineToken => string(&claims, "sub").is_some_and(|sub| sub.starts_with("mch_")),
                Refusal::ClaimMissing("sub") => claims.get("sub").is_none_or(|sub| *sub == Json::Null),
                Refusal::SessionMissing => claims.get("sid").is_none_or(|sid| *sid == Json::Null),
                _ => true,
            };
            assert!(is_expected, "{refusal:?}: {text}");
        }
        (Err(_), Err(_)) => {}
    }
}

fn string<'a>(object: &'a Json, key: &str) -> Option<&'a str> {
    match object.get(key)? {
        Json::String(text) => Some(text),
        _ => None,
    }
}

fn number(object: &Json, key: &str) -> Option<i64> {
    match object.get(key)? {
        Json::Number(text) => text.parse().ok(),
        _ => None,
    }
}

/// The second implementation: each rule in one line. If a key occurs twice, it has the last value here and the
/// library must have refused.
fn agree(claims: &Json, session: &Session) {
    assert_eq!(string(claims, "sub"), Some(session.user_id()));
    assert_eq!(string(claims, "sid"), Some(session.session_id()));
    assert_eq!(string(claims, "iss"), Some(session.issuer()));
    assert_eq!(string(claims, "azp"), session.authorized_party());
    assert_eq!(number(claims, "exp"), Some(session.expires_at()));
    assert_eq!(number(claims, "nbf"), session.not_before());
    assert_eq!(number(claims, "iat"), session.issued_at());
    assert_eq!(string(claims, "sts") == Some("pending"), session.is_pending());
    assert_eq!(
        claims.get("act").and_then(|act| string(act, "sub")),
        session.actor().map(rollbook_session::Actor::user_id)
    );
    let is_v2 = number(claims, "v") == Some(2);
    assert_eq!(is_v2, session.version() == Version::V2);
    let Some(organization) = session.organization() else {
        let key = if is_v2 { "o" } else { "org_id" };
        assert!(claims.get(key).is_none_or(|value| *value == Json::Null));
        return;
    };
    if !is_v2 {
        assert_eq!(string(claims, "org_id"), Some(organization.id()));
        assert_eq!(string(claims, "org_role"), Some(organization.role()));
        return;
    }
    let object = claims.get("o").expect("an organization");
    assert_eq!(string(object, "id"), Some(organization.id()));
    assert!(organization.role().ends_with(string(object, "rol").expect("a role")));
    let granted: BTreeSet<String> = organization.permissions().map(str::to_owned).collect();
    assert_eq!(granted, granted_by(claims, object));
}

/// Permissions by the rule of Clerk's libraries, with masks divided digit by digit.
fn granted_by(claims: &Json, organization: &Json) -> BTreeSet<String> {
    let list = |object: &Json, key: &str| -> Vec<String> {
        string(object, key).unwrap_or_default().split(',').map(|item| item.trim().to_owned()).collect()
    };
    let features = list(claims, "fea").into_iter().filter_map(|entry| {
        let (scope, name) = entry.split_once(':')?;
        ["o", "ou", "uo"].contains(&scope).then(|| name.to_owned())
    });
    let (names, masks) = (list(organization, "per"), list(organization, "fpm"));
    let mut granted = BTreeSet::new();
    for (feature, mask) in features.zip(masks) {
        for (name, bit) in names.iter().zip(bits(&mask)) {
            if bit && !name.is_empty() {
                granted.insert(format!("org:{feature}:{name}"));
            }
        }
    }
    granted
}

/// Bits of a decimal number, the lowest first; none for any other text.
fn bits(text: &str) -> Vec<bool> {
    let mut digits: Vec<u32> = text.chars().map_while(|letter| letter.to_digit(10)).collect();
    if digits.len() != text.chars().count() {
        return Vec::new();
    }
    let mut bits = Vec::new();
    while digits.iter().any(|digit| *digit > 0) {
        let mut rest = 0;
        for digit in &mut digits {
            let value = rest * 10 + *digit;
            (*digit, rest) = (value / 2, value % 2);
        }
        bits.push(rest == 1);
    }
    bits
}
