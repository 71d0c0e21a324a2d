//! Rights that a migration lacks, as GRANT statements.
//!
//! Postgres reports a missing right in words that follow the server's language, so the catalog is asked instead.

use super::schema;
use crate::fault::Fault;
use crate::settings::PostgresSettings;
use crate::transaction::{Database, Session, Work};

/// Adds the statements that grant the missing rights to an error of a migration, if rights are missing. The words of the
/// error stay.
pub(super) async fn with_grants(database: &Database, settings: &PostgresSettings, fault: Fault) -> Fault {
    let Fault::Deployment(text) = &fault else { return fault };
    let Ok(schema) = schema(&settings.schema) else { return fault };
    match database.run(&Missing { schema: &schema }).await {
        Ok(grants) if !grants.is_empty() => Fault::Deployment(format!(
            "{text}. Fix, as a superuser or the owner: {}; then run rollbook migrate again",
            grants.join("; ")
        )),
        _ => fault,
    }
}

/// Reads the rights that this role lacks to create or change the schema.
struct Missing<'a> {
    schema: &'a str,
}

impl Work for Missing<'_> {
    type Output = Vec<String>;

    /// The role may lack the right to read the state of the schema.
    const GUARDED: bool = false;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        use sqlx::Row as _;
        // The schema's name is validated, so it can be written into a text. One owner has all tables of Rollbook.
        let sql = format!(
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
              WHERE relname = 'rollbook_migrations' AND NOT pg_has_role(relowner, 'USAGE')",
            schema = self.schema
        );
        let rows = session.ask(&sql).await?;
        let grant = |row| -> sqlx::Result<String> {
            let grant: String = sqlx::postgres::PgRow::try_get(row, 0)?;
            // A name may contain any character, a log line may not.
            Ok(grant.chars().map(|each| if each.is_control() { ' ' } else { each }).collect())
        };
        rows.iter().map(grant).collect()
    }
}
