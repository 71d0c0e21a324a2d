//! Who is erased: their rows, what names them, and whether a message is theirs.

use std::collections::BTreeSet;

use rollbook_core::catalog::{ORGANIZATIONS, RESOURCES, Resource, USERS, find_resource};
use rollbook_core::store::{RowView, Store, StoreError};
use serde_json::Value;

use super::super::whose::{About, holds};
use super::addresses::Addresses;
use super::search::Search;

/// The most rows that are looked for by one link or one address. Beyond that, those that are a subject's go all
/// the same; only a message about one of them that does not name the subject is not known to be theirs.
pub(super) const ROWS_MAX: usize = 10_000;

/// A table's name and an id.
pub(super) type Key = (&'static str, String);

/// Who is erased.
pub(super) struct Person {
    pub(super) resource: &'static Resource,
    pub(super) id: String,
    /// What is erased by its id: they themselves, and rows that name an address of theirs.
    pub(super) subjects: BTreeSet<Key>,
    /// Rows that hang on or belong to them.
    pub(super) dependents: BTreeSet<Key>,
    /// The organizations that their rows name: those that they belong to or belonged to.
    pub(super) organizations: BTreeSet<String>,
    /// Their addresses and phone numbers.
    pub(super) addresses: Addresses,
    /// Rows of others that name an address which is not proven to be theirs.
    pub(super) doubted_rows: BTreeSet<Key>,
    /// Whether anything was stored about the id before the erasure: its row, a ledger line, or a child row.
    pub(super) was_known: Option<bool>,
    /// Those of all these that have a row with content.
    pub(super) rows: BTreeSet<Key>,
    search: Search,
}

/// What a message is to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearing {
    /// It is about them or what is theirs.
    Theirs,
    /// It can't be read as an event and holds their id or address. No worker will ever apply it.
    Unreadable,
    /// It can't be read as an event and holds neither, as far as plain text, JSON escapes and percent-encoding show.
    Unrecognized,
    /// It is about someone or something else and names them.
    Mention,
    /// Nothing.
    None,
}

impl Person {
    /// Nobody but the one with this id, and these addresses.
    pub(super) fn new(resource: &'static Resource, id: &str, addresses: &[String]) -> Self {
        Self {
            resource,
            id: id.to_owned(),
            subjects: BTreeSet::from([(resource.table, id.to_owned())]),
            dependents: BTreeSet::new(),
            organizations: BTreeSet::new(),
            addresses: Addresses::given(addresses),
            doubted_rows: BTreeSet::new(),
            was_known: None,
            rows: BTreeSet::new(),
            search: Search::default(),
        }
    }

    /// Forgets what was found by reading whole tables, so that it is looked for again.
    pub(super) fn search_again(&mut self) {
        self.search = Search::default();
    }

    /// Learns from the rows.
    pub(super) async fn look_at_rows(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let row = store.get(self.resource, &self.id).await?;
        let has_row = row.is_some();
        if let Some(row) = row {
            self.learn(self.resource, &row);
            self.note(self.resource, &row);
        }
        let asked = self.addresses.to_settle();
        let (subjects, dependents) = (&self.subjects, &self.dependents);
        let is_theirs = |id: &str| {
            let key = (USERS.table, id.to_owned());
            subjects.contains(&key) || dependents.contains(&key)
        };
        let of_others = self.search.users(store, &asked, is_theirs).await?;
        self.addresses.settle(&of_others);
        let of = self.resource;
        for resource in RESOURCES {
            for link in resource.links.iter().filter(|link| link.parent == of) {
                for row in store.rows_where(resource, link.column, &self.id, ROWS_MAX).await? {
                    self.note(resource, &row);
                    self.note_organizations(resource, &row);
                    self.dependents.insert((resource.table, row.id));
                }
            }
        }
        let (own, doubted) = (self.addresses.own(), self.addresses.doubted());
        if self.was_known.is_none() {
            let in_ledger = !store.deliveries(&self.id, 1).await?.is_empty();
            self.was_known = Some(has_row || in_ledger || !self.dependents.is_empty());
        }
        self.search.rows(store, own.iter().chain(doubted.keys())).await?;
        let (own, doubted) = (self.search.naming(own.iter()), self.search.naming(doubted.keys()));
        for (table, id) in own {
            let Some(resource) = find_resource(table) else { continue };
            if let Some(row) = store.get(resource, &id).await? {
                self.note(resource, &row);
            }
            self.subjects.insert((table, id));
        }
        let theirs = |key: &Key| self.subjects.contains(key) || self.dependents.contains(key);
        self.doubted_rows = doubted.into_iter().filter(|key| !theirs(key)).collect();
        Ok(())
    }

    /// The rows that have content although they have been erased.
    pub(super) async fn content_left(&mut self, store: &dyn Store) -> Result<BTreeSet<Key>, StoreError> {
        // What comes meanwhile and names an address of theirs has not been erased yet.
        let erased: BTreeSet<Key> = self.subjects.union(&self.dependents).cloned().collect();
        let before = std::mem::take(&mut self.rows);
        let looked = self.look_at_rows(store).await;
        let mut left = std::mem::replace(&mut self.rows, before);
        looked?;
        for (table, id) in &erased {
            let Some(resource) = find_resource(table) else { continue };
            if self.subjects.contains(&(resource.table, id.clone()))
                && let Some(row) = store.get(resource, id).await?
                && row.columns.get("data").is_some_and(|data| !data.is_null())
            {
                left.insert((resource.table, id.clone()));
            }
        }
        left.retain(|key| erased.contains(key));
        Ok(left)
    }

    fn note(&mut self, resource: &'static Resource, row: &RowView) {
        if row.columns.get("data").is_some_and(|data| !data.is_null()) {
            self.rows.insert((resource.table, row.id.clone()));
        }
    }

    fn note_organizations(&mut self, resource: &'static Resource, row: &RowView) {
        for link in resource.links.iter().filter(|link| *link.parent == ORGANIZATIONS) {
            if let Some(Value::String(id)) = row.columns.get(link.column) {
                self.organizations.insert(id.clone());
            }
        }
    }

    fn learn(&mut self, resource: &Resource, row: &RowView) {
        if *resource == USERS {
            row.columns.get("data").into_iter().for_each(|data| self.addresses.learn(data));
        }
        for column in resource.addresses {
            if let Some(Value::String(address)) = row.columns.get(*column) {
                self.addresses.take(address);
            }
        }
    }

    /// What a message is to them. Learns what it tells of them.
    pub(super) fn bearing(&mut self, body: &[u8]) -> Bearing {
        let about = About::read(body);
        if !about.readable {
            return if self.is_named_by(body) { Bearing::Unreadable } else { Bearing::Unrecognized };
        }
        let (Some(resource), Some(id)) = (about.resource, about.id.as_deref()) else {
            // No table is for such events: without it nothing is lost.
            return if self.is_named_in(&Value::Object(about.data)) {
                Bearing::Theirs
            } else {
                Bearing::None
            };
        };
        let key = (resource.table, id.to_owned());
        let by_address = about.addresses.iter().any(|address| self.addresses.has(address));
        let is_own = self.subjects.contains(&key);
        let is_dependent = self.dependents.contains(&key) || about.belongs_to(self.resource, &self.id);
        if by_address {
            self.subjects.insert(key);
        }
        if is_own && *resource == USERS {
            self.addresses.learn(&Value::Object(about.data.clone()));
        }
        if is_own || is_dependent || by_address {
            return Bearing::Theirs;
        }
        let is_doubted = about.addresses.iter().any(|address| self.addresses.doubts(address));
        if is_doubted || self.is_named_in(&Value::Object(about.data)) {
            Bearing::Mention
        } else {
            Bearing::None
        }
    }

    fn is_named_by(&self, text: &[u8]) -> bool {
        holds(text, &self.id) || self.addresses.own().iter().any(|address| holds(text, address))
    }

    /// Whether any text in it, however deep, names them by their id or an address.
    pub(super) fn is_named_in(&self, value: &Value) -> bool {
        names_in(value, &|text| self.is_named_by(text))
    }

    /// Whether this row goes with them.
    pub(super) fn has(&self, resource: &'static Resource, id: &str) -> bool {
        let key = (resource.table, id.to_owned());
        self.subjects.contains(&key) || self.dependents.contains(&key)
    }

    /// The subjects as the store takes them.
    pub(super) fn erasable(&self) -> Vec<(&'static Resource, String)> {
        let found = |(table, id): &Key| Some((find_resource(table)?, id.clone()));
        self.subjects.iter().filter_map(found).collect()
    }
}

/// Whether any text in it, however deep, names someone.
fn names_in(value: &Value, names: &impl Fn(&[u8]) -> bool) -> bool {
    match value {
        Value::String(text) => names(text.as_bytes()),
        Value::Array(elements) => elements.iter().any(|element| names_in(element, names)),
        Value::Object(object) => {
            object.iter().any(|(key, value)| names(key.as_bytes()) || names_in(value, names))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rollbook_core::catalog::ORGANIZATIONS;
    use rollbook_simulator::samples;

    use super::*;

    const INES: &str = "user_3HAXlsF2HZt1LTFMSTEzouK5iZ8";
    const RAFAEL: &str = "user_3HAtf2fCAI6vwgS7ZUNF2TbP8mA";

    fn sample(event_type: &str) -> &'static [u8] {
        samples::sample(event_type).expect("a sample").as_bytes()
    }

    fn ines() -> Person {
        let mut person = Person::new(&USERS, INES, &[]);
        assert_eq!(person.bearing(sample("user.updated")), Bearing::Theirs);
        person.addresses.settle(&BTreeMap::new());
        person
    }

    #[test]
    fn a_users_own_message_tells_their_addresses_and_numbers() {
        let addresses: Vec<String> = ines().addresses.own().iter().cloned().collect();
        assert_eq!(addresses, ["+447700900113", "ines.okafor@kilnworks.example"]);
    }

    #[test]
    fn an_address_that_is_not_proved_or_stands_in_metadata_may_be_anothers() {
        let mut event: Value = serde_json::from_slice(sample("user.updated")).expect("JSON");
        let victim = |address: &str| serde_json::json!({ "email_address": address });
        event["data"]["unsafe_metadata"] =
            serde_json::json!({ "email_addresses": [victim("one@x.example")] });
        let mut unproved = victim("two@x.example");
        unproved["verification"] = serde_json::json!({ "status": "unverified" });
        event["data"]["email_addresses"].as_array_mut().expect("a list").push(unproved);
        event["data"]["email_addresses"].as_array_mut().expect("a list").push(victim("three@x.example"));
        let mut person = Person::new(&USERS, INES, &[]);
        person.bearing(event.to_string().as_bytes());
        person.addresses.settle(&BTreeMap::new());
        let known = |address: &str| person.addresses.has(address);
        assert_eq!(["one@x.example", "two@x.example", "three@x.example"].map(known), [false; 3]);
        let doubted: Vec<&str> = person.addresses.doubted().keys().map(String::as_str).collect();
        assert_eq!(doubted, ["three@x.example", "two@x.example"]);
    }

    #[test]
    fn what_hangs_on_someone_or_belongs_to_them_is_theirs_and_what_only_names_them_is_not() {
        let mut person = ines();
        for theirs in ["session.created", "user.deleted"] {
            let body = String::from_utf8_lossy(sample(theirs)).into_owned();
            let of_them = body.replace("user_3HDMtR9HKUXbhQifVr3TG99279Z", INES);
            assert_eq!(person.bearing(of_them.as_bytes()), Bearing::Theirs, "{theirs}");
        }
        // Made by them, sent by them, paid by them for an organization.
        for mention in ["organization.created", "organizationInvitation.created", "subscription.created"] {
            assert_eq!(person.bearing(sample(mention)), Bearing::Mention, "{mention}");
        }
        for nothing in ["user.deleted", "role.created"] {
            let mut other = Person::new(&USERS, "user_other", &[]);
            assert_eq!(other.bearing(sample(nothing)), Bearing::None, "{nothing}");
        }
    }

    #[test]
    fn an_ended_membership_is_its_users_and_its_organizations() {
        let body = sample("organizationMembership.deleted");
        assert_eq!(Person::new(&USERS, RAFAEL, &[]).bearing(body), Bearing::Theirs);
        let organization = "org_3HAY0sZgBMdgmTEOYeWxvwASv2f";
        assert_eq!(Person::new(&ORGANIZATIONS, organization, &[]).bearing(body), Bearing::Theirs);
    }

    #[test]
    fn what_names_an_address_of_theirs_is_a_subject_of_its_own() {
        let address = ["Sunniva@Holt.example ".to_owned()];
        let mut person = Person::new(&USERS, "user_1", &address);
        assert_eq!(person.bearing(sample("waitlistEntry.created")), Bearing::Theirs);
        let entry = ("waitlist_entries", "wle_3Gtb1u05QCQFZWFC91aSMEwWuIk".to_owned());
        assert!(person.subjects.contains(&entry));
        assert_eq!(person.erasable().len(), 2);
    }

    #[test]
    fn an_event_without_a_table_is_theirs_if_it_names_them() {
        let mut person = ines();
        assert_eq!(person.bearing(sample("email.created")), Bearing::Theirs);
        let mut other = Person::new(&USERS, "user_other", &[]);
        assert_eq!(other.bearing(sample("email.created")), Bearing::None);
    }

    #[test]
    fn what_can_not_be_read_is_theirs_only_if_it_holds_their_id_or_address() {
        let torn = format!("{{\"type\":\"user.updated\",\"data\":{{\"id\":\"{INES}");
        assert_eq!(ines().bearing(torn.as_bytes()), Bearing::Unreadable);
        assert_eq!(ines().bearing(b"\xff INES.okafor@kilnworks.example"), Bearing::Unreadable);
        assert_eq!(ines().bearing(b"{\"type\":\"user.upd"), Bearing::Unrecognized);
        for spelled in [
            "ines.okafor\\u0040kilnworks.example",
            "\\u0069nes.okafor\\u0040kilnworks\\u002Eexample",
            "ines.okafor\\\\u0040kilnworks.example",
            "ines.okafor%40kilnworks.example",
        ] {
            let torn = format!("{{\"data\":{{\"email_address\":\"{spelled}\",");
            assert_eq!(ines().bearing(torn.as_bytes()), Bearing::Unreadable, "{spelled}");
        }
    }
}
