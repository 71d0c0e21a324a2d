//! Reads a JSON Web Key Set, as Clerk serves it at `/.well-known/jwks.json`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::key::{Key, KeysError};
use crate::limits::{KEY_DOCUMENT_BYTES_MAX, KEYS_MAX};

#[derive(Deserialize)]
struct Document {
    keys: Vec<Entry>,
}

/// A key of the document. Members of private keys are only looked for.
#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl Entry {
    /// Reports whether the key is meant for RS256 signatures. A set may contain others, which are skipped.
    fn is_for_rs256(&self) -> bool {
        self.kty == "RSA"
            && self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.alg.as_deref().is_none_or(|algorithm| algorithm == "RS256")
    }
}

/// Returns the keys of a set that can verify session tokens.
pub(crate) fn read(document: &[u8]) -> Result<Vec<Key>, KeysError> {
    if document.len() > KEY_DOCUMENT_BYTES_MAX {
        return Err(KeysError::TooLong(KEY_DOCUMENT_BYTES_MAX));
    }
    let document: Document = serde_json::from_slice(document).map_err(|_| KeysError::NotAJwks)?;
    let mut keys = Vec::new();
    for (number, entry) in (1..).zip(&document.keys) {
        if entry.d.is_some() || entry.p.is_some() || entry.k.is_some() {
            return Err(KeysError::PrivateKey);
        }
        if !entry.is_for_rs256() {
            continue;
        }
        if keys.len() == KEYS_MAX {
            return Err(KeysError::TooMany(KEYS_MAX));
        }
        let id = entry.kid.clone().ok_or(KeysError::NoKeyId(number))?;
        let decode = |text: &Option<String>| {
            let bytes = text.as_deref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            bytes.ok_or(KeysError::Damaged(number))
        };
        keys.push(Key::new(Some(id), &decode(&entry.n)?, &decode(&entry.e)?, number)?);
    }
    if keys.is_empty() { Err(KeysError::NoKey) } else { Ok(keys) }
}
