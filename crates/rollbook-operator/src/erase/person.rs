//! The person who is erased: rows, identifiers, and the relation of a message to the person.

use std::collections::BTreeSet;

use rollbook_core::catalog::{ORGANIZATIONS, RESOURCES, Resource, USERS, find_resource};
use rollbook_core::store::{RowView, StoreError};
use serde_json::Value;

use super::Ports;
use super::addresses::Addresses;
use super::search::{Key, ROWS_MAX, Search};
use crate::ownership::{Ownership, contains_word};

/// The person, or another subject, that is erased.
pub(super) struct Person {
    pub(super) resource: &'static Resource,
    pub(super) id: String,
    /// Rows that are erased by their ids: the person, and rows that contain an address of the person.
    pub(super) subjects: BTreeSet<Key>,
    /// Child rows of the person.
    pub(super) children: BTreeSet<Key>,
    /// Organizations that the child rows name: current and former memberships.
    pub(super) organizations: BTreeSet<String>,
    /// Addresses and phone numbers of the person.
    pub(super) addresses: Addresses,
    /// Rows of others that contain a rejected address.
    pub(super) rejected_rows: BTreeSet<Key>,
    /// Whether the row of the person exists or existed.
    has_row: bool,
    /// Whether anything was stored about the id before the erasure: its row, a ledger entry, or a child row.
    pub(super) was_known: Option<bool>,
    /// Rows with content, of all these.
    pub(super) rows: BTreeSet<Key>,
    search: Search,
}

/// Relation of a message to the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The message is about the person or a row of the person.
    Own,
    /// The message cannot be read as an event and contains the id or an address. No worker will ever apply it.
    Unreadable,
    /// The message cannot be read as an event and contains neither, in plain text, JSON escapes or
    /// percent-encoding.
    Unrecognized,
    /// The message is about another subject and mentions the person.
    Mention,
    /// No relation.
    None,
}

impl Person {
    /// Starts with an id, and the addresses given by the operator.
    pub(super) fn new(resource: &'static Resource, id: &str, addresses: &[String]) -> Self {
        Self {
            resource,
            id: id.to_owned(),
            subjects: BTreeSet::from([(resource.table, id.to_owned())]),
            children: BTreeSet::new(),
            organizations: BTreeSet::new(),
            addresses: Addresses::given(addresses),
            rejected_rows: BTreeSet::new(),
            has_row: false,
            was_known: None,
            rows: BTreeSet::new(),
            search: Search::default(),
        }
    }

    /// Discards the results of reading whole tables, so that the next search reads them again.
    pub(super) fn search_again(&mut self) {
        self.search = Search::default();
    }

    /// Judges who the person is: reads the addresses of the row, and decides which addresses are proved.
    pub(super) async fn judge(&mut self, ports: Ports<'_>) -> Result<(), StoreError> {
        let row = ports.store.get(self.resource, &self.id).await?;
        if let Some(row) = &row {
            self.read_addresses(row);
            self.note(self.resource, row);
        }
        self.has_row |= row.is_some();
        let candidates = self.addresses.to_judge();
        let (subjects, children) = (&self.subjects, &self.children);
        let is_own = |id: &str| {
            let key = (USERS.table, id.to_owned());
            subjects.contains(&key) || children.contains(&key)
        };
        let of_others = self.search.users(ports, &candidates, is_own).await?;
        self.addresses.judge(&of_others);
        Ok(())
    }

    /// Learns which rows belong to the person: child rows, and rows that contain a proved address.
    pub(super) async fn learn(&mut self, ports: Ports<'_>) -> Result<(), StoreError> {
        let (of, store) = (self.resource, ports.store);
        for resource in RESOURCES {
            for link in resource.links.iter().filter(|link| link.parent == of) {
                for row in store.rows_where(resource, link.column, &self.id, ROWS_MAX).await? {
                    self.note(resource, &row);
                    self.note_organizations(resource, &row);
                    self.children.insert((resource.table, row.id));
                }
            }
        }
        if self.was_known.is_none() {
            let in_ledger = !store.deliveries(&self.id, 1).await?.is_empty();
            self.was_known = Some(self.has_row || in_ledger || !self.children.is_empty());
        }
        let (proved, rejected) = (self.addresses.proved(), self.addresses.rejected());
        self.search.rows(ports, proved.iter().chain(rejected.keys())).await?;
        let (proved, rejected) =
            (self.search.containing(proved.iter()), self.search.containing(rejected.keys()));
        for (table, id) in proved {
            let Some(resource) = find_resource(table) else { continue };
            if let Some(row) = store.get(resource, &id).await? {
                self.note(resource, &row);
            }
            self.subjects.insert((table, id));
        }
        let is_own = |key: &Key| self.subjects.contains(key) || self.children.contains(key);
        self.rejected_rows = rejected.into_iter().filter(|key| !is_own(key)).collect();
        Ok(())
    }

    /// Returns the rows that still have content after their erasure.
    pub(super) async fn content_left(&mut self, ports: Ports<'_>) -> Result<BTreeSet<Key>, StoreError> {
        // A row that arrived meanwhile and contains an address of the person is not erased yet.
        let erased: BTreeSet<Key> = self.subjects.union(&self.children).cloned().collect();
        let before = std::mem::take(&mut self.rows);
        let read = async {
            self.judge(ports).await?;
            self.learn(ports).await
        };
        let read = read.await;
        let mut left = std::mem::replace(&mut self.rows, before);
        read?;
        for (table, id) in &erased {
            let Some(resource) = find_resource(table) else { continue };
            if self.subjects.contains(&(resource.table, id.clone()))
                && let Some(row) = ports.store.get(resource, id).await?
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

    /// Reads the addresses in the row of the person.
    fn read_addresses(&mut self, row: &RowView) {
        if *self.resource == USERS {
            row.columns.get("data").into_iter().for_each(|data| self.addresses.learn(data));
        }
        for column in self.resource.addresses {
            if let Some(Value::String(address)) = row.columns.get(*column) {
                self.addresses.take(address);
            }
        }
    }

    /// Reads the addresses of a message, if it is about the person.
    pub(super) fn read_own_object(&mut self, body: &[u8]) {
        let message = Ownership::read(body);
        if *self.resource == USERS && message.resource == Some(&USERS) && message.is_of(&self.id) {
            self.addresses.learn(&message.content());
        }
    }

    /// Returns the relation of a message to the person. Learns from a message of the person: its addresses,
    /// and its row if it contains an address.
    pub(super) fn relation(&mut self, body: &[u8]) -> Relation {
        let message = Ownership::read(body);
        if !message.readable {
            return if self.is_named_by(body) { Relation::Unreadable } else { Relation::Unrecognized };
        }
        let (Some(resource), Some(id)) = (message.resource, message.id.as_deref()) else {
            // No table stores such events: removing one loses no row.
            return if self.is_named_in(&message.content()) { Relation::Own } else { Relation::None };
        };
        let key = (resource.table, id.to_owned());
        let by_address = message.addresses.iter().any(|address| self.addresses.has(address));
        let is_own = self.subjects.contains(&key);
        let is_child = self.children.contains(&key) || message.belongs_to(self.resource, &self.id);
        if by_address {
            self.subjects.insert(key);
        }
        if is_own && *resource == USERS {
            self.addresses.learn(&message.content());
        }
        if is_own || is_child || by_address {
            return Relation::Own;
        }
        let is_rejected = message.addresses.iter().any(|address| self.addresses.rejects(address));
        if is_rejected || self.is_named_in(&message.content()) { Relation::Mention } else { Relation::None }
    }

    fn is_named_by(&self, text: &[u8]) -> bool {
        contains_word(text, &self.id)
            || self.addresses.proved().iter().any(|address| contains_word(text, address))
    }

    /// Returns whether a text in the value, at any depth, contains the id or an address of the person.
    pub(super) fn is_named_in(&self, value: &Value) -> bool {
        names_in(value, &|text| self.is_named_by(text))
    }

    /// Returns whether this row is erased with the person.
    pub(super) fn has(&self, resource: &'static Resource, id: &str) -> bool {
        let key = (resource.table, id.to_owned());
        self.subjects.contains(&key) || self.children.contains(&key)
    }

    /// Returns the rows to erase by their ids.
    pub(super) fn erasable(&self) -> Vec<(&'static Resource, String)> {
        let found = |(table, id): &Key| Some((find_resource(table)?, id.clone()));
        self.subjects.iter().filter_map(found).collect()
    }
}

/// Returns whether a text in the value, at any depth, matches.
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
        assert_eq!(person.relation(sample("user.updated")), Relation::Own);
        person.addresses.judge(&BTreeMap::new());
        person
    }

    #[test]
    fn a_message_of_the_user_proves_addresses_and_numbers() {
        let addresses: Vec<String> = ines().addresses.proved().iter().cloned().collect();
        assert_eq!(addresses, ["+447700900113", "ines.okafor@kilnworks.example"]);
    }

    #[test]
    fn an_unverified_address_and_one_in_metadata_are_not_proved() {
        let mut event: Value = serde_json::from_slice(sample("user.updated")).expect("JSON");
        let victim = |address: &str| serde_json::json!({ "email_address": address });
        event["data"]["unsafe_metadata"] =
            serde_json::json!({ "email_addresses": [victim("one@x.example")] });
        let mut unproved = victim("two@x.example");
        unproved["verification"] = serde_json::json!({ "status": "unverified" });
        event["data"]["email_addresses"].as_array_mut().expect("a list").push(unproved);
        event["data"]["email_addresses"].as_array_mut().expect("a list").push(victim("three@x.example"));
        let mut person = Person::new(&USERS, INES, &[]);
        person.relation(event.to_string().as_bytes());
        person.addresses.judge(&BTreeMap::new());
        let known = |address: &str| person.addresses.has(address);
        assert_eq!(["one@x.example", "two@x.example", "three@x.example"].map(known), [false; 3]);
        let rejected: Vec<&str> = person.addresses.rejected().keys().map(String::as_str).collect();
        assert_eq!(rejected, ["three@x.example", "two@x.example"]);
    }

    #[test]
    fn child_objects_belong_to_the_person_and_a_mention_does_not() {
        let mut person = ines();
        for own in ["session.created", "user.deleted"] {
            let body = String::from_utf8_lossy(sample(own)).into_owned();
            let of_them = body.replace("user_3HDMtR9HKUXbhQifVr3TG99279Z", INES);
            assert_eq!(person.relation(of_them.as_bytes()), Relation::Own, "{own}");
        }
        // Created by the person, sent by the person, paid by the person for an organization.
        for mention in ["organization.created", "organizationInvitation.created", "subscription.created"] {
            assert_eq!(person.relation(sample(mention)), Relation::Mention, "{mention}");
        }
        for nothing in ["user.deleted", "role.created"] {
            let mut other = Person::new(&USERS, "user_other", &[]);
            assert_eq!(other.relation(sample(nothing)), Relation::None, "{nothing}");
        }
    }

    #[test]
    fn a_deleted_membership_belongs_to_its_user_and_to_its_organization() {
        let body = sample("organizationMembership.deleted");
        assert_eq!(Person::new(&USERS, RAFAEL, &[]).relation(body), Relation::Own);
        let organization = "org_3HAY0sZgBMdgmTEOYeWxvwASv2f";
        assert_eq!(Person::new(&ORGANIZATIONS, organization, &[]).relation(body), Relation::Own);
    }

    #[test]
    fn an_object_with_an_address_of_the_person_is_erased_by_its_own_id() {
        let address = ["Sunniva@Holt.example ".to_owned()];
        let mut person = Person::new(&USERS, "user_1", &address);
        assert_eq!(person.relation(sample("waitlistEntry.created")), Relation::Own);
        let entry = ("waitlist_entries", "wle_3Gtb1u05QCQFZWFC91aSMEwWuIk".to_owned());
        assert!(person.subjects.contains(&entry));
        assert_eq!(person.erasable().len(), 2);
    }

    #[test]
    fn an_event_without_a_table_belongs_to_the_person_it_mentions() {
        let mut person = ines();
        assert_eq!(person.relation(sample("email.created")), Relation::Own);
        let mut other = Person::new(&USERS, "user_other", &[]);
        assert_eq!(other.relation(sample("email.created")), Relation::None);
    }

    #[test]
    fn an_unreadable_message_belongs_to_the_person_only_if_it_contains_the_id_or_an_address() {
        let torn = format!("{{\"type\":\"user.updated\",\"data\":{{\"id\":\"{INES}");
        assert_eq!(ines().relation(torn.as_bytes()), Relation::Unreadable);
        assert_eq!(ines().relation(b"\xff INES.okafor@kilnworks.example"), Relation::Unreadable);
        assert_eq!(ines().relation(b"{\"type\":\"user.upd"), Relation::Unrecognized);
        for spelled in [
            "ines.okafor\\u0040kilnworks.example",
            "\\u0069nes.okafor\\u0040kilnworks\\u002Eexample",
            "ines.okafor\\\\u0040kilnworks.example",
            "ines.okafor%40kilnworks.example",
        ] {
            let torn = format!("{{\"data\":{{\"email_address\":\"{spelled}\",");
            assert_eq!(ines().relation(torn.as_bytes()), Relation::Unreadable, "{spelled}");
        }
    }
}
