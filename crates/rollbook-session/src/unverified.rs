//! Reads tokens **without** checking that they are genuine, for tools that show a token to its owner.
//!
//! Anybody can write such a token. Never decide by it what a caller may do.

use crate::claims;
use crate::json::Object;
use crate::limits::TOKEN_BYTES_RANGE;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::token::Parts;

/// A token as it was sent, decoded and not verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Unverified {
    header: String,
    claims: String,
}

impl Unverified {
    /// Decodes header and claims, which must be JSON objects. The algorithm may be any.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(token: &str) -> Result<Self, Refusal> {
        let parts = Parts::split(token, *TOKEN_BYTES_RANGE.end())?;
        let (header, claims) = (parts.decoded_header()?, parts.claims()?);
        Object::read(&header, Refusal::HeaderMalformed)?;
        Object::read(&claims, Refusal::ClaimsMalformed)?;
        Ok(Self { header, claims })
    }

    /// The header as JSON text.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// The claims as JSON text. They can contain personal data.
    pub fn claims(&self) -> &str {
        &self.claims
    }

    /// Decodes the claims as a session, expired or not.
    ///
    /// # Errors
    /// [`Refusal`], if these are not the claims of a session.
    pub fn session(&self) -> Result<Session, Refusal> {
        claims::decode(self.claims.clone())
    }
}

/// Decodes claims as a session: nothing is signed, nothing is verified. Unit tests of handlers make their sessions
/// with this function.
///
/// ```
/// use rollbook_session::unverified;
///
/// let session = unverified::session_of(
///     r#"{"sub":"user_1","sid":"sess_1","iss":"https://clerk.example.com","exp":2000000000,"v":2,
///         "fea":"o:tasks","o":{"id":"org_1","rol":"admin","per":"read,delete","fpm":"3"}}"#,
/// )?;
/// assert!(session.has_permission("org:tasks:delete"));
/// # Ok::<(), rollbook_session::Refusal>(())
/// ```
///
/// # Errors
/// [`Refusal`], if these are not the claims of a session.
pub fn session_of(claims: impl Into<String>) -> Result<Session, Refusal> {
    claims::decode(claims.into())
}
