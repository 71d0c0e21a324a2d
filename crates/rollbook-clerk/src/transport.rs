//! One request: connection, pace, retries, and the classes of answers.

mod answer;
mod copies;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, USER_AGENT};
use rollbook_core::source::SourceError;
use rollbook_core::time::Timestamp;
use rollbook_http::pool::{Pool, PoolError, Roots};
use rustls::RootCertStore;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use self::answer::{Answer, Failure};
use self::copies::{Numbers, copy};
use crate::Observer;
use crate::pacer::Pacer;
use crate::request::Request;
use crate::settings::{BUDGET_MIN, ClerkSettings, SettingsError};

/// Version of the API that every request asks for.
pub const API_VERSION: &str = "2026-05-12";
/// Result for the observer: no connection.
pub const CODE_UNREACHABLE: &str = "unreachable";
/// Result for the observer: no answer within the time limit.
pub const CODE_TIMEOUT: &str = "timeout";
/// Result for the observer: the connection broke before the end of the answer.
pub const CODE_BROKEN: &str = "broken";

/// Maximum number of long answers that are decoded at the same time: each is in memory twice meanwhile.
const DECODED_AT_ONCE: usize = 2;

/// Maximum patience, whatever the settings say.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Function that decodes the body of an answer.
type Decode<T> = fn(&[u8]) -> Result<T, String>;

/// Connections, pace and retries.
pub(crate) struct Transport {
    pool: Pool,
    pub(crate) observer: Observer,
    pub(crate) pacer: Pacer,
    settings: ClerkSettings,
    numbers: Numbers,
    decoding: Semaphore,
}

impl Transport {
    /// Creates a transport that trusts these roots, or else the system's.
    pub(crate) fn new(settings: ClerkSettings, roots: Option<RootCertStore>) -> Result<Self, SettingsError> {
        if !(BUDGET_MIN..=1.0).contains(&settings.budget) {
            return Err(SettingsError::Budget(settings.budget));
        }
        let roots = match roots {
            Some(roots) => Roots::Only(roots),
            None if settings.url.is_https() => Roots::System,
            None => Roots::Only(RootCertStore::empty()),
        };
        let pool = Pool::new(roots, settings.connect_timeout).map_err(SettingsError::Roots)?;
        let pacer = Pacer::new(settings.key.environment(), settings.budget);
        let (numbers, decoding) = (Numbers::default(), Semaphore::new(DECODED_AT_ONCE));
        Ok(Self { pool, observer: Arc::new(|_| ()), pacer, settings, numbers, decoding })
    }

    /// Whether the answers so far have numbers of their own, so that a copy of one is noticed.
    pub(crate) fn notices_copies(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Sends a request until Clerk answers, and decodes the answer.
    pub(crate) async fn get<T: Send + 'static>(
        &self,
        request: &Request,
        decode: Decode<T>,
    ) -> Result<(T, Timestamp), SourceError> {
        match self.find(request, decode).await? {
            (Some(found), clock) => Ok((found, clock)),
            (None, _) => Err(SourceError::Refused(request.describe("404 resource_not_found"))),
        }
    }

    /// As [`Transport::get`]. `None` is Clerk's proof that there is no such object: a 404 `resource_not_found`.
    pub(crate) async fn find<T: Send + 'static>(
        &self,
        request: &Request,
        decode: Decode<T>,
    ) -> Result<(Option<T>, Timestamp), SourceError> {
        let retries = &self.settings.retries;
        let longest = self.settings.patience.min(PATIENCE_MAX);
        let (mut deadline, mut last, mut attempt) = (None, None::<Failure>, 0);
        loop {
            let patience =
                deadline.map_or(longest, |at: Instant| at.saturating_duration_since(Instant::now()));
            if let Err(held) = self.pacer.turn(patience).await {
                let held =
                    || Failure::unavailable(format!("Clerk asks to wait for {} s", held.as_secs().max(1)));
                return Err(last.unwrap_or_else(held).into_error(request, attempt));
            }
            attempt += 1;
            let sent_at = Instant::now();
            let deadline = *deadline.get_or_insert(sent_at + longest);
            let failure = match self.attempt(request, decode).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            if failure.is_excess {
                if let Some(rate) = self.pacer.slow_down(sent_at, failure.retry_after) {
                    warn!(
                        requests_per_second = rate,
                        "Clerk's rate limit is exceeded; sending fewer requests"
                    );
                }
            } else if let Some(time) = failure.retry_after {
                self.pacer.hold(time);
            }
            let pause = retries.backoff_limit(attempt).mul_f64(fastrand::f64());
            let is_last = attempt >= retries.attempts_max || Instant::now() + pause >= deadline;
            if !failure.is_temporary || is_last {
                return Err(failure.into_error(request, attempt));
            }
            debug!(
                reason = request.describe(&failure.text),
                attempt,
                ?pause,
                "a request to Clerk is repeated"
            );
            last = Some(failure);
            sleep(pause).await;
        }
    }

    /// Sends a request once.
    async fn attempt<T: Send + 'static>(
        &self,
        request: &Request,
        decode: Decode<T>,
    ) -> Result<(Option<T>, Timestamp), Failure> {
        let limit = self.settings.request_timeout;
        let result = timeout(limit, self.exchange(request)).await.unwrap_or_else(|_| {
            Err((CODE_TIMEOUT, Failure::unavailable(format!("no answer within {} s", limit.as_secs_f64()))))
        });
        let code = result.as_ref().map_or_else(|(code, _)| *code, |answer| answer.0.status.as_str());
        (self.observer)(code);
        let answer = result.map_err(|(_, failure)| failure)?;
        if !self.numbers.is_new(&answer.0.headers) {
            return Err(Failure::unreadable(copy()));
        }
        answer.judge_apart(decode, &self.decoding).await
    }

    /// Sends a request and reads the whole answer. Returns the observer's code of a failure.
    async fn exchange(&self, request: &Request) -> Result<Answer, (&'static str, Failure)> {
        let message = hyper::Request::get(format!("{}{}", self.settings.url.base(), request.target()))
            .header(AUTHORIZATION, self.settings.key.header())
            .header("clerk-api-version", API_VERSION)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(CACHE_CONTROL, "no-cache")
            .header(USER_AGENT, concat!("rollbook/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::new()))
            // Ids of any length make a URL that no server accepts.
            .map_err(|_| (CODE_BROKEN, Failure::refused("the URL of the request is too long".to_owned())))?;
        self.pool.send(message, request.bytes_max()).await.map(Answer).map_err(|error| match error {
            PoolError::Unreachable { .. } => (CODE_UNREACHABLE, Failure::unavailable(error.to_string())),
            PoolError::Broken { .. } | PoolError::Truncated { .. } => {
                (CODE_BROKEN, Failure::unavailable(error.to_string()))
            }
            PoolError::TooLarge(_) => (CODE_BROKEN, Failure::too_large(error.to_string())),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use rollbook_core::json::Json;
    use rollbook_testkit::servers::certificates::Certificates;
    use rollbook_testkit::servers::nginx::Nginx;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::decode;
    use crate::key::SecretKey;
    use crate::url::ApiUrl;

    #[tokio::test]
    async fn a_server_with_tls_and_http_2_is_read_only_if_its_certificate_is_trusted() {
        let certificates = Certificates::new();
        let nginx = Nginx::answering(
            &certificates,
            r#"{"protocol":"$server_protocol","version":"$http_clerk_api_version"}"#,
        )
        .await;
        let request = Request::new("/instance");
        let get = async |roots| {
            let key = SecretKey::parse("sk_test_c2VjcmV0").expect("a key");
            let url = ApiUrl::parse(&format!("https://{}", nginx.address)).expect("a URL");
            let mut settings = ClerkSettings { url, ..ClerkSettings::new(key) };
            settings.retries.attempts_max = 1;
            Transport::new(settings, Some(roots)).expect("a transport").get(&request, decode::object).await
        };
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(certificates.path("ca.crt")).expect("a certificate");
        roots.add(authority).expect("a root");
        let (object, _) = get(roots).await.expect("an answer");
        let text = |key: &str| object.get(key).and_then(Json::as_text).map(Cow::into_owned);
        assert_eq!(
            [text("protocol"), text("version")],
            ["HTTP/2.0", API_VERSION].map(|of| Some(of.to_owned()))
        );
        let Err(SourceError::Unavailable(text)) = get(RootCertStore::empty()).await else {
            panic!("an error")
        };
        let start = format!("GET /instance: {} is unreachable: invalid peer certificate: ", nginx.address);
        assert!(text.starts_with(&start), "{text}");
    }
}
