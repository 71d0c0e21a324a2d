//! Billing: subscriptions, subscription items and payment attempts.

use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Entity, Object, Times, data_of, id_and_times, iso, object, payload, with};

/// Paying user or organization.
#[derive(Clone)]
pub(crate) struct Payer {
    pub(crate) id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) organization_id: Option<String>,
}

pub(crate) struct Plan {
    pub(crate) id: &'static str,
    pub(crate) slug: &'static str,
    pub(crate) amount: u32,
}

/// Plans of the instance.
pub(crate) static PLANS: [Plan; 3] = [
    Plan { id: "cplan_3ER4MZE7Pb0ZfmQTHqE4EIWbmes", slug: "free_org", amount: 0 },
    Plan { id: "cplan_3ER4Mb5tcOQm7y8NdA5xFjCnn1U", slug: "team", amount: 4900 },
    Plan { id: "cplan_3ER4MbTestTestTestTestTest01", slug: "business", amount: 19_900 },
];

pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) payer: Payer,
    pub(crate) status: &'static str,
    pub(crate) latest_payment_id: Option<String>,
    pub(crate) payment_source_id: Option<String>,
    pub(crate) active_at: Option<Timestamp>,
    pub(crate) past_due_at: Option<Timestamp>,
    pub(crate) canceled_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    /// Nested copies of the items, as of the subscription's last event.
    pub(crate) items: Vec<Object>,
}

pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) subscription_id: String,
    pub(crate) payer: Payer,
    pub(crate) plan: &'static Plan,
    pub(crate) status: &'static str,
    pub(crate) is_free_trial: bool,
    pub(crate) period_start: Timestamp,
    pub(crate) period_end: Option<Timestamp>,
    pub(crate) seats: Option<u32>,
}

/// Payment attempt.
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) payer: Payer,
    pub(crate) payment_id: String,
    /// Invoice id; `None` as in Clerk's own examples.
    pub(crate) invoice_id: Option<String>,
    pub(crate) statement_id: String,
    pub(crate) payment_source_id: String,
    pub(crate) status: &'static str,
    pub(crate) charge_type: &'static str,
    pub(crate) amount: u32,
    pub(crate) failed_code: Option<&'static str>,
    pub(crate) billing_date: Timestamp,
    pub(crate) paid_at: Option<Timestamp>,
    pub(crate) failed_at: Option<Timestamp>,
}

/// `data` of the samples that payloads start from.
pub(super) struct Templates {
    payer: Object,
    subscription: Object,
    item: Object,
    payment: Object,
}

impl Templates {
    pub(super) fn read() -> Self {
        let item = data_of("subscriptionItem.updated");
        Self {
            payer: object(&item["payer"]),
            item: object(&item),
            subscription: object(&data_of("subscription.updated")),
            payment: object(&data_of("paymentAttempt.updated")),
        }
    }
}

impl Payer {
    /// Payload of the payer. The id that does not apply is an empty string.
    fn data(&self, templates: &Templates) -> Object {
        let or_empty = |id: &Option<String>| id.clone().unwrap_or_default();
        let changes = json!({
            "id": self.id,
            "user_id": or_empty(&self.user_id),
            "organization_id": or_empty(&self.organization_id),
        });
        with(&templates.payer, changes)
    }
}

impl Item {
    /// Copy of the item inside a subscription. It has no subscription id and no payer.
    pub(crate) fn as_nested(&self, templates: &super::Templates) -> Object {
        let mut data = self.data(templates);
        data.insert("subscription_id".into(), Value::Null);
        data.remove("payer");
        data
    }
}

impl Entity for Subscription {
    const TABLE: &'static str = "subscriptions";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let changes = json!({
            "status": self.status,
            "payer_id": self.payer.id,
            "payer": self.payer.data(&templates.billing),
            "latest_payment_id": self.latest_payment_id,
            "payment_source_id": self.payment_source_id,
            "active_at": millis(self.active_at),
            "past_due_at": millis(self.past_due_at),
            "canceled_at": millis(self.canceled_at),
            "ended_at": millis(self.ended_at),
            "items": self.items,
        });
        payload(&templates.billing.subscription, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "status": self.status,
            "payer_id": self.payer.id,
            "user_id": self.payer.user_id,
            "organization_id": self.payer.organization_id,
            "latest_payment_id": self.latest_payment_id,
            "payment_source_id": self.payment_source_id,
            "active_at": self.active_at.map(iso),
            "past_due_at": self.past_due_at.map(iso),
            "canceled_at": self.canceled_at.map(iso),
            "ended_at": self.ended_at.map(iso),
        })
    }
}

impl Entity for Item {
    const TABLE: &'static str = "subscription_items";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let plan = json!({
            "id": self.plan.id,
            "slug": self.plan.slug,
            "name": self.plan.slug,
            "is_recurring": self.plan.amount > 0,
            "amount": self.plan.amount,
            "currency": "USD",
        });
        let changes = json!({
            "subscription_id": self.subscription_id,
            "payer": self.payer.data(&templates.billing),
            "plan_id": self.plan.id,
            "plan": plan,
            "status": self.status,
            "is_free_trial": self.is_free_trial,
            "interval": "month",
            "period_start": self.period_start.as_millis(),
            "period_end": self.period_end.map(Timestamp::as_millis),
            "seats": { "quantity": self.seats },
        });
        payload(&templates.billing.item, &self.id, self.times, changes)
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "subscription_id": self.subscription_id,
            "payer_id": self.payer.id,
            "user_id": self.payer.user_id,
            "organization_id": self.payer.organization_id,
            "plan_id": self.plan.id,
            "plan_slug": self.plan.slug,
            "status": self.status,
            "is_free_trial": self.is_free_trial,
            "interval": "month",
            "amount": self.plan.amount,
            "currency": "USD",
            "seats": self.seats,
            "period_start": iso(self.period_start),
            "period_end": self.period_end.map(iso),
        })
    }
}

impl Entity for Attempt {
    const TABLE: &'static str = "payment_attempts";

    id_and_times!();

    fn data(&self, templates: &super::Templates) -> Object {
        let money = json!({ "amount": self.amount, "currency": "USD", "currency_symbol": "$" });
        let failed = self.failed_code.map(|code| json!({ "code": code, "decline_code": "do_not_honor" }));
        let changes = json!({
            "payment_id": self.payment_id,
            "statement_id": self.statement_id,
            "status": self.status,
            "charge_type": self.charge_type,
            "gateway_external_id": format!("pi_{}", self.payment_id),
            "payer": self.payer.data(&templates.billing),
            "payment_source": { "id": self.payment_source_id, "gateway": "stripe" },
            "totals": { "subtotal": money, "grand_total": money },
            "subscription_items": [],
            "failed_reason": failed,
            "billing_date": self.billing_date.as_millis(),
            "paid_at": self.paid_at.map(Timestamp::as_millis),
            "failed_at": self.failed_at.map(Timestamp::as_millis),
        });
        let mut data = payload(&templates.billing.payment, &self.id, self.times, changes);
        match &self.invoice_id {
            Some(id) => data.insert("invoice_id".into(), id.as_str().into()),
            None => data.remove("invoice_id"),
        };
        data
    }

    fn columns(&self, _: &mut Object) -> Value {
        json!({
            "payment_id": self.payment_id,
            "invoice_id": self.invoice_id,
            "statement_id": self.statement_id,
            "payer_id": self.payer.id,
            "user_id": self.payer.user_id,
            "organization_id": self.payer.organization_id,
            "payment_source_id": self.payment_source_id,
            "gateway_external_id": format!("pi_{}", self.payment_id),
            "status": self.status,
            "charge_type": self.charge_type,
            "amount": self.amount,
            "currency": "USD",
            "failed_code": self.failed_code,
            "billing_date": iso(self.billing_date),
            "paid_at": self.paid_at.map(iso),
            "failed_at": self.failed_at.map(iso),
        })
    }
}
