//! The addresses and phone numbers of the person who is erased: which are proven to be theirs, and which are not.
//!
//! Clerk lets a user list an address before they have proven it, so a listed address may be another person's. Only
//! `verification.status: "verified"` proves ownership; a missing `verification` proves nothing. An address that
//! another user has by now, as the primary one or as a verified one, is not taken either, even where an object of the
//! person says that it was verified: addresses move between users, and objects of the person may be old.
//!
//! Upper and lower case are the same everywhere: all addresses here are in lower case.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The lists in a user's object with their addresses: Clerk's alone. Metadata may be the user's own words.
const LISTS: [&str; 5] =
    ["email_addresses", "phone_numbers", "external_accounts", "saml_accounts", "enterprise_accounts"];
/// The keys in such a list under which an address is.
const KEYS: [&str; 2] = ["email_address", "phone_number"];

/// Why an address is not taken as the person's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// No object of theirs says that it was verified.
    NotVerified,
    /// Another user has it as the primary address.
    PrimaryOfAnother,
    /// Another user has it as a verified address.
    VerifiedByAnother,
}

impl Doubt {
    /// A stable name for programs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NotVerified => "not_verified",
            Self::PrimaryOfAnother => "primary_of_another",
            Self::VerifiedByAnother => "verified_by_another",
        }
    }

    /// The reason for people.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NotVerified => "listed, but not verified",
            Self::PrimaryOfAnother => "the primary address of another user",
            Self::VerifiedByAnother => "a verified address of another user",
        }
    }
}

/// The addresses and phone numbers of one person.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Theirs: given by the operator, or proven.
    own: BTreeSet<String>,
    /// Given by the operator (`--also`): never doubted.
    given: BTreeSet<String>,
    /// Verified by an object of theirs; the rows of others have yet to be read.
    candidates: BTreeSet<String>,
    /// Not taken.
    doubted: BTreeMap<String, Doubt>,
}

impl Addresses {
    /// The addresses that the operator insists on.
    pub(super) fn given(addresses: &[String]) -> Self {
        let given: BTreeSet<String> = addresses.iter().map(|address| plain(address)).collect();
        Self { own: given.clone(), given, ..Self::default() }
    }

    /// Those that are theirs.
    pub(super) fn own(&self) -> &BTreeSet<String> {
        &self.own
    }

    /// Those that are not taken, and why.
    pub(super) fn doubted(&self) -> &BTreeMap<String, Doubt> {
        &self.doubted
    }

    /// Whether an address is theirs.
    pub(super) fn has(&self, address: &str) -> bool {
        self.own.contains(&plain(address))
    }

    /// Whether an address is one that is not taken.
    pub(super) fn doubts(&self, address: &str) -> bool {
        self.doubted.contains_key(&plain(address))
    }

    /// Takes the address that a row of their own has in a column.
    pub(super) fn take(&mut self, address: &str) {
        self.doubted.remove(&plain(address));
        self.own.insert(plain(address));
    }

    /// Learns from a user's object.
    pub(super) fn learn(&mut self, user: &Value) {
        for (address, is_verified) in listed(user) {
            let of_another = matches!(
                self.doubted.get(&address),
                Some(Doubt::PrimaryOfAnother | Doubt::VerifiedByAnother)
            );
            if self.own.contains(&address) || of_another {
                continue;
            }
            if is_verified {
                self.doubted.remove(&address);
                self.candidates.insert(address);
            } else if !self.candidates.contains(&address) {
                self.doubted.insert(address, Doubt::NotVerified);
            }
        }
    }

    /// The verified addresses that [`Self::settle`] has to decide on: the new ones, and those taken before.
    pub(super) fn to_settle(&self) -> BTreeSet<String> {
        self.own.difference(&self.given).chain(&self.candidates).cloned().collect()
    }

    /// Takes the candidates, all but those that others have.
    pub(super) fn settle(&mut self, of_others: &BTreeMap<String, Doubt>) {
        self.own.append(&mut self.candidates);
        for (address, doubt) in of_others.iter().filter(|(address, _)| !self.given.contains(*address)) {
            if self.own.remove(address) {
                self.doubted.insert(address.clone(), *doubt);
            }
        }
    }
}

/// Which of these addresses the row of another user has, and how.
pub(super) fn of_other(user: &Value, primary: Option<&str>, asked: &[String]) -> Vec<(String, Doubt)> {
    let mut found: Vec<(String, Doubt)> = listed(user)
        .filter(|(_, is_verified)| *is_verified)
        .map(|(address, _)| (address, Doubt::VerifiedByAnother))
        .chain(primary.map(|address| (plain(address), Doubt::PrimaryOfAnother)))
        .collect();
    found.retain(|(address, _)| asked.contains(address));
    found
}

/// The addresses in a user's object, and whether each is verified.
fn listed(user: &Value) -> impl Iterator<Item = (String, bool)> + '_ {
    let elements = LISTS.iter().filter_map(|list| user.get(list)?.as_array()).flatten();
    elements.flat_map(|element| {
        let status = element.get("verification").and_then(|verification| verification.get("status"));
        let is_verified = status.and_then(Value::as_str) == Some("verified");
        let texts = KEYS.iter().filter_map(|key| element.get(key)?.as_str()).map(plain);
        texts.filter(|text| !text.is_empty()).map(move |address| (address, is_verified))
    })
}

/// An address in lower case, without spaces around it.
pub(super) fn plain(address: &str) -> String {
    address.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_address(status: Option<&str>, address: &str) -> Value {
        let mut element = json!({ "email_address": address });
        if let Some(status) = status {
            element["verification"] = json!({ "status": status });
        }
        json!({ "email_addresses": [element] })
    }

    fn after(objects: &[Value]) -> Addresses {
        let mut addresses = Addresses::default();
        for object in objects {
            addresses.learn(object);
        }
        addresses.settle(&BTreeMap::new());
        addresses
    }

    #[test]
    fn only_a_verified_address_is_theirs() {
        assert!(after(&[with_address(Some("verified"), "a@x.example")]).has("A@x.example"));
        for status in [None, Some("unverified"), Some("expired"), Some("failed"), Some("")] {
            let addresses = after(&[with_address(status, "a@x.example")]);
            assert!(!addresses.has("a@x.example"), "{status:?}");
            assert_eq!(addresses.doubted()["a@x.example"], Doubt::NotVerified, "{status:?}");
        }
        let null = json!({ "email_addresses": [{ "email_address": "a@x.example", "verification": null }] });
        assert!(!after(&[null]).has("a@x.example"));
    }

    #[test]
    fn one_object_that_proves_an_address_outweighs_those_that_do_not_in_either_order() {
        let (proven, unproven) =
            (with_address(Some("verified"), "a@x.example"), with_address(None, "a@x.example"));
        for objects in [[proven.clone(), unproven.clone()], [unproven, proven]] {
            let addresses = after(&objects);
            assert!(addresses.has("a@x.example") && addresses.doubted().is_empty());
        }
    }

    #[test]
    fn an_address_that_another_has_as_the_primary_one_is_not_theirs_unless_the_operator_insists() {
        let others = BTreeMap::from([("a@x.example".to_owned(), Doubt::PrimaryOfAnother)]);
        let mut addresses = Addresses::default();
        addresses.learn(&with_address(Some("verified"), "a@x.example"));
        addresses.settle(&others);
        addresses.learn(&with_address(Some("verified"), "A@x.example"));
        addresses.settle(&others);
        assert!(!addresses.has("a@x.example"));
        assert_eq!(addresses.doubted()["a@x.example"], Doubt::PrimaryOfAnother);
        let mut insisted = Addresses::given(&[" a@x.example ".to_owned()]);
        insisted.learn(&with_address(None, "a@x.example"));
        insisted.settle(&others);
        assert!(insisted.has("a@x.example") && insisted.doubted().is_empty());
    }

    #[test]
    fn another_user_has_an_address_that_is_their_primary_one_or_a_verified_one_in_any_case() {
        let asked = ["a@x.example".to_owned(), "b@x.example".to_owned()];
        let other = with_address(Some("verified"), "A@X.example");
        assert_eq!(of_other(&other, None, &asked), [("a@x.example".to_owned(), Doubt::VerifiedByAnother)]);
        let only_listed = with_address(Some("unverified"), "a@x.example");
        assert_eq!(of_other(&only_listed, None, &asked), []);
        let primary = of_other(&only_listed, Some("B@x.example"), &asked);
        assert_eq!(primary, [("b@x.example".to_owned(), Doubt::PrimaryOfAnother)]);
    }
}
