//! One RSA public key, checked when it is read.

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

use crate::token;

/// Bits of an accepted modulus.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The exponent of each of Clerk's keys: 65537.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// Reason why keys are not accepted. The document is never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The document is longer than the limit.
    #[error("the key document is longer than {0} bytes")]
    TooLong(usize),
    /// The document contains more keys than the limit.
    #[error("there are more than {0} keys; remove those that are no longer used")]
    TooMany(usize),
    /// No key in the document can verify a session token.
    #[error("no RSA key for RS256 is in the document; copy the JWKS public key of the Clerk instance")]
    NoKey,
    /// The document is not a JWKS.
    #[error("the document is not a JSON Web Key Set (an object with the array \"keys\")")]
    NotAJwks,
    /// The document is not PEM.
    #[error(
        "the text is not a public key in PEM (-----BEGIN PUBLIC KEY-----); copy the \"JWKS Public Key\" of Clerk's dashboard"
    )]
    NotAPem,
    /// A key is not for RSA, such as one of an elliptic curve.
    #[error("key {0} is not an RSA key; copy the \"JWKS Public Key\" of Clerk's dashboard")]
    NotRsa(usize),
    /// The document contains a private key.
    #[error(
        "the document contains a private key; Clerk gives none, so replace that key where it is from, and use the public key here"
    )]
    PrivateKey,
    /// A key of a JWKS has no `kid`.
    #[error("key {0} of the JWKS has no kid")]
    NoKeyId(usize),
    /// Two different keys have one `kid`.
    #[error("two different keys have the same kid")]
    SameKeyId,
    /// A key's numbers are not valid.
    #[error("key {0} is damaged: its modulus or exponent is not valid")]
    Damaged(usize),
    /// A key has the wrong size.
    #[error("key {0} has {1} bits; 2048 to 8192 are accepted")]
    Size(usize, usize),
    /// A key has an unusual exponent.
    #[error("key {0} has another exponent than 65537")]
    Exponent(usize),
}

/// An RSA public key, with its id if it has one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    id: Option<String>,
    /// Big-endian, without leading zeros.
    modulus: Vec<u8>,
    /// Encoded headers of session tokens with this id.
    usual_headers: Vec<String>,
}

impl Key {
    /// Checks a key's numbers, both big-endian. `number` is the key's place in its document, from 1.
    pub(crate) fn new(
        id: Option<String>,
        modulus: &[u8],
        exponent: &[u8],
        number: usize,
    ) -> Result<Self, KeysError> {
        let [n, e] = [modulus, exponent].map(without_leading_zeros);
        let (Some(first), Some(last)) = (n.first(), n.last()) else { return Err(KeysError::Damaged(number)) };
        let bits = n.len() * 8 - first.leading_zeros() as usize;
        if !MODULUS_BITS.contains(&bits) {
            return Err(KeysError::Size(number, bits));
        }
        if last % 2 == 0 {
            return Err(KeysError::Damaged(number));
        }
        if e != EXPONENT {
            return Err(KeysError::Exponent(number));
        }
        let usual_headers = id.as_deref().map(|id| token::usual_headers(id).into()).unwrap_or_default();
        Ok(Self { id, modulus: n.to_vec(), usual_headers })
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Reports whether an encoded header is one that Clerk gives to session tokens of this key.
    pub(crate) fn has_usual_header(&self, header: &str) -> bool {
        self.usual_headers.iter().any(|usual| usual == header)
    }

    /// Reports whether the RS256 signature of `signed` is genuine.
    pub(crate) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let numbers = RsaPublicKeyComponents { n: self.modulus.as_slice(), e: EXPONENT.as_slice() };
        numbers.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
