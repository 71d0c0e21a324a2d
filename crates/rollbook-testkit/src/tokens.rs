//! Session tokens for tests, signed with keys that are in this repository and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// Issuer of the tokens.
pub const ISSUER: &str = "https://clerk.example.com";
/// Application that the tokens are issued to.
pub const PARTY: &str = "https://app.example.com";
/// Id of the instance's key.
pub const KEY_ID: &str = "ins_2Example";

/// Beginning of a public key of 2048 bits as `SubjectPublicKeyInfo`, up to the RSA numbers.
const SPKI: [u8; 24] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
    0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00,
];

/// A key pair that signs.
pub struct Signer(RsaKeyPair);

impl Signer {
    /// Returns the key pair of the instance.
    pub fn of_the_instance() -> Self {
        Self::read(include_str!("../../rollbook-session/tests/keys/TEST-ONLY-instance.pem"))
    }

    /// Returns the key pair of another instance.
    pub fn of_another_instance() -> Self {
        Self::read(include_str!("../../rollbook-session/tests/keys/TEST-ONLY-other.pem"))
    }

    fn read(pem: &str) -> Self {
        let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
        let base64: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
        let der = STANDARD.decode(base64).expect("base64");
        Self(RsaKeyPair::from_pkcs8(&der).expect("a key pair"))
    }

    /// Signs claims with the key id of the instance.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(KEY_ID, claims)
    }

    /// Signs claims with this key id.
    ///
    /// # Panics
    /// Panics if the system has no random numbers.
    pub fn token_with(&self, key_id: &str, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": key_id, "typ": "JWT" });
        let signed = [header.to_string(), claims.to_string()].map(encode).join(".");
        let mut signature = vec![0; self.0.public().modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).expect("a signature");
        format!("{signed}.{}", encode(signature))
    }

    /// Returns the public key as PEM, as `CLERK_JWT_KEY` has it.
    pub fn pem(&self) -> String {
        let der = [&SPKI, self.0.public_key().as_ref()].concat();
        let base64 = STANDARD.encode(der);
        let lines = (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]);
        let lines: Vec<&str> = lines.collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Returns a JWKS with the public key, under this key id.
    pub fn jwks(&self, key_id: &str) -> Value {
        json!({ "keys": [self.jwk(key_id)] })
    }

    /// Returns the public key as an element of a JWKS.
    pub fn jwk(&self, key_id: &str) -> Value {
        let public: PublicKeyComponents<Vec<u8>> = self.0.public().into();
        json!({
            "use": "sig", "kty": "RSA", "kid": key_id, "alg": "RS256", "n": encode(public.n), "e": encode(public.e),
        })
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the claims of a session that begins at `now`, in seconds since 1970, and is active in no organization.
pub fn claims(user_id: &str, now: i64) -> Value {
    json!({
        "azp": PARTY, "exp": now + 60, "fva": [1, -1], "iat": now, "iss": ISSUER, "jti": "4f3a", "nbf": now - 10,
        "sid": "sess_1", "sub": user_id, "v": 2,
    })
}

/// Returns the claims of an admin of an organization, who may read and delete tasks and read invoices.
pub fn member_claims(user_id: &str, organization_id: &str, now: i64) -> Value {
    let mut claims = claims(user_id, now);
    claims["fea"] = json!("o:tasks,o:invoices");
    claims["pla"] = json!("o:pro");
    claims["o"] = json!({
        "id": organization_id, "slg": "kilnworks-studio", "rol": "admin", "per": "read,delete", "fpm": "3,1",
    });
    claims
}
