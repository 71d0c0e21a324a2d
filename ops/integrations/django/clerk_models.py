# Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.
# Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).
# There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query
# needs `deleted_at` null.

from django.contrib.postgres.fields import ArrayField
from django.db import models


def table(name):
    """Quoted as Django's own names are, so that the schema is named."""
    return f'"clerk"."{name}"'


class ClerkOrganization(models.Model):
    id = models.TextField(primary_key=True)
    name = models.TextField(null=True)
    slug = models.TextField(null=True)
    image_url = models.TextField(null=True)
    created_by = models.TextField(null=True)
    members_count = models.BigIntegerField(null=True)
    max_allowed_memberships = models.BigIntegerField(null=True)
    public_metadata = models.JSONField(null=True)
    private_metadata = models.JSONField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("organizations")


class ClerkUser(models.Model):
    id = models.TextField(primary_key=True)
    external_id = models.TextField(null=True)
    username = models.TextField(null=True)
    first_name = models.TextField(null=True)
    last_name = models.TextField(null=True)
    primary_email_address = models.TextField(null=True)
    primary_phone_number = models.TextField(null=True)
    image_url = models.TextField(null=True)
    banned = models.BooleanField(null=True)
    locked = models.BooleanField(null=True)
    deprovisioned = models.BooleanField(null=True)
    last_sign_in_at = models.DateTimeField(null=True)
    last_active_at = models.DateTimeField(null=True)
    public_metadata = models.JSONField(null=True)
    private_metadata = models.JSONField(null=True)
    unsafe_metadata = models.JSONField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("users")


class ClerkOrganizationMembership(models.Model):
    id = models.TextField(primary_key=True)
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="memberships"
    )
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="memberships"
    )
    role = models.TextField(null=True)
    permissions = models.JSONField(null=True)
    public_metadata = models.JSONField(null=True)
    private_metadata = models.JSONField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("organization_memberships")


class ClerkOrganizationInvitation(models.Model):
    id = models.TextField(primary_key=True)
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="invitations"
    )
    inviter_id = models.TextField(null=True)
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="invitations"
    )
    email_address = models.TextField(null=True)
    role = models.TextField(null=True)
    status = models.TextField(null=True)
    expires_at = models.DateTimeField(null=True)
    public_metadata = models.JSONField(null=True)
    private_metadata = models.JSONField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("organization_invitations")


class ClerkOrganizationDomain(models.Model):
    id = models.TextField(primary_key=True)
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="domains"
    )
    name = models.TextField(null=True)
    enrollment_mode = models.TextField(null=True)
    verification_status = models.TextField(null=True)
    affiliation_email_address = models.TextField(null=True)
    total_pending_invitations = models.BigIntegerField(null=True)
    total_pending_suggestions = models.BigIntegerField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("organization_domains")


class ClerkRole(models.Model):
    id = models.TextField(primary_key=True)
    name = models.TextField(null=True)
    key = models.TextField(null=True)
    description = models.TextField(null=True)
    is_creator_eligible = models.BooleanField(null=True)
    permissions = models.JSONField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("roles")


class ClerkPermission(models.Model):
    id = models.TextField(primary_key=True)
    name = models.TextField(null=True)
    key = models.TextField(null=True)
    description = models.TextField(null=True)
    type = models.TextField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("permissions")


class ClerkSession(models.Model):
    id = models.TextField(primary_key=True)
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="sessions"
    )
    client_id = models.TextField(null=True)
    status = models.TextField(null=True)
    last_active_organization_id = models.TextField(null=True)
    actor = models.JSONField(null=True)
    last_active_at = models.DateTimeField(null=True)
    expire_at = models.DateTimeField(null=True)
    abandon_at = models.DateTimeField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("sessions")


class ClerkWaitlistEntry(models.Model):
    id = models.TextField(primary_key=True)
    email_address = models.TextField(null=True)
    status = models.TextField(null=True)
    is_locked = models.BooleanField(null=True)
    invitation_id = models.TextField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("waitlist_entries")


class ClerkSubscription(models.Model):
    id = models.TextField(primary_key=True)
    status = models.TextField(null=True)
    payer_id = models.TextField(null=True)
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="subscriptions"
    )
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="subscriptions"
    )
    latest_payment_id = models.TextField(null=True)
    payment_source_id = models.TextField(null=True)
    active_at = models.DateTimeField(null=True)
    past_due_at = models.DateTimeField(null=True)
    canceled_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("subscriptions")


class ClerkSubscriptionItem(models.Model):
    id = models.TextField(primary_key=True)
    subscription = models.ForeignKey(
        ClerkSubscription, models.DO_NOTHING, db_column="subscription_id", db_constraint=False, null=True, related_name="subscription_items"
    )
    payer_id = models.TextField(null=True)
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="subscription_items"
    )
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="subscription_items"
    )
    plan_id = models.TextField(null=True)
    plan_slug = models.TextField(null=True)
    status = models.TextField(null=True)
    is_free_trial = models.BooleanField(null=True)
    interval = models.TextField(null=True)
    amount = models.BigIntegerField(null=True)
    currency = models.TextField(null=True)
    seats = models.BigIntegerField(null=True)
    period_start = models.DateTimeField(null=True)
    period_end = models.DateTimeField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("subscription_items")


class ClerkPaymentAttempt(models.Model):
    id = models.TextField(primary_key=True)
    payment_id = models.TextField(null=True)
    invoice_id = models.TextField(null=True)
    statement_id = models.TextField(null=True)
    payer_id = models.TextField(null=True)
    user = models.ForeignKey(
        ClerkUser, models.DO_NOTHING, db_column="user_id", db_constraint=False, null=True, related_name="payment_attempts"
    )
    organization = models.ForeignKey(
        ClerkOrganization, models.DO_NOTHING, db_column="organization_id", db_constraint=False, null=True, related_name="payment_attempts"
    )
    payment_source_id = models.TextField(null=True)
    gateway_external_id = models.TextField(null=True)
    status = models.TextField(null=True)
    charge_type = models.TextField(null=True)
    amount = models.BigIntegerField(null=True)
    currency = models.TextField(null=True)
    failed_code = models.TextField(null=True)
    billing_date = models.DateTimeField(null=True)
    paid_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    data = models.JSONField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)
    synced_at = models.DateTimeField()
    synced_by = models.TextField()

    class Meta:
        managed = False
        db_table = table("payment_attempts")


class ClerkCurrentMember(models.Model):
    membership_id = models.TextField(primary_key=True)
    organization_id = models.TextField(null=True)
    organization_name = models.TextField(null=True)
    organization_slug = models.TextField(null=True)
    user_id = models.TextField(null=True)
    first_name = models.TextField(null=True)
    last_name = models.TextField(null=True)
    primary_email_address = models.TextField(null=True)
    role = models.TextField(null=True)
    member_since = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = table("current_members")


class ClerkFreshness(models.Model):
    resource = models.TextField(primary_key=True)
    complete_since = models.DateTimeField(null=True)
    last_walk_at = models.DateTimeField(null=True)
    drift = models.BigIntegerField(null=True)
    applied_through = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = table("freshness")


class ClerkChange(models.Model):
    position = models.BigIntegerField(primary_key=True)
    resource = models.TextField()
    subject_id = models.TextField()
    kind = models.TextField()
    changed = ArrayField(models.TextField())
    origin = models.TextField()
    cause = models.TextField(null=True)
    event_at = models.DateTimeField(null=True)
    at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = table("changes")


class ClerkChangesState(models.Model):
    single = models.BooleanField(primary_key=True)
    last_position = models.BigIntegerField()
    removed_through = models.BigIntegerField()
    generation = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = table("changes_state")
