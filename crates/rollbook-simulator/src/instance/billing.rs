//! Actions on subscriptions, subscription items and payment attempts.

use std::time::Duration;

use super::Instance;
use crate::ids::id;
use crate::model::Times;
use crate::model::billing::{Attempt, Item, PLANS, Payer, Subscription};

const MONTH: Duration = Duration::from_secs(31 * 86_400);

/// Changes of an item: the event type, and the status from then on.
const ITEM_CHANGES: [(&str, &str); 9] = [
    ("subscriptionItem.upcoming", "upcoming"),
    ("subscriptionItem.incomplete", "incomplete"),
    ("subscriptionItem.active", "active"),
    ("subscriptionItem.freeTrialEnding", "active"),
    ("subscriptionItem.updated", "active"),
    ("subscriptionItem.pastDue", "past_due"),
    ("subscriptionItem.canceled", "canceled"),
    ("subscriptionItem.abandoned", "abandoned"),
    ("subscriptionItem.ended", "ended"),
];

impl Instance {
    /// Subscribes a random user or organization to the free plan. There must be a user.
    pub(super) fn subscribe(&mut self) {
        let (rng, now) = (&mut self.rng, self.now);
        let by_organization = rng.bool() && !self.organizations.is_empty();
        let payer = Payer {
            id: id("cpayer_", rng, now),
            user_id: (!by_organization).then(|| self.users[rng.usize(..self.users.len())].id.clone()),
            organization_id: by_organization
                .then(|| self.organizations[rng.usize(..self.organizations.len())].id.clone()),
        };
        let subscription = Subscription {
            id: id("csub_", rng, now),
            times: Times::created(now),
            payer: payer.clone(),
            status: "active",
            latest_payment_id: None,
            payment_source_id: None,
            active_at: Some(now),
            past_due_at: None,
            canceled_at: None,
            ended_at: None,
            items: Vec::new(),
        };
        let item = Item {
            id: id("csub_item_", rng, now),
            times: Times::created(now),
            subscription_id: subscription.id.clone(),
            payer,
            plan: &PLANS[0],
            status: "upcoming",
            is_free_trial: false,
            period_start: now,
            period_end: None,
            seats: rng.bool().then_some(12),
        };
        self.others.subscriptions.push(subscription);
        self.others.items.push(item);
        self.announce(|others| &mut others.items, ITEM_CHANGES[0].0, None);
        let at = self.others.subscriptions.len() - 1;
        self.announce_subscription("subscription.created", at);
    }

    /// Emits an event with the items as they are now, which may be newer than the items' own last events.
    fn announce_subscription(&mut self, event_type: &str, at: usize) {
        let subscription = &mut self.others.subscriptions[at];
        let own = self.others.items.iter().filter(|item| item.subscription_id == subscription.id);
        subscription.items = own.map(|item| item.as_nested(&self.templates)).collect();
        self.announce(|others| &mut others.subscriptions, event_type, Some(at));
    }

    pub(super) fn change_subscription(&mut self, at: usize) {
        let change = self.rng.usize(..3);
        self.apply_subscription_change(at, change);
    }

    /// Changes a subscription: 0 makes it active, 1 past due, and 2 changes other fields
    /// (`subscription.updated`).
    pub(super) fn apply_subscription_change(&mut self, at: usize, change: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let subscription = &mut self.others.subscriptions[at];
        let event_type = match change {
            0 => {
                subscription.status = "active";
                subscription.active_at = Some(now);
                "subscription.active"
            }
            1 => {
                subscription.status = "past_due";
                subscription.past_due_at = Some(now);
                "subscription.pastDue"
            }
            _ => {
                subscription.payment_source_id = Some(id("cps_", rng, now));
                subscription.canceled_at = rng.bool().then_some(now);
                subscription.ended_at = subscription.canceled_at.map(|at| at.plus(MONTH));
                "subscription.updated"
            }
        };
        subscription.times.touch(now, rng);
        self.announce_subscription(event_type, at);
    }

    pub(super) fn change_item(&mut self, at: usize) {
        let change = self.rng.usize(..ITEM_CHANGES.len());
        self.apply_item_change(at, change);
    }

    pub(super) fn apply_every_item_change(&mut self, at: usize) {
        for change in 0..ITEM_CHANGES.len() {
            self.apply_item_change(at, change);
        }
    }

    fn apply_item_change(&mut self, at: usize, change: usize) {
        let (event_type, status) = ITEM_CHANGES[change];
        let (rng, now) = (&mut self.rng, self.now);
        let item = &mut self.others.items[at];
        item.status = status;
        item.is_free_trial = event_type.ends_with("TrialEnding");
        if event_type.ends_with("updated") {
            item.plan = &PLANS[rng.usize(..PLANS.len())];
            item.period_start = now;
            item.period_end = (item.plan.amount > 0).then(|| now.plus(MONTH));
            item.seats = rng.bool().then(|| rng.u32(1..50));
        }
        item.times.touch(now, rng);
        self.announce(|others| &mut others.items, event_type, Some(at));
    }

    /// Creates a payment attempt for the next month of a subscription.
    pub(super) fn charge(&mut self, subscription: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let of = &mut self.others.subscriptions[subscription];
        let payment_id = id("cpay_", rng, now);
        of.latest_payment_id = Some(payment_id.clone());
        let attempt = Attempt {
            id: id("cpa_", rng, now),
            times: Times::created(now),
            payer: of.payer.clone(),
            payment_id,
            invoice_id: rng.bool().then(|| id("cinv_", rng, now)),
            statement_id: id("cstmt_", rng, now),
            payment_source_id: id("cps_", rng, now),
            status: "pending",
            charge_type: if rng.bool() { "checkout" } else { "recurring" },
            amount: PLANS[1].amount + rng.u32(..5000),
            failed_code: None,
            billing_date: now,
            paid_at: None,
            failed_at: None,
        };
        self.others.attempts.push(attempt);
        self.announce(|others| &mut others.attempts, "paymentAttempt.created", None);
    }

    /// Completes a payment attempt at random: paid or failed.
    pub(super) fn settle_attempt(&mut self, at: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let attempt = &mut self.others.attempts[at];
        if rng.bool() {
            attempt.status = "paid";
            attempt.paid_at = Some(now);
        } else {
            attempt.status = "failed";
            attempt.failed_at = Some(now);
            attempt.failed_code = Some("card_declined");
        }
        attempt.times.touch(now, rng);
        self.announce(|others| &mut others.attempts, "paymentAttempt.updated", Some(at));
        self.others.attempts.swap_remove(at);
    }
}
