// Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.
// Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).
// There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query
// needs `deleted_at` null.

import { relations } from "drizzle-orm";
import { bigint, boolean, jsonb, pgSchema, text, timestamp } from "drizzle-orm/pg-core";

export const clerk = pgSchema("clerk");

export const clerkOrganizations = clerk.table("organizations", {
  id: text("id").primaryKey(),
  name: text("name"),
  slug: text("slug"),
  imageUrl: text("image_url"),
  createdBy: text("created_by"),
  membersCount: bigint("members_count", { mode: "number" }),
  maxAllowedMemberships: bigint("max_allowed_memberships", { mode: "number" }),
  publicMetadata: jsonb("public_metadata"),
  privateMetadata: jsonb("private_metadata"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkUsers = clerk.table("users", {
  id: text("id").primaryKey(),
  externalId: text("external_id"),
  username: text("username"),
  firstName: text("first_name"),
  lastName: text("last_name"),
  primaryEmailAddress: text("primary_email_address"),
  primaryPhoneNumber: text("primary_phone_number"),
  imageUrl: text("image_url"),
  banned: boolean("banned"),
  locked: boolean("locked"),
  deprovisioned: boolean("deprovisioned"),
  lastSignInAt: timestamp("last_sign_in_at", { withTimezone: true }),
  lastActiveAt: timestamp("last_active_at", { withTimezone: true }),
  publicMetadata: jsonb("public_metadata"),
  privateMetadata: jsonb("private_metadata"),
  unsafeMetadata: jsonb("unsafe_metadata"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkOrganizationMemberships = clerk.table("organization_memberships", {
  id: text("id").primaryKey(),
  organizationId: text("organization_id"),
  userId: text("user_id"),
  role: text("role"),
  permissions: jsonb("permissions"),
  publicMetadata: jsonb("public_metadata"),
  privateMetadata: jsonb("private_metadata"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkOrganizationInvitations = clerk.table("organization_invitations", {
  id: text("id").primaryKey(),
  organizationId: text("organization_id"),
  inviterId: text("inviter_id"),
  userId: text("user_id"),
  emailAddress: text("email_address"),
  role: text("role"),
  status: text("status"),
  expiresAt: timestamp("expires_at", { withTimezone: true }),
  publicMetadata: jsonb("public_metadata"),
  privateMetadata: jsonb("private_metadata"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkOrganizationDomains = clerk.table("organization_domains", {
  id: text("id").primaryKey(),
  organizationId: text("organization_id"),
  name: text("name"),
  enrollmentMode: text("enrollment_mode"),
  verificationStatus: text("verification_status"),
  affiliationEmailAddress: text("affiliation_email_address"),
  totalPendingInvitations: bigint("total_pending_invitations", { mode: "number" }),
  totalPendingSuggestions: bigint("total_pending_suggestions", { mode: "number" }),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkRoles = clerk.table("roles", {
  id: text("id").primaryKey(),
  name: text("name"),
  key: text("key"),
  description: text("description"),
  isCreatorEligible: boolean("is_creator_eligible"),
  permissions: jsonb("permissions"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkPermissions = clerk.table("permissions", {
  id: text("id").primaryKey(),
  name: text("name"),
  key: text("key"),
  description: text("description"),
  type: text("type"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkSessions = clerk.table("sessions", {
  id: text("id").primaryKey(),
  userId: text("user_id"),
  clientId: text("client_id"),
  status: text("status"),
  lastActiveOrganizationId: text("last_active_organization_id"),
  actor: jsonb("actor"),
  lastActiveAt: timestamp("last_active_at", { withTimezone: true }),
  expireAt: timestamp("expire_at", { withTimezone: true }),
  abandonAt: timestamp("abandon_at", { withTimezone: true }),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkWaitlistEntries = clerk.table("waitlist_entries", {
  id: text("id").primaryKey(),
  emailAddress: text("email_address"),
  status: text("status"),
  isLocked: boolean("is_locked"),
  invitationId: text("invitation_id"),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkSubscriptions = clerk.table("subscriptions", {
  id: text("id").primaryKey(),
  status: text("status"),
  payerId: text("payer_id"),
  userId: text("user_id"),
  organizationId: text("organization_id"),
  latestPaymentId: text("latest_payment_id"),
  paymentSourceId: text("payment_source_id"),
  activeAt: timestamp("active_at", { withTimezone: true }),
  pastDueAt: timestamp("past_due_at", { withTimezone: true }),
  canceledAt: timestamp("canceled_at", { withTimezone: true }),
  endedAt: timestamp("ended_at", { withTimezone: true }),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkSubscriptionItems = clerk.table("subscription_items", {
  id: text("id").primaryKey(),
  subscriptionId: text("subscription_id"),
  payerId: text("payer_id"),
  userId: text("user_id"),
  organizationId: text("organization_id"),
  planId: text("plan_id"),
  planSlug: text("plan_slug"),
  status: text("status"),
  isFreeTrial: boolean("is_free_trial"),
  interval: text("interval"),
  amount: bigint("amount", { mode: "number" }),
  currency: text("currency"),
  seats: bigint("seats", { mode: "number" }),
  periodStart: timestamp("period_start", { withTimezone: true }),
  periodEnd: timestamp("period_end", { withTimezone: true }),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkPaymentAttempts = clerk.table("payment_attempts", {
  id: text("id").primaryKey(),
  paymentId: text("payment_id"),
  invoiceId: text("invoice_id"),
  statementId: text("statement_id"),
  payerId: text("payer_id"),
  userId: text("user_id"),
  organizationId: text("organization_id"),
  paymentSourceId: text("payment_source_id"),
  gatewayExternalId: text("gateway_external_id"),
  status: text("status"),
  chargeType: text("charge_type"),
  amount: bigint("amount", { mode: "number" }),
  currency: text("currency"),
  failedCode: text("failed_code"),
  billingDate: timestamp("billing_date", { withTimezone: true }),
  paidAt: timestamp("paid_at", { withTimezone: true }),
  failedAt: timestamp("failed_at", { withTimezone: true }),
  data: jsonb("data"),
  createdAt: timestamp("created_at", { withTimezone: true }),
  updatedAt: timestamp("updated_at", { withTimezone: true }),
  deletedAt: timestamp("deleted_at", { withTimezone: true }),
  syncedAt: timestamp("synced_at", { withTimezone: true }).notNull(),
  syncedBy: text("synced_by").notNull(),
});

export const clerkCurrentMembers = clerk.table("current_members", {
  membershipId: text("membership_id").primaryKey(),
  organizationId: text("organization_id"),
  organizationName: text("organization_name"),
  organizationSlug: text("organization_slug"),
  userId: text("user_id"),
  firstName: text("first_name"),
  lastName: text("last_name"),
  primaryEmailAddress: text("primary_email_address"),
  role: text("role"),
  memberSince: timestamp("member_since", { withTimezone: true }),
});

export const clerkFreshness = clerk.table("freshness", {
  resource: text("resource").primaryKey(),
  completeSince: timestamp("complete_since", { withTimezone: true }),
  lastWalkAt: timestamp("last_walk_at", { withTimezone: true }),
  drift: bigint("drift", { mode: "number" }),
  appliedThrough: timestamp("applied_through", { withTimezone: true }),
});

export const clerkChanges = clerk.table("changes", {
  position: bigint("position", { mode: "number" }).primaryKey(),
  resource: text("resource").notNull(),
  subjectId: text("subject_id").notNull(),
  kind: text("kind").notNull(),
  changed: text("changed").array().notNull(),
  origin: text("origin").notNull(),
  cause: text("cause"),
  eventAt: timestamp("event_at", { withTimezone: true }),
  at: timestamp("at", { withTimezone: true }).notNull(),
});

export const clerkChangesState = clerk.table("changes_state", {
  single: boolean("single").primaryKey(),
  lastPosition: bigint("last_position", { mode: "number" }).notNull(),
  removedThrough: bigint("removed_through", { mode: "number" }).notNull(),
  generation: bigint("generation", { mode: "number" }).notNull(),
});

export const clerkOrganizationsRelations = relations(clerkOrganizations, ({ many }) => ({
  memberships: many(clerkOrganizationMemberships),
  invitations: many(clerkOrganizationInvitations),
  domains: many(clerkOrganizationDomains),
  subscriptions: many(clerkSubscriptions),
  subscriptionItems: many(clerkSubscriptionItems),
  paymentAttempts: many(clerkPaymentAttempts),
}));

export const clerkUsersRelations = relations(clerkUsers, ({ many }) => ({
  memberships: many(clerkOrganizationMemberships),
  invitations: many(clerkOrganizationInvitations),
  sessions: many(clerkSessions),
  subscriptions: many(clerkSubscriptions),
  subscriptionItems: many(clerkSubscriptionItems),
  paymentAttempts: many(clerkPaymentAttempts),
}));

export const clerkOrganizationMembershipsRelations = relations(clerkOrganizationMemberships, ({ one }) => ({
  organization: one(clerkOrganizations, { fields: [clerkOrganizationMemberships.organizationId], references: [clerkOrganizations.id] }),
  user: one(clerkUsers, { fields: [clerkOrganizationMemberships.userId], references: [clerkUsers.id] }),
}));

export const clerkOrganizationInvitationsRelations = relations(clerkOrganizationInvitations, ({ one }) => ({
  organization: one(clerkOrganizations, { fields: [clerkOrganizationInvitations.organizationId], references: [clerkOrganizations.id] }),
  user: one(clerkUsers, { fields: [clerkOrganizationInvitations.userId], references: [clerkUsers.id] }),
}));

export const clerkOrganizationDomainsRelations = relations(clerkOrganizationDomains, ({ one }) => ({
  organization: one(clerkOrganizations, { fields: [clerkOrganizationDomains.organizationId], references: [clerkOrganizations.id] }),
}));

export const clerkSessionsRelations = relations(clerkSessions, ({ one }) => ({
  user: one(clerkUsers, { fields: [clerkSessions.userId], references: [clerkUsers.id] }),
}));

export const clerkSubscriptionsRelations = relations(clerkSubscriptions, ({ one, many }) => ({
  organization: one(clerkOrganizations, { fields: [clerkSubscriptions.organizationId], references: [clerkOrganizations.id] }),
  user: one(clerkUsers, { fields: [clerkSubscriptions.userId], references: [clerkUsers.id] }),
  subscriptionItems: many(clerkSubscriptionItems),
}));

export const clerkSubscriptionItemsRelations = relations(clerkSubscriptionItems, ({ one }) => ({
  organization: one(clerkOrganizations, { fields: [clerkSubscriptionItems.organizationId], references: [clerkOrganizations.id] }),
  user: one(clerkUsers, { fields: [clerkSubscriptionItems.userId], references: [clerkUsers.id] }),
  subscription: one(clerkSubscriptions, { fields: [clerkSubscriptionItems.subscriptionId], references: [clerkSubscriptions.id] }),
}));

export const clerkPaymentAttemptsRelations = relations(clerkPaymentAttempts, ({ one }) => ({
  organization: one(clerkOrganizations, { fields: [clerkPaymentAttempts.organizationId], references: [clerkOrganizations.id] }),
  user: one(clerkUsers, { fields: [clerkPaymentAttempts.userId], references: [clerkUsers.id] }),
}));
