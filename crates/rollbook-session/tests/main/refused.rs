//! Bad tokens: each is refused with its own reason.

use std::collections::BTreeSet;

use ring::hmac;
use rollbook_session::limits::{CLAIMS_MAX, HEADER_BYTES_MAX, NAME_BYTES_MAX, NESTING_MAX, TOKEN_BYTES_MAX};
use rollbook_session::{KeySet, Refusal, verify};
use serde_json::{Value, json};

use crate::mint::{
    KID, NOW, Signer, at, claims, claims_with, encode, header, instance_keys, judge, jwks, policy, token,
    with,
};

type Case = (&'static str, String, Refusal);

/// A token with some claims replaced.
fn changed(what: &'static str, changes: &Value, refusal: Refusal) -> Case {
    (what, token(&claims_with(changes)), refusal)
}

/// A genuine token with some members of its header replaced.
fn headed(what: &'static str, changes: &Value, refusal: Refusal) -> Case {
    let header = with(header(), changes).to_string();
    (what, Signer::of_the_instance().token(&header, &claims().to_string()), refusal)
}

/// A genuine token with these claims as text.
fn texted(what: &'static str, claims: &str, refusal: Refusal) -> Case {
    (what, Signer::of_the_instance().token(&header().to_string(), claims), refusal)
}

fn parts(token: &str) -> [String; 3] {
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().expect("three parts")
}

fn algorithms() -> Vec<Case> {
    let claims_text = claims().to_string();
    let [head, body, signature] = parts(&token(&claims()));
    let none = encode(with(header(), &json!({"alg": "none"})).to_string());
    // The public key as the secret of an HMAC: the classical confusion of algorithms.
    let mac = |secret: &[u8]| {
        let head = encode(with(header(), &json!({"alg": "HS256"})).to_string());
        let signed = format!("{head}.{body}");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    let signer = Signer::of_the_instance();
    let wide = signer.token_of_sha512(&with(header(), &json!({"alg": "RS512"})).to_string(), &claims_text);
    let mislabelled = signer.token_of_sha512(&header().to_string(), &claims_text);
    vec![
        ("not signed, without signature", format!("{none}.{body}."), Refusal::AlgorithmNone),
        (
            "not signed, with the signature of a good token",
            format!("{none}.{body}.{signature}"),
            Refusal::AlgorithmNone,
        ),
        headed("alg None in other letters", &json!({"alg": "nOnE"}), Refusal::AlgorithmNone),
        ("HMAC with the PEM as secret", mac(signer.pem().as_bytes()), Refusal::AlgorithmHmac),
        ("HMAC with the DER as secret", mac(&signer.spki()), Refusal::AlgorithmHmac),
        headed("HS512", &json!({"alg": "HS512"}), Refusal::AlgorithmHmac),
        ("RS512, genuine", wide, Refusal::Algorithm),
        headed("PS256", &json!({"alg": "PS256"}), Refusal::Algorithm),
        headed("ES256", &json!({"alg": "ES256"}), Refusal::Algorithm),
        headed("EdDSA", &json!({"alg": "EdDSA"}), Refusal::Algorithm),
        headed("rs256 in lower case", &json!({"alg": "rs256"}), Refusal::Algorithm),
        headed("no alg", &json!({"alg": null}), Refusal::Algorithm),
        headed("alg is a list", &json!({"alg": ["RS256"]}), Refusal::Algorithm),
        headed("alg is empty", &json!({"alg": ""}), Refusal::Algorithm),
        ("RS256 by name, SHA-512 by signature", mislabelled, Refusal::Signature),
        ("no signature", format!("{head}.{body}."), Refusal::Signature),
    ]
}

fn keys() -> Vec<Case> {
    let (ours, theirs) = (Signer::of_the_instance(), Signer::of_another_instance());
    let claims = claims().to_string();
    let [head, body, signature] = parts(&ours.token(&header().to_string(), &claims));
    let own_key =
        with(header(), &json!({"jwk": theirs.jwk(KID), "jku": "https://attacker.example/jwks.json"}));
    let other_claims = encode(claims_with(&json!({"sub": "user_2"})).to_string());
    let mut reversed: Vec<char> = signature.chars().collect();
    reversed.reverse();
    vec![
        (
            "key of another instance with the same kid",
            theirs.token(&header().to_string(), &claims),
            Refusal::Signature,
        ),
        ("a key that the token brings", theirs.token(&own_key.to_string(), &claims), Refusal::Signature),
        (
            "a key that is not configured",
            theirs.token(&with(header(), &json!({"kid": "ins_3"})).to_string(), &claims),
            Refusal::KeyUnknown,
        ),
        headed("no kid", &json!({"kid": null}), Refusal::KeyIdMissing),
        headed("kid is a number", &json!({"kid": 1}), Refusal::HeaderMalformed),
        headed("kid is a path", &json!({"kid": "../../dev/null"}), Refusal::KeyUnknown),
        headed("kid is empty", &json!({"kid": ""}), Refusal::KeyUnknown),
        (
            "claims of another user with this signature",
            format!("{head}.{other_claims}.{signature}"),
            Refusal::Signature,
        ),
        ("a shortened signature", format!("{head}.{body}.{}", &signature[..340]), Refusal::Signature),
        ("a signature of zeros", format!("{head}.{body}.{}", encode([0; 256])), Refusal::Signature),
        ("a signature of ones", format!("{head}.{body}.{}", encode([255; 256])), Refusal::Signature),
        ("a longer signature", format!("{head}.{body}.{}", encode([1; 1025])), Refusal::Signature),
        (
            "a signature as long as a whole token",
            format!("{head}.{body}.{}", "A".repeat(9000)),
            Refusal::Signature,
        ),
        (
            "a reversed signature",
            format!("{head}.{body}.{}", encode(reversed.iter().collect::<String>().as_bytes())),
            Refusal::Signature,
        ),
    ]
}

fn forms() -> Vec<Case> {
    let good = token(&claims());
    let [head, body, signature] = parts(&good);
    let last = signature.chars().last().expect("a character");
    // The last character of 256 bytes has four unused bits.
    let alias = char::from(u32::from(last).try_into().map_or(b'B', |last: u8| last + 1));
    let long_header = with(header(), &json!({"pad": "x".repeat(HEADER_BYTES_MAX)})).to_string();
    let long = claims_with(&json!({"pad": "x".repeat(TOKEN_BYTES_MAX)}));
    vec![
        ("empty", String::new(), Refusal::NotAJwt),
        ("one part", "abc".to_owned(), Refusal::NotAJwt),
        ("two parts", format!("{head}.{body}"), Refusal::NotAJwt),
        ("four parts", format!("{good}.x"), Refusal::NotAJwt),
        ("five parts, as an encrypted token has", format!("{head}.a.b.c.d"), Refusal::NotAJwt),
        ("dots only", "..".to_owned(), Refusal::HeaderMalformed),
        ("padding", format!("{head}.{body}.{signature}=="), Refusal::Base64),
        ("base64 of the other alphabet", format!("{head}.{body}.+/{}", &signature[2..]), Refusal::Base64),
        (
            "another spelling of the same signature",
            format!("{head}.{body}.{}{alias}", &signature[..341]),
            Refusal::Base64,
        ),
        ("a space at the end", format!("{good} "), Refusal::Base64),
        ("a line break within", format!("{head}.{body}.\n{signature}"), Refusal::Base64),
        ("letters beyond ASCII", format!("{head}.{body}.\u{e9}{signature}"), Refusal::Base64),
        ("a header that is not base64", format!("{{}}.{body}.{signature}"), Refusal::Base64),
        (
            "a header that is not JSON",
            format!("{}.{body}.{signature}", encode("x")),
            Refusal::HeaderMalformed,
        ),
        ("a header that is a list", format!("{}.{body}.{signature}", encode("[]")), Refusal::HeaderMalformed),
        (
            "a header that is not UTF-8",
            format!("{}.{body}.{signature}", encode([b'{', 0xff])),
            Refusal::HeaderMalformed,
        ),
        (
            "a header with two values of alg",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"none","alg":"RS256"}"#)),
            Refusal::DuplicateKey,
        ),
        (
            "a header with JSON after it",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"RS256"}{}"#)),
            Refusal::HeaderMalformed,
        ),
        (
            "a long header",
            Signer::of_the_instance().token(&long_header, &claims().to_string()),
            Refusal::HeaderTooLong,
        ),
        (
            "a long header that is not even base64",
            format!("{}.{body}.{signature}", "*".repeat(2000)),
            Refusal::HeaderTooLong,
        ),
        ("a long token", token(&long), Refusal::TokenTooLong),
        ("a megabyte", "a.".repeat(1 << 19), Refusal::TokenTooLong),
    ]
}

fn kinds() -> Vec<Case> {
    vec![
        headed("an OAuth access token", &json!({"typ": "at+jwt"}), Refusal::OauthToken),
        headed(
            "an OAuth access token by its media type",
            &json!({"typ": "application/at+jwt"}),
            Refusal::OauthToken,
        ),
        headed("an OAuth access token in upper case", &json!({"typ": "AT+JWT"}), Refusal::OauthToken),
        headed("another type", &json!({"typ": "JWE"}), Refusal::TokenType),
        headed("a type that is not a text", &json!({"typ": 1}), Refusal::TokenType),
        headed("a critical extension", &json!({"crit": ["exp"]}), Refusal::CriticalExtension),
        headed("an unencoded payload", &json!({"crit": ["b64"], "b64": false}), Refusal::CriticalExtension),
        headed("a machine token by category", &json!({"cat": "cl_B7d4PD333AAA"}), Refusal::MachineToken),
        headed("a template's token by category", &json!({"cat": "cl_B7d4PD222AAA"}), Refusal::TemplateToken),
        headed("an unknown category", &json!({"cat": "cl_B7d4PD999AAA"}), Refusal::Category),
        headed("a category that is not a text", &json!({"cat": true}), Refusal::Category),
        changed("a machine token by subject", &json!({"sub": "mch_2Example"}), Refusal::MachineToken),
        ("an opaque machine token", "mt_0123456789abcdef".to_owned(), Refusal::MachineToken),
        ("an opaque OAuth token", "oat_0123456789abcdef".to_owned(), Refusal::OauthToken),
        ("an API key", "ak_0123456789abcdef".to_owned(), Refusal::ApiKey),
        changed("no session, as in a template's token", &json!({"sid": null}), Refusal::SessionMissing),
    ]
}

fn policies() -> Vec<Case> {
    vec![
        changed("wrong issuer", &json!({"iss": "https://clerk.attacker.example"}), Refusal::Issuer),
        changed("issuer with a slash", &json!({"iss": "https://clerk.example.com/"}), Refusal::Issuer),
        changed(
            "issuer with a suffix",
            &json!({"iss": "https://clerk.example.com.attacker.example"}),
            Refusal::Issuer,
        ),
        changed("issuer in upper case", &json!({"iss": "HTTPS://CLERK.EXAMPLE.COM"}), Refusal::Issuer),
        changed("wrong azp", &json!({"azp": "https://evil.example.com"}), Refusal::Party),
        changed("azp with a path", &json!({"azp": "https://app.example.com/"}), Refusal::Party),
        changed("azp of another scheme", &json!({"azp": "http://app.example.com"}), Refusal::Party),
        changed("absent azp", &json!({"azp": null}), Refusal::PartyMissing),
        changed(
            "an audience that nobody configured",
            &json!({"aud": "https://api.example.com"}),
            Refusal::Audience,
        ),
        changed("expired by a second", &json!({"exp": NOW - 6}), Refusal::Expired),
        changed("expired to the millisecond", &json!({"exp": NOW - 5}), Refusal::Expired),
        changed("expired in 1970", &json!({"exp": 0}), Refusal::Expired),
        changed("expired before 1970", &json!({"exp": i64::MIN}), Refusal::Expired),
        changed("valid from the future", &json!({"nbf": NOW + 6}), Refusal::NotYetValid),
        changed("issued in the future", &json!({"iat": NOW + 6}), Refusal::IssuedInFuture),
        changed("issued at the end of time", &json!({"iat": i64::MAX}), Refusal::IssuedInFuture),
        changed("pending", &json!({"sts": "pending"}), Refusal::Pending),
        changed("an unknown status", &json!({"sts": "frozen"}), Refusal::StatusUnknown),
        changed("a status that is not a text", &json!({"sts": 1}), Refusal::StatusUnknown),
        changed("an unknown version", &json!({"v": 3}), Refusal::VersionUnknown),
        changed("a version as text", &json!({"v": "2"}), Refusal::VersionUnknown),
    ]
}

fn malformed_texts() -> Vec<Case> {
    let (many, deep) = (too_many(), too_deep());
    let text = claims().to_string();
    let twice = text.replacen('{', r#"{"sub":"user_2","#, 1);
    let escaped = text.replacen('{', r#"{"s\u0075b":"user_2","#, 1);
    let inner = text.replacen(r#""rol":"admin""#, r#""rol":"admin","rol":"member""#, 1);
    let custom = text.replacen('{', r#"{"metadata":[{"a":1,"a":2}],"#, 1);
    vec![
        texted("a claim twice", &twice, Refusal::DuplicateKey),
        texted("a claim twice, once in escapes", &escaped, Refusal::DuplicateKey),
        texted("a role twice", &inner, Refusal::DuplicateKey),
        texted("a key twice in a custom claim", &custom, Refusal::DuplicateKey),
        texted("claims that are a list", "[1]", Refusal::ClaimsMalformed),
        texted("claims that are not JSON", "sub=user_1", Refusal::ClaimsMalformed),
        texted("claims that end early", &text[..text.len() - 1], Refusal::ClaimsMalformed),
        texted("JSON after the claims", &format!("{text}{{}}"), Refusal::ClaimsMalformed),
        texted("no claims", "{}", Refusal::ClaimMissing("sub")),
        texted("too many claims", &many, Refusal::ClaimsTooMany),
        texted("claims too deep", &deep, Refusal::NestingTooDeep),
    ]
}

fn malformed_claims() -> Vec<Case> {
    let invalid = Refusal::ClaimInvalid;
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let text = claims().to_string();
    vec![
        changed("no subject", &json!({"sub": null}), Refusal::ClaimMissing("sub")),
        changed("an empty subject", &json!({"sub": ""}), invalid("sub")),
        changed("a subject that is a number", &json!({"sub": 1}), invalid("sub")),
        changed("a subject with a line break", &json!({"sub": "user_1\r\nx: y"}), invalid("sub")),
        changed("a subject beyond ASCII", &json!({"sub": "us\u{e9}r"}), invalid("sub")),
        changed("a long subject", &json!({"sub": long}), invalid("sub")),
        changed("a session that is a list", &json!({"sid": ["sess_1"]}), invalid("sid")),
        changed("no issuer", &json!({"iss": null}), Refusal::ClaimMissing("iss")),
        changed("no expiry", &json!({"exp": null}), Refusal::ClaimMissing("exp")),
        changed("an expiry as text", &json!({"exp": (NOW + 50).to_string()}), invalid("exp")),
        changed("an expiry with a fraction", &json!({"exp": 1_800_000_050.5}), invalid("exp")),
        changed("an expiry beyond 64 bits", &json!({"exp": u64::MAX}), invalid("exp")),
        texted(
            "an expiry of null",
            &text.replacen(&format!("\"exp\":{}", NOW + 50), "\"exp\":null", 1),
            invalid("exp"),
        ),
        changed("nbf as text", &json!({"nbf": "now"}), invalid("nbf")),
        changed("iat as a list", &json!({"iat": []}), invalid("iat")),
        changed("azp as a list", &json!({"azp": ["https://app.example.com"]}), invalid("azp")),
        changed("aud of numbers", &json!({"aud": [1]}), invalid("aud")),
        changed("an actor without subject", &json!({"act": {"iss": "x"}}), Refusal::ClaimMissing("act.sub")),
        changed("an actor that is a text", &json!({"act": "user_9"}), invalid("act")),
        changed("fva of one number", &json!({"fva": [1]}), invalid("fva")),
        changed("fva of three numbers", &json!({"fva": [1, 2, 3]}), invalid("fva")),
        changed("fva as text", &json!({"fva": "1,2"}), invalid("fva")),
        changed("fva beyond 32 bits", &json!({"fva": [1, 4_294_967_296_u64]}), invalid("fva")),
        changed("fva below -1", &json!({"fva": [-2, 0]}), invalid("fva")),
    ]
}

fn malformed_organizations() -> Vec<Case> {
    let organization = |changes: &Value| json!({"o": with(json!({"id": "org_1", "rol": "admin"}), changes)});
    let invalid = Refusal::ClaimInvalid;
    vec![
        changed("an organization that is a text", &json!({"o": "org_1"}), invalid("o")),
        changed(
            "an organization without id",
            &organization(&json!({"id": null})),
            Refusal::ClaimMissing("o.id"),
        ),
        changed(
            "an organization without role",
            &organization(&json!({"rol": null})),
            Refusal::ClaimMissing("o.rol"),
        ),
        changed("masks as numbers", &organization(&json!({"fpm": 3})), invalid("o.fpm")),
        changed("names as a list", &organization(&json!({"per": ["read"]})), invalid("o.per")),
        changed("a feature without scope", &json!({"fea": "dashboard"}), invalid("fea")),
        changed("a feature without name", &json!({"fea": "o:"}), invalid("fea")),
        changed("a feature with two colons", &json!({"fea": "o:a:b"}), invalid("fea")),
        changed(
            "a permission with a colon",
            &organization(&json!({"per": "a:b", "fpm": "1"})),
            invalid("o.per"),
        ),
        changed("a plan without scope", &json!({"pla": "pro"}), invalid("pla")),
        changed(
            "a role of version 1 missing",
            &json!({"v": null, "org_id": "org_1"}),
            Refusal::ClaimMissing("org_role"),
        ),
        changed(
            "permissions of version 1 as text",
            &json!({"v": null, "org_id": "o", "org_role": "r", "org_permissions": "org:a:b"}),
            invalid("org_permissions"),
        ),
    ]
}

fn too_many() -> String {
    let count = claims().as_object().expect("an object").len();
    let more = (count..=CLAIMS_MAX).map(|number| (format!("c{number}"), json!(number))).collect();
    claims_with(&Value::Object(more)).to_string()
}

fn too_deep() -> String {
    claims_with(&json!({"deep": (1..=NESTING_MAX).fold(json!(1), |inner, _| json!([inner]))})).to_string()
}

fn permissions() -> Vec<Case> {
    let of_version_1 =
        |keys: &[&str]| json!({"v": null, "org_id": "o", "org_role": "r", "org_permissions": keys});
    let granted = |features: &str, names: &str, masks: &str| json!({"fea": features, "o": {"id": "org_1", "rol": "admin", "per": names, "fpm": masks}});
    let invalid = Refusal::ClaimInvalid("org_permissions");
    let many_names = vec!["p"; 1025].join(",");
    let features = vec!["o:f"; 70].join(",");
    let (names, masks) = (vec!["p"; 64].join(","), vec![u64::MAX.to_string(); 70].join(","));
    vec![
        changed("a comma in a permission of version 1", &of_version_1(&["org:a:b,org:c:d"]), invalid),
        changed("an empty permission of version 1", &of_version_1(&["org:a:b", ""]), invalid),
        changed("a control character in a permission of version 1", &of_version_1(&["org:a:b\n"]), invalid),
        changed("a permission of version 1 with an accent", &of_version_1(&["org:caf\u{e9}:read"]), invalid),
        changed("a space in a permission of version 1", &of_version_1(&["org:a:b c"]), invalid),
        changed(
            "a permission with an accent",
            &granted("o:a", "caf\u{e9}", "1"),
            Refusal::ClaimInvalid("o.per"),
        ),
        changed("a space in a permission", &granted("o:a", "p q", "1"), Refusal::ClaimInvalid("o.per")),
        changed(
            "a permission of a feature with an accent",
            &granted("o:caf\u{e9}", "p", "1"),
            Refusal::ClaimInvalid("fea"),
        ),
        changed(
            "a user feature first, with another result",
            &granted("u:a,o:b", "p", "1"),
            Refusal::PermissionsAmbiguous,
        ),
        changed("too many names", &granted("o:a", &many_names, "1"), Refusal::PermissionsTooMany),
        changed(
            "a mask with too many digits",
            &granted("o:a", "p", &"1".repeat(311)),
            Refusal::PermissionsTooMany,
        ),
        changed("too many permissions", &granted(&features, &names, &masks), Refusal::PermissionsTooMany),
    ]
}

fn cases() -> Vec<Case> {
    [
        algorithms(),
        keys(),
        forms(),
        kinds(),
        policies(),
        malformed_texts(),
        malformed_claims(),
        malformed_organizations(),
        permissions(),
    ]
    .concat()
}

#[test]
fn every_bad_token_is_refused_with_its_own_reason() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let different: BTreeSet<&String> = cases.iter().map(|(_, token, _)| token).collect();
    assert_eq!(different.len(), cases.len(), "no token occurs twice");
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(what, token, expected)| match judge(token) {
            Err(found) if found == *expected => None,
            found => Some(format!("{what}: {found:?} instead of {expected:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_every_reason_that_a_token_alone_can_give() {
    let found: BTreeSet<&str> = cases().iter().map(|(_, _, refusal)| refusal.name()).collect();
    let elsewhere = [
        "audience_missing",
        "credentials_ambiguous",
        "credentials_malformed",
        "impersonated",
        "token_missing",
    ];
    let missing: Vec<&str> =
        Refusal::ALL.iter().map(|refusal| refusal.name()).filter(|name| !found.contains(name)).collect();
    let mut missing = missing;
    missing.sort_unstable();
    assert_eq!(missing, elsewhere);
}

#[test]
fn names_are_different_words_and_the_readme_lists_each() {
    let names: BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    assert_eq!(names.len(), Refusal::ALL.len());
    let page = include_str!("../../README.md");
    for name in names {
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{name}"
        );
        assert!(page.contains(&format!("`{name}`")), "README.md does not list {name}");
    }
}

#[test]
fn claims_are_not_read_before_the_signature_is_genuine() {
    let [head, _, signature] = parts(&token(&claims()));
    for claims in ["{}".to_owned(), "[".to_owned(), too_many(), r#"{"a":1,"a":2}"#.to_owned()] {
        assert_eq!(judge(&format!("{head}.{}.{signature}", encode(claims))).unwrap_err(), Refusal::Signature);
    }
}

#[test]
fn a_wrong_signature_is_refused_by_every_form_of_the_same_key() {
    let (ours, theirs) = (Signer::of_the_instance(), Signer::of_another_instance());
    let forged = theirs.token(&header().to_string(), &claims().to_string());
    let genuine = ours.token(&header().to_string(), &claims().to_string());
    for keys in [KeySet::from_pem(&ours.pem()), KeySet::from_jwks(&jwks(&[ours.jwk(KID)]))] {
        let keys = keys.expect("keys");
        assert_eq!(verify(&forged, &keys, &policy(), at(NOW)).unwrap_err(), Refusal::Signature);
        assert!(verify(&genuine, &keys, &policy(), at(NOW)).is_ok());
    }
}

#[test]
fn a_token_at_the_limit_is_read_and_one_byte_more_is_not() {
    let judge = |token: &str, max: usize| {
        let policy = policy().token_bytes_max(max).expect("a policy");
        verify(token, &instance_keys(), &policy, at(NOW)).map(drop)
    };
    let token = token(&claims_with(&json!({"pad": "x".repeat(1000)})));
    assert_eq!(judge(&token, token.len()), Ok(()));
    assert_eq!(judge(&token, token.len() - 1), Err(Refusal::TokenTooLong));
}

#[test]
fn a_header_at_the_limit_is_read_and_one_byte_more_is_not() {
    let padded = |length: usize| {
        let empty = with(header(), &json!({"pad": ""})).to_string();
        with(header(), &json!({"pad": "x".repeat(length - empty.len())})).to_string()
    };
    let sign = |header: &str| Signer::of_the_instance().token(header, &claims().to_string());
    assert!(judge(&sign(&padded(HEADER_BYTES_MAX))).is_ok());
    assert_eq!(judge(&sign(&padded(HEADER_BYTES_MAX + 1))).unwrap_err(), Refusal::HeaderTooLong);
}
