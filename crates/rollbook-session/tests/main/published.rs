//! Vectors that Clerk published: tokens with their keys, and claims with the permissions that they grant.

use std::collections::BTreeSet;

use rollbook_session::{KeySet, Policy, Refusal, Session, Version, unverified, verify};
use serde_json::{Value, json};

use crate::mint::{at, with};

const TOKEN: &str = include_str!("../vectors/token.txt");
const TAMPERED: &str = include_str!("../vectors/token-tampered.txt");
const TOKEN_OF_THE_PEM: &str = include_str!("../vectors/token-of-the-pem.txt");
const PEM: &str = include_str!("../vectors/public-key.pem");
/// Issue of the tokens.
const ISSUED: i64 = 1_666_648_250;

fn policy() -> Policy {
    Policy::new("https://clerk.inspired.puma-74.lcl.dev", ["https://accounts.inspired.puma-74.lcl.dev"])
        .expect("a policy")
}

fn jwks() -> KeySet {
    KeySet::from_jwks(include_bytes!("../vectors/jwks.json")).expect("a JWKS")
}

#[test]
fn a_published_token_verifies_with_the_published_jwks_and_pem() {
    let by_jwks = verify(TOKEN.trim(), &jwks(), &policy(), at(ISSUED)).expect("genuine");
    let pem = KeySet::from_pem(PEM).expect("a PEM");
    let by_pem = verify(TOKEN_OF_THE_PEM.trim(), &pem, &policy(), at(ISSUED)).expect("genuine");
    assert_eq!(by_jwks, by_pem, "the claims are the same");
    assert_eq!(by_jwks.version(), Version::V1);
    assert_eq!(by_jwks.user_id(), "user_2GIpXOEpVyJw51rkZn9Kmnc6Sxr");
    assert_eq!(by_jwks.session_id(), "sess_2GbDB4enNdCa5vS1zpC3Xzg9tK9");
    assert_eq!(by_jwks.expires_at(), ISSUED + 60);
    assert_eq!(by_jwks.organization(), None);
}

#[test]
fn a_published_token_is_refused_with_the_other_key_or_another_claim() {
    let pem = KeySet::from_pem(PEM).expect("a PEM");
    for (token, keys) in [(TAMPERED, &jwks()), (TOKEN, &pem), (TOKEN_OF_THE_PEM, &jwks())] {
        let refusal = verify(token.trim(), keys, &policy(), at(ISSUED)).unwrap_err();
        assert_eq!(refusal, Refusal::Signature);
    }
}

fn session(changes: &Value) -> Session {
    let base = json!({
        "exp": 1_234_567_890, "iat": 1_234_567_890, "nbf": 1_234_567_890, "iss": "https://api.clerk.com",
        "sub": "sub", "sid": "sid", "azp": "azp",
    });
    unverified::session_of(with(base, changes).to_string()).expect("a session")
}

/// Features, names of permissions, masks, and the permissions that they grant.
const PERMISSIONS: [(&str, &str, &str, &[&str]); 14] = [
    ("o:dashboard,o:teams", "manage,read", "3,2", &["dashboard:manage", "dashboard:read", "teams:read"]),
    ("o:impersonation", "read,manage", "3", &["impersonation:read", "impersonation:manage"]),
    (
        "o:impersonation,o:memberships",
        "read,manage",
        "1,3",
        &["impersonation:read", "memberships:read", "memberships:manage"],
    ),
    (
        "o:impersonation,o:memberships,o:feature3",
        "read,manage",
        "1,3",
        &["impersonation:read", "memberships:read", "memberships:manage"],
    ),
    (
        "uo:impersonation,o:memberships,uo:feature3",
        "read,manage",
        "1,3,1",
        &["impersonation:read", "memberships:read", "memberships:manage", "feature3:read"],
    ),
    ("u:impersonation,u:memberships,u:feature3", "", "", &[]),
    ("ou:memberships,u:impersonation", "read,manage", "3", &["memberships:read", "memberships:manage"]),
    (
        "o:billing,o:email,o:fraud,o:instance,o:staging_plans",
        "manage,read",
        "3,3,3,3,1",
        &[
            "billing:manage",
            "billing:read",
            "email:manage",
            "email:read",
            "fraud:manage",
            "fraud:read",
            "instance:manage",
            "instance:read",
            "staging_plans:manage",
        ],
    ),
    (
        "o:repositories,o:projects",
        "read,create,update,delete,revoke",
        "7,21",
        &[
            "repositories:read",
            "repositories:create",
            "repositories:update",
            "projects:read",
            "projects:update",
            "projects:revoke",
        ],
    ),
    (
        "o:repositories,o:projects,o:webhooks,o:impersonation",
        "read,manage",
        "1,2,3",
        &["repositories:read", "projects:manage", "webhooks:read", "webhooks:manage"],
    ),
    (
        "o:repositories,uo:projects,u:goldprofileborder",
        "read,create,update,delete,revoke",
        "7,21,0",
        &[
            "repositories:read",
            "repositories:create",
            "repositories:update",
            "projects:read",
            "projects:update",
            "projects:revoke",
        ],
    ),
    (
        "o:repositories,o:impersonation,o:billing",
        "manage,read,update",
        "6,0,3",
        &["repositories:read", "repositories:update", "billing:manage", "billing:read"],
    ),
    ("o:a, o:b", " read , manage ", " 1 , x ", &["a:read"]),
    ("o:a,o:b", "read", "255,-1", &["a:read"]),
];

#[test]
fn published_masks_grant_the_published_permissions() {
    for (features, names, masks, expected) in PERMISSIONS {
        let found = session(&json!({
            "v": 2, "fea": features,
            "o": {"id": "org_xxxxxxx", "rol": "admin", "slg": "org_test", "per": names, "fpm": masks},
        }));
        let organization = found.organization().expect("an organization");
        let permissions: BTreeSet<&str> = organization.permissions().collect();
        let expected: Vec<String> = expected.iter().map(|name| format!("org:{name}")).collect();
        assert_eq!(permissions, expected.iter().map(String::as_str).collect(), "{features} {names} {masks}");
    }
}

#[test]
fn both_versions_of_the_same_claims_give_the_same_organization() {
    let v2 = session(&json!({
        "v": 2, "fea": "o:impersonation",
        "o": {"id": "org_xxxxxxx", "rol": "admin", "slg": "org_test", "per": "read,manage", "fpm": "3"},
    }));
    let v1 = session(&json!({
        "org_id": "org_xxxxxxx", "org_role": "org:admin", "org_slug": "org_test",
        "org_permissions": ["org:impersonation:read", "org:impersonation:manage"],
    }));
    assert_eq!(v1.organization(), v2.organization());
    assert!(v1.has_role("org:admin") && v1.has_permission("org:impersonation:manage"));
}

#[test]
fn without_an_active_organization_both_versions_have_none() {
    let v2 = session(&json!({"v": 2, "fea": "u:impersonation,u:memberships"}));
    assert_eq!(v2.organization(), None);
    assert_eq!(session(&json!({})).organization(), None);
    assert!(v2.user_features().eq(["impersonation", "memberships"]));
    assert_eq!(v2.organization_features().count(), 0);
}

#[test]
fn features_are_sorted_by_scope_as_published() {
    for (list, organization, user) in [
        ("", &[][..], &[][..]),
        ("o:impersonation,o:payments", &["impersonation", "payments"], &[]),
        ("u:impersonation,u:payments", &[], &["impersonation", "payments"]),
        ("o:payments,u:impersonation", &["payments"], &["impersonation"]),
        ("ou:payments,u:impersonation", &["payments"], &["payments", "impersonation"]),
    ] {
        let found = session(&json!({"v": 2, "fea": list}));
        assert_eq!(found.organization_features().collect::<Vec<_>>(), organization, "{list}");
        assert_eq!(found.user_features().collect::<Vec<_>>(), user, "{list}");
    }
}

#[test]
fn masks_keep_every_bit_beyond_53_64_and_128() {
    let names: Vec<String> = (0..201).map(|bit| format!("p{bit}")).collect();
    for (mask, bits) in [
        ("9007199254740993", &[0, 53][..]),
        ("18446744073709551617", &[0, 64]),
        ("340282366920938463463374607431768211457", &[0, 128]),
        ("1606938044258990275541962092341162602522202993782792835301377", &[0, 200]),
    ] {
        let found = session(&json!({
            "v": 2, "fea": "o:f", "o": {"id": "org_1", "rol": "admin", "per": names.join(","), "fpm": mask},
        }));
        let expected: Vec<String> = bits.iter().map(|bit| format!("org:f:p{bit}")).collect();
        let permissions: Vec<&str> = found.organization().expect("an organization").permissions().collect();
        assert_eq!(permissions, expected, "{mask}");
    }
}
