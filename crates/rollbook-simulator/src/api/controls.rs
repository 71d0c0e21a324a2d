//! Controls of a running API: faults, limits, and what it has been asked.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::faults::{Fault, Faults};
use super::{ApiSettings, RATE_PERIOD};

/// Maximum number of requests that are kept for [`Controls::log`]. All are counted.
const LOG_MAX: usize = 10_000;

/// Hook that is called after the content of each page is read.
type Hook = Arc<dyn Fn(&Request) + Send + Sync>;

/// Controls of a running API. A copy controls the same API.
#[derive(Clone)]
pub struct Controls(Arc<Mutex<Shared>>);

/// One request that the API has answered, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path without `/v1`, with `{id}` in place of ids.
    pub path: String,
    /// Query string as it was sent.
    pub query: String,
    /// Status of the answer; zero for a fault without an answer.
    pub status: u16,
    /// Value of the header `Clerk-API-Version`.
    pub version: Option<String>,
}

pub(super) struct Shared {
    latency: Duration,
    rate_limit: Option<NonZeroU32>,
    /// Start of the current period of the rate limit, and the number of requests in it.
    period: Option<(Instant, u32)>,
    clock_offset_seconds: i64,
    instance_id: Option<String>,
    faults: Faults,
    hook: Option<Hook>,
    counts: BTreeMap<(String, u16), u64>,
    log: Vec<Request>,
}

impl Controls {
    pub(super) fn new(settings: &ApiSettings) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            latency: settings.latency,
            rate_limit: settings.rate_limit,
            period: None,
            clock_offset_seconds: 0,
            instance_id: None,
            faults: Faults::default(),
            hook: None,
            counts: BTreeMap::new(),
            log: Vec::new(),
        })))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next `requests` requests fail. Faults planned first come first.
    pub fn inject(&self, fault: Fault, requests: u64) {
        self.shared().faults.plan(fault, None, requests);
    }

    /// Makes the next `requests` requests to one path fail. The path is without `/v1` and has `{id}` in place
    /// of ids, such as `/organizations/{id}/memberships`.
    pub fn inject_on(&self, path: &str, fault: Fault, requests: u64) {
        self.shared().faults.plan(fault, Some(path.to_owned()), requests);
    }

    /// Removes all planned faults.
    pub fn clear_faults(&self) {
        self.shared().faults.clear();
    }

    /// Sets the delay before each answer.
    pub fn set_latency(&self, latency: Duration) {
        self.shared().latency = latency;
    }

    /// Sets the maximum number of requests per [`RATE_PERIOD`], and starts a new period.
    pub fn set_rate_limit(&self, requests: Option<NonZeroU32>) {
        let mut shared = self.shared();
        shared.rate_limit = requests;
        shared.period = None;
    }

    /// Sets how many seconds the header `Date` is ahead of the clock. Negative: behind.
    pub fn set_clock_offset_seconds(&self, seconds: i64) {
        self.shared().clock_offset_seconds = seconds;
    }

    /// Makes `/instance` answer with another id. `None` restores the instance's own.
    pub fn set_instance_id(&self, id: Option<&str>) {
        self.shared().instance_id = id.map(str::to_owned);
    }

    /// Calls `hook` after the content of each page is read and before the page is sent: what it changes is
    /// not on this page, and is on later ones. It replaces an earlier hook.
    pub fn after_each_page(&self, hook: impl Fn(&Request) + Send + Sync + 'static) {
        self.shared().hook = Some(Arc::new(hook));
    }

    /// Returns the number of requests by path and status. The status is zero for requests without an answer.
    pub fn requests(&self) -> BTreeMap<(String, u16), u64> {
        self.shared().counts.clone()
    }

    /// Returns the number of requests to one path, whatever the answer.
    pub fn requests_to(&self, path: &str) -> u64 {
        self.shared().counts.iter().filter(|((one, _), _)| one == path).map(|(_, count)| count).sum()
    }

    /// Returns the first requests since the start or [`Self::forget_requests`], at most 10,000.
    pub fn log(&self) -> Vec<Request> {
        self.shared().log.clone()
    }

    /// Empties [`Self::requests`] and [`Self::log`].
    pub fn forget_requests(&self) {
        let mut shared = self.shared();
        shared.counts.clear();
        shared.log.clear();
    }

    pub(super) fn latency(&self) -> Duration {
        self.shared().latency
    }

    pub(super) fn clock_offset_seconds(&self) -> i64 {
        self.shared().clock_offset_seconds
    }

    pub(super) fn instance_id(&self) -> Option<String> {
        self.shared().instance_id.clone()
    }

    pub(super) fn take_fault(&self, path: &str) -> Option<Fault> {
        self.shared().faults.take(path)
    }

    pub(super) fn record(&self, request: Request) {
        let mut shared = self.shared();
        *shared.counts.entry((request.path.clone(), request.status)).or_default() += 1;
        if shared.log.len() < LOG_MAX {
            shared.log.push(request);
        }
    }

    pub(super) fn page_is_read(&self, request: &Request) {
        // The hook may use the controls, so the lock must be free.
        let hook = self.shared().hook.clone();
        if let Some(hook) = hook {
            hook(request);
        }
    }

    /// Counts a request. Returns the seconds until the next period if it is one too many.
    pub(super) fn admit(&self) -> Result<(), u64> {
        let mut shared = self.shared();
        let Some(limit) = shared.rate_limit else { return Ok(()) };
        let now = Instant::now();
        let period = shared.period.filter(|(start, _)| now.duration_since(*start) < RATE_PERIOD);
        let (start, requests) = period.unwrap_or((now, 0));
        shared.period = Some((start, requests.saturating_add(1)));
        if requests < limit.get() {
            return Ok(());
        }
        let left = RATE_PERIOD.saturating_sub(now.duration_since(start));
        Err(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }
}
