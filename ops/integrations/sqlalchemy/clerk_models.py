# Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.
# Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).
# There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query
# needs `deleted_at` null.

from datetime import datetime
from typing import Any, List, Optional

from sqlalchemy import BigInteger, Boolean, DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Clerk(DeclarativeBase):
    metadata = MetaData(schema="clerk")


class ClerkOrganization(Clerk):
    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[Optional[str]] = mapped_column(Text)
    slug: Mapped[Optional[str]] = mapped_column(Text)
    image_url: Mapped[Optional[str]] = mapped_column(Text)
    created_by: Mapped[Optional[str]] = mapped_column(Text)
    members_count: Mapped[Optional[int]] = mapped_column(BigInteger)
    max_allowed_memberships: Mapped[Optional[int]] = mapped_column(BigInteger)
    public_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    private_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    memberships: Mapped[List["ClerkOrganizationMembership"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationMembership.organization_id) == ClerkOrganization.id", viewonly=True
    )
    invitations: Mapped[List["ClerkOrganizationInvitation"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationInvitation.organization_id) == ClerkOrganization.id", viewonly=True
    )
    domains: Mapped[List["ClerkOrganizationDomain"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationDomain.organization_id) == ClerkOrganization.id", viewonly=True
    )
    subscriptions: Mapped[List["ClerkSubscription"]] = relationship(
        primaryjoin="foreign(ClerkSubscription.organization_id) == ClerkOrganization.id", viewonly=True
    )
    subscription_items: Mapped[List["ClerkSubscriptionItem"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.organization_id) == ClerkOrganization.id", viewonly=True
    )
    payment_attempts: Mapped[List["ClerkPaymentAttempt"]] = relationship(
        primaryjoin="foreign(ClerkPaymentAttempt.organization_id) == ClerkOrganization.id", viewonly=True
    )


class ClerkUser(Clerk):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    external_id: Mapped[Optional[str]] = mapped_column(Text)
    username: Mapped[Optional[str]] = mapped_column(Text)
    first_name: Mapped[Optional[str]] = mapped_column(Text)
    last_name: Mapped[Optional[str]] = mapped_column(Text)
    primary_email_address: Mapped[Optional[str]] = mapped_column(Text)
    primary_phone_number: Mapped[Optional[str]] = mapped_column(Text)
    image_url: Mapped[Optional[str]] = mapped_column(Text)
    banned: Mapped[Optional[bool]] = mapped_column(Boolean)
    locked: Mapped[Optional[bool]] = mapped_column(Boolean)
    deprovisioned: Mapped[Optional[bool]] = mapped_column(Boolean)
    last_sign_in_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    last_active_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    public_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    private_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    unsafe_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    memberships: Mapped[List["ClerkOrganizationMembership"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationMembership.user_id) == ClerkUser.id", viewonly=True
    )
    invitations: Mapped[List["ClerkOrganizationInvitation"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationInvitation.user_id) == ClerkUser.id", viewonly=True
    )
    sessions: Mapped[List["ClerkSession"]] = relationship(
        primaryjoin="foreign(ClerkSession.user_id) == ClerkUser.id", viewonly=True
    )
    subscriptions: Mapped[List["ClerkSubscription"]] = relationship(
        primaryjoin="foreign(ClerkSubscription.user_id) == ClerkUser.id", viewonly=True
    )
    subscription_items: Mapped[List["ClerkSubscriptionItem"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.user_id) == ClerkUser.id", viewonly=True
    )
    payment_attempts: Mapped[List["ClerkPaymentAttempt"]] = relationship(
        primaryjoin="foreign(ClerkPaymentAttempt.user_id) == ClerkUser.id", viewonly=True
    )


class ClerkOrganizationMembership(Clerk):
    __tablename__ = "organization_memberships"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    role: Mapped[Optional[str]] = mapped_column(Text)
    permissions: Mapped[Optional[Any]] = mapped_column(JSONB)
    public_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    private_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationMembership.organization_id) == ClerkOrganization.id", viewonly=True
    )
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationMembership.user_id) == ClerkUser.id", viewonly=True
    )


class ClerkOrganizationInvitation(Clerk):
    __tablename__ = "organization_invitations"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    inviter_id: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    email_address: Mapped[Optional[str]] = mapped_column(Text)
    role: Mapped[Optional[str]] = mapped_column(Text)
    status: Mapped[Optional[str]] = mapped_column(Text)
    expires_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    public_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    private_metadata: Mapped[Optional[Any]] = mapped_column(JSONB)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationInvitation.organization_id) == ClerkOrganization.id", viewonly=True
    )
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationInvitation.user_id) == ClerkUser.id", viewonly=True
    )


class ClerkOrganizationDomain(Clerk):
    __tablename__ = "organization_domains"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    name: Mapped[Optional[str]] = mapped_column(Text)
    enrollment_mode: Mapped[Optional[str]] = mapped_column(Text)
    verification_status: Mapped[Optional[str]] = mapped_column(Text)
    affiliation_email_address: Mapped[Optional[str]] = mapped_column(Text)
    total_pending_invitations: Mapped[Optional[int]] = mapped_column(BigInteger)
    total_pending_suggestions: Mapped[Optional[int]] = mapped_column(BigInteger)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkOrganizationDomain.organization_id) == ClerkOrganization.id", viewonly=True
    )


class ClerkRole(Clerk):
    __tablename__ = "roles"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[Optional[str]] = mapped_column(Text)
    key: Mapped[Optional[str]] = mapped_column(Text)
    description: Mapped[Optional[str]] = mapped_column(Text)
    is_creator_eligible: Mapped[Optional[bool]] = mapped_column(Boolean)
    permissions: Mapped[Optional[Any]] = mapped_column(JSONB)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)


class ClerkPermission(Clerk):
    __tablename__ = "permissions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[Optional[str]] = mapped_column(Text)
    key: Mapped[Optional[str]] = mapped_column(Text)
    description: Mapped[Optional[str]] = mapped_column(Text)
    type: Mapped[Optional[str]] = mapped_column(Text)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)


class ClerkSession(Clerk):
    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    client_id: Mapped[Optional[str]] = mapped_column(Text)
    status: Mapped[Optional[str]] = mapped_column(Text)
    last_active_organization_id: Mapped[Optional[str]] = mapped_column(Text)
    actor: Mapped[Optional[Any]] = mapped_column(JSONB)
    last_active_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    expire_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    abandon_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkSession.user_id) == ClerkUser.id", viewonly=True
    )


class ClerkWaitlistEntry(Clerk):
    __tablename__ = "waitlist_entries"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    email_address: Mapped[Optional[str]] = mapped_column(Text)
    status: Mapped[Optional[str]] = mapped_column(Text)
    is_locked: Mapped[Optional[bool]] = mapped_column(Boolean)
    invitation_id: Mapped[Optional[str]] = mapped_column(Text)
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)


class ClerkSubscription(Clerk):
    __tablename__ = "subscriptions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    status: Mapped[Optional[str]] = mapped_column(Text)
    payer_id: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    latest_payment_id: Mapped[Optional[str]] = mapped_column(Text)
    payment_source_id: Mapped[Optional[str]] = mapped_column(Text)
    active_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    past_due_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    canceled_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkSubscription.organization_id) == ClerkOrganization.id", viewonly=True
    )
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkSubscription.user_id) == ClerkUser.id", viewonly=True
    )
    subscription_items: Mapped[List["ClerkSubscriptionItem"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.subscription_id) == ClerkSubscription.id", viewonly=True
    )


class ClerkSubscriptionItem(Clerk):
    __tablename__ = "subscription_items"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    subscription_id: Mapped[Optional[str]] = mapped_column(Text)
    payer_id: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    plan_id: Mapped[Optional[str]] = mapped_column(Text)
    plan_slug: Mapped[Optional[str]] = mapped_column(Text)
    status: Mapped[Optional[str]] = mapped_column(Text)
    is_free_trial: Mapped[Optional[bool]] = mapped_column(Boolean)
    interval: Mapped[Optional[str]] = mapped_column(Text)
    amount: Mapped[Optional[int]] = mapped_column(BigInteger)
    currency: Mapped[Optional[str]] = mapped_column(Text)
    seats: Mapped[Optional[int]] = mapped_column(BigInteger)
    period_start: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    period_end: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.organization_id) == ClerkOrganization.id", viewonly=True
    )
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.user_id) == ClerkUser.id", viewonly=True
    )
    subscription: Mapped[Optional["ClerkSubscription"]] = relationship(
        primaryjoin="foreign(ClerkSubscriptionItem.subscription_id) == ClerkSubscription.id", viewonly=True
    )


class ClerkPaymentAttempt(Clerk):
    __tablename__ = "payment_attempts"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    payment_id: Mapped[Optional[str]] = mapped_column(Text)
    invoice_id: Mapped[Optional[str]] = mapped_column(Text)
    statement_id: Mapped[Optional[str]] = mapped_column(Text)
    payer_id: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    payment_source_id: Mapped[Optional[str]] = mapped_column(Text)
    gateway_external_id: Mapped[Optional[str]] = mapped_column(Text)
    status: Mapped[Optional[str]] = mapped_column(Text)
    charge_type: Mapped[Optional[str]] = mapped_column(Text)
    amount: Mapped[Optional[int]] = mapped_column(BigInteger)
    currency: Mapped[Optional[str]] = mapped_column(Text)
    failed_code: Mapped[Optional[str]] = mapped_column(Text)
    billing_date: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    failed_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    data: Mapped[Optional[Any]] = mapped_column(JSONB)
    created_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    deleted_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    synced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    synced_by: Mapped[str] = mapped_column(Text)
    organization: Mapped[Optional["ClerkOrganization"]] = relationship(
        primaryjoin="foreign(ClerkPaymentAttempt.organization_id) == ClerkOrganization.id", viewonly=True
    )
    user: Mapped[Optional["ClerkUser"]] = relationship(
        primaryjoin="foreign(ClerkPaymentAttempt.user_id) == ClerkUser.id", viewonly=True
    )


class ClerkCurrentMember(Clerk):
    __tablename__ = "current_members"

    membership_id: Mapped[str] = mapped_column(Text, primary_key=True)
    organization_id: Mapped[Optional[str]] = mapped_column(Text)
    organization_name: Mapped[Optional[str]] = mapped_column(Text)
    organization_slug: Mapped[Optional[str]] = mapped_column(Text)
    user_id: Mapped[Optional[str]] = mapped_column(Text)
    first_name: Mapped[Optional[str]] = mapped_column(Text)
    last_name: Mapped[Optional[str]] = mapped_column(Text)
    primary_email_address: Mapped[Optional[str]] = mapped_column(Text)
    role: Mapped[Optional[str]] = mapped_column(Text)
    member_since: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))


class ClerkFreshness(Clerk):
    __tablename__ = "freshness"

    resource: Mapped[str] = mapped_column(Text, primary_key=True)
    complete_since: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    last_walk_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    drift: Mapped[Optional[int]] = mapped_column(BigInteger)
    applied_through: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))


class ClerkChange(Clerk):
    __tablename__ = "changes"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    resource: Mapped[str] = mapped_column(Text)
    subject_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    changed: Mapped[List[str]] = mapped_column(ARRAY(Text))
    origin: Mapped[str] = mapped_column(Text)
    cause: Mapped[Optional[str]] = mapped_column(Text)
    event_at: Mapped[Optional[datetime]] = mapped_column(DateTime(timezone=True))
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ClerkChangesState(Clerk):
    __tablename__ = "changes_state"

    single: Mapped[bool] = mapped_column(Boolean, primary_key=True)
    last_position: Mapped[int] = mapped_column(BigInteger)
    removed_through: Mapped[int] = mapped_column(BigInteger)
    generation: Mapped[int] = mapped_column(BigInteger)
