//! Genuine tokens: what a session contains, and the edges of each rule on the accepted side.

use std::time::Duration;

use rollbook_session::limits::{
    CLAIMS_MAX, GRANTS_MAX, MASK_DIGITS_MAX, NAME_BYTES_MAX, NESTING_MAX, PERMISSION_NAMES_MAX,
};
use rollbook_session::{FactorAges, KeySet, Policy, Refusal, Version, verify};
use serde_json::{Value, json};

use crate::mint::{
    ISSUER, NOW, PARTY, Signer, at, claims, claims_with, header, instance_keys, judge, jwks, policy, token,
    with,
};

#[test]
fn a_token_of_version_2_becomes_a_session() {
    let session = judge(&token(&claims_with(&json!({
        "act": {"iss": "https://dashboard.clerk.com", "sid": "sess_9", "sub": "user_9"},
        "metadata": {"team": "blue"},
    }))))
    .expect("genuine");
    assert_eq!(session.version(), Version::V2);
    assert_eq!((session.user_id(), session.session_id()), ("user_1", "sess_1"));
    assert_eq!((session.issuer(), session.authorized_party()), (ISSUER, Some(PARTY)));
    assert_eq!(session.token_id(), Some("0f1e2d3c"));
    assert_eq!(
        (session.expires_at(), session.not_before(), session.issued_at()),
        (NOW + 50, Some(NOW - 20), Some(NOW - 10))
    );
    assert_eq!(session.factor_ages(), Some(FactorAges { first: Some(3), second: None }));
    let organization = session.organization().expect("an organization");
    assert_eq!(
        (organization.id(), organization.slug(), organization.role()),
        ("org_1", Some("acme"), "org:admin")
    );
    assert!(organization.permissions().eq(["org:tasks:read", "org:tasks:delete", "org:export:read"]));
    let actor = session.actor().expect("an actor");
    assert_eq!((actor.user_id(), actor.session_id()), ("user_9", Some("sess_9")));
    assert_eq!(actor.issuer(), Some("https://dashboard.clerk.com"));
    assert_eq!(session.claim::<Value>("metadata").expect("JSON"), Some(json!({"team": "blue"})));
    assert_eq!(session.claim::<Value>("absent").expect("JSON"), None);
    assert!(session.claim::<u8>("metadata").is_err());
}

#[test]
fn features_and_plans_are_found_with_and_without_scope() {
    let session = judge(&token(&claims())).expect("genuine");
    for (feature, is_active) in [
        ("tasks", true),
        ("org:tasks", true),
        ("user:tasks", false),
        ("export", true),
        ("org:export", true),
        ("user:export", true),
        ("badge", true),
        ("org:badge", false),
        ("other", false),
        ("x:tasks", false),
    ] {
        assert_eq!(session.has_feature(feature), is_active, "{feature}");
    }
    for (plan, is_active) in [("pro", true), ("user:pro", false), ("user:free", true), ("org:free", false)] {
        assert_eq!(session.has_plan(plan), is_active, "{plan}");
    }
    assert!(session.organization_plans().eq(["pro"]) && session.user_plans().eq(["free"]));
}

#[test]
fn a_missing_permission_is_denied_by_its_name() {
    let session = judge(&token(&claims())).expect("genuine");
    assert_eq!(session.require("org:tasks:delete").expect("granted").id(), "org_1");
    let denied = session.require("org:sys_memberships:manage").unwrap_err();
    assert_eq!(
        denied.to_string(),
        "the permission org:sys_memberships:manage is required in the active organization"
    );
    let personal = judge(&token(&claims_with(&json!({"o": null})))).expect("genuine");
    assert!(personal.require("org:tasks:read").is_err() && !personal.has_role("org:admin"));
}

#[test]
fn claims_of_the_other_version_have_no_effect() {
    let v2 = judge(&token(&claims_with(&json!({
        "o": null, "org_id": "org_2", "org_role": "org:admin", "org_permissions": ["org:tasks:delete"],
    }))));
    assert_eq!(v2.expect("genuine").organization(), None);
    let v1 = judge(&token(&claims_with(&json!({"v": null})))).expect("genuine");
    assert_eq!(v1.organization(), None);
    assert!(!v1.has_feature("tasks") && !v1.has_plan("pro"));
}

/// Changes of the claims that are accepted.
fn accepted() -> Vec<(&'static str, Value)> {
    vec![
        ("expired within the skew", json!({"exp": NOW - 4})),
        ("not valid until the end of the skew", json!({"nbf": NOW + 5})),
        ("issued at the end of the skew", json!({"iat": NOW + 5})),
        ("neither nbf nor iat", json!({"nbf": null, "iat": null})),
        ("no jti, sts and fva", json!({"jti": null, "sts": null, "fva": null})),
        ("expires in the far future", json!({"exp": i64::MAX})),
        ("negative nbf", json!({"nbf": i64::MIN})),
        ("version 1 by number", json!({"v": 1})),
        ("a role with prefix", json!({"o": {"id": "org_1", "rol": "org:admin"}})),
        ("an organization without slug and permissions", json!({"o": {"id": "org_1", "rol": "member"}})),
        (
            "a user feature first, with the same result",
            json!({"fea": "u:a,o:b", "o": {"id": "o", "rol": "r", "per": "p", "fpm": "1,1"}}),
        ),
        ("an unknown scope grants nothing", json!({"fea": "x:new,o:tasks", "o": {"id": "o", "rol": "r"}})),
        ("the longest id", json!({"sub": "u".repeat(NAME_BYTES_MAX)})),
        ("escapes in a custom claim", json!({"name": "\u{1f600} \"quoted\" \n"})),
    ]
}

#[test]
fn every_accepted_variant_verifies() {
    for (what, changes) in accepted() {
        let result = judge(&token(&claims_with(&changes)));
        assert!(result.is_ok(), "{what}: {result:?}");
    }
}

#[test]
fn unknown_and_absent_header_members_are_accepted() {
    let signer = Signer::of_the_instance();
    for (what, changes) in [
        ("no typ", json!({"typ": null})),
        ("no cat", json!({"cat": null})),
        ("the marker to ignore", json!({"cat": "cl_I7d4PD111III"})),
        ("oiat", json!({"oiat": NOW})),
        (
            "a foreign key, which is ignored",
            json!({"jwk": Signer::of_another_instance().jwk("x"), "jku": "https://x"}),
        ),
    ] {
        let token = signer.token(&with(header(), &changes).to_string(), &claims().to_string());
        assert!(judge(&token).is_ok(), "{what}");
    }
}

#[test]
fn the_headers_of_clerk_pass_as_every_other_spelling_of_them_does() {
    let signer = Signer::of_the_instance();
    let usual = header().to_string();
    assert_eq!(usual, r#"{"alg":"RS256","cat":"cl_B7d4PD111AAA","kid":"ins_2Example","typ":"JWT"}"#);
    let expected = judge(&signer.token(&usual, &claims().to_string())).expect("genuine");
    for header in [
        r#"{"alg":"RS256","kid":"ins_2Example","typ":"JWT"}"#,
        r#"{"typ":"JWT","kid":"ins_2Example","alg":"RS256"}"#,
        r#" {"alg":"RS256","cat":"cl_B7d4PD111AAA","kid":"ins_2Ex\u0061mple","typ":"JWT"} "#,
    ] {
        assert_eq!(judge(&signer.token(header, &claims().to_string())).as_ref(), Ok(&expected), "{header}");
    }
    let quoted = "a\"b\\c";
    let keys = KeySet::from_jwks(&jwks(&[signer.jwk(quoted)])).expect("a JWKS");
    let token = signer.token(&with(header(), &json!({"kid": quoted})).to_string(), &claims().to_string());
    assert!(verify(&token, &keys, &policy(), at(NOW)).is_ok());
}

#[test]
fn as_many_claims_and_as_deep_nesting_as_the_limits_allow_verify() {
    let base = claims();
    let count = base.as_object().expect("an object").len();
    let more: serde_json::Map<String, Value> =
        (count..CLAIMS_MAX).map(|n| (format!("c{n}"), json!(n))).collect();
    let many = claims_with(&Value::Object(more));
    assert_eq!(many.as_object().expect("an object").len(), CLAIMS_MAX);
    assert!(judge(&token(&many)).is_ok());
    let deep = (2..=NESTING_MAX)
        .fold(json!(1), |inner, depth| if depth % 2 == 0 { json!([inner]) } else { json!({"k": inner}) });
    assert!(judge(&token(&claims_with(&json!({"deep": deep})))).is_ok());
}

#[test]
fn as_many_features_names_and_permissions_as_the_limits_allow_are_read() {
    let read = |features: usize, names: usize, masks: &str| {
        let list = |item: &str, count: usize| vec![item; count].join(",");
        let claims = claims_with(&json!({
            "fea": list("o:f", features),
            "o": {"id": "o", "rol": "r", "per": list("p", names), "fpm": masks},
        }));
        let session = rollbook_session::unverified::session_of(claims.to_string());
        session.map(|session| session.organization().expect("an organization").permissions().count())
    };
    assert_eq!(read(GRANTS_MAX, 1, "1"), Ok(1));
    assert_eq!(read(GRANTS_MAX + 1, 1, "1"), Err(Refusal::PermissionsTooMany));
    assert_eq!(read(1, PERMISSION_NAMES_MAX, "1"), Ok(1));
    assert_eq!(read(1, PERMISSION_NAMES_MAX + 1, "1"), Err(Refusal::PermissionsTooMany));
    let all = u64::MAX.to_string();
    let of_64_features = vec![all.as_str(); 64].join(",");
    assert_eq!(read(65, 64, &of_64_features), Ok(GRANTS_MAX));
    assert_eq!(read(65, 64, &format!("{of_64_features},1")), Err(Refusal::PermissionsTooMany));
    assert_eq!(read(1, 1, &"1".repeat(MASK_DIGITS_MAX)), Ok(1));
    assert_eq!(read(1, 1, &"1".repeat(MASK_DIGITS_MAX + 1)), Err(Refusal::PermissionsTooMany));
}

#[test]
fn a_policy_can_accept_pending_sessions_and_refuse_impersonation() {
    let judge = |claims: &Value, policy: &Policy| verify(&token(claims), &instance_keys(), policy, at(NOW));
    let pending = claims_with(&json!({"sts": "pending"}));
    assert!(judge(&pending, &policy().accept_pending()).expect("accepted").is_pending());
    let acted = claims_with(&json!({"act": {"sub": "user_9"}}));
    assert!(judge(&acted, &policy()).is_ok());
    assert_eq!(judge(&acted, &policy().refuse_impersonation()).unwrap_err(), Refusal::Impersonated);
}

#[test]
fn a_policy_can_demand_an_audience() {
    let policy = policy().audiences(["api", "jobs"]).expect("a policy");
    let judge = |audience: Value| {
        verify(&token(&claims_with(&json!({"aud": audience}))), &instance_keys(), &policy, at(NOW)).map(drop)
    };
    assert_eq!(judge(json!("api")), Ok(()));
    assert_eq!(judge(json!(["other", "jobs"])), Ok(()));
    assert_eq!(judge(json!("other")), Err(Refusal::Audience));
    assert_eq!(judge(Value::Null), Err(Refusal::AudienceMissing));
    assert_eq!(judge(json!([])), Err(Refusal::AudienceMissing));
}

#[test]
fn the_skew_applies_to_the_millisecond() {
    let judge = |skew: u64, millis: u64| {
        let policy = policy().skew(Duration::from_millis(skew)).expect("a policy");
        let now = at(NOW + 50) + Duration::from_millis(millis);
        verify(&token(&claims()), &instance_keys(), &policy, now).map(drop)
    };
    assert_eq!(judge(0, 0), Err(Refusal::Expired), "exp itself is too late");
    assert_eq!(judge(1, 0), Ok(()));
    assert_eq!(judge(5000, 4999), Ok(()));
    assert_eq!(judge(5000, 5000), Err(Refusal::Expired));
    let before = verify(
        &token(&claims()),
        &instance_keys(),
        &policy(),
        std::time::UNIX_EPOCH - Duration::from_secs(9),
    );
    assert_eq!(before.unwrap_err(), Refusal::NotYetValid, "a clock before 1970");
}

#[test]
fn a_policy_for_any_party_accepts_tokens_with_and_without_azp() {
    let policy = Policy::for_any_party(ISSUER).expect("a policy");
    for party in [json!("https://elsewhere.example"), Value::Null] {
        let token = token(&claims_with(&json!({"azp": party})));
        assert!(verify(&token, &instance_keys(), &policy, at(NOW)).is_ok());
    }
}

#[test]
fn the_debug_text_of_a_session_has_no_custom_claim() {
    let session = judge(&token(&claims_with(&json!({"email": "ada@example.com"})))).expect("genuine");
    let text = format!("{session:?}");
    assert!(text.contains("user_1") && !text.contains("ada") && !text.contains("acme"), "{text}");
}
