//! Rights that a migration lacks, as GRANT statements, and rights that others should not have.
//!
//! Postgres reports a missing right in words that follow the server's language, so the catalog is asked instead.

use rollbook_core::weakness::Weakness;

use super::schema;
use crate::fault::Fault;
use crate::rights::plain;
use crate::settings::PostgresSettings;
use crate::transaction::Database;

/// Adds the statements that grant the missing rights to an error of a migration, if rights are missing. The words of the
/// error stay.
pub(super) async fn with_grants(database: &Database, settings: &PostgresSettings, fault: Fault) -> Fault {
    let Fault::Deployment(text) = &fault else { return fault };
    let Ok(schema) = schema(&settings.schema) else { return fault };
    match database.names(&missing(&schema)).await {
        Ok(grants) if !grants.is_empty() => Fault::Deployment(format!(
            "{text}. Fix, as a superuser or the owner: {}; then run rollbook migrate again",
            plain(grants.join("; "))
        )),
        _ => fault,
    }
}

/// Returns the SELECT of the statements that grant the rights that this role lacks to create or change the schema.
fn missing(schema: &str) -> String {
    // The schema's name is validated, so it can be written into a text. One owner has all tables of Rollbook.
    format!(
        "WITH of AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = '{schema}')
         SELECT format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
          WHERE NOT EXISTS (SELECT FROM of)
            AND NOT has_database_privilege(current_database(), 'CREATE')
         UNION ALL
         SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', nspname, current_user) FROM of
          WHERE NOT (has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE'))
         UNION ALL
         SELECT format('GRANT %I TO %I', pg_get_userbyid(relowner), current_user)
           FROM pg_catalog.pg_class JOIN of ON relnamespace = of.oid
          WHERE relname = 'rollbook_migrations' AND NOT pg_has_role(relowner, 'USAGE')"
    )
}

/// Returns the SELECT of the roles that may create objects in the schema, other than the tables' owner and superusers.
///
/// Functions of the schema run with their owner's rights and look for functions and operators in it. Postgres takes one with
/// parameters that fit better, so a role that may create functions there runs code with the owner's rights.
pub(super) fn creators(schema: &str) -> String {
    // Without tables there is nothing to protect yet. The owner of a database is a member of pg_database_owner.
    format!(
        "SELECT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END
           FROM pg_catalog.pg_namespace AS of
           JOIN pg_catalog.pg_class AS ours ON ours.relnamespace = of.oid AND ours.relname = 'rollbook_migrations'
          CROSS JOIN LATERAL aclexplode(coalesce(of.nspacl, acldefault('n', of.nspowner))) AS granted
          WHERE of.nspname = '{schema}' AND granted.privilege_type = 'CREATE' AND granted.grantee <> ours.relowner
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS known
                             WHERE known.oid = granted.grantee AND (known.rolsuper OR known.rolname = 'pg_database_owner'))
          GROUP BY 1 ORDER BY 1"
    )
}

/// Returns the weakness that a role may create objects in the schema.
pub(super) fn weakness(schema: &str, role: String) -> Weakness {
    let role = plain(role);
    let what = format!(
        "{role} may create functions in the schema {schema}: Rollbook's functions that run with their owner's rights, \
         such as has_permission, could be made to call them"
    );
    Weakness::new(what, format!("REVOKE CREATE ON SCHEMA {schema} FROM {role}"))
}
