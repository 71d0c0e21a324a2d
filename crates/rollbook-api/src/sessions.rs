//! Verification of the session tokens of requests.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rollbook_core::time::Clock;
use rollbook_session::{Policy, Refusal, Session, Verifier};

use crate::keys::{KeyRing, KeySource, KeyTimes};
use crate::metrics::Metrics;
use crate::problem::Problem;

/// Choice of the session tokens that are accepted.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Issuer, authorized parties and other rules.
    pub policy: Policy,
    /// Origin of the keys.
    pub keys: KeySource,
    /// Times of fetching the keys.
    pub times: KeyTimes,
}

impl SessionSettings {
    /// Accepts tokens by this policy, with keys of this origin.
    pub fn new(policy: Policy, keys: KeySource) -> Self {
        Self { policy, keys, times: KeyTimes::default() }
    }
}

/// Verifier of the process.
pub(crate) struct Sessions {
    policy: Policy,
    ring: KeyRing,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Made when the first keys are known.
    verifier: OnceLock<Verifier>,
}

impl Sessions {
    /// Creates the verifier. Nothing is fetched yet.
    ///
    /// # Errors
    /// The system's certificates can't be read.
    pub(crate) fn new(
        settings: SessionSettings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let SessionSettings { policy, keys, times } = settings;
        if let KeySource::Fixed(fixed) = &keys {
            metrics.fixed_keys(fixed.clone());
        }
        let (observer, now) = (Arc::clone(&metrics), Arc::clone(&clock));
        let ring = KeyRing::new(keys, times, move |event| observer.fetched(event, now.now()))?;
        Ok(Self { policy, ring, clock, metrics, verifier: OnceLock::new() })
    }

    /// Fetches the keys now and then. Never returns.
    pub(crate) async fn keep_keys(&self) {
        self.ring.keep().await;
    }

    /// Returns the session of a request, and its token: a bearer token, or the cookie `__session`.
    pub(crate) async fn authenticate<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> Result<(Session, &'h str), Problem> {
        let mut result = self.verify(headers);
        if matches!(result, None | Some(Err(Refusal::KeyUnknown))) && self.ring.ask().await {
            result = self.verify(headers);
        }
        match result {
            Some(Ok((session, token))) => {
                self.metrics.accepted(token);
                Ok((session, token))
            }
            Some(Err(refusal)) => {
                self.metrics.refused(refusal);
                Err(Problem::session_required(refusal))
            }
            None => Err(Problem::keys_unavailable()),
        }
    }

    /// Verifies the token of a request with the known keys; `None` if there are none.
    fn verify<'h>(&self, headers: &'h HeaderMap) -> Option<Result<(Session, &'h str), Refusal>> {
        let keys = self.ring.keys()?;
        let verifier = self.verifier.get_or_init(|| {
            let clock = Arc::clone(&self.clock);
            Verifier::new(keys.clone(), self.policy.clone()).clock(move || {
                let millis = u64::try_from(clock.now().as_millis()).unwrap_or_default();
                UNIX_EPOCH + Duration::from_millis(millis)
            })
        });
        let values = |name: HeaderName| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        Some(verifier.authenticate_with_token(values(AUTHORIZATION), values(COOKIE)))
    }
}
