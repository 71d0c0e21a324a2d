//! Signs tokens for tests, with keys that are in this repository and nowhere else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair};
use rollbook_session::{KeySet, Keys, Policy, Refusal, Session, Verifier, verify};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://clerk.example.com";
pub(crate) const PARTY: &str = "https://app.example.com";
pub(crate) const KID: &str = "ins_2Example";
/// Time of the tests, in seconds since 1970.
pub(crate) const NOW: i64 = 1_800_000_000;

/// A key pair that signs.
pub(crate) struct Signer(RsaKeyPair);

impl Signer {
    pub(crate) fn of_the_instance() -> Self {
        Self::read(include_str!("../keys/TEST-ONLY-instance.pem"))
    }

    pub(crate) fn of_another_instance() -> Self {
        Self::read(include_str!("../keys/TEST-ONLY-other.pem"))
    }

    fn read(pem: &str) -> Self {
        let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
        let base64: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
        let der = STANDARD.decode(base64).expect("base64");
        Self(RsaKeyPair::from_pkcs8(&der).expect("a key pair"))
    }

    pub(crate) fn sign(&self, signed: &str, encoding: &'static dyn RsaEncoding) -> Vec<u8> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(encoding, &random, signed.as_bytes(), &mut signature).expect("a signature");
        signature
    }

    /// Signs a header and claims, each as text, with RS256.
    pub(crate) fn token(&self, header: &str, claims: &str) -> String {
        let signed = [header, claims].map(encode).join(".");
        let signature = self.sign(&signed, &RSA_PKCS1_SHA256);
        format!("{signed}.{}", encode(signature))
    }

    /// Signs with RS512.
    pub(crate) fn token_of_sha512(&self, header: &str, claims: &str) -> String {
        let signed = [header, claims].map(encode).join(".");
        let signature = self.sign(&signed, &RSA_PKCS1_SHA512);
        format!("{signed}.{}", encode(signature))
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let public: PublicKeyComponents<Vec<u8>> = self.0.public().into();
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": encode(public.n), "e": encode(public.e)})
    }

    /// The public key in DER, as a `SubjectPublicKeyInfo`.
    pub(crate) fn spki(&self) -> Vec<u8> {
        let key: &[u8] = self.0.public().as_ref();
        let algorithm =
            [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
        let bits = element(0x03, &[&[0], key].concat());
        element(0x30, &[&algorithm[..], &bits].concat())
    }

    pub(crate) fn pem(&self) -> String {
        let base64 = STANDARD.encode(self.spki());
        let lines: Vec<&str> =
            (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

/// A DER element of 256 to 65535 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short element").to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

pub(crate) fn instance_keys() -> KeySet {
    KeySet::from_jwks(&jwks(&[Signer::of_the_instance().jwk(KID)])).expect("a JWKS")
}

pub(crate) fn policy() -> Policy {
    Policy::new(ISSUER, [PARTY]).expect("a policy")
}

pub(crate) fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.try_into().expect("after 1970"))
}

pub(crate) fn header() -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": KID, "cat": "cl_B7d4PD111AAA"})
}

/// Claims of version 2, issued 10 seconds ago.
pub(crate) fn claims() -> Value {
    json!({
        "azp": PARTY, "exp": NOW + 50, "iat": NOW - 10, "nbf": NOW - 20, "iss": ISSUER, "jti": "0f1e2d3c",
        "sid": "sess_1", "sub": "user_1", "v": 2, "sts": "active", "fva": [3, -1],
        "pla": "o:pro,u:free", "fea": "o:tasks,uo:export,u:badge",
        "o": {"id": "org_1", "slg": "acme", "rol": "admin", "per": "read,delete", "fpm": "3,1"},
    })
}

/// Claims with some replaced. A null removes the claim.
pub(crate) fn claims_with(changes: &Value) -> Value {
    with(claims(), changes)
}

pub(crate) fn with(mut object: Value, changes: &Value) -> Value {
    let members = object.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(members.remove(key)),
            value => drop(members.insert(key.clone(), value.clone())),
        }
    }
    object
}

/// Signs claims with the instance's key and a usual header.
pub(crate) fn token(claims: &Value) -> String {
    Signer::of_the_instance().token(&header().to_string(), &claims.to_string())
}

/// Verifies with the usual keys and policy at the usual time.
pub(crate) fn judge(token: &str) -> Result<Session, Refusal> {
    verify(token, &instance_keys(), &policy(), at(NOW))
}

pub(crate) fn verifier() -> Verifier {
    Verifier::new(Keys::new(instance_keys()), policy()).clock(|| at(NOW))
}
