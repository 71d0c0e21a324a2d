//! Verification of Svix's signature: is a delivery genuine, and is it fresh?
//!
//! The scheme is Standard Webhooks (<https://www.standardwebhooks.com>), as Svix uses it for Clerk:
//! `HMAC-SHA256(key, id "." timestamp "." body)` over the raw bytes of the request.
//!
//! Constraints:
//!
//! * The signed bytes are the bytes that were sent: the timestamp is not reformatted, the body is not
//!   decoded.
//! * Each of the three headers must occur exactly once, and all must be of one family. Otherwise a proxy and
//!   this check could read different values.
//! * Every candidate is compared in constant time over all 32 bytes with every secret. An empty candidate is
//!   not a candidate (CVE-2024-21491: `v1,` verified everything).
//! * The signature is checked before the time, so that "wrong secret" and "wrong clock" are distinguishable.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::delivery::MessageId;
use crate::time::Timestamp;

type HmacSha256 = Hmac<Sha256>;

/// Maximum number of `version,signature` entries in one header. Svix sends one for each active secret.
pub const CANDIDATES_MAX: usize = 16;
/// Maximum length of a signature header, in bytes.
pub const SIGNATURE_HEADER_LENGTH_MAX: usize = 4096;
/// Maximum number of configured secrets. Svix keeps at most ten old ones.
pub const SECRETS_MAX: usize = 16;
/// Minimum length of a secret's key, in bytes, according to Standard Webhooks.
pub const SECRET_LENGTH_MIN: usize = 24;
/// Maximum length of a secret's key, in bytes, according to Svix. Standard Webhooks says 64.
pub const SECRET_LENGTH_MAX: usize = 75;
/// Maximum number of digits of a timestamp: twelve reach the year 33658.
const TIMESTAMP_DIGITS_MAX: usize = 12;

/// One signing secret with its prepared HMAC. Never printed.
#[derive(Clone)]
pub struct SigningSecret {
    keyed: HmacSha256,
    key: Vec<u8>,
}

/// Reason why a text is not a valid signing secret. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text contains no secret.
    #[error("contains no secret")]
    Empty,
    /// The secret does not begin with `whsec_`, and is not valid without it.
    #[error(
        "secret {0} does not begin with whsec_ (copy the Signing Secret of the endpoint in Clerk's dashboard)"
    )]
    Prefix(usize),
    /// The secret begins with `whpk_`: a public key.
    #[error(
        "secret {0} is a public key (whpk_…) for asymmetric signatures, which Clerk does not use; copy the endpoint's \
         Signing Secret (whsec_…)"
    )]
    PublicKey(usize),
    /// The secret begins with `whsk_`: a private key.
    #[error(
        "secret {0} is a private key (whsk_…), which is the sender's alone and can't verify; copy the endpoint's Signing \
         Secret (whsec_…), and replace the key where it came from"
    )]
    PrivateKey(usize),
    /// The text after `whsec_` is not base64 with padding.
    #[error("secret {0} is damaged or incomplete: the text after whsec_ is not valid base64")]
    Base64(usize),
    /// The key is too short or too long.
    #[error("secret {0} has {1} bytes; it must have {SECRET_LENGTH_MIN} to {SECRET_LENGTH_MAX}")]
    Length(usize, usize),
    /// One secret occurs twice.
    #[error("secret {0} is repeated")]
    Repeated(usize),
    /// There are more than [`SECRETS_MAX`] secrets.
    #[error("there are more than {SECRETS_MAX} secrets")]
    TooMany,
}

impl SigningSecret {
    /// Svix's libraries also accept a secret without its prefix. Here this is allowed only for a single
    /// secret: a secret that a line break has split would otherwise pass for two.
    fn parse(text: &str, position: usize, is_only: bool) -> Result<Self, SecretError> {
        let key = match text.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| SecretError::Base64(position))?,
            None if text.starts_with("whpk_") => return Err(SecretError::PublicKey(position)),
            None if text.starts_with("whsk_") => return Err(SecretError::PrivateKey(position)),
            None if is_only => STANDARD.decode(text).map_err(|_| SecretError::Prefix(position))?,
            None => return Err(SecretError::Prefix(position)),
        };
        if !(SECRET_LENGTH_MIN..=SECRET_LENGTH_MAX).contains(&key.len()) {
            return Err(SecretError::Length(position, key.len()));
        }
        let keyed = HmacSha256::new_from_slice(&key).map_err(|_| SecretError::Length(position, key.len()))?;
        Ok(Self { keyed, key })
    }

    fn mac(&self, id: &[u8], timestamp: &[u8], body: &[u8]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(id);
        mac.update(b".");
        mac.update(timestamp);
        mac.update(b".");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }

    /// Returns an identifier that does not reveal the secret: the first eight bytes of an HMAC-SHA256 under
    /// it, in hexadecimal. The input differs from every signed delivery, so the result cannot be used as part
    /// of a signature.
    fn fingerprint(&self) -> String {
        let mut mac = self.keyed.clone();
        mac.update(b"rollbook: the owner of a queue");
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        digest[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Returns the value of the `svix-signature` header for a delivery, as Svix would send it.
    pub fn sign(&self, id: &str, timestamp: Timestamp, body: &[u8]) -> String {
        let seconds = (timestamp.as_millis() / 1000).to_string();
        format!("v1,{}", STANDARD.encode(self.mac(id.as_bytes(), seconds.as_bytes(), body)))
    }
}

/// Secrets of an endpoint. During a rotation there are several; all are tried.
#[derive(Clone)]
pub struct SigningSecrets(Vec<SigningSecret>);

impl SigningSecrets {
    /// Parses one or more `whsec_…`, separated by commas or white space.
    ///
    /// # Errors
    /// [`SecretError`] with the position of the invalid secret, counted from one.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut secrets: Vec<SigningSecret> = Vec::new();
        let parts = || text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        let is_only = parts().nth(1).is_none();
        for (index, part) in parts().enumerate() {
            let secret = SigningSecret::parse(part, index + 1, is_only)?;
            if secrets.iter().any(|known| known.key == secret.key) {
                return Err(SecretError::Repeated(index + 1));
            }
            if secrets.len() == SECRETS_MAX {
                return Err(SecretError::TooMany);
            }
            secrets.push(secret);
        }
        if secrets.is_empty() { Err(SecretError::Empty) } else { Ok(Self(secrets)) }
    }

    /// Returns the first secret, which is the one to sign with.
    pub fn first(&self) -> &SigningSecret {
        &self.0[0]
    }

    /// Returns the value of the signature header for a delivery, with a signature by each secret: a receiver that has
    /// only one of them, as during a rotation, accepts it.
    pub fn sign(&self, id: &str, timestamp: Timestamp, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|secret| secret.sign(id, timestamp, body));
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Returns identifiers of the secrets that do not reveal them, in the same order.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(SigningSecret::fingerprint).collect()
    }

    /// Returns the number of secrets; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningSecrets({} redacted)", self.0.len())
    }
}

/// Reason why a delivery is refused. The text is sent as the answer and says only which rule failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// One of the three headers is missing.
    #[error("missing header {0}")]
    MissingHeader(&'static str),
    /// One of the three headers occurs more than once.
    #[error("repeated header {0}")]
    RepeatedHeader(&'static str),
    /// The headers of the two families have different values.
    #[error("svix-* and webhook-* headers do not agree")]
    MixedHeaders,
    /// The id is empty, too long, or has a character outside `A-Z a-z 0-9 _ -`.
    #[error("malformed message id")]
    MalformedId,
    /// The timestamp is not one to twelve digits.
    #[error("malformed timestamp")]
    MalformedTimestamp,
    /// The signature header is too long or has too many entries.
    #[error("malformed signature")]
    MalformedSignature,
    /// The signature is valid, but the attempt is too old: a replay, or a slow clock at the sender.
    #[error("timestamp too old")]
    TooOld,
    /// The signature is valid, but the attempt is in the future: our clock is behind.
    #[error("timestamp too new")]
    TooNew,
    /// No candidate matches any secret.
    #[error("no signature matches")]
    NoMatch,
}

impl VerifyError {
    /// Returns a short name for metrics, from a closed list.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MissingHeader(_) | Self::RepeatedHeader(_) | Self::MixedHeaders => "bad_headers",
            Self::MalformedId => "bad_id",
            Self::MalformedTimestamp => "bad_timestamp",
            Self::MalformedSignature | Self::NoMatch => "bad_signature",
            Self::TooOld => "timestamp_too_old",
            Self::TooNew => "timestamp_too_new",
        }
    }

    /// All labels, so that counters can start at zero.
    pub const LABELS: [&'static str; 6] =
        ["bad_headers", "bad_id", "bad_timestamp", "bad_signature", "timestamp_too_old", "timestamp_too_new"];
}

/// The three headers of one family, as bytes, each present exactly once.
#[derive(Clone, Copy, Debug)]
pub struct SignedHeaders<'a> {
    id: &'a str,
    timestamp: &'a [u8],
    signature: &'a [u8],
}

const SVIX: [&str; 3] = ["svix-id", "svix-timestamp", "svix-signature"];
const STANDARD_WEBHOOKS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

impl<'a> SignedHeaders<'a> {
    /// Finds the three headers among the headers of a request. Names must be in lower case.
    ///
    /// # Errors
    /// A header is missing, repeated or malformed, or the two families have different values.
    pub fn read(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, VerifyError> {
        let mut svix = [None; 3];
        let mut standard = [None; 3];
        for (name, value) in headers {
            for (family, found) in [(SVIX, &mut svix), (STANDARD_WEBHOOKS, &mut standard)] {
                if let Some(position) = family.iter().position(|known| *known == name)
                    && found[position].replace(value).is_some()
                {
                    return Err(VerifyError::RepeatedHeader(family[position]));
                }
            }
        }
        let [any_svix, any_standard] = [svix, standard].map(|family| family.iter().any(Option::is_some));
        if any_svix && any_standard && svix != standard {
            return Err(VerifyError::MixedHeaders);
        }
        let (family, found) =
            if any_standard && !any_svix { (STANDARD_WEBHOOKS, standard) } else { (SVIX, svix) };
        let header = |position: usize| found[position].ok_or(VerifyError::MissingHeader(family[position]));
        Self { id: Self::id_of(header(0)?)?, timestamp: header(1)?, signature: header(2)? }.checked()
    }

    fn id_of(value: &'a [u8]) -> Result<&'a str, VerifyError> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let whole = (1..=MessageId::LENGTH_MAX).contains(&value.len()) && value.iter().all(allowed);
        std::str::from_utf8(value).ok().filter(|_| whole).ok_or(VerifyError::MalformedId)
    }

    fn checked(self) -> Result<Self, VerifyError> {
        let digits = self.timestamp;
        if !(1..=TIMESTAMP_DIGITS_MAX).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return Err(VerifyError::MalformedTimestamp);
        }
        if self.signature.len() > SIGNATURE_HEADER_LENGTH_MAX || self.entries().count() > CANDIDATES_MAX {
            return Err(VerifyError::MalformedSignature);
        }
        Ok(self)
    }

    fn entries(&self) -> impl Iterator<Item = &'a [u8]> {
        self.signature.split(|byte| *byte == b' ')
    }

    /// Returns the `v1` candidates that decode to 32 bytes. Other versions (`v1a`) and damaged ones are
    /// skipped.
    fn candidates(&self) -> impl Iterator<Item = [u8; 32]> {
        self.entries()
            .filter_map(|entry| entry.strip_prefix(b"v1,"))
            .filter_map(|encoded| STANDARD.decode(encoded).ok()?.try_into().ok())
    }

    fn sent_at(&self) -> Timestamp {
        let seconds = self.timestamp.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Timestamp::from_seconds(seconds)
    }

    /// Returns how far the sender's clock is ahead of ours, in milliseconds. The value is meaningful only
    /// after [`verify`] has found a valid signature, even if it then refuses the time.
    pub fn ahead_of(&self, now: Timestamp) -> i64 {
        self.sent_at().as_millis().saturating_sub(now.as_millis())
    }

    /// Returns the message id (`svix-id`).
    pub fn message_id(&self) -> MessageId {
        MessageId::new(self.id)
    }
}

/// Result of a successful verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lead of the sender's clock over ours, in milliseconds.
    pub ahead_millis: i64,
    /// One bit for each secret that matches, by its position from zero.
    matching: u16,
}

impl Verified {
    /// Returns whether the secret at this position, from zero, has made one of the signatures.
    pub const fn matches(self, position: usize) -> bool {
        position < SECRETS_MAX && self.matching & (1 << position) != 0
    }
}

/// Verifies that a delivery is signed with one of the `secrets` and was sent within `tolerance` of `now`.
///
/// # Errors
/// [`VerifyError`]: the rule that failed, and nothing about the secrets.
pub fn verify(
    secrets: &SigningSecrets,
    headers: &SignedHeaders<'_>,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<Verified, VerifyError> {
    let macs: Vec<[u8; 32]> =
        secrets.0.iter().map(|secret| secret.mac(headers.id.as_bytes(), headers.timestamp, body)).collect();
    let mut found = [subtle::Choice::from(0); SECRETS_MAX];
    for candidate in headers.candidates() {
        for (mac, found) in macs.iter().zip(&mut found) {
            *found |= mac.ct_eq(&candidate);
        }
    }
    let bits = found.iter().enumerate().map(|(position, found)| u16::from(found.unwrap_u8()) << position);
    let matching = bits.fold(0, |all, bit| all | bit);
    if matching == 0 {
        return Err(VerifyError::NoMatch);
    }
    let sent_at = headers.sent_at();
    // Svix sends whole seconds: 300 s is the last second that is accepted, on either side.
    if sent_at.plus(tolerance).as_millis() / 1000 < now.as_millis() / 1000 {
        return Err(VerifyError::TooOld);
    }
    if sent_at.as_millis() / 1000 > now.plus(tolerance).as_millis() / 1000 {
        return Err(VerifyError::TooNew);
    }
    Ok(Verified { ahead_millis: headers.ahead_of(now), matching })
}
