//! What an erasure removes from the ledger: the lines about a parent and its rows, in steps.
//!
//! It comes after the content: a ledger that refuses to lose lines keeps no content. What is refused is isolated by halves,
//! as rows are, and passed over.

use std::fmt;

use rollbook_core::store::StoreError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::PostgresStore;
use super::cascade::{Ended, LOOK_MAX, Turn};
use super::inherit::BATCH_MAX;
use super::lines::Line;
use super::sql::Statements;
use crate::transaction::{Session, Work};

/// Maximum lines that are found at once.
const LINES_MAX: i64 = 10_000;

/// Lines of the ledger that something keeps.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) count: u64,
    example: String,
    why: String,
}

impl Kept {
    fn add(&mut self, count: u64, example: String, why: &str) {
        if self.count == 0 {
            (self.example, self.why) = (example, why.to_owned());
        }
        self.count += count;
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, example, why } = self;
        write!(f, "{count} lines of the ledger (deliveries) about them stay, such as {example}: {why}")
    }
}

impl PostgresStore {
    /// Removes the ledger's lines about these ids, in steps.
    pub(super) async fn forget(
        &self,
        ids: &[String],
        line: &Line,
        turn: &mut Turn<'_>,
    ) -> Result<Ended, StoreError> {
        let before = turn.kept.count;
        for ids in ids.chunks(BATCH_MAX) {
            let mut after = String::new();
            loop {
                let about = About { statements: &self.statements, ids, after: &after };
                let found = self.steps().long(LOOK_MAX, &about).await?;
                let Some(last) = found.last() else { break };
                after.clone_from(last);
                let mut open = vec![found];
                while let Some(some) = open.pop() {
                    if turn.is_over() {
                        // The next try begins with the same entries: it waits longer each time.
                        let is_kept = turn.kept.count > before;
                        return Ok(if is_kept { Ended::Kept } else { Ended::Unfinished });
                    }
                    self.hold(line, turn).await?;
                    self.remove_lines(some, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
        Ok(if turn.kept.count > before { Ended::Kept } else { Ended::Done })
    }

    /// One step: as many of these lines as the pace says. The rest, and what is to be tried in smaller steps, is open.
    async fn remove_lines(
        &self,
        mut some: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.ledger_pace.size();
        if some.len() > size {
            open.push(some.split_off(size));
        }
        let forget = Forget { statements: &self.statements, lines: &some };
        match self.steps().paced(&self.ledger_pace, some.len(), &forget).await? {
            Ok((left, example)) => {
                turn.ledger += some.len() as u64 - left.min(some.len() as u64);
                if let Some(example) = example {
                    turn.kept.add(
                        left,
                        example,
                        "a trigger, rule or policy of the table deliveries keeps them",
                    );
                }
            }
            Err(_) if some.len() > 1 => {
                let later = some.split_off(some.len() / 2);
                open.extend([later, some]);
            }
            Err(why) => turn.kept.add(1, some.swap_remove(0), why.text()),
        }
        Ok(())
    }
}

/// Finds the lines about these ids, from behind a `svix-id`, at most [`LINES_MAX`].
pub(super) struct About<'a> {
    pub(super) statements: &'a Statements,
    pub(super) ids: &'a [String],
    pub(super) after: &'a str,
}

impl Work for About<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let mut arguments = texts(self.ids)?;
        arguments.add(self.after).map_err(sqlx::Error::Encode)?;
        arguments.add(LINES_MAX).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(&self.statements.about, arguments).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}

/// Removes these lines. The output is how many of them are left, and one of those.
struct Forget<'a> {
    statements: &'a Statements,
    lines: &'a [String],
}

impl Work for Forget<'_> {
    type Output = (u64, Option<String>);

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        session.fetch(&self.statements.forget, texts(self.lines)?).await?;
        let left = session.fetch(&self.statements.kept, texts(self.lines)?).await?;
        let left = left.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok((u64::try_from(left.try_get::<i64, _>(0)?).unwrap_or_default(), left.try_get(1)?))
    }
}

fn texts(texts: &[String]) -> sqlx::Result<PgArguments> {
    let mut arguments = PgArguments::default();
    arguments.add(texts.iter().map(String::as_str).collect::<Vec<&str>>()).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}
