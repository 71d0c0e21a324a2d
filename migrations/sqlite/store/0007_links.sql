-- The ids of a row's parents are not unlearned.
--
-- A newer object may lack what names a parent: the id stays that of the newest content that names one. version_links
-- holds the version of that content where it is not the one that the row shows; it is null in all other rows.

ALTER TABLE organization_memberships ADD COLUMN version_links TEXT;
ALTER TABLE organization_invitations ADD COLUMN version_links TEXT;
ALTER TABLE organization_domains ADD COLUMN version_links TEXT;
ALTER TABLE sessions ADD COLUMN version_links TEXT;
ALTER TABLE subscriptions ADD COLUMN version_links TEXT;
ALTER TABLE subscription_items ADD COLUMN version_links TEXT;
ALTER TABLE payment_attempts ADD COLUMN version_links TEXT;
