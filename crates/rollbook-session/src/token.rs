//! The form of a token: three parts in base64url, of which the first is the header.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{self, Object};
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
    header: &'a str,
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
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::NotAJwt)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::NotAJwt)?;
        if claims.contains('.') {
            return Err(Refusal::NotAJwt);
        }
        Ok(Self { header, claims, signature, signed })
    }

    /// Decodes the header's JSON.
    pub(crate) fn header(&self) -> Result<String, Refusal> {
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
    pub(crate) fn signature(&self) -> Result<Vec<u8>, Refusal> {
        if self.signature.len() > SIGNATURE_BYTES_MAX.div_ceil(3) * 4 {
            return Err(Refusal::Signature);
        }
        decode(self.signature)
    }

    /// Returns the lengths of the three parts, in bytes.
    pub(crate) fn lengths(&self) -> [usize; 3] {
        [self.header, self.claims, self.signature].map(str::len)
    }
}

/// Decodes base64url without padding. Unused bits must be zero, so that each text has one form only.
fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Base64)
}

/// Checks a header and returns its `kid`.
///
/// Unknown members are ignored, among them those that name a key (`jwk`, `jku`, `x5c`): a token does not
/// choose the key that verifies it.
pub(crate) fn check_header(header: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    let header = Object::read(header, Refusal::HeaderMalformed)?;
    let text = |key| header.get(key).map(json::string);
    check_algorithm(text("alg").flatten().as_deref())?;
    if header.get("crit").is_some() {
        return Err(Refusal::CriticalExtension);
    }
    match text("typ") {
        None => {}
        Some(Some(kind)) if kind == "JWT" => {}
        Some(Some(kind))
            if ["at+jwt", "application/at+jwt"].contains(&kind.to_ascii_lowercase().as_str()) =>
        {
            return Err(Refusal::OauthToken);
        }
        Some(_) => return Err(Refusal::TokenType),
    }
    match text("cat") {
        None => {}
        Some(Some(category)) if SESSION_CATEGORIES.contains(&category.as_ref()) => {}
        Some(Some(category)) if category == TEMPLATE_CATEGORY => return Err(Refusal::TemplateToken),
        Some(Some(category)) if category == MACHINE_CATEGORY => return Err(Refusal::MachineToken),
        Some(_) => return Err(Refusal::Category),
    }
    match text("kid") {
        None => Ok(None),
        Some(Some(kid)) => Ok(Some(kid)),
        Some(None) => Err(Refusal::HeaderMalformed),
    }
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
