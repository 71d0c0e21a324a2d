//! Settings of the client.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;

use crate::key::SecretKey;
use crate::url::ApiUrl;

/// Minimum budget. A smaller one would need days for a thousand requests.
pub const BUDGET_MIN: f64 = 0.01;

/// Settings of [`ClerkApi`](crate::ClerkApi).
#[derive(Clone, Debug)]
pub struct ClerkSettings {
    /// Secret key of the instance.
    pub key: SecretKey,
    /// Base URL of the API.
    pub url: ApiUrl,
    /// Share of the instance's rate limit that this process may use, from [`BUDGET_MIN`] to 1. At most 95 % of the
    /// limit are used, because the network bunches up requests.
    pub budget: f64,
    /// Time limit of a TCP connection to Clerk.
    pub connect_timeout: Duration,
    /// Time limit of one request, with connecting and reading the answer.
    pub request_timeout: Duration,
    /// Repetition of requests that Clerk did not answer: pauses, and the number of tries.
    pub retries: RetryPolicy,
    /// Time limit of a request with all its repetitions. No repetition begins after it, and a longer `Retry-After`
    /// is an error at once. Waiting for the own pace is not limited.
    pub patience: Duration,
}

impl ClerkSettings {
    /// Settings with this key: Clerk's own API, half of its rate limit.
    pub fn new(key: SecretKey) -> Self {
        Self {
            key,
            url: ApiUrl::default(),
            budget: 0.5,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retries: RetryPolicy {
                backoff: Duration::from_millis(500),
                backoff_max: Duration::from_secs(10),
                attempts_max: 5,
            },
            patience: Duration::from_secs(120),
        }
    }
}

/// Reason why the settings make no client.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The budget is out of range.
    #[error("the budget of Clerk's rate limit is {0}; it must be {BUDGET_MIN} to 1")]
    Budget(f64),
    /// The system has no root certificates.
    #[error(
        "no root certificates found, which an https connection to Clerk needs: {0}. Install ca-certificates, or set SSL_CERT_FILE"
    )]
    Roots(String),
}
