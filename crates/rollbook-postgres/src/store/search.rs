//! Search for texts in the content of a table. No index supports it, so the table is read in steps by id. The size of a
//! step follows the time that steps take, so that a large table meets no time limit.

use rollbook_core::catalog::Resource;
use rollbook_core::pace::Pace;
use rollbook_core::store::{ReadProgress, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::attempt::Failed;
use crate::transaction::Statement;
use crate::types::{Sql, count};
use crate::values::Values;

impl PostgresStore {
    /// Returns the ids of rows, at most `limit`, with content that may contain one of these texts.
    pub(super) async fn search(
        &self,
        resource: &'static Resource,
        texts: &[String],
        limit: usize,
        progress: &ReadProgress<'_>,
    ) -> Result<Vec<String>, StoreError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let sql = statement(&self.schema, resource.table);
        let patterns: Vec<String> = texts.iter().map(|text| pattern(text)).collect();
        let pace = Pace::default();
        let (mut ids, mut after, mut rows) = (Vec::new(), String::new(), 0);
        loop {
            let size = pace.size();
            let values = Values::default().with(after.as_str()).with_limit(size).with(&patterns);
            let step = Statement { sql: &sql, values, read: page };
            match self.steps().paced(&pace, size, &step).await? {
                Ok(mut found) => {
                    let Some(found) = found.pop() else { return Ok(ids) };
                    rows += found.rows;
                    progress(rows);
                    ids.extend(found.ids);
                    ids.truncate(limit);
                    match found.last {
                        Some(last) if ids.len() < limit => after = last,
                        _ => return Ok(ids),
                    }
                }
                Err(Failed::TimedOut(_)) if size > 1 => {}
                Err(failed) => return Err(failed.into()),
            }
        }
    }
}

/// SELECT of the next rows by id: (after, number of rows, patterns). Returns the last id, the ids that match, and the number
/// of rows.
fn statement(schema: &str, table: &str) -> Sql {
    // With the collation "C" only ASCII changes its case, as the patterns expect, whatever the database's collation is.
    let sql = format!(
        r#"SELECT max(id), coalesce(array_agg(id) FILTER (WHERE lower(data::text COLLATE "C") LIKE ANY ($3)), '{{}}'),
                  count(*)
           FROM (SELECT id, data FROM "{schema}".{table} WHERE id > $1 ORDER BY id LIMIT $2) AS page"#
    );
    sql.into()
}

/// Returns the LIKE pattern that finds a text within JSON in lower case. A character beyond ASCII matches any text,
/// because its upper and lower case may differ in length.
fn pattern(text: &str) -> String {
    let json = serde_json::Value::from(text.to_lowercase()).to_string();
    let mut pattern = String::from("%");
    for character in json[1..json.len() - 1].chars() {
        match character {
            '%' | '_' | '\\' => pattern.extend(['\\', character]),
            other if other.is_ascii() => pattern.push(other),
            _ => pattern.push('%'),
        }
    }
    pattern.push('%');
    pattern
}

struct Page {
    /// Last id; `None` at the end of the table.
    last: Option<String>,
    ids: Vec<String>,
    rows: u64,
}

fn page(row: &PgRow) -> sqlx::Result<Page> {
    Ok(Page { last: row.try_get(0)?, ids: row.try_get(1)?, rows: count(row, 2)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_wildcards_and_quotes_as_they_are_and_any_case_of_other_letters() {
        assert_eq!(pattern("A_b%c@X.example"), "%a\\_b\\%c@x.example%");
        assert_eq!(pattern("\"a\\b\"@x"), "%\\\\\"a\\\\\\\\b\\\\\"@x%");
        assert_eq!(pattern("ÜNAL@x"), "%%nal@x%");
    }
}
