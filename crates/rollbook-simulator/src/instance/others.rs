//! Objects other than users, organizations and memberships: random actions on them, and their events.

use super::Instance;
use crate::model::access::{Domain, Entry, Invitation, Permission, Role, Session};
use crate::model::billing::{Attempt, Item, Subscription};
use crate::model::{Entity, row};

/// Objects that can still change.
#[derive(Default)]
pub(super) struct OtherObjects {
    pub(super) invitations: Vec<Invitation>,
    pub(super) domains: Vec<Domain>,
    pub(super) sessions: Vec<Session>,
    pub(super) roles: Vec<Role>,
    pub(super) permissions: Vec<Permission>,
    pub(super) entries: Vec<Entry>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) items: Vec<Item>,
    pub(super) attempts: Vec<Attempt>,
}

impl Instance {
    /// Performs one random action on another kind of object. There must be a user. Some choices do nothing.
    pub(super) fn act_on_others(&mut self) {
        match self.rng.u32(..21) {
            0 => self.with_random(|it| &it.organizations, Self::invite),
            1 => self.with_random(|it| &it.others.invitations, Self::answer_invitation),
            2 => self.with_random(|it| &it.organizations, Self::add_domain),
            3 => self.with_random(|it| &it.others.domains, Self::change_domain),
            4 => self.with_random(|it| &it.others.domains, Self::delete_domain),
            5 | 6 => self.with_random(|it| &it.users, Self::sign_in),
            7 => self.with_random(|it| &it.others.sessions, Self::end_session),
            8 => self.act_on_roles_and_permissions(),
            9 => self.join_waitlist(),
            10 => self.with_random(|it| &it.others.entries, Self::change_entry),
            11 | 12 => self.subscribe(),
            13 => self.with_random(|it| &it.others.subscriptions, Self::change_subscription),
            14 | 15 => self.with_random(|it| &it.others.items, Self::change_item),
            16 => self.with_random(|it| &it.others.subscriptions, Self::charge),
            17 => self.with_random(|it| &it.others.attempts, Self::settle_attempt),
            18 => self.with_random(|it| &it.users, Self::deprovision),
            19 => self.emit_sample("email.created"),
            _ => self.emit_sample("sms.created"),
        }
    }

    fn act_on_roles_and_permissions(&mut self) {
        match self.rng.u32(..6) {
            0 => self.create_role(),
            1 => self.with_random(|it| &it.others.roles, Self::change_role),
            2 => self.with_random(|it| &it.others.roles, Self::delete_role),
            3 => self.create_permission(),
            4 => self.with_random(|it| &it.others.permissions, Self::change_permission),
            _ => self.with_random(|it| &it.others.permissions, Self::delete_permission),
        }
    }

    /// Emits every event type of the other kinds, independent of the random numbers.
    pub(super) fn emit_every_other_event_type(&mut self, user: usize, organization: usize) {
        for accepts in [true, false] {
            self.invite(organization);
            self.end_invitation(self.others.invitations.len() - 1, accepts);
        }
        self.add_domain(organization);
        self.change_domain(0);
        self.delete_domain(0);
        for how in ["ended", "removed", "revoked"] {
            self.begin_session(user, how == "ended");
            self.end_session_as(self.others.sessions.len() - 1, how);
        }
        self.create_permission();
        self.change_permission(0);
        self.create_role();
        self.change_role(0);
        self.delete_role(0);
        self.delete_permission(0);
        self.join_waitlist();
        self.change_entry(0);
        self.subscribe();
        for change in 0..3 {
            self.apply_subscription_change(0, change);
        }
        self.apply_every_item_change(0);
        self.charge(0);
        self.settle_attempt(0);
        for event_type in ["email.created", "sms.created"] {
            self.emit_sample(event_type);
        }
    }

    /// Emits an event about one object of a list: the one at index `at`, or the last. Records its row.
    pub(super) fn announce<T: Entity>(
        &mut self,
        list: impl Fn(&mut OtherObjects) -> &mut Vec<T>,
        event_type: &str,
        at: Option<usize>,
    ) {
        let list = list(&mut self.others);
        let at = at.unwrap_or(list.len().saturating_sub(1));
        let Some(one) = list.get_mut(at) else { return };
        let event_at = one.times().next_event(self.now, &mut self.rng);
        let data = one.data(&self.templates);
        let (id, times, mut stored) = (one.id().to_owned(), *one.times(), data.clone());
        let own = one.columns(&mut stored);
        self.note(T::TABLE, &id, row(&id, times, &stored, own));
        self.emit(event_type, event_at, data);
    }

    /// Emits a delete event and records the deletion.
    pub(super) fn announce_deletion_of<T: Entity>(&mut self, mut gone: T, event_type: &str, object: &str) {
        let times = *gone.times();
        let data = super::announce::deleted(object, gone.id());
        self.announce_deleted(T::TABLE, event_type, times, gone.id(), data);
    }
}
