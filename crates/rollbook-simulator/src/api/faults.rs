//! Faults on demand.

use std::collections::VecDeque;

/// A wrong answer, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429 `too_many_requests`, with this `Retry-After` in seconds if there is one.
    TooManyRequests {
        /// Value of `Retry-After`.
        retry_after: Option<u64>,
    },
    /// 401 `clerk_key_invalid`.
    Unauthorized,
    /// 403.
    Forbidden,
    /// Another error status, such as 500 or 503, in Clerk's form of errors.
    ServerError(u16),
    /// No answer. The request ends when the client closes the connection.
    Hang,
    /// The connection closes without an answer.
    Disconnect,
    /// The body ends in the middle, and the connection closes.
    TruncatedBody,
    /// 200 with a page of HTML, as a proxy sends it.
    Html,
    /// 200 with a list without objects and a total of zero. Point reads answer 404.
    EmptyPage,
    /// A page has at most ten objects.
    LimitCutTo10,
    /// The first object of a page has no id.
    ObjectWithoutId,
    /// 200 with this body.
    Body(String),
}

/// Faults that are due, each with the number of requests that it is left for.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<Planned>);

#[derive(Debug)]
struct Planned {
    fault: Fault,
    /// Template of the paths that it is for; every path if `None`.
    path: Option<String>,
    left: u64,
}

impl Faults {
    pub(super) fn plan(&mut self, fault: Fault, path: Option<String>, requests: u64) {
        self.0.push_back(Planned { fault, path, left: requests });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the fault of a request. Those planned first come first.
    pub(super) fn take(&mut self, path: &str) -> Option<Fault> {
        self.0.retain(|planned| planned.left > 0);
        let planned =
            self.0.iter_mut().find(|planned| planned.path.as_deref().is_none_or(|wanted| wanted == path))?;
        planned.left = planned.left.saturating_sub(1);
        Some(planned.fault.clone())
    }
}
