//! Keys of session tokens: given ones, or those of a JWKS, which are fetched again without a restart.
//!
//! Constraints:
//!
//! * The keys of a JWKS are fetched every [`KeyTimes::fetch_every`]. A token with an unknown key lets them be fetched at
//!   once, at most every [`KeyTimes::ask_every`]: tokens of strangers cannot cause more requests than that.
//! * While no valid JWKS can be fetched, the known keys stay. A valid JWKS replaces all of them, so a revoked key goes.
//! * Before the first JWKS there are no keys, and no token is accepted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::ACCEPT;
use hyper::{Request, StatusCode, Uri};
use rollbook_core::url::{Parts, UrlError, is_loopback};
use rollbook_http::pool::{Pool, PoolError, Roots};
use rollbook_session::limits::KEY_DOCUMENT_BYTES_MAX;
use rollbook_session::{KeySet, Keys};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::outage::Failures;

/// Path of the JWKS below an issuer.
const JWKS_PATH: &str = "/.well-known/jwks.json";
/// Maximum time to connect to the issuer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause after a failed fetch. It doubles up to [`KeyTimes::ask_every`].
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of requests that wait for a fetch because of an unknown key. Others are refused at once.
const WAITING_MAX: usize = 64;

/// Origin of the keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// These keys. Whoever holds a clone can replace them, for a key in a file that changes.
    Fixed(Keys),
    /// The keys that are served here.
    Jwks(JwksUrl),
}

/// URL of a JWKS: `https://…`, or `http://…` with a host of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl(Uri);

/// Reason why a text is not the URL of a JWKS. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksUrlError {
    /// The text is not a URL.
    #[error(transparent)]
    NotUrl(#[from] UrlError),
    /// The keys would be read without encryption, so that somebody else could replace them.
    #[error("does not begin with https:// (http:// is allowed for this machine alone)")]
    Scheme,
    /// The URL has a user, a password or a fragment.
    #[error("has a user, a password or a #")]
    Extra,
    /// The URL is not valid otherwise.
    #[error("has no valid host, or characters that must be percent-encoded")]
    Invalid,
}

impl JwksUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`JwksUrlError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, JwksUrlError> {
        let text = text.trim();
        let parts = Parts::of(text)?;
        if parts.login.is_some() || parts.fragment.is_some() {
            return Err(JwksUrlError::Extra);
        }
        let uri: Uri = text.parse().map_err(|_| JwksUrlError::Invalid)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(JwksUrlError::Invalid)?;
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if is_loopback(host) => Ok(Self(uri)),
            _ => Err(JwksUrlError::Scheme),
        }
    }

    /// Returns the URL at which Clerk serves the keys of an issuer.
    ///
    /// # Errors
    /// The issuer is not a URL.
    pub fn of_issuer(issuer: &str) -> Result<Self, JwksUrlError> {
        Self::parse(&format!("{}{JWKS_PATH}", issuer.trim_end_matches('/')))
    }

    /// Returns host and port, for messages.
    pub fn server(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }
}

/// Times of fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTimes {
    /// Time between two fetches.
    pub fetch_every: Duration,
    /// Least time between two fetches because of an unknown key.
    pub ask_every: Duration,
    /// Maximum time of one fetch.
    pub timeout: Duration,
}

impl Default for KeyTimes {
    fn default() -> Self {
        Self {
            fetch_every: Duration::from_secs(300),
            ask_every: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Fetches a JWKS once.
///
/// # Errors
/// There is no valid JWKS; the text says why, and names the server only.
pub async fn fetch_keys(url: &JwksUrl, timeout: Duration) -> Result<KeySet, String> {
    fetch(&pool(url)?, url, timeout).await.map_err(|failure| failure.text)
}

/// Failure of a fetch.
struct Failure {
    /// Whether an answer came, which is not a JWKS.
    is_answer: bool,
    text: String,
}

fn pool(url: &JwksUrl) -> Result<Pool, String> {
    let is_https = url.0.scheme_str() == Some("https");
    let roots = if is_https { Roots::System } else { Roots::Only(rustls::RootCertStore::empty()) };
    Pool::new(roots, CONNECT_TIMEOUT)
}

async fn fetch(pool: &Pool, url: &JwksUrl, timeout: Duration) -> Result<KeySet, Failure> {
    let (none, bad) = (|text| Failure { is_answer: false, text }, |text| Failure { is_answer: true, text });
    let request =
        Request::get(url.0.clone()).header(ACCEPT, "application/json").body(Full::<Bytes>::default());
    let request = request.map_err(|error| none(error.to_string()))?;
    let answer = match tokio::time::timeout(timeout, pool.send(request, KEY_DOCUMENT_BYTES_MAX)).await {
        Ok(Err(error @ PoolError::TooLarge(_))) => return Err(bad(format!("{}: {error}", url.server()))),
        Ok(answer) => answer.map_err(|error| none(error.to_string()))?,
        Err(_) => return Err(none(format!("{} gave no answer within {timeout:?}", url.server()))),
    };
    if answer.status != StatusCode::OK {
        return Err(bad(format!("{} answered {}", url.server(), answer.status.as_u16())));
    }
    KeySet::from_jwks(&answer.body).map_err(|error| bad(format!("{}: {error}", url.server())))
}

/// Event of a key ring, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyEvent {
    /// A JWKS was fetched. It has this many keys.
    Fetched(usize),
    /// No answer came.
    Unanswered,
    /// An answer came, which is not a JWKS.
    Unreadable,
}

type Observer = Box<dyn Fn(KeyEvent) + Send + Sync>;

/// Keys of the process, replaced while tokens are verified.
pub(crate) struct KeyRing {
    keys: OnceLock<Keys>,
    jwks: Option<Jwks>,
    observer: Observer,
    failures: Failures,
}

/// A JWKS that is fetched.
struct Jwks {
    url: JwksUrl,
    pool: Pool,
    times: KeyTimes,
    /// Time of the last fetch because of an unknown key. Held during the fetch, so that there is one at a time.
    asked_at: Mutex<Option<Instant>>,
    /// Number of successful fetches.
    fetched: AtomicU64,
    waiting: Semaphore,
}

impl KeyRing {
    /// Creates the ring. Nothing is fetched yet.
    ///
    /// # Errors
    /// The system's certificates can't be read.
    pub(crate) fn new(
        source: KeySource,
        times: KeyTimes,
        observer: impl Fn(KeyEvent) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let (keys, mut jwks) = (OnceLock::new(), None);
        match source {
            KeySource::Fixed(fixed) => drop(keys.set(fixed)),
            KeySource::Jwks(url) => {
                let (asked_at, fetched) = (Mutex::default(), AtomicU64::new(0));
                let waiting = Semaphore::new(WAITING_MAX);
                jwks = Some(Jwks { pool: pool(&url)?, url, times, asked_at, fetched, waiting });
            }
        }
        Ok(Self { keys, jwks, observer: Box::new(observer), failures: Failures::default() })
    }

    /// Returns the keys; `None` before the first JWKS.
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.keys.get()
    }

    /// Fetches the keys again because of an unknown one, unless that was done a short time ago. Returns whether there may
    /// be other keys now.
    pub(crate) async fn ask(&self) -> bool {
        let Some(jwks) = &self.jwks else { return false };
        let Ok(_waiting) = jwks.waiting.try_acquire() else { return false };
        let before = jwks.fetched.load(Ordering::Acquire);
        let mut asked_at = jwks.asked_at.lock().await;
        if jwks.fetched.load(Ordering::Acquire) != before {
            return true;
        }
        if asked_at.is_some_and(|at| at.elapsed() < jwks.times.ask_every) {
            return false;
        }
        *asked_at = Some(Instant::now());
        self.fetch(jwks).await
    }

    /// Fetches the keys now and then. Never returns.
    pub(crate) async fn keep(&self) {
        let Some(jwks) = &self.jwks else { return std::future::pending().await };
        let mut retry = RETRY_AFTER;
        loop {
            if self.fetch(jwks).await {
                retry = RETRY_AFTER;
                tokio::time::sleep(jwks.times.fetch_every).await;
            } else {
                tokio::time::sleep(retry.min(jwks.times.fetch_every)).await;
                retry = (retry * 2).min(jwks.times.ask_every.max(RETRY_AFTER));
            }
        }
    }

    /// Fetches the keys. Returns whether a JWKS came.
    async fn fetch(&self, jwks: &Jwks) -> bool {
        let failure = match fetch(&jwks.pool, &jwks.url, jwks.times.timeout).await {
            Ok(set) => {
                self.learn(jwks, set);
                return true;
            }
            Err(failure) => failure,
        };
        (self.observer)(if failure.is_answer { KeyEvent::Unreadable } else { KeyEvent::Unanswered });
        if self.failures.failed(&failure.text) {
            let left = if self.keys().is_some() { "the known keys stay" } else { "no token is accepted" };
            tracing::warn!("the keys of session tokens can't be fetched: {}; {left}", failure.text);
        }
        false
    }

    fn learn(&self, jwks: &Jwks, set: KeySet) {
        (self.observer)(KeyEvent::Fetched(set.len()));
        let (count, mut is_first) = (set.len(), false);
        let keys = self.keys.get_or_init(|| {
            is_first = true;
            Keys::new(set.clone())
        });
        let is_other = keys.replace(set);
        jwks.fetched.fetch_add(1, Ordering::Release);
        if self.failures.worked() {
            tracing::info!("the keys of session tokens are fetched again");
        }
        if is_first || is_other {
            tracing::info!(count, server = jwks.url.server(), "the keys of session tokens were fetched");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwks_is_read_with_encryption_or_from_this_machine() {
        for text in [
            "https://clerk.example.com/.well-known/jwks.json",
            "HTTPS://proxy.internal:8443/keys?instance=1",
            "http://127.0.0.1:9000/jwks",
            "http://[::1]:9000/jwks",
            "http://localhost/jwks",
        ] {
            assert!(JwksUrl::parse(text).is_ok(), "{text}");
        }
        for (text, error) in [
            ("clerk.example.com", JwksUrlError::NotUrl(UrlError::NoScheme)),
            ("http://clerk.example.com/jwks", JwksUrlError::Scheme),
            ("http://127.0.0.1.example.com/jwks", JwksUrlError::Scheme),
            ("ftp://clerk.example.com/jwks", JwksUrlError::Scheme),
            ("https://me:secret@clerk.example.com", JwksUrlError::Extra),
            ("https://clerk.example.com/#x", JwksUrlError::Extra),
            ("https:///jwks", JwksUrlError::Invalid),
            ("https://clerk.example.com/a b", JwksUrlError::Invalid),
        ] {
            assert_eq!(JwksUrl::parse(text), Err(error), "{text}");
        }
        let url = JwksUrl::of_issuer("https://clerk.example.com").expect("a URL");
        assert_eq!(url, JwksUrl::parse("https://clerk.example.com/.well-known/jwks.json").expect("a URL"));
        assert_eq!(url.server(), "clerk.example.com");
    }
}
