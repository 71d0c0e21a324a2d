//! Keys and policies from configuration: every form that is read, and the words for every form that is not.

use std::time::Duration;

use rollbook_session::limits::{KEY_DOCUMENT_BYTES_MAX, KEYS_MAX, PARTIES_MAX};
use rollbook_session::{KeySet, Keys, KeysError, Policy, PolicyError, Refusal, verify};
use serde_json::{Value, json};

use crate::mint::{ISSUER, KID, NOW, PARTY, Signer, at, claims, encode, header, jwks, policy, with};

fn signed(signer: &Signer, kid: &str) -> String {
    signer.token(&with(header(), &json!({"kid": kid})).to_string(), &claims().to_string())
}

fn judge(keys: &KeySet, token: &str) -> Result<(), Refusal> {
    verify(token, keys, &policy(), at(NOW)).map(drop)
}

#[test]
fn a_pem_is_read_in_each_of_its_forms() {
    let signer = Signer::of_the_instance();
    let pem = signer.pem();
    let base64 = pem.lines().filter(|line| !line.starts_with("---")).collect::<Vec<_>>();
    for (form, text) in [
        ("several lines", pem.clone()),
        ("line ends of Windows", pem.replace('\n', "\r\n")),
        ("one line", pem.replace('\n', "")),
        ("one line with spaces", pem.replace('\n', " ")),
        ("line breaks as two characters", pem.replace('\n', "\\n")),
        ("base64 only", base64.concat()),
        ("base64 in lines", base64.join("\n")),
        ("space around it", format!("\n  {pem}\n")),
    ] {
        let keys = KeySet::from_pem(&text).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(keys.ids().collect::<Vec<_>>(), [None], "{form}");
        assert_eq!(judge(&keys, &signed(&signer, "any kid")), Ok(()), "{form}");
    }
}

#[test]
fn what_is_not_a_public_rsa_key_in_pem_is_refused_in_words() {
    let ours = Signer::of_the_instance();
    let spki = ours.spki();
    let pem_of = |der: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let mut even = spki.clone();
    // The modulus ends before the five bytes of the exponent.
    let last = even.len() - 6;
    even[last] &= 0xfe;
    let mut exponent = spki.clone();
    let last = exponent.len() - 1;
    exponent[last] = 3;
    // The algorithm RSASSA-PSS in place of rsaEncryption: the last byte of its name.
    let mut pss = spki.clone();
    pss[16] = 10;
    let certificate = ours.pem().replace("PUBLIC KEY", "CERTIFICATE");
    let many: String = (0..=KEYS_MAX).map(|_| ours.pem()).collect();
    for (what, text, error) in [
        ("nothing", String::new(), KeysError::NoKey),
        ("a secret key of Clerk", "sk_test_x".to_owned(), KeysError::NotAPem),
        ("a private key", include_str!("../keys/TEST-ONLY-other.pem").to_owned(), KeysError::PrivateKey),
        ("a certificate", certificate, KeysError::NotAPem),
        ("a key that ends early", pem_of(&spki[..200]), KeysError::Damaged(1)),
        ("bytes after the key", pem_of(&[&spki[..], b"x"].concat()), KeysError::Damaged(1)),
        ("a key for another algorithm", pem_of(&pss), KeysError::NotRsa(1)),
        ("an even modulus", pem_of(&even), KeysError::Damaged(1)),
        ("another exponent", pem_of(&exponent), KeysError::Exponent(1)),
        ("no end", ours.pem().replace("-----END PUBLIC KEY-----", ""), KeysError::NotAPem),
        (
            "a damaged second key",
            format!("{}-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", ours.pem()),
            KeysError::Damaged(2),
        ),
        ("too many keys", many, KeysError::TooMany(KEYS_MAX)),
        (
            "too long a text",
            " ".repeat(KEY_DOCUMENT_BYTES_MAX + 1),
            KeysError::TooLong(KEY_DOCUMENT_BYTES_MAX),
        ),
    ] {
        assert_eq!(KeySet::from_pem(&text).unwrap_err(), error, "{what}");
    }
}

#[test]
fn a_jwks_is_read_and_keys_for_other_purposes_are_skipped() {
    let signer = Signer::of_the_instance();
    let foreign = [
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "AA"}),
        with(signer.jwk("encryption"), &json!({"use": "enc"})),
        with(signer.jwk("wide"), &json!({"alg": "RS512"})),
    ];
    let keys = KeySet::from_jwks(&jwks(&[&foreign[..], &[signer.jwk(KID)]].concat())).expect("a JWKS");
    assert_eq!(keys.ids().collect::<Vec<_>>(), [Some(KID)]);
    assert_eq!(format!("{keys:?}"), format!("[Some({KID:?})]"));
    let bare = with(signer.jwk(KID), &json!({"use": null, "alg": null}));
    assert_eq!(KeySet::from_jwks(&jwks(&[bare])).expect("a JWKS"), keys, "use and alg are optional");
}

#[test]
fn what_is_not_a_usable_jwks_is_refused_in_words() {
    let signer = Signer::of_the_instance();
    let jwk = |changes: &Value| jwks(&[with(signer.jwk(KID), changes)]);
    let many: Vec<Value> = (0..=KEYS_MAX).map(|number| signer.jwk(&number.to_string())).collect();
    let mut small = vec![0xff; 128];
    small[127] = 1;
    let mut large = vec![0xff; 1025];
    large[1024] = 1;
    for (what, document, error) in [
        ("a page of an outage", b"<html>".to_vec(), KeysError::NotAJwks),
        ("an error of an API", br#"{"errors":[]}"#.to_vec(), KeysError::NotAJwks),
        ("nothing", Vec::new(), KeysError::NotAJwks),
        ("bytes", vec![0xff; 9], KeysError::NotAJwks),
        ("no keys", jwks(&[]), KeysError::NoKey),
        ("an elliptic key only", jwks(&[json!({"kty": "EC", "kid": "e"})]), KeysError::NoKey),
        ("a private key", jwk(&json!({"d": "AA"})), KeysError::PrivateKey),
        ("a symmetric key", jwks(&[json!({"kty": "oct", "k": "AA", "kid": "s"})]), KeysError::PrivateKey),
        ("no kid", jwk(&json!({"kid": null})), KeysError::NoKeyId(1)),
        ("no modulus", jwk(&json!({"n": null})), KeysError::Damaged(1)),
        ("a modulus with padding", jwk(&json!({"n": "AQAB="})), KeysError::Damaged(1)),
        ("a modulus of zero", jwk(&json!({"n": "AAAA"})), KeysError::Damaged(1)),
        ("a small key", jwk(&json!({"n": encode(small)})), KeysError::Size(1, 1024)),
        ("a large key", jwk(&json!({"n": encode(large)})), KeysError::Size(1, 8200)),
        ("another exponent", jwk(&json!({"e": "Aw"})), KeysError::Exponent(1)),
        (
            "one kid twice",
            jwks(&[signer.jwk(KID), Signer::of_another_instance().jwk(KID)]),
            KeysError::SameKeyId,
        ),
        ("too many keys", jwks(&many), KeysError::TooMany(KEYS_MAX)),
        ("too long", vec![b' '; KEY_DOCUMENT_BYTES_MAX + 1], KeysError::TooLong(KEY_DOCUMENT_BYTES_MAX)),
    ] {
        assert_eq!(KeySet::from_jwks(&document).unwrap_err(), error, "{what}");
    }
    assert_eq!(KeySet::from_jwks(&jwks(&many[..KEYS_MAX])).expect("at the limit").len(), KEYS_MAX);
    let twice = KeySet::from_jwks(&jwks(&[signer.jwk(KID), signer.jwk(KID)])).expect("the same key twice");
    assert_eq!(twice.len(), 1);
}

#[test]
fn keys_rotate_while_tokens_are_verified_and_an_outage_changes_nothing() {
    let (old, new) = (Signer::of_the_instance(), Signer::of_another_instance());
    let (old_token, new_token) = (signed(&old, "ins_old"), signed(&new, "ins_new"));
    let keys = Keys::new(KeySet::from_jwks(&jwks(&[old.jwk("ins_old")])).expect("a JWKS"));
    let reader = keys.clone();
    assert_eq!(judge(&reader.current(), &new_token), Err(Refusal::KeyUnknown));
    for outage in [&b"503"[..], b"", br#"{"keys":[]}"#] {
        assert!(keys.replace_from_jwks(outage).is_err());
        assert_eq!(judge(&reader.current(), &old_token), Ok(()), "the known key stays");
    }
    let both = jwks(&[old.jwk("ins_old"), new.jwk("ins_new")]);
    assert_eq!(keys.replace_from_jwks(&both), Ok(true));
    assert_eq!(keys.replace_from_jwks(&both), Ok(false), "nothing differs");
    assert_eq!([&old_token, &new_token].map(|token| judge(&reader.current(), token)), [Ok(()), Ok(())]);
    assert_eq!(keys.replace_from_jwks(&jwks(&[new.jwk("ins_new")])), Ok(true));
    assert_eq!(judge(&reader.current(), &old_token), Err(Refusal::KeyUnknown), "the old key is gone");
    assert_eq!(judge(&reader.current(), &new_token), Ok(()));
}

#[test]
fn many_threads_verify_while_keys_are_replaced() {
    let (ours, other) = (Signer::of_the_instance(), Signer::of_another_instance());
    let token = signed(&ours, KID);
    let with_both = KeySet::from_jwks(&jwks(&[ours.jwk(KID), other.jwk("ins_3")])).expect("a JWKS");
    let keys = Keys::new(with_both.clone());
    let alone = KeySet::from_jwks(&jwks(&[ours.jwk(KID)])).expect("a JWKS");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(judge(&keys.current(), &token), Ok(()))));
        }
        for _ in 0..500 {
            keys.replace(alone.clone());
            keys.replace(with_both.clone());
        }
    });
}

#[test]
fn old_and_new_pem_are_joined_for_a_rotation() {
    let (old, new) = (Signer::of_the_instance(), Signer::of_another_instance());
    let set = |signer: &Signer| KeySet::from_pem(&signer.pem()).expect("a PEM");
    let joined = set(&old).join(set(&new)).expect("two keys");
    assert_eq!(joined.len(), 2);
    assert_eq!(KeySet::from_pem(&(old.pem() + &new.pem())).expect("two keys"), joined);
    for signer in [&old, &new] {
        assert_eq!(judge(&joined, &signed(signer, "any")), Ok(()));
    }
    assert_eq!(set(&old).join(set(&old)).expect("one key").len(), 1);
}

#[test]
fn a_token_without_kid_needs_a_key_without_kid() {
    let signer = Signer::of_the_instance();
    let token = signer.token(&with(header(), &json!({"kid": null})).to_string(), &claims().to_string());
    assert_eq!(judge(&KeySet::from_pem(&signer.pem()).expect("a PEM"), &token), Ok(()));
    let named = KeySet::from_jwks(&jwks(&[signer.jwk(KID)])).expect("a JWKS");
    assert_eq!(judge(&named, &token), Err(Refusal::KeyIdMissing));
}

#[test]
fn a_policy_that_would_accept_too_much_is_refused() {
    for issuer in
        ["", "clerk.example.com", "http://clerk.example.com", "https://", "https:///x", "https://a b"]
    {
        assert_eq!(Policy::new(issuer, [PARTY]).unwrap_err(), PolicyError::Issuer, "{issuer}");
    }
    assert_eq!(Policy::new(ISSUER, [""; 0]).unwrap_err(), PolicyError::NoParty);
    for party in [
        "",
        "app.example.com",
        "https://",
        "https://*.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://App.example.com",
        "https://user@app.example.com",
        "://x",
    ] {
        assert_eq!(Policy::new(ISSUER, [PARTY, party]).unwrap_err(), PolicyError::Party(2), "{party}");
    }
    for party in ["http://localhost:3000", "chrome-extension://abc", "https://[::1]:8443"] {
        assert!(Policy::new(ISSUER, [party]).is_ok(), "{party}");
    }
    let many = |count: usize| (0..count).map(|number| format!("https://a{number}.example.com"));
    assert!(Policy::new(ISSUER, many(PARTIES_MAX)).is_ok());
    assert_eq!(Policy::new(ISSUER, many(PARTIES_MAX + 1)).unwrap_err(), PolicyError::TooMany);
    assert_eq!(policy().audiences(many(PARTIES_MAX + 1)).unwrap_err(), PolicyError::TooMany);
    assert!(policy().skew(Duration::from_secs(60)).is_ok());
    assert_eq!(policy().skew(Duration::from_millis(60_001)).unwrap_err(), PolicyError::Skew);
    for (bytes, is_valid) in [(1023, false), (1024, true), (65536, true), (65537, false)] {
        assert_eq!(policy().token_bytes_max(bytes).is_ok(), is_valid, "{bytes}");
    }
}
