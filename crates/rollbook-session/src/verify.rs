//! Verification of one token: form, header, key, signature, claims, policy, in this order.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::claims;
use crate::credentials::Credentials;
use crate::keys::{KeySet, Keys};
use crate::limits::SIGNATURE_BYTES_MAX;
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::token::{self, Parts};

/// Verifies a session token at a given time, without I/O.
///
/// Claims are read only after the signature was found genuine.
///
/// ```
/// use rollbook_session::{KeySet, Policy, Refusal, verify};
/// use std::time::{Duration, UNIX_EPOCH};
///
/// # let jwks = include_bytes!("../tests/vectors/jwks.json");
/// # let token = include_str!("../tests/vectors/token.txt").trim();
/// let keys = KeySet::from_jwks(jwks)?;
/// let policy = Policy::new(
///     "https://clerk.inspired.puma-74.lcl.dev",
///     ["https://accounts.inspired.puma-74.lcl.dev"],
/// )?;
/// let now = UNIX_EPOCH + Duration::from_secs(1_666_648_260);
///
/// let session = verify(token, &keys, &policy, now)?;
/// assert_eq!(session.user_id(), "user_2GIpXOEpVyJw51rkZn9Kmnc6Sxr");
///
/// let later = now + Duration::from_secs(60);
/// assert_eq!(verify(token, &keys, &policy, later).unwrap_err(), Refusal::Expired);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Refusal`], for each token that is not genuine, not valid now, or not accepted by the policy.
pub fn verify(token: &str, keys: &KeySet, policy: &Policy, now: SystemTime) -> Result<Session, Refusal> {
    let parts = Parts::split(token, policy.token_limit())?;
    let unusual;
    let mut kid = keys.kid_of_usual(parts.header);
    if kid.is_none() {
        unusual = token::check_header(&parts.decoded_header()?)?;
        kid = unusual.as_deref();
    }
    keys.check(kid, parts.signed, parts.signature(&mut [0; SIGNATURE_BYTES_MAX])?)?;
    let session = claims::decode(parts.claims()?)?;
    policy.check(&session, millis(now))?;
    Ok(session)
}

/// Returns milliseconds since 1970, negative before.
fn millis(time: SystemTime) -> i128 {
    let convert = |millis: u128| i128::try_from(millis).unwrap_or(i128::MAX / 2);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => convert(since.as_millis()),
        Err(before) => -convert(before.duration().as_millis()),
    }
}

type Clock = dyn Fn() -> SystemTime + Send + Sync;
type Observer = dyn Fn(Refusal) + Send + Sync;

/// Keys, policy, clock and cookie name of a service. Clones share the keys.
///
/// ```
/// use rollbook_session::{KeySet, Keys, Policy, Refusal, Verifier};
///
/// # let jwks = include_bytes!("../tests/vectors/jwks.json");
/// let keys = Keys::new(KeySet::from_jwks(jwks)?);
/// let policy = Policy::new("https://clerk.example.com", ["https://app.example.com"])?;
/// let verifier = Verifier::new(keys.clone(), policy)
///     .on_refusal(|refusal| println!("refused: {}", refusal.name()));
///
/// let authorization: [&[u8]; 1] = [b"Bearer mt_0123456789"];
/// assert_eq!(verifier.authenticate(authorization, []).unwrap_err(), Refusal::MachineToken);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Verifier {
    keys: Keys,
    policy: Arc<Policy>,
    cookie_suffix: Option<Arc<str>>,
    clock: Arc<Clock>,
    observer: Option<Arc<Observer>>,
}

impl Verifier {
    /// Verifies with these keys and this policy, by the clock of the machine.
    pub fn new(keys: Keys, policy: Policy) -> Self {
        Self {
            keys,
            policy: Arc::new(policy),
            cookie_suffix: None,
            clock: Arc::new(crate::clock::now),
            observer: None,
        }
    }

    /// Reads only the cookies `__session_SUFFIX` or, without one, `__session`.
    ///
    /// Clerk makes the suffix from the publishable key ([`cookie_suffix`](crate::cookie_suffix)). Without it every
    /// cookie `__session` or `__session_…` is tried, which is slower where several instances share a domain.
    pub fn cookie_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.cookie_suffix = Some(suffix.into().into());
        self
    }

    /// Takes the time from another clock.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Calls a function for each refused request, to count refusals by [`Refusal::name`].
    pub fn on_refusal(mut self, observer: impl Fn(Refusal) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Returns the keys, which can be replaced.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Verifies a token now.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(&self, token: &str) -> Result<Session, Refusal> {
        self.observed(verify(token, &self.keys.current(), &self.policy, (self.clock)()))
    }

    /// Verifies the token of a request, by the values of its headers `Authorization` and `Cookie`.
    ///
    /// A bearer token has precedence: if it is refused, cookies are not tried. If several session cookies are
    /// genuine, all must be of one session, and the newest counts.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Session, Refusal> {
        self.authenticate_with_token(authorization, cookies).map(|(session, _)| session)
    }

    /// As [`Self::authenticate`], and returns the token that counts too, to [`weigh`](crate::weigh()) it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate_with_token<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(Session, &'a str), Refusal> {
        let suffix = self.cookie_suffix.as_deref();
        let read = Credentials::read(authorization, cookies, suffix);
        self.observed(read.and_then(|credentials| self.newest(&credentials)))
    }

    fn newest<'a>(&self, credentials: &Credentials<'a>) -> Result<(Session, &'a str), Refusal> {
        let (keys, now) = (self.keys.current(), (self.clock)());
        let mut newest: Option<(Session, &'a str)> = None;
        let mut refusal = Refusal::TokenMissing;
        for token in credentials.tokens() {
            match (verify(token, &keys, &self.policy, now), &newest) {
                (Ok(session), Some((known, _))) if known.session_id() != session.session_id() => {
                    return Err(Refusal::CredentialsAmbiguous);
                }
                (Ok(session), known) => {
                    let is_newer =
                        known.as_ref().is_none_or(|(known, _)| known.issued_at() < session.issued_at());
                    newest = if is_newer { Some((session, token)) } else { newest };
                }
                // A cookie of another instance on the same domain says less than one of this instance.
                (Err(found), _) if [Refusal::TokenMissing, Refusal::KeyUnknown].contains(&refusal) => {
                    refusal = found;
                }
                (Err(_), _) => {}
            }
        }
        newest.ok_or(refusal)
    }

    fn observed<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let (Err(refusal), Some(observer)) = (&result, &self.observer) {
            observer(*refusal);
        }
        result
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter
            .debug_struct("Verifier")
            .field("keys", &self.keys)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
