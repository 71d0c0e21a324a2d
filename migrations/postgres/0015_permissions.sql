-- Functions for an application that authorizes in SQL. Only adds: an earlier build goes on.
--
-- Each answers from the latest membership of the user in the organization, deleted ones included: whoever was removed is not
-- a member because an older membership was never seen to end. Nothing is granted to deleted or banned users, in deleted
-- organizations, to null, and to whoever is unknown. A role that lost a permission after the membership was written removes
-- it. No function returns null. They run with their owner's rights, so that a role which may read no table can be given them;
-- temporary tables are looked at last.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE FUNCTION is_member(user_id text, organization_id text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    granted boolean;
BEGIN
    SELECT membership.deleted_at IS NULL INTO granted
    FROM organization_memberships AS membership
    WHERE membership.user_id = is_member.user_id AND membership.organization_id = is_member.organization_id
          AND NOT EXISTS (SELECT FROM organizations AS organization
                          WHERE organization.id = membership.organization_id AND organization.deleted_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM users AS person
                          WHERE person.id = membership.user_id AND (person.deleted_at IS NOT NULL OR person.banned))
    ORDER BY membership.created_at DESC NULLS LAST, membership.id DESC
    LIMIT 1;
    RETURN coalesce(granted, false);
END
$$;

CREATE FUNCTION has_permission(user_id text, organization_id text, permission text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    granted boolean;
BEGIN
    SELECT membership.deleted_at IS NULL
           AND membership.permissions @> to_jsonb(ARRAY[has_permission.permission])
           AND NOT EXISTS (SELECT FROM roles AS changed
                           WHERE changed.key = membership.role
                                 AND greatest(changed.updated_at, changed.deleted_at) > membership.updated_at
                                 AND (changed.deleted_at IS NOT NULL
                                      OR NOT changed.permissions @> jsonb_build_array(jsonb_build_object('key', has_permission.permission))))
    INTO granted
    FROM organization_memberships AS membership
    WHERE membership.user_id = has_permission.user_id AND membership.organization_id = has_permission.organization_id
          AND NOT EXISTS (SELECT FROM organizations AS organization
                          WHERE organization.id = membership.organization_id AND organization.deleted_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM users AS person
                          WHERE person.id = membership.user_id AND (person.deleted_at IS NOT NULL OR person.banned))
    ORDER BY membership.created_at DESC NULLS LAST, membership.id DESC
    LIMIT 1;
    RETURN coalesce(granted AND has_permission.permission IS NOT NULL, false);
END
$$;

-- The organizations in which the user is a member, or has the permission: for a policy, which then asks once for each
-- statement in place of once for each row.
CREATE FUNCTION organizations_of(user_id text) RETURNS SETOF text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path FROM CURRENT ROWS 10 AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT membership.organization_id FROM organization_memberships AS membership
    WHERE membership.user_id = organizations_of.user_id AND membership.deleted_at IS NULL
          AND is_member(membership.user_id, membership.organization_id);
END
$$;

CREATE FUNCTION organizations_of(user_id text, permission text) RETURNS SETOF text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path FROM CURRENT ROWS 10 AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT membership.organization_id FROM organization_memberships AS membership
    WHERE membership.user_id = organizations_of.user_id AND membership.deleted_at IS NULL
          AND has_permission(membership.user_id, membership.organization_id, organizations_of.permission);
END
$$;

REVOKE ALL ON FUNCTION is_member (text, text), has_permission (text, text, text), organizations_of (text), organizations_of (text, text) FROM PUBLIC;

-- Whoever may read the memberships may ask.
DO $$
DECLARE
    holder record;
BEGIN
    FOR holder IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND grantee <> current_user
              AND table_name = 'organization_memberships' AND privilege_type = 'SELECT'
    LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION is_member (text, text), has_permission (text, text, text), organizations_of (text), organizations_of (text, text) TO %s',
            CASE WHEN holder.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(holder.grantee) END
        );
    END LOOP;
END
$$;
