-- How rows are stored, so that writing them costs less. Nothing that is read changes.
--
-- Room on a page for the next version of its rows: an update that stays on its page leaves the indexes alone.
-- What does not fit a row is packed with lz4, in a fraction of pglz's time; rows that are there are packed anew when they
-- are next written. Postgres has lz4 since 14, where it was built with it; without it all stays as it is.
DO $$
DECLARE
    name text;
    packed record;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'users', 'organizations', 'organization_memberships', 'organization_invitations', 'organization_domains',
        'roles', 'permissions', 'sessions', 'waitlist_entries', 'subscriptions', 'subscription_items', 'payment_attempts'
    ] LOOP
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 70)', name);
        BEGIN
            FOR packed IN
                SELECT attname FROM pg_attribute
                WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.' || name) AND atttypid = 'jsonb'::regtype
            LOOP
                EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET COMPRESSION lz4', name, packed.attname);
            END LOOP;
        EXCEPTION WHEN feature_not_supported OR invalid_parameter_value OR syntax_error THEN
            NULL;
        END;
    END LOOP;
END
$$;

-- The ledger is asked for one subject and never for a range of them: a hash of the id is enough, and half as much to write.
DROP INDEX deliveries_by_subject;
CREATE INDEX deliveries_by_subject ON deliveries USING hash (subject_id);
