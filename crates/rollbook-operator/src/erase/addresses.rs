//! Addresses and phone numbers of the person who is erased: the proved ones and the rejected ones.
//!
//! A user can list an address at Clerk before proving it, so a listed address may belong to another person.
//! Only `verification.status: "verified"` proves ownership; a missing `verification` proves nothing. An
//! address that another user has now, as the primary or as a verified address, is rejected too, even if an
//! object of the person shows it as verified: addresses move between users, and the object may be old.
//!
//! All addresses here are in lower case.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// Lists of addresses in a user's object, all written by Clerk. Metadata is not read: the user may write it.
const LISTS: [&str; 5] =
    ["email_addresses", "phone_numbers", "external_accounts", "saml_accounts", "enterprise_accounts"];
/// Keys of an address in such a list.
const KEYS: [&str; 2] = ["email_address", "phone_number"];

/// Reason for which an address is not taken as the person's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// No object of the person shows it as verified.
    NotVerified,
    /// Another user has it as the primary address.
    PrimaryOfAnother,
    /// Another user has it as a verified address.
    VerifiedByAnother,
}

impl Rejection {
    /// Returns the reason as text.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotVerified => "listed, but not verified",
            Self::PrimaryOfAnother => "the primary address of another user",
            Self::VerifiedByAnother => "a verified address of another user",
        }
    }
}

/// Addresses and phone numbers of one person.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Given by the operator, or proved.
    proved: BTreeSet<String>,
    /// Given by the operator (`--also`): never rejected.
    given: BTreeSet<String>,
    /// Verified by an object of the person; the rows of other users are not checked yet.
    candidates: BTreeSet<String>,
    /// Rejected, with the reason.
    rejected: BTreeMap<String, Rejection>,
}

impl Addresses {
    /// Starts with the addresses given by the operator.
    pub(super) fn given(addresses: &[String]) -> Self {
        let given: BTreeSet<String> = addresses.iter().map(|address| plain(address)).collect();
        Self { proved: given.clone(), given, ..Self::default() }
    }

    /// Returns the proved addresses.
    pub(super) fn proved(&self) -> &BTreeSet<String> {
        &self.proved
    }

    /// Returns the rejected addresses and the reasons.
    pub(super) fn rejected(&self) -> &BTreeMap<String, Rejection> {
        &self.rejected
    }

    /// Returns whether an address is proved.
    pub(super) fn has(&self, address: &str) -> bool {
        self.proved.contains(&plain(address))
    }

    /// Returns whether an address is rejected.
    pub(super) fn rejects(&self, address: &str) -> bool {
        self.rejected.contains_key(&plain(address))
    }

    /// Takes the address in a column of a row that is erased by its id.
    pub(super) fn take(&mut self, address: &str) {
        self.rejected.remove(&plain(address));
        self.proved.insert(plain(address));
    }

    /// Reads the addresses of a user's object of the person.
    pub(super) fn learn(&mut self, user: &Value) {
        for (address, is_verified) in listed(user) {
            let belongs_to_another = matches!(
                self.rejected.get(&address),
                Some(Rejection::PrimaryOfAnother | Rejection::VerifiedByAnother)
            );
            if self.proved.contains(&address) || belongs_to_another {
                continue;
            }
            if is_verified {
                self.rejected.remove(&address);
                self.candidates.insert(address);
            } else if !self.candidates.contains(&address) {
                self.rejected.insert(address, Rejection::NotVerified);
            }
        }
    }

    /// Returns the verified addresses that [`Self::judge`] decides on: new ones, and those taken before.
    pub(super) fn to_judge(&self) -> BTreeSet<String> {
        self.proved.difference(&self.given).chain(&self.candidates).cloned().collect()
    }

    /// Takes the candidates, except those that other users have.
    pub(super) fn judge(&mut self, of_others: &BTreeMap<String, Rejection>) {
        self.proved.append(&mut self.candidates);
        for (address, reason) in of_others.iter().filter(|(address, _)| !self.given.contains(*address)) {
            if self.proved.remove(address) {
                self.rejected.insert(address.clone(), *reason);
            }
        }
    }
}

/// Returns which of these addresses the row of another user has, and how.
pub(super) fn of_other(user: &Value, primary: Option<&str>, asked: &[String]) -> Vec<(String, Rejection)> {
    let mut found: Vec<(String, Rejection)> = listed(user)
        .filter(|(_, is_verified)| *is_verified)
        .map(|(address, _)| (address, Rejection::VerifiedByAnother))
        .chain(primary.map(|address| (plain(address), Rejection::PrimaryOfAnother)))
        .collect();
    found.retain(|(address, _)| asked.contains(address));
    found
}

/// Returns the addresses in a user's object, and whether each is verified.
pub(crate) fn listed(user: &Value) -> impl Iterator<Item = (String, bool)> + '_ {
    let elements = LISTS.iter().filter_map(|list| user.get(list)?.as_array()).flatten();
    elements.flat_map(|element| {
        let status = element.get("verification").and_then(|verification| verification.get("status"));
        let is_verified = status.and_then(Value::as_str) == Some("verified");
        let texts = KEYS.iter().filter_map(|key| element.get(key)?.as_str()).map(plain);
        texts.filter(|text| !text.is_empty()).map(move |address| (address, is_verified))
    })
}

/// Normalizes an address: lower case, no spaces around it.
pub(crate) fn plain(address: &str) -> String {
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
        addresses.judge(&BTreeMap::new());
        addresses
    }

    #[test]
    fn only_a_verified_address_is_proved() {
        assert!(after(&[with_address(Some("verified"), "a@x.example")]).has("A@x.example"));
        for status in [None, Some("unverified"), Some("expired"), Some("failed"), Some("")] {
            let addresses = after(&[with_address(status, "a@x.example")]);
            assert!(!addresses.has("a@x.example"), "{status:?}");
            assert_eq!(addresses.rejected()["a@x.example"], Rejection::NotVerified, "{status:?}");
        }
        let null = json!({ "email_addresses": [{ "email_address": "a@x.example", "verification": null }] });
        assert!(!after(&[null]).has("a@x.example"));
    }

    #[test]
    fn one_object_that_proves_an_address_is_enough_in_either_order() {
        let (proven, unproven) =
            (with_address(Some("verified"), "a@x.example"), with_address(None, "a@x.example"));
        for objects in [[proven.clone(), unproven.clone()], [unproven, proven]] {
            let addresses = after(&objects);
            assert!(addresses.has("a@x.example") && addresses.rejected().is_empty());
        }
    }

    #[test]
    fn the_primary_address_of_another_user_is_rejected_unless_the_operator_gives_it() {
        let others = BTreeMap::from([("a@x.example".to_owned(), Rejection::PrimaryOfAnother)]);
        let mut addresses = Addresses::default();
        addresses.learn(&with_address(Some("verified"), "a@x.example"));
        addresses.judge(&others);
        addresses.learn(&with_address(Some("verified"), "A@x.example"));
        addresses.judge(&others);
        assert!(!addresses.has("a@x.example"));
        assert_eq!(addresses.rejected()["a@x.example"], Rejection::PrimaryOfAnother);
        let mut insisted = Addresses::given(&[" a@x.example ".to_owned()]);
        insisted.learn(&with_address(None, "a@x.example"));
        insisted.judge(&others);
        assert!(insisted.has("a@x.example") && insisted.rejected().is_empty());
    }

    #[test]
    fn another_user_has_their_primary_and_verified_addresses_in_any_case() {
        let asked = ["a@x.example".to_owned(), "b@x.example".to_owned()];
        let other = with_address(Some("verified"), "A@X.example");
        assert_eq!(
            of_other(&other, None, &asked),
            [("a@x.example".to_owned(), Rejection::VerifiedByAnother)]
        );
        let only_listed = with_address(Some("unverified"), "a@x.example");
        assert_eq!(of_other(&only_listed, None, &asked), []);
        let primary = of_other(&only_listed, Some("B@x.example"), &asked);
        assert_eq!(primary, [("b@x.example".to_owned(), Rejection::PrimaryOfAnother)]);
    }
}
