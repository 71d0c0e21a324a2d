//! Point reads, and the proof that an object is absent.
//!
//! | resource | evidence of absence |
//! | --- | --- |
//! | users, organizations | the list filtered by id leaves it out, and a read of it alone answers 404 |
//! | invitations, roles, permissions | a read of it alone answers 404 |
//! | memberships | its organization is a 404; or the organization's list, filtered by users, leaves it out and shows a known member |
//! | domains | its organization is a 404; or the organization's complete list leaves it out, and a list of domains is not empty |
//! | waitlist entries | none: Clerk has no read for one entry |
//!
//! An answer with an object of another type, or with one that is marked as deleted, is evidence of nothing: neither of
//! the object that was asked for, nor of the absence of others. An answer that shows an object twice proves no absence, and if
//! the two differ, nothing about that object.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rollbook_core::catalog::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
    ROLES, Resource, USERS,
};
use rollbook_core::event::is_of;
use rollbook_core::json::{Document, Json};
use rollbook_core::source::{Fetched, LOOKUPS_MAX, Lookup, PAGE_MAX, Presence, RawObject, SourceError};
use rollbook_core::time::Timestamp;
use rollbook_core::url::encoded;

use crate::ClerkApi;
use crate::decode;
use crate::endpoints::{ASCENDING, Endpoint, MEMBERS_COUNT};
use crate::request::Request;

/// Maximum number of point reads at the same time.
const READS_AT_ONCE: usize = 8;
/// Maximum length of the ids in one URL, percent-encoded, in bytes. Servers accept about 8,000.
const IDS_BYTES_MAX: usize = 6000;

const READ_ORGANIZATION: &str = "/organizations/{id}";
const READ_INVITATION: &str = "/organizations/{id}/invitations/{id}";
const NOT_ASKABLE: &str =
    "the id, or its parent's, has characters that can't be part of a request, or is missing";
const CONTRADICTION: &str = "Clerk's answers contradict each other";
const OF_ANOTHER_TYPE: &str =
    "Clerk answered with an object of another type, or with one that is marked as deleted";

const TWICE: &str = "Clerk's answer shows an object twice";

/// Answer of a list that is filtered by ids.
struct Filtered {
    /// Objects of the resource, by id.
    found: HashMap<String, Document>,
    /// Reason why the list proves no absence, if there is one.
    doubt: Option<&'static str>,
    /// The list's total if it shows another number of objects.
    missing: Option<u64>,
    clock: Timestamp,
}

impl ClerkApi {
    /// Reads objects by their ids, each with a result, in the same order.
    pub(crate) async fn fetch_all(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let is = |other: &Resource| resource.number == other.number;
        if is(&USERS) {
            return self.by_list(resource, "user_id", "/users/{id}", lookups).await;
        }
        if is(&ORGANIZATIONS) {
            return self.by_list(resource, "organization_id", READ_ORGANIZATION, lookups).await;
        }
        if is(&ORGANIZATION_MEMBERSHIPS) || is(&ORGANIZATION_DOMAINS) {
            return self.by_organization(resource, lookups).await;
        }
        let path = if is(&ORGANIZATION_INVITATIONS) {
            READ_INVITATION
        } else if is(&ROLES) {
            "/organization_roles/{id}"
        } else if is(&PERMISSIONS) {
            "/organization_permissions/{id}"
        } else {
            return Err(SourceError::Unsupported("Clerk has no read of one object of this resource"));
        };
        self.each(resource, lookups.iter().map(|of| (alone(path, of), of.id.clone())).collect()).await
    }

    /// Reads a list filtered by ids, and alone each object that the list leaves out.
    async fn by_list(
        &self,
        resource: &'static Resource,
        filter: &'static str,
        read: &'static str,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let mut found = HashMap::new();
        for ids in batches(lookups.iter().map(|of| of.id.as_str()), LOOKUPS_MAX) {
            let list = Endpoint::of(resource)?.list();
            let Filtered { found: objects, doubt, clock, .. } =
                self.filtered(resource, list, filter, &ids).await?;
            let exists = |(id, object)| (id, fetched(Presence::Exists(object), clock));
            found.extend(objects.into_iter().map(exists));
            for (id, doubt) in ids.iter().filter_map(|id| Some((id, doubt?))) {
                let unknown = || fetched(Presence::Unknown(doubt), clock);
                found.entry((*id).to_owned()).or_insert_with(unknown);
            }
        }
        let missing = lookups.iter().filter(|of| !found.contains_key(&of.id));
        let reads = missing.map(|of| (alone(read, of), of.id.clone())).collect();
        let mut rest = self.each(resource, reads).await?.into_iter();
        let results = lookups.iter().filter_map(|of| found.get(&of.id).cloned().or_else(|| rest.next()));
        Ok(results.collect())
    }

    /// Reads each object alone, by its request and its id.
    async fn each(
        &self,
        resource: &'static Resource,
        reads: Vec<(Option<Request>, String)>,
    ) -> Result<Vec<Fetched>, SourceError> {
        let reads = reads.into_iter().map(|(request, id)| async move {
            match request {
                Some(request) => self.read(resource, &request, &id).await,
                None => Ok(fetched(Presence::Unknown(NOT_ASKABLE), Timestamp::default())),
            }
        });
        stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
    }

    /// Reads one object alone.
    async fn read(&self, resource: &Resource, request: &Request, id: &str) -> Result<Fetched, SourceError> {
        let (object, clock) = self.transport.find(request, decode::object).await?;
        let presence = match object {
            None => Presence::Absent,
            Some(object) if !is_of(resource, object.value()) => Presence::Unknown(OF_ANOTHER_TYPE),
            Some(object) if id_of(&object).as_deref() == Some(id) => Presence::Exists(object),
            // Another object, such as an organization that has this id as its slug.
            Some(_) => Presence::Unknown("Clerk answered with an object of another id"),
        };
        Ok(fetched(presence, clock))
    }

    /// Reads a list that is filtered by ids.
    async fn filtered(
        &self,
        resource: &Resource,
        list: Request,
        filter: &str,
        ids: &[&str],
    ) -> Result<Filtered, SourceError> {
        let list = list.query("limit", &LOOKUPS_MAX.to_string());
        let request = ids.iter().fold(list, |request, id| request.query(filter, id));
        let page = self.list(&request, LOOKUPS_MAX).await?;
        let (found, doubt) = by_id(resource, &page.objects);
        let missing = page.total.filter(|total| *total != page.objects.len() as u64);
        Ok(Filtered { found, doubt, missing, clock: page.clock })
    }

    /// Reads memberships or domains, several organizations at the same time.
    async fn by_organization(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        let unknown = fetched(Presence::Unknown(NOT_ASKABLE), Timestamp::default());
        let mut results = vec![unknown; lookups.len()];
        let mut organizations: BTreeMap<String, Vec<(usize, Lookup)>> = BTreeMap::new();
        for (at, of) in lookups.iter().enumerate() {
            if let Some(id) = of.organization_id.as_ref().filter(|id| is_askable(id)) {
                organizations.entry(id.clone()).or_default().push((at, of.clone()));
            }
        }
        let is_domains = resource.number == ORGANIZATION_DOMAINS.number;
        let reads = organizations.into_iter().map(|(organization, lookups)| async move {
            let (positions, lookups): (Vec<usize>, Vec<Lookup>) = lookups.into_iter().unzip();
            let found = if is_domains {
                self.domains(&organization, &lookups).await?
            } else {
                self.memberships(&organization, &lookups).await?
            };
            Ok::<_, SourceError>((positions, found))
        });
        let read: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        for (at, found) in read.into_iter().flat_map(|(positions, found)| positions.into_iter().zip(found)) {
            results[at] = found;
        }
        Ok(results)
    }

    /// Reads memberships of one organization.
    async fn memberships(&self, organization: &str, lookups: &[Lookup]) -> Result<Vec<Fetched>, SourceError> {
        let request = read_of(READ_ORGANIZATION, &[organization]);
        let parent = self.read(&ORGANIZATIONS, &request, organization).await?;
        let Presence::Exists(parent) = &parent.presence else { return Ok(vec![parent; lookups.len()]) };
        let list = || Request::with_ids("/organizations/{id}/memberships", &[organization]);
        let sample = self.list(&list().query(ASCENDING.0, ASCENDING.1).query("limit", "1"), 1).await?;
        let Some(sample_member) = sample.objects.first().map(RawObject::decode) else {
            let is_empty = parent.get("members_count").and_then(Json::as_integer) == Some(0);
            let presence = if is_empty { Presence::Absent } else { Presence::Unknown(CONTRADICTION) };
            return Ok(vec![fetched(presence, sample.clock); lookups.len()]);
        };
        if !is_of(&ORGANIZATION_MEMBERSHIPS, sample_member.value()) {
            return Ok(vec![fetched(Presence::Unknown(OF_ANOTHER_TYPE), sample.clock); lookups.len()]);
        }
        let (Some(sample_id), Some(sample_user)) = (id_of(&sample_member), user_of(&sample_member)) else {
            return Err(list().unreadable("a membership has no id or no user"));
        };
        let users = lookups.iter().filter_map(|of| of.user_id.as_deref());
        let mut found = HashMap::new();
        for mut ids in batches(users, LOOKUPS_MAX - 1) {
            let asked = ids.clone();
            ids.push(&sample_user);
            let Filtered { found: mut objects, doubt, missing, clock } =
                self.filtered(&ORGANIZATION_MEMBERSHIPS, list(), "user_id", &ids).await?;
            // Without the known member, or with others, the filter does not work now: its silence proves nothing.
            let is_asked = |member| user_of(member).is_some_and(|user| ids.contains(&&*user));
            // A list that counts more than it shows is not complete. Its total may be that of the list without the filter:
            // Clerk does not say.
            let is_short = missing.is_some() && missing != sample.total;
            let is_alive = doubt.is_none()
                && !is_short
                && objects.contains_key(&*sample_id)
                && objects.values().all(is_asked);
            for of in
                lookups.iter().filter(|of| of.user_id.as_deref().is_some_and(|user| asked.contains(&user)))
            {
                let presence = match objects.remove(&of.id) {
                    Some(object) => Presence::Exists(object),
                    None if is_alive => Presence::Absent,
                    None => Presence::Unknown(CONTRADICTION),
                };
                found.entry(of.id.as_str()).or_insert_with(|| fetched(presence, clock));
            }
        }
        let unknown = || fetched(Presence::Unknown(NOT_ASKABLE), sample.clock);
        Ok(lookups.iter().map(|of| found.get(of.id.as_str()).cloned().unwrap_or_else(unknown)).collect())
    }

    /// Reads domains of one organization.
    async fn domains(&self, organization: &str, lookups: &[Lookup]) -> Result<Vec<Fetched>, SourceError> {
        let endpoint = Endpoint::of(&ORGANIZATION_DOMAINS)?;
        let of_organization =
            endpoint.list().query("organization_id", organization).query("limit", &PAGE_MAX.to_string());
        let page = self.list(&of_organization, PAGE_MAX).await?;
        let is_complete = page.total == Some(page.objects.len() as u64);
        let (is_empty, clock) = (page.objects.is_empty(), page.clock);
        let (found, doubt) = by_id(&ORGANIZATION_DOMAINS, &page.objects);
        let rest = if let Some(doubt) = doubt {
            fetched(Presence::Unknown(doubt), clock)
        } else if !is_complete {
            fetched(Presence::Unknown("the organization's list of domains is not complete"), clock)
        } else if !is_empty || lookups.iter().all(|of| found.contains_key(&of.id)) {
            fetched(Presence::Absent, clock)
        } else {
            let request = read_of(READ_ORGANIZATION, &[organization]);
            let parent = self.read(&ORGANIZATIONS, &request, organization).await?;
            match parent.presence {
                // The list of all domains shows that lists are not empty now for another reason.
                Presence::Exists(_) => {
                    let any = self.list(&endpoint.list().query("limit", "1"), 1).await?;
                    let is_alive =
                        matches!(by_id(&ORGANIZATION_DOMAINS, &any.objects), (any, None) if !any.is_empty());
                    let presence = if is_alive { Presence::Absent } else { Presence::Unknown(CONTRADICTION) };
                    fetched(presence, any.clock)
                }
                _ => parent,
            }
        };
        let result = |of: &Lookup| match found.get(&of.id) {
            Some(object) => fetched(Presence::Exists(object.clone()), clock),
            None => rest.clone(),
        };
        Ok(lookups.iter().map(result).collect())
    }
}

/// Returns the request for one object alone. `None` if an id can't be part of a path.
fn alone(path: &'static str, of: &Lookup) -> Option<Request> {
    let organization = of.organization_id.as_deref().unwrap_or_default();
    let ids = if path == READ_INVITATION { vec![organization, &of.id] } else { vec![of.id.as_str()] };
    ids.iter().all(|id| is_askable(id)).then(|| read_of(path, &ids))
}

/// Returns the request for one object alone, with the parameters of its list.
fn read_of(path: &'static str, ids: &[&str]) -> Request {
    let request = Request::with_ids(path, ids);
    if path == READ_ORGANIZATION { request.query(MEMBERS_COUNT.0, MEMBERS_COUNT.1) } else { request }
}

fn fetched(presence: Presence, clock: Timestamp) -> Fetched {
    Fetched { presence, clock }
}

/// Returns the objects of a list that are of the resource, by id, and the reason why the list proves no absence, if there is
/// one. An object that is there twice, in different states, is left out: nothing says which of them counts.
fn by_id(resource: &Resource, objects: &[RawObject]) -> (HashMap<String, Document>, Option<&'static str>) {
    let (mut found, mut contradictory, mut doubt) = (HashMap::new(), HashSet::new(), None);
    for object in objects.iter().map(RawObject::decode) {
        let id = id_of(&object).filter(|_| is_of(resource, object.value())).map(Cow::into_owned);
        let Some(id) = id else {
            doubt = Some(OF_ANOTHER_TYPE);
            continue;
        };
        match found.entry(id) {
            Entry::Vacant(place) => drop(place.insert(object)),
            Entry::Occupied(known) => {
                doubt = doubt.or(Some(TWICE));
                if known.get().as_str() != object.as_str() {
                    contradictory.insert(known.key().clone());
                }
            }
        }
    }
    found.retain(|id, _| !contradictory.contains(id));
    (found, doubt)
}

fn id_of(object: &Document) -> Option<Cow<'_, str>> {
    object.get("id")?.as_text()
}

/// Returns the id of a membership's user.
fn user_of(membership: &Document) -> Option<Cow<'_, str>> {
    membership.get("public_user_data")?.get("user_id")?.as_text()
}

/// Whether an id can be a segment of a path. Servers and proxies may resolve dots and slashes even if they are
/// percent-encoded, and then answer for another path.
fn is_askable(id: &str) -> bool {
    !id.is_empty() && id != "." && id != ".." && !id.contains(['/', '\\']) && !id.contains(char::is_control)
}

/// Splits ids into batches of at most `max`, which fit a URL. Ids that no filter can have are left out: in a filter, a sign
/// means to include or to exclude the rest.
fn batches<'a>(ids: impl Iterator<Item = &'a str>, max: usize) -> Vec<Vec<&'a str>> {
    let mut batches: Vec<Vec<&str>> = Vec::new();
    let mut bytes = 0;
    for id in ids.filter(|id| !id.is_empty() && !id.starts_with(['+', '-'])) {
        // With the parameter's name.
        let length = encoded(id).len() + "&organization_id=".len();
        match batches.last_mut() {
            Some(batch) if batch.len() < max && bytes + length <= IDS_BYTES_MAX => {
                bytes += length;
                batch.push(id);
            }
            _ => {
                bytes = length;
                batches.push(vec![id]);
            }
        }
    }
    batches
}
