//! Shape of an object in an answer of the API, from the `data` of its last event.
//!
//! Nested copies are as new as the objects that they copy, unlike those of an event.

use serde_json::{Map, Value, json};

use super::{ClerkState, parent};
use crate::api::objects::Query;
use crate::event::INSTANCE_ID;

type Object = Map<String, Value>;

/// Keys of an invitation's events that the API does not send.
const ONLY_IN_EVENTS: [&str; 2] = ["user_id", "data"];

impl ClerkState {
    /// Returns an object as a point read shows it.
    pub(super) fn shaped(&self, table: &str, object: &Object, with_members_count: bool) -> Object {
        let mut shaped = object.clone();
        match table {
            "organizations" => {
                // Only sent if asked for.
                shaped.remove("members_count");
                shaped.remove("missing_member_with_elevated_permissions");
                if with_members_count {
                    shaped.insert("members_count".into(), self.members_of(object).into());
                }
            }
            "users" => {
                for address in
                    shaped.get_mut("email_addresses").and_then(Value::as_array_mut).into_iter().flatten()
                {
                    address.as_object_mut().map(|address| address.remove("default_second_factor"));
                }
            }
            "organization_memberships" => self.renew_copies(object, &mut shaped),
            "organization_invitations" => {
                for key in ONLY_IN_EVENTS {
                    shaped.remove(key);
                }
                shaped.insert("organization_id".into(), parent(object, "organizations").into());
            }
            "organization_domains" => self.add_organization(object, &mut shaped),
            "subscription_items" => shaped = subscription_item(object),
            _ => {}
        }
        shaped
    }

    /// Returns an object as a list shows it.
    pub(super) fn listed(&self, table: &str, object: &Object, query: &Query) -> Object {
        let mut shaped = self.shaped(table, object, query.with_members_count);
        if table == "organization_invitations" && query.filter.organization.is_none() {
            self.add_organization(object, &mut shaped);
        }
        shaped
    }

    fn members_of(&self, organization: &Object) -> usize {
        let id = organization.get("id").and_then(Value::as_str);
        let memberships = self.objects.get("organization_memberships").into_iter().flatten();
        memberships.filter(|(_, one)| parent(one, "organizations") == id).count()
    }

    fn renew_copies(&self, object: &Object, shaped: &mut Object) {
        let organization = parent(object, "organizations").and_then(|id| self.find("organizations", id));
        if let Some(organization) = organization {
            let mut copy = organization.clone();
            for key in ["private_metadata", "members_count", "missing_member_with_elevated_permissions"] {
                copy.remove(key);
            }
            shaped.insert("organization".into(), copy.into());
        }
        let user = parent(object, "users").and_then(|id| self.find("users", id));
        if let (Some(user), Some(Value::Object(copy))) = (user, shaped.get_mut("public_user_data")) {
            for key in ["first_name", "last_name", "image_url", "has_image", "username", "banned"] {
                copy.insert(key.into(), user.get(key).cloned().unwrap_or_default());
            }
            copy.insert("identifier".into(), identifier(user));
        }
    }

    fn add_organization(&self, object: &Object, shaped: &mut Object) {
        let organization = parent(object, "organizations").and_then(|id| self.find("organizations", id));
        if let Some(organization) = organization {
            let keys = ["id", "name", "slug", "image_url", "has_image"];
            let copy: Object = keys
                .iter()
                .map(|key| ((*key).to_owned(), organization.get(*key).cloned().unwrap_or_default()))
                .collect();
            shaped.insert("public_organization_data".into(), copy.into());
        }
    }
}

/// Returns the address that Clerk shows for a user: the primary email address.
fn identifier(user: &Object) -> Value {
    let primary = user.get("primary_email_address_id");
    let addresses = user.get("email_addresses").and_then(Value::as_array);
    let chosen = addresses.and_then(|all| all.iter().find(|address| address.get("id") == primary));
    chosen.and_then(|address| address.get("email_address")).cloned().unwrap_or_else(|| "".into())
}

/// Returns a subscription item in the API's own shape, which is not that of the events.
fn subscription_item(object: &Object) -> Object {
    let of = |key: &str| object.get(key).cloned().unwrap_or_default();
    let status = of("status");
    let since = |wanted: &str| if status == wanted { of("updated_at") } else { Value::Null };
    let item = json!({
        "object": "commerce_subscription_item",
        "id": of("id"),
        "instance_id": INSTANCE_ID,
        "status": status,
        "plan_id": of("plan_id"),
        "plan": null,
        "plan_period": of("interval"),
        "payer_id": object.get("payer").and_then(|payer| payer.get("id")).cloned().unwrap_or_default(),
        "is_free_trial": of("is_free_trial"),
        "period_start": of("period_start"),
        "period_end": of("period_end"),
        "canceled_at": since("canceled"),
        "past_due_at": since("past_due"),
        "ended_at": since("ended"),
        "created_at": of("created_at"),
        "updated_at": of("updated_at"),
    });
    match item {
        Value::Object(item) => item,
        _ => Object::new(),
    }
}
