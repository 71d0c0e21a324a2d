//! The policy: which tokens a service accepts.

use std::time::Duration;

use crate::limits::{PARTIES_MAX, SKEW_SECONDS_MAX, TOKEN_BYTES_MAX, TOKEN_BYTES_RANGE};
use crate::refusal::Refusal;
use crate::session::Session;

/// Default clock skew, as in Clerk's own libraries.
const SKEW: Duration = Duration::from_secs(5);

/// Reason why a policy is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The issuer is not an https URL.
    #[error("the issuer must be the instance's Frontend API URL, such as https://clerk.example.com")]
    Issuer,
    /// No party is authorized.
    #[error(
        "no authorized party is given; name the origins of your applications, or use Policy::for_any_party"
    )]
    NoParty,
    /// An authorized party is not an origin.
    #[error("authorized party {0} is not an origin, such as https://app.example.com (no path, no wildcard)")]
    Party(usize),
    /// There are too many parties or audiences.
    #[error("there are more than {PARTIES_MAX} authorized parties or audiences")]
    TooMany,
    /// The clock skew is too great.
    #[error("the clock skew must be at most {SKEW_SECONDS_MAX} s: a session token lives for one minute")]
    Skew,
    /// The limit on tokens is out of its range.
    #[error("the limit on tokens must be 1024 to 65536 bytes")]
    TokenBytes,
}

/// Rules for the tokens that a service accepts.
///
/// ```
/// use rollbook_session::Policy;
/// use std::time::Duration;
///
/// let policy = Policy::new("https://clerk.example.com", ["https://app.example.com"])?
///     .skew(Duration::from_secs(2))?
///     .refuse_impersonation();
/// # Ok::<(), rollbook_session::PolicyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    issuer: String,
    /// Origins of the applications; `None` accepts each.
    parties: Option<Vec<String>>,
    audiences: Vec<String>,
    skew: Duration,
    accepts_pending: bool,
    accepts_impersonation: bool,
    token_bytes_max: usize,
}

impl Policy {
    /// Accepts tokens of `issuer`, which is the instance's Frontend API URL, that were issued to one of
    /// `parties`: the origins of your applications. A token without `azp` is refused.
    ///
    /// # Errors
    /// [`PolicyError`], if the issuer is not an https URL or a party is not an origin.
    pub fn new<P: Into<String>>(
        issuer: impl Into<String>,
        parties: impl IntoIterator<Item = P>,
    ) -> Result<Self, PolicyError> {
        let parties: Vec<String> = parties.into_iter().map(Into::into).collect();
        if parties.is_empty() {
            return Err(PolicyError::NoParty);
        }
        if parties.len() > PARTIES_MAX {
            return Err(PolicyError::TooMany);
        }
        if let Some(at) = parties.iter().position(|party| !is_origin(party)) {
            return Err(PolicyError::Party(at + 1));
        }
        Ok(Self { parties: Some(parties), ..Self::for_any_party(issuer)? })
    }

    /// Accepts tokens of `issuer` that were issued to any application, also without `azp`.
    ///
    /// A site on a sibling subdomain can then replay the cookies of your users. Name the parties if you can.
    ///
    /// # Errors
    /// [`PolicyError::Issuer`].
    pub fn for_any_party(issuer: impl Into<String>) -> Result<Self, PolicyError> {
        let issuer = issuer.into();
        let host = issuer.strip_prefix("https://").ok_or(PolicyError::Issuer)?;
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'*';
        if host.is_empty() || host.starts_with('/') || !host.bytes().all(is_allowed) {
            return Err(PolicyError::Issuer);
        }
        Ok(Self {
            issuer,
            parties: None,
            audiences: Vec::new(),
            skew: SKEW,
            accepts_pending: false,
            accepts_impersonation: true,
            token_bytes_max: TOKEN_BYTES_MAX,
        })
    }

    /// Demands that `aud` names one of these audiences. Session tokens have `aud` only if you added it as a
    /// custom claim. Without an audience in the policy, a token that has one is refused.
    ///
    /// # Errors
    /// [`PolicyError::TooMany`].
    pub fn audiences<A: Into<String>>(
        mut self,
        audiences: impl IntoIterator<Item = A>,
    ) -> Result<Self, PolicyError> {
        self.audiences = audiences.into_iter().map(Into::into).collect();
        if self.audiences.len() > PARTIES_MAX { Err(PolicyError::TooMany) } else { Ok(self) }
    }

    /// Sets how far the clocks of Clerk and of this machine may differ: 5 s by default, at most 60 s.
    ///
    /// # Errors
    /// [`PolicyError::Skew`].
    pub fn skew(mut self, skew: Duration) -> Result<Self, PolicyError> {
        self.skew = skew;
        if skew > Duration::from_secs(SKEW_SECONDS_MAX) { Err(PolicyError::Skew) } else { Ok(self) }
    }

    /// Sets the maximum length of a token: 16 KB by default, 1 KB to 64 KB.
    ///
    /// # Errors
    /// [`PolicyError::TokenBytes`].
    pub fn token_bytes_max(mut self, bytes: usize) -> Result<Self, PolicyError> {
        self.token_bytes_max = bytes;
        if TOKEN_BYTES_RANGE.contains(&bytes) { Ok(self) } else { Err(PolicyError::TokenBytes) }
    }

    /// Accepts pending sessions: the user has signed in but not finished the session's tasks.
    /// [`Session::is_pending`] then distinguishes them.
    pub fn accept_pending(mut self) -> Self {
        self.accepts_pending = true;
        self
    }

    /// Refuses sessions in which somebody impersonates the user. By default they are accepted, and
    /// [`Session::actor`] names the impersonator.
    pub fn refuse_impersonation(mut self) -> Self {
        self.accepts_impersonation = false;
        self
    }

    pub(crate) fn token_limit(&self) -> usize {
        self.token_bytes_max
    }

    /// Checks claims with a genuine signature. `now` is in milliseconds since 1970.
    pub(crate) fn check(&self, session: &Session, now: i128) -> Result<(), Refusal> {
        if session.issuer() != self.issuer {
            return Err(Refusal::Issuer);
        }
        if let Some(parties) = &self.parties {
            let party = session.authorized_party().ok_or(Refusal::PartyMissing)?;
            if !parties.iter().any(|known| known == party) {
                return Err(Refusal::Party);
            }
        }
        let audiences = session.audiences();
        if audiences.is_empty() && !self.audiences.is_empty() {
            return Err(Refusal::AudienceMissing);
        }
        if !audiences.is_empty() && !audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(Refusal::Audience);
        }
        self.check_times(session, now)?;
        if session.is_pending() && !self.accepts_pending {
            return Err(Refusal::Pending);
        }
        if session.actor().is_some() && !self.accepts_impersonation {
            return Err(Refusal::Impersonated);
        }
        Ok(())
    }

    fn check_times(&self, session: &Session, now: i128) -> Result<(), Refusal> {
        let skew = i128::try_from(self.skew.as_millis()).unwrap_or_default();
        let millis = |seconds: i64| i128::from(seconds) * 1000;
        if millis(session.expires_at()) <= now - skew {
            return Err(Refusal::Expired);
        }
        if session.not_before().is_some_and(|time| millis(time) > now + skew) {
            return Err(Refusal::NotYetValid);
        }
        if session.issued_at().is_some_and(|time| millis(time) > now + skew) {
            return Err(Refusal::IssuedInFuture);
        }
        Ok(())
    }
}

/// Reports whether a text is `SCHEME://HOST` with an optional port, as browsers send it in `Origin`.
fn is_origin(text: &str) -> bool {
    let is_host = |host: &str| {
        let is_allowed =
            |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/*?#@".contains(&byte);
        !host.is_empty() && host.bytes().all(is_allowed)
    };
    let is_scheme = |scheme: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !scheme.is_empty() && scheme.bytes().all(is_allowed)
    };
    text.split_once("://").is_some_and(|(scheme, host)| is_scheme(scheme) && is_host(host))
}
