// Rollbook's tables, made from its catalog: copy this file anew with each release of Rollbook.
// Only Rollbook writes and changes these tables; no migration of yours does (ops/integrations/README.md).
// There are no foreign keys: a parent may be missing for a while. A deleted row stays: nearly every query
// needs `deleted_at` null.

import { defineConfig } from "prisma/config";

export default defineConfig({
  schema: "prisma",
  datasource: { url: process.env.DATABASE_URL ?? "" },
  // Every table of Rollbook's: your migrations leave them alone.
  experimental: { externalTables: true },
  tables: {
    external: [
      "clerk.changes",
      "clerk.changes_pending",
      "clerk.changes_state",
      "clerk.current_members",
      "clerk.deliveries",
      "clerk.forward_changes",
      "clerk.forwards",
      "clerk.freshness",
      "clerk.organization_domains",
      "clerk.organization_invitations",
      "clerk.organization_memberships",
      "clerk.organizations",
      "clerk.payment_attempts",
      "clerk.permissions",
      "clerk.reconcile_held",
      "clerk.reconcile_locks",
      "clerk.reconcile_runs",
      "clerk.reconcile_walks",
      "clerk.roles",
      "clerk.rollbook_cascades",
      "clerk.rollbook_migrations",
      "clerk.sessions",
      "clerk.subscription_items",
      "clerk.subscriptions",
      "clerk.users",
      "clerk.waitlist_entries",
    ],
  },
  migrations: {
    path: "prisma/migrations",
    // What foreign keys of yours refer to, for the shadow database.
    initShadowDb: `
      CREATE SCHEMA IF NOT EXISTS clerk;
      CREATE TABLE clerk.users (id text PRIMARY KEY);
      CREATE TABLE clerk.organizations (id text PRIMARY KEY);
    `,
  },
});
