# Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.
# Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).
# There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query
# needs `deleted_at` null.

module Clerk
  class Record < ActiveRecord::Base
    self.abstract_class = true
    self.inheritance_column = :_none # permissions has a column `type`
    self.ignored_columns = %w[version_updated_at version_event_at version_hash version_floor version_deleted_at version_revision version_parents_deleted_at version_links]

    def readonly?
      true
    end
  end

  class Organization < Record
    self.table_name = "clerk.organizations"
    has_many :memberships, class_name: "Clerk::OrganizationMembership", foreign_key: "organization_id"
    has_many :invitations, class_name: "Clerk::OrganizationInvitation", foreign_key: "organization_id"
    has_many :domains, class_name: "Clerk::OrganizationDomain", foreign_key: "organization_id"
    has_many :subscriptions, class_name: "Clerk::Subscription", foreign_key: "organization_id"
    has_many :subscription_items, class_name: "Clerk::SubscriptionItem", foreign_key: "organization_id"
    has_many :payment_attempts, class_name: "Clerk::PaymentAttempt", foreign_key: "organization_id"
  end

  class User < Record
    self.table_name = "clerk.users"
    has_many :memberships, class_name: "Clerk::OrganizationMembership", foreign_key: "user_id"
    has_many :invitations, class_name: "Clerk::OrganizationInvitation", foreign_key: "user_id"
    has_many :sessions, class_name: "Clerk::Session", foreign_key: "user_id"
    has_many :subscriptions, class_name: "Clerk::Subscription", foreign_key: "user_id"
    has_many :subscription_items, class_name: "Clerk::SubscriptionItem", foreign_key: "user_id"
    has_many :payment_attempts, class_name: "Clerk::PaymentAttempt", foreign_key: "user_id"
  end

  class OrganizationMembership < Record
    self.table_name = "clerk.organization_memberships"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
    belongs_to :user, class_name: "Clerk::User", optional: true
  end

  class OrganizationInvitation < Record
    self.table_name = "clerk.organization_invitations"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
    belongs_to :user, class_name: "Clerk::User", optional: true
  end

  class OrganizationDomain < Record
    self.table_name = "clerk.organization_domains"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
  end

  class Role < Record
    self.table_name = "clerk.roles"
  end

  class Permission < Record
    self.table_name = "clerk.permissions"
  end

  class Session < Record
    self.table_name = "clerk.sessions"
    belongs_to :user, class_name: "Clerk::User", optional: true
  end

  class WaitlistEntry < Record
    self.table_name = "clerk.waitlist_entries"
  end

  class Subscription < Record
    self.table_name = "clerk.subscriptions"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
    belongs_to :user, class_name: "Clerk::User", optional: true
    has_many :subscription_items, class_name: "Clerk::SubscriptionItem", foreign_key: "subscription_id"
  end

  class SubscriptionItem < Record
    self.table_name = "clerk.subscription_items"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
    belongs_to :user, class_name: "Clerk::User", optional: true
    belongs_to :subscription, class_name: "Clerk::Subscription", optional: true
  end

  class PaymentAttempt < Record
    self.table_name = "clerk.payment_attempts"
    belongs_to :organization, class_name: "Clerk::Organization", optional: true
    belongs_to :user, class_name: "Clerk::User", optional: true
  end

  class CurrentMember < Record
    self.table_name = "clerk.current_members"
    self.primary_key = "membership_id"
  end

  class Freshness < Record
    self.table_name = "clerk.freshness"
    self.primary_key = "resource"
  end

  class Change < Record
    self.table_name = "clerk.changes"
    self.primary_key = "position"
    self.ignored_columns = %w[changed]
  end

  class ChangesState < Record
    self.table_name = "clerk.changes_state"
    self.primary_key = "single"
    self.ignored_columns = %w[last_at]
  end
end
