//! Audit of the change feed on Postgres: a team's row trigger records every write of a row, without any of Rollbook's code, and
//! SQL compares that record with the feed.

/// Returns the statements that record each write of users, organizations and memberships in `public.audit`. A row's number is
/// drawn while the row is locked; `changed` has the columns that differ.
pub fn triggers(schema: &str) -> String {
    format!(
        "CREATE TABLE public.audit (number bigint GENERATED ALWAYS AS IDENTITY, resource text, id text, was boolean, changed text[]);
    CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        was boolean := false;
        before jsonb := '{{}}';
    BEGIN
        IF NEW.version_hash = '' AND NEW.version_deleted_at IS NULL THEN RETURN NULL; END IF;
        IF TG_OP = 'UPDATE' THEN
            was := OLD.version_hash <> '' OR OLD.version_deleted_at IS NOT NULL;
            IF was THEN before := to_jsonb(OLD); END IF;
        END IF;
        INSERT INTO public.audit (resource, id, was, changed)
        SELECT TG_TABLE_NAME, NEW.id, was, coalesce(array_agg(key ORDER BY key COLLATE \"C\"), '{{}}')
        FROM jsonb_each(to_jsonb(NEW))
        WHERE NOT key ~ '^(id|created_at|updated_at|synced_at|synced_by|version_.*)$'
              AND coalesce(nullif(before -> key, 'null') IS DISTINCT FROM nullif(value, 'null'), false);
        RETURN NULL;
    END $$;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' AND tablename IN
            ('users', 'organizations', 'organization_memberships') LOOP
            EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE ON {schema}.%I FOR EACH ROW EXECUTE FUNCTION public.audit()', name);
        END LOOP; END $$;"
    )
}

/// Returns a query for the rows of which the feed and the audit differ, at most five: each change once, those of a row in order.
pub fn differences(schema: &str) -> String {
    let by_row = |from: &str, order: &str| {
        format!(
            "SELECT resource, subject_id, array_agg(array_to_string(ARRAY(SELECT name FROM unnest(changed) AS names (name) ORDER BY name COLLATE \"C\"), ',')
                                                    ORDER BY {order}) AS changes
             FROM {from} GROUP BY resource, subject_id"
        )
    };
    let audited = by_row(
        "(SELECT *, id AS subject_id FROM public.audit WHERE NOT was OR cardinality(changed) > 0) AS audit",
        "number",
    );
    let lines = "WHERE resource IN ('users', 'organizations', 'organization_memberships')";
    let feed = by_row(&format!("(SELECT * FROM {schema}.changes {lines}) AS feed"), "position");
    format!(
        "SELECT coalesce(one.subject_id, other.subject_id), one.changes, other.changes
         FROM ({audited}) AS one FULL JOIN ({feed}) AS other USING (resource, subject_id)
         WHERE one.changes IS DISTINCT FROM other.changes LIMIT 5"
    )
}

/// Returns a query for the numbers that [`are_consecutive`] judges.
pub fn positions(schema: &str) -> String {
    format!(
        "SELECT count(*), min(position), max(position), (SELECT last_position FROM {schema}.changes_state),
                (SELECT count(*) FROM {schema}.changes_pending) FROM {schema}.changes"
    )
}

/// Whether there are lines, their positions are 1, 2, 3, … up to the last one of the state, and no line waits.
pub fn are_consecutive(positions: &str) -> bool {
    let found: Vec<&str> = positions.trim().split('|').collect();
    found[0] != "0" && found == [found[0], "1", found[0], found[0], "0"]
}

/// Returns a query for the number of lines with an earlier time than the line before.
pub fn steps_back(schema: &str) -> String {
    format!(
        "SELECT count(*) FROM {schema}.changes AS one JOIN {schema}.changes AS next
         ON next.position = one.position + 1 WHERE next.at < one.at"
    )
}
