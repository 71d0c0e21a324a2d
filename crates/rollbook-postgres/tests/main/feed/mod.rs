//! The change feed on Postgres, with concurrent workers, crashes and other sessions.

mod bell;
mod kills;
mod schema;

use std::sync::Arc;

use rollbook_core::store::{ChangeLine, Changes as _, ChangesQuery, LINES_MAX, Position, Store as _};
use rollbook_postgres::PostgresStore;

use crate::world::World;

/// Gives all committed lines their positions.
async fn sequence(store: &PostgresStore) {
    while store.sequence().await.expect("the store gives positions").has_more {}
}

/// Returns all lines after a position.
async fn lines(store: &PostgresStore, after: Position) -> Vec<ChangeLine> {
    sequence(store).await;
    let (mut query, mut lines) =
        (ChangesQuery { after, limit: LINES_MAX, ..ChangesQuery::default() }, Vec::new());
    loop {
        let page = store.changes(&query).await.expect("the store reads the feed");
        lines.extend(page.lines);
        query.after = page.through;
        if page.through == page.last {
            return lines;
        }
    }
}

/// Ids of the subjects of lines.
fn ids(lines: &[ChangeLine]) -> Vec<&str> {
    lines.iter().map(|line| line.subject_id.as_str()).collect()
}

/// Records every write of a row independently: a team's row trigger with a number of its own, drawn under the row's lock.
/// `changed` has the columns that differ, all at once and without any of Rollbook's code.
const AUDIT: &str = "
    CREATE TABLE public.audit (number bigint GENERATED ALWAYS AS IDENTITY, resource text, id text, was boolean, changed text[]);
    CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        was boolean := false;
        before jsonb := '{}';
    BEGIN
        IF NEW.version_hash = '' AND NEW.version_deleted_at IS NULL THEN RETURN NULL; END IF;
        IF TG_OP = 'UPDATE' THEN
            was := OLD.version_hash <> '' OR OLD.version_deleted_at IS NOT NULL;
            IF was THEN before := to_jsonb(OLD); END IF;
        END IF;
        INSERT INTO public.audit (resource, id, was, changed)
        SELECT TG_TABLE_NAME, NEW.id, was, coalesce(array_agg(key ORDER BY key COLLATE \"C\"), '{}')
        FROM jsonb_each(to_jsonb(NEW))
        WHERE NOT key ~ '^(id|created_at|updated_at|synced_at|synced_by|version_.*)$'
              AND coalesce(nullif(before -> key, 'null') IS DISTINCT FROM nullif(value, 'null'), false);
        RETURN NULL;
    END $$;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'mirror_2' AND tablename IN
            ('users', 'organizations', 'organization_memberships') LOOP
            EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE ON mirror_2.%I FOR EACH ROW EXECUTE FUNCTION public.audit()', name);
        END LOOP; END $$;";

/// Asserts that the feed has every audited change once, and those of each row in the order of their numbers.
async fn assert_feed_is_audited(world: &World) {
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
    let feed = by_row("mirror_2.changes", "position");
    let differs = format!(
        "SELECT coalesce(one.subject_id, other.subject_id), one.changes, other.changes
         FROM ({audited}) AS one FULL JOIN ({feed}) AS other USING (resource, subject_id)
         WHERE one.changes IS DISTINCT FROM other.changes LIMIT 5"
    );
    assert_eq!(world.psql(&differs).await, "", "the audit and the feed differ");
    let gaps =
        "SELECT count(*), min(position), max(position), (SELECT last_position FROM mirror_2.changes_state),
                       (SELECT count(*) FROM mirror_2.changes_pending) FROM mirror_2.changes";
    let found = world.psql(gaps).await;
    let found: Vec<&str> = found.trim().split('|').collect();
    assert!(found[0] != "0" && found == [found[0], "1", found[0], found[0], "0"], "{found:?}");
    let backwards = "SELECT count(*) FROM mirror_2.changes AS one JOIN mirror_2.changes AS next
                     ON next.position = one.position + 1 WHERE next.at < one.at";
    assert_eq!(world.psql(backwards).await, "0\n", "times never decrease");
}

/// A store of its own for each worker, as separate processes have.
fn workers(world: &World, count: usize) -> Vec<Arc<PostgresStore>> {
    (0..count).map(|_| world.store()).collect()
}
