//! Faults on demand.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::objects::Listing;

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
    /// The first object of a page, and each object that is read alone, is of another type: it keeps its id.
    ObjectOfAnotherType,
    /// The first object of a page, and each object that is read alone, is marked as deleted.
    DeletedObject,
    /// The first object of a page takes the place of the second one too.
    DuplicateObject,
    /// The last third of a page's objects is left out. The total stays.
    ShortPage,
    /// The totals of lists and counts are larger by this number.
    TotalJumps(u64),
    /// Pages of more than this number of objects are larger than the objects need.
    LargePage {
        /// Largest number of objects of a page that is not.
        objects: usize,
        /// Number of bytes that are added.
        bytes: usize,
    },
    /// 200 with this body.
    Body(String),
}

impl Fault {
    /// Spoils a page.
    pub(super) fn spoil(&self, page: &mut Listing) {
        match self {
            Self::EmptyPage => *page = Listing::default(),
            Self::DuplicateObject if page.objects.len() > 1 => page.objects[1] = page.objects[0].clone(),
            Self::ShortPage => page.objects.truncate(page.objects.len() - page.objects.len() / 3),
            Self::TotalJumps(by) => page.total = page.total.saturating_add(*by),
            Self::LargePage { objects, bytes } if page.objects.len() > *objects => {
                page.objects[0].push_str(&" ".repeat(*bytes));
            }
            Self::ObjectWithoutId => {
                if let Some(first) = page.objects.first_mut() {
                    *first = changed(first, |object| drop(object.remove("id")));
                }
            }
            _ => {
                if let Some(first) = page.objects.first_mut() {
                    *first = self.spoiled(std::mem::take(first));
                }
            }
        }
    }

    /// Spoils an object.
    pub(super) fn spoiled(&self, object: String) -> String {
        match self {
            Self::ObjectOfAnotherType => {
                changed(&object, |of| drop(of.insert("object".into(), "session".into())))
            }
            Self::DeletedObject => changed(&object, |of| drop(of.insert("deleted".into(), true.into()))),
            _ => object,
        }
    }
}

fn changed(object: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut object: Map<String, Value> = serde_json::from_str(object).unwrap_or_default();
    change(&mut object);
    Value::from(object).to_string()
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
