//! What lives beside users, organizations and memberships: chosen among, and told of.

use super::Instance;
use crate::model::Told;
use crate::model::access::{Domain, Entry, Invitation, Permission, Role, Session};
use crate::model::billing::{Attempt, Item, Subscription};

/// The objects that something can still happen to.
#[derive(Default)]
pub(super) struct Beside {
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
    /// One thing that happens beside. There must be a user. Some choices come to nothing.
    pub(super) fn live_beside(&mut self) {
        match self.rng.u32(..21) {
            0 => self.maybe(|it| &it.organizations, Self::invite),
            1 => self.maybe(|it| &it.beside.invitations, Self::answer_invitation),
            2 => self.maybe(|it| &it.organizations, Self::add_domain),
            3 => self.maybe(|it| &it.beside.domains, Self::change_domain),
            4 => self.maybe(|it| &it.beside.domains, Self::delete_domain),
            5 | 6 => self.maybe(|it| &it.users, Self::sign_in),
            7 => self.maybe(|it| &it.beside.sessions, Self::end_session),
            8 => self.live_by_the_rules(),
            9 => self.queue_up(),
            10 => self.maybe(|it| &it.beside.entries, Self::change_entry),
            11 | 12 => self.subscribe(),
            13 => self.maybe(|it| &it.beside.subscriptions, Self::change_subscription),
            14 | 15 => self.maybe(|it| &it.beside.items, Self::change_item),
            16 => self.maybe(|it| &it.beside.subscriptions, Self::charge),
            17 => self.maybe(|it| &it.beside.attempts, Self::settle_attempt),
            18 => self.maybe(|it| &it.users, Self::deprovision),
            19 => self.emit_sample("email.created"),
            _ => self.emit_sample("sms.created"),
        }
    }

    fn live_by_the_rules(&mut self) {
        match self.rng.u32(..6) {
            0 => self.create_role(),
            1 => self.maybe(|it| &it.beside.roles, Self::change_role),
            2 => self.maybe(|it| &it.beside.roles, Self::delete_role),
            3 => self.create_permission(),
            4 => self.maybe(|it| &it.beside.permissions, Self::change_permission),
            _ => self.maybe(|it| &it.beside.permissions, Self::delete_permission),
        }
    }

    /// Every event that there is beside, whatever chance says.
    pub(super) fn live_a_whole_life_beside(&mut self, user: usize, organization: usize) {
        for accepts in [true, false] {
            self.invite(organization);
            self.end_invitation(self.beside.invitations.len() - 1, accepts);
        }
        self.add_domain(organization);
        self.change_domain(0);
        self.delete_domain(0);
        for how in ["ended", "removed", "revoked"] {
            self.begin_session(user, how == "ended");
            self.end_session_as(self.beside.sessions.len() - 1, how);
        }
        self.create_permission();
        self.change_permission(0);
        self.create_role();
        self.change_role(0);
        self.delete_role(0);
        self.delete_permission(0);
        self.queue_up();
        self.change_entry(0);
        self.subscribe();
        for turn in 0..3 {
            self.turn_subscription(0, turn);
        }
        self.take_every_turn(0);
        self.charge(0);
        self.settle_attempt(0);
        for event_type in ["email.created", "sms.created"] {
            self.emit_sample(event_type);
        }
    }

    /// Nothing more happens to what hangs on a user who is gone. Nobody says so.
    pub(super) fn forget_user(&mut self, id: &str) {
        self.beside.sessions.retain(|session| session.user_id != id);
    }

    /// Likewise, of an organization.
    pub(super) fn forget_organization(&mut self, id: &str) {
        self.beside.invitations.retain(|invitation| invitation.organization_id != id);
        self.beside.domains.retain(|domain| domain.organization_id != id);
    }

    /// Says how one of a list is now: the one at this place, or the last.
    pub(super) fn tell<T: Told>(
        &mut self,
        list: impl Fn(&mut Beside) -> &mut Vec<T>,
        event_type: &str,
        at: Option<usize>,
    ) {
        let list = list(&mut self.beside);
        let at = at.unwrap_or(list.len().saturating_sub(1));
        let Some(one) = list.get_mut(at) else { return };
        let event_at = one.times().next_event(self.now, &mut self.rng);
        let data = one.data(&self.templates);
        let (id, columns) = (one.id().to_owned(), one.columns(data.clone()));
        self.note(T::TABLE, &id, columns);
        self.emit(event_type, event_at, data);
    }

    /// Says that one is gone.
    pub(super) fn tell_gone<T: Told>(&mut self, mut gone: T, event_type: &str, object: &str) {
        let times = *gone.times();
        let data = super::announce::deleted(object, gone.id());
        self.announce_deleted(T::TABLE, event_type, times, gone.id(), data);
    }
}
