//! Clerk's Backend API of a simulated instance, over real HTTP/1.1 on the loopback interface.
//!
//! ```no_run
//! # use std::sync::{Arc, Mutex};
//! # use rollbook_simulator::api::{ApiSettings, ClerkApi, Fault};
//! # use rollbook_simulator::history::{History, HistorySettings};
//! # async fn example(clock: Arc<dyn rollbook_core::time::Clock>) -> std::io::Result<()> {
//! let history = History::generate(&HistorySettings::default());
//! let state = Arc::new(Mutex::new(history.state_after(100)));
//! let api = ClerkApi::start(state.clone(), ApiSettings::new(clock)).await?;
//! let controls = api.controls();
//! controls.inject_on("/users", Fault::ServerError(503), 2);
//! println!("{}/users?limit=500", api.url());
//! # Ok(())
//! # }
//! ```
//!
//! Rules of Clerk that a reader must know, all simulated:
//!
//! * A page has 10 objects by default and at most 500. A greater `limit` silently becomes 10.
//! * The default order is `-created_at`, so pages shift when an object is created.
//! * `starting_after` exists for users only, in the orders by `created_at`. An unknown cursor is refused.
//! * Users are a bare array. Other lists are an object with `data` and `total_count`.
//! * `organizations` have `members_count` only with `include_members_count=true`.
//! * Invitations have no `user_id`, unlike in events. Subscription items have a shape of their own.
//!
//! A parameter that Clerk has and the simulator does not is refused with 501, so that no test relies on a
//! filter that does nothing.

mod answer;
mod controls;
mod faults;
pub(crate) mod objects;
mod query;
mod route;
mod server;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock;

pub use self::controls::{Controls, Request};
pub use self::faults::Fault;
pub use self::objects::{Filter, Ids, Listing, Objects, Order, Query, UnknownCursor};
pub use self::query::{IDS_MAX, LIMIT_DEFAULT, LIMIT_MAX};
pub use self::server::ClerkApi;

/// Key that the API accepts by default. It is invented.
pub const DEFAULT_KEY: &str = "sk_test_aW52ZW50ZWQtZm9yLXRoZS1zaW11bGF0b3I";

/// Period of the rate limit.
pub const RATE_PERIOD: Duration = Duration::from_secs(10);

/// Rate limit of Clerk's production instances, in requests per [`RATE_PERIOD`].
pub const PRODUCTION_RATE: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

/// Rate limit of Clerk's development instances, in requests per [`RATE_PERIOD`].
pub const DEVELOPMENT_RATE: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// Settings of the API at its start. Some can be changed while it runs (see [`Controls`]).
#[derive(Clone)]
pub struct ApiSettings {
    /// Secret key that requests must have.
    pub key: String,
    /// `environment_type` of the instance.
    pub environment: String,
    /// Maximum number of requests per [`RATE_PERIOD`]; no limit if `None`.
    pub rate_limit: Option<NonZeroU32>,
    /// Delay before each answer.
    pub latency: Duration,
    /// Clock of the header `Date`.
    pub clock: Arc<dyn Clock>,
}

impl ApiSettings {
    /// Creates settings with [`DEFAULT_KEY`], without a rate limit and without latency.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            key: DEFAULT_KEY.to_owned(),
            environment: "development".to_owned(),
            rate_limit: None,
            latency: Duration::ZERO,
            clock,
        }
    }
}
