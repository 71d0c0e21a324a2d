//! Billing. A payer is a user or an organization; the id that does not apply is an empty string. Amounts are
//! in the smallest unit of the currency. Billing rows are never deleted: an ended object keeps its row and
//! shows its end in its status.

use super::{Kind, Link, ORGANIZATIONS, Resource, USERS, belongs_to, column, upsert};

/// Payments outlive their payers.
const PAYERS: &[Link] = &[belongs_to(&ORGANIZATIONS, "organization_id"), belongs_to(&USERS, "user_id")];

/// Subscriptions of payers. Their nested items do not name the subscription: they are copies of
/// [`SUBSCRIPTION_ITEMS`], which have events of their own.
pub static SUBSCRIPTIONS: Resource = Resource {
    number: 9,
    table: "subscriptions",
    object: "commerce_subscription",
    events: &[
        upsert("subscription.created"),
        upsert("subscription.updated"),
        upsert("subscription.active"),
        upsert("subscription.pastDue"),
    ],
    columns: &[
        column("status", Kind::Text, &["status"]),
        column("payer_id", Kind::Id, &["payer_id"]),
        column("user_id", Kind::Id, &["payer", "user_id"]),
        column("organization_id", Kind::Id, &["payer", "organization_id"]),
        column("latest_payment_id", Kind::Id, &["latest_payment_id"]),
        column("payment_source_id", Kind::Id, &["payment_source_id"]),
        column("active_at", Kind::Time, &["active_at"]),
        column("past_due_at", Kind::Time, &["past_due_at"]),
        column("canceled_at", Kind::Time, &["canceled_at"]),
        column("ended_at", Kind::Time, &["ended_at"]),
    ],
    links: PAYERS,
    addresses: &[],
    secrets: &[],
    volatile: &[],
};

/// Items of subscriptions: one plan for one period. The item of a free plan keeps its id when the payer
/// returns to it.
pub static SUBSCRIPTION_ITEMS: Resource = Resource {
    number: 10,
    table: "subscription_items",
    object: "commerce_subscription_item",
    events: &[
        upsert("subscriptionItem.abandoned"),
        upsert("subscriptionItem.active"),
        upsert("subscriptionItem.canceled"),
        upsert("subscriptionItem.ended"),
        upsert("subscriptionItem.freeTrialEnding"),
        upsert("subscriptionItem.incomplete"),
        upsert("subscriptionItem.pastDue"),
        upsert("subscriptionItem.upcoming"),
        upsert("subscriptionItem.updated"),
    ],
    columns: &[
        column("subscription_id", Kind::Id, &["subscription_id"]),
        column("payer_id", Kind::Id, &["payer", "id"]),
        column("user_id", Kind::Id, &["payer", "user_id"]),
        column("organization_id", Kind::Id, &["payer", "organization_id"]),
        column("plan_id", Kind::Id, &["plan_id"]),
        column("plan_slug", Kind::Text, &["plan", "slug"]),
        column("status", Kind::Text, &["status"]),
        column("is_free_trial", Kind::Bool, &["is_free_trial"]),
        column("interval", Kind::Text, &["interval"]),
        column("amount", Kind::Integer, &["plan", "amount"]),
        column("currency", Kind::Text, &["plan", "currency"]),
        column("seats", Kind::Integer, &["seats", "quantity"]),
        column("period_start", Kind::Time, &["period_start"]),
        column("period_end", Kind::Time, &["period_end"]),
    ],
    links: PAYERS,
    addresses: &[],
    secrets: &[],
    volatile: &[],
};

/// Payment attempts.
pub static PAYMENT_ATTEMPTS: Resource = Resource {
    number: 11,
    table: "payment_attempts",
    object: "commerce_payment_attempt",
    events: &[upsert("paymentAttempt.created"), upsert("paymentAttempt.updated")],
    columns: &[
        column("payment_id", Kind::Id, &["payment_id"]),
        column("invoice_id", Kind::Id, &["invoice_id"]),
        column("statement_id", Kind::Id, &["statement_id"]),
        column("payer_id", Kind::Id, &["payer", "id"]),
        column("user_id", Kind::Id, &["payer", "user_id"]),
        column("organization_id", Kind::Id, &["payer", "organization_id"]),
        column("payment_source_id", Kind::Id, &["payment_source", "id"]),
        column("gateway_external_id", Kind::Text, &["gateway_external_id"]),
        column("status", Kind::Text, &["status"]),
        column("charge_type", Kind::Text, &["charge_type"]),
        column("amount", Kind::Integer, &["totals", "grand_total", "amount"]),
        column("currency", Kind::Text, &["totals", "grand_total", "currency"]),
        column("failed_code", Kind::Text, &["failed_reason", "code"]),
        column("billing_date", Kind::Time, &["billing_date"]),
        column("paid_at", Kind::Time, &["paid_at"]),
        column("failed_at", Kind::Time, &["failed_at"]),
    ],
    links: PAYERS,
    addresses: &[],
    secrets: &[],
    volatile: &[],
};
