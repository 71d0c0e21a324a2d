//! Client of Clerk's Backend API: the only crate that speaks to it.
//!
//! [`ClerkApi`] implements the port [`rollbook_core::source::Source`]:
//!
//! * It sends the pinned version, [`API_VERSION`], with every request. Without it Clerk takes the instance's
//!   default, in which objects may have another shape than the webhooks'.
//! * It obeys the rate limit, which the team's own application shares: a named part of it (`budget`) paces all
//!   requests of the process. `Retry-After` holds every caller, and a 429 halves the rate for a while.
//! * It repeats what a later try may answer, bounded in tries and in time. Dropping a future cancels its request.
//! * It decodes the two forms of lists. An answer that it cannot read is an error, never an empty list.
//! * It takes no answer that a cache has stored.
//! * An object of another type than was asked for, or one that is marked as deleted, proves nothing.
//! * It proves absence. A 404 counts only with Clerk's code `resource_not_found`, for a read of the object alone.
//!   An empty list counts only together with an answer that shows the same list to be alive.
//!
//! The key is sent in one header, which is marked as sensitive. No error, log line or `Debug` contains the key, an
//! id or a body: errors name method, path template, status and Clerk's code.
//!
//! Policy is elsewhere: what an answer means for the rows is the reconciler's decision.

mod decode;
mod endpoints;
mod fetch;
mod key;
mod pacer;
mod request;
mod settings;
mod transport;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::{Resource, USERS};
use rollbook_core::event::{is_a, is_of};
use rollbook_core::json::Json;
use rollbook_core::source::{
    Fetched, Instance, Lookup, PAGE_MAX, Page, PageRequest, Position, Source, SourceError, Window,
};

pub use self::key::{Environment, KeyError, SecretKey};
pub use self::request::ANSWER_BYTES_MAX;
pub use self::settings::{BUDGET_MIN, ClerkSettings, SettingsError};
pub use self::transport::{API_VERSION, CODE_BROKEN, CODE_TIMEOUT, CODE_UNREACHABLE};
pub use self::url::{ApiUrl, ApiUrlError};

use self::endpoints::Endpoint;
use self::request::Request;
use self::transport::Transport;

/// Receives the result of each request: a status code as text, or one of [`CODE_UNREACHABLE`], [`CODE_TIMEOUT`]
/// and [`CODE_BROKEN`].
pub type Observer = Arc<dyn Fn(&str) + Send + Sync>;

/// Client of Clerk's Backend API. Callers share its connections and its pace.
pub struct ClerkApi {
    transport: Transport,
}

impl ClerkApi {
    /// Creates a client. Nothing is sent yet.
    ///
    /// # Errors
    /// The budget is out of range, or the system has no root certificates for an https URL.
    pub fn new(settings: ClerkSettings) -> Result<Self, SettingsError> {
        Ok(Self { transport: Transport::new(settings, None)? })
    }

    /// Reports the result of each request to `observer`.
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.transport.observer = observer;
        self
    }

    /// Returns the number of requests per second that the budget allows.
    pub fn requests_per_second(&self) -> f64 {
        self.transport.pacer.requests_per_second()
    }

    async fn list(&self, request: &Request, limit: usize) -> Result<Page, SourceError> {
        let ((objects, total), clock) = self.transport.get(request, decode::list).await?;
        if objects.len() > limit {
            return Err(request.unreadable("the list has more objects than the limit"));
        }
        Ok(Page { objects, total, clock })
    }
}

/// Adds the bounds of a window. Clerk does not say whether its bounds are inclusive, so the lower one is a
/// millisecond earlier: the window is covered in either case.
fn within(request: Request, window: Window) -> Request {
    let (from, to) = (window.from.as_millis(), window.to.as_millis());
    let request = if from > 0 { request.query("created_at_after", &(from - 1).to_string()) } else { request };
    if window.to == Window::ALL.to { request } else { request.query("created_at_before", &to.to_string()) }
}

#[async_trait]
impl Source for ClerkApi {
    async fn instance(&self) -> Result<Instance, SourceError> {
        let request = Request::new("/instance");
        let (mut object, mut clock) = self.transport.get(&request, decode::object).await?;
        if self.transport.notices_copies() {
            // The first answer may be a copy of one that another process got. A second copy is noticed.
            (object, clock) = self.transport.get(&request, decode::object).await?;
        }
        if !is_a("instance", object.value()) {
            return Err(request.unreadable("the answer is not an instance"));
        }
        let text = |key: &str| {
            let text = object.get(key).and_then(Json::as_text).filter(|text| !text.is_empty());
            text.map(Cow::into_owned).ok_or_else(|| request.unreadable(&format!("the instance has no {key}")))
        };
        Ok(Instance { id: text("id")?, environment: text("environment_type")?, clock })
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        if resource.number == USERS.number {
            let request = within(Request::new("/users/count"), window);
            let (object, _) = self.transport.get(&request, decode::object).await?;
            if !is_a("total_count", object.value()) {
                return Err(request.unreadable("the answer is not a count"));
            }
            return object
                .get("total_count")
                .and_then(Json::as_integer)
                .ok_or_else(|| request.unreadable("the count has no total_count"));
        }
        if window != Window::ALL {
            return Err(SourceError::Unsupported("only users can be counted in a window of time"));
        }
        let request = Endpoint::of(resource)?.list().query("limit", "1");
        let page = self.list(&request, 1).await?;
        if !page.objects.iter().all(|object| is_of(resource, object.decode().value())) {
            return Err(request.unreadable("the list has an object of another type"));
        }
        page.total.ok_or_else(|| request.unreadable("the list has no total_count"))
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        if !(1..=PAGE_MAX).contains(&request.limit) {
            return Err(SourceError::Unsupported(
                "a page has 1 to 500 objects: for more Clerk silently sends ten",
            ));
        }
        let list = Endpoint::of(resource)?.list().query("limit", &request.limit.to_string());
        let list = match (&request.position, resource.number == USERS.number) {
            (Position::After { id, window }, true) => {
                let list = within(list, *window);
                if let Some(id) = id { list.query("starting_after", id) } else { list }
            }
            (Position::Offset(offset), false) => list.query("offset", &offset.to_string()),
            (Position::Offset(_), true) => {
                return Err(SourceError::Unsupported("users are paged by the last id, not by offset"));
            }
            (Position::After { .. }, false) => {
                return Err(SourceError::Unsupported("only users can be paged by the last id"));
            }
        };
        self.list(&list.at_most(request.bytes_max), request.limit).await
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        let request = Request::new("/users")
            .query("order_by", "-updated_at")
            .query("limit", &limit.to_string())
            .query("offset", &offset.to_string());
        self.list(&request, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        self.fetch_all(resource, lookups).await
    }
}

impl fmt::Debug for ClerkApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClerkApi").finish_non_exhaustive()
    }
}
