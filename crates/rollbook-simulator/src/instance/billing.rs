//! Payers subscribe, change plans, pay, and sometimes do not.

use std::time::Duration;

use super::Instance;
use crate::ids::id;
use crate::model::Times;
use crate::model::billing::{Attempt, Item, PLANS, Payer, Subscription};

const MONTH: Duration = Duration::from_secs(31 * 86_400);

/// What may happen to an item: the event's type, and the status from then on.
const TURNS: [(&str, &str); 9] = [
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
    /// A user or an organization subscribes to the free plan. There must be a user.
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
            times: Times::born(now),
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
            times: Times::born(now),
            subscription_id: subscription.id.clone(),
            payer,
            plan: &PLANS[0],
            status: "upcoming",
            is_free_trial: false,
            period_start: now,
            period_end: None,
            seats: rng.bool().then_some(12),
        };
        self.beside.subscriptions.push(subscription);
        self.beside.items.push(item);
        self.tell(|beside| &mut beside.items, TURNS[0].0, None);
        let at = self.beside.subscriptions.len() - 1;
        self.say_subscription("subscription.created", at);
    }

    /// With the item as it is now, which may be newer than what its own last event said.
    fn say_subscription(&mut self, event_type: &str, at: usize) {
        let subscription = &mut self.beside.subscriptions[at];
        let own = self.beside.items.iter().filter(|item| item.subscription_id == subscription.id);
        subscription.items = own.map(|item| item.as_nested(&self.templates)).collect();
        self.tell(|beside| &mut beside.subscriptions, event_type, Some(at));
    }

    pub(super) fn change_subscription(&mut self, at: usize) {
        let turn = self.rng.usize(..3);
        self.turn_subscription(at, turn);
    }

    /// Becomes active, falls behind, or changes something else; that alone is `subscription.updated`.
    pub(super) fn turn_subscription(&mut self, at: usize, turn: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let subscription = &mut self.beside.subscriptions[at];
        let event_type = match turn {
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
        self.say_subscription(event_type, at);
    }

    pub(super) fn change_item(&mut self, at: usize) {
        let turn = self.rng.usize(..TURNS.len());
        self.turn_item(at, turn);
    }

    pub(super) fn take_every_turn(&mut self, at: usize) {
        for turn in 0..TURNS.len() {
            self.turn_item(at, turn);
        }
    }

    fn turn_item(&mut self, at: usize, turn: usize) {
        let (event_type, status) = TURNS[turn];
        let (rng, now) = (&mut self.rng, self.now);
        let item = &mut self.beside.items[at];
        item.status = status;
        item.is_free_trial = event_type.ends_with("TrialEnding");
        if event_type.ends_with("updated") {
            item.plan = &PLANS[rng.usize(..PLANS.len())];
            item.period_start = now;
            item.period_end = (item.plan.amount > 0).then(|| now.plus(MONTH));
            item.seats = rng.bool().then(|| rng.u32(1..50));
        }
        item.times.touch(now, rng);
        self.tell(|beside| &mut beside.items, event_type, Some(at));
    }

    /// An attempt to be paid for a random subscription's next month.
    pub(super) fn charge(&mut self, subscription: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let of = &mut self.beside.subscriptions[subscription];
        let payment_id = id("cpay_", rng, now);
        of.latest_payment_id = Some(payment_id.clone());
        let attempt = Attempt {
            id: id("cpa_", rng, now),
            times: Times::born(now),
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
        self.beside.attempts.push(attempt);
        self.tell(|beside| &mut beside.attempts, "paymentAttempt.created", None);
    }

    /// It is paid, or it fails.
    pub(super) fn settle_attempt(&mut self, at: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        let attempt = &mut self.beside.attempts[at];
        if rng.bool() {
            attempt.status = "paid";
            attempt.paid_at = Some(now);
        } else {
            attempt.status = "failed";
            attempt.failed_at = Some(now);
            attempt.failed_code = Some("card_declined");
        }
        attempt.times.touch(now, rng);
        self.tell(|beside| &mut beside.attempts, "paymentAttempt.updated", Some(at));
        self.beside.attempts.swap_remove(at);
    }
}
