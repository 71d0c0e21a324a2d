//! The form of a token: three parts in base64url, of which the first is the header.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeSliceError, Engine as _};
use memchr::{memchr, memrchr};

use crate::json::{Member, Object};
use crate::limits::{HEADER_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::refusal::Refusal;

/// Prefixes of Clerk's opaque tokens, which are not JWTs.
const OPAQUE: [(&str, Refusal); 3] =
    [("mt_", Refusal::MachineToken), ("oat_", Refusal::OauthToken), ("ak_", Refusal::ApiKey)];

/// Categories of tokens (`cat`) that may be a session.
const SESSION_CATEGORIES: [&str; 2] = ["cl_B7d4PD111AAA", "cl_I7d4PD111III"];
const TEMPLATE_CATEGORY: &str = "cl_B7d4PD222AAA";
const MACHINE_CATEGORY: &str = "cl_B7d4PD333AAA";

/// The three parts of a token, still encoded.
pub(crate) struct Parts<'a> {
    /// The first part. [`usual_headers`] has two that need no decoding.
    pub(crate) header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Text that the signature covers: header, dot, claims.
    pub(crate) signed: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits a token of at most `bytes_max` bytes.
    pub(crate) fn split(token: &'a str, bytes_max: usize) -> Result<Self, Refusal> {
        if token.len() > bytes_max {
            return Err(Refusal::TokenTooLong);
        }
        if let Some((_, refusal)) = OPAQUE.iter().find(|(prefix, _)| token.starts_with(prefix)) {
            return Err(*refusal);
        }
        let (first, last) = (memchr(b'.', token.as_bytes()), memrchr(b'.', token.as_bytes()));
        let (Some(first), Some(last)) = (first, last) else { return Err(Refusal::NotAJwt) };
        if first == last || memchr(b'.', &token.as_bytes()[first + 1..last]).is_some() {
            return Err(Refusal::NotAJwt);
        }
        Ok(Self {
            header: &token[..first],
            claims: &token[first + 1..last],
            signature: &token[last + 1..],
            signed: &token[..last],
        })
    }

    /// Decodes the header's JSON.
    pub(crate) fn decoded_header(&self) -> Result<String, Refusal> {
        // Four characters for three bytes.
        if self.header.len() > HEADER_BYTES_MAX.div_ceil(3) * 4 {
            return Err(Refusal::HeaderTooLong);
        }
        let text = decode(self.header)?;
        if text.len() > HEADER_BYTES_MAX {
            return Err(Refusal::HeaderTooLong);
        }
        String::from_utf8(text).map_err(|_| Refusal::HeaderMalformed)
    }

    /// Decodes the JSON of the claims.
    pub(crate) fn claims(&self) -> Result<String, Refusal> {
        String::from_utf8(decode(self.claims)?).map_err(|_| Refusal::ClaimsMalformed)
    }

    /// Decodes the signature.
    pub(crate) fn signature<'b>(
        &self,
        buffer: &'b mut [u8; SIGNATURE_BYTES_MAX],
    ) -> Result<&'b [u8], Refusal> {
        match URL_SAFE_NO_PAD.decode_slice(self.signature, buffer) {
            Ok(length) => Ok(&buffer[..length]),
            Err(DecodeSliceError::OutputSliceTooSmall) => Err(Refusal::Signature),
            Err(DecodeSliceError::DecodeError(_)) => Err(Refusal::Base64),
        }
    }

    /// Returns the lengths of the three parts, in bytes.
    pub(crate) fn lengths(&self) -> [usize; 3] {
        [self.header, self.claims, self.signature].map(str::len)
    }
}

/// Returns the headers that Clerk gives to session tokens signed with a key, encoded: with and without `cat`.
///
/// A token that begins with one of them passes [`check_header`], which returns this `kid`.
pub(crate) fn usual_headers(kid: &str) -> [String; 2] {
    let [session, _] = SESSION_CATEGORIES;
    let kid = serde_json::Value::from(kid);
    [format!(r#""cat":"{session}","#), String::new()].map(|category| {
        URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"RS256",{category}"kid":{kid},"typ":"JWT"}}"#))
    })
}

/// Decodes base64url without padding. Unused bits must be zero, so that each text has one form only.
fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Base64)
}

/// Checks a header and returns its `kid`.
///
/// Unknown members are ignored, among them those that name a key (`jwk`, `jku`, `x5c`): a token does not
/// choose the key that verifies it.
pub(crate) fn check_header(header: &str) -> Result<Option<String>, Refusal> {
    let header = Object::read(header, Refusal::HeaderMalformed)?;
    let text = |key| header.get(key).map(|member: &Member| member.text());
    check_algorithm(text("alg").flatten())?;
    if header.get("crit").is_some() {
        return Err(Refusal::CriticalExtension);
    }
    match text("typ") {
        None | Some(Some("JWT")) => {}
        Some(Some(kind))
            if ["at+jwt", "application/at+jwt"].contains(&kind.to_ascii_lowercase().as_str()) =>
        {
            return Err(Refusal::OauthToken);
        }
        Some(_) => return Err(Refusal::TokenType),
    }
    match text("cat") {
        None => {}
        Some(Some(category)) if SESSION_CATEGORIES.contains(&category) => {}
        Some(Some(category)) if category == TEMPLATE_CATEGORY => return Err(Refusal::TemplateToken),
        Some(Some(category)) if category == MACHINE_CATEGORY => return Err(Refusal::MachineToken),
        Some(_) => return Err(Refusal::Category),
    }
    let kid =
        header.get("kid").map(|member| member.text().map(str::to_owned).ok_or(Refusal::HeaderMalformed));
    kid.transpose()
}

fn check_algorithm(algorithm: Option<&str>) -> Result<(), Refusal> {
    match algorithm {
        Some("RS256") => Ok(()),
        Some(name) if name.eq_ignore_ascii_case("none") => Err(Refusal::AlgorithmNone),
        Some(name) if name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("HS")) => {
            Err(Refusal::AlgorithmHmac)
        }
        _ => Err(Refusal::Algorithm),
    }
}
