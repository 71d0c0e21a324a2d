//! Applying a batch.

use std::collections::{BTreeMap, HashMap};

use rollbook_core::catalog::{Kind, RESOURCES, Resource};
use rollbook_core::change::{Applied, Assertion, Change, Effect, Field, Row, Version};
use rollbook_core::merge::{self, Stored};
use rollbook_core::time::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, Row as _};

use super::sql::Statements;
use crate::transaction::{Session, Work};
use crate::types::{Json, Time};

/// What is known of the subjects of each of [`RESOURCES`], by id.
type Known = [HashMap<String, Stored>; RESOURCES.len()];

/// Merges the changes into their tables and writes the ledger.
pub(super) struct Apply<'a> {
    pub(super) statements: &'a Statements,
    pub(super) changes: &'a [Change],
    pub(super) now: Timestamp,
}

/// The changes of one table.
struct Part<'a> {
    resource: &'static Resource,
    /// Their places in the batch.
    positions: Vec<usize>,
    assertions: Vec<&'a Assertion>,
    /// The `svix-id` of each.
    origins: Vec<&'a str>,
}

impl Work for Apply<'_> {
    type Output = Vec<Applied>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<Applied>> {
        let parts = RESOURCES.map(|resource| self.part(resource));
        let mut outcomes = vec![Applied::Ignored; self.changes.len()];
        if parts.iter().any(|part| !part.assertions.is_empty()) {
            let ids = parts.each_ref().map(|part| part.assertions.iter().map(|change| &*change.id).collect());
            let known = self.known(session, ids).await?;
            for (number, (part, known)) in parts.iter().zip(known).enumerate() {
                let applied = self.apply(session, number, part, known).await?;
                for (position, outcome) in part.positions.iter().zip(applied) {
                    outcomes[*position] = outcome;
                }
            }
        }
        self.record(session, &outcomes).await?;
        Ok(outcomes)
    }
}

impl<'a> Apply<'a> {
    fn part(&self, resource: &'static Resource) -> Part<'a> {
        let mut part = Part { resource, positions: Vec::new(), assertions: Vec::new(), origins: Vec::new() };
        for (position, change) in self.changes.iter().enumerate() {
            if let Effect::Merge(assertion) = &change.effect
                && assertion.resource == resource
            {
                part.positions.push(position);
                part.assertions.push(assertion);
                part.origins.push(change.origin.message_id.as_str());
            }
        }
        part
    }

    /// At least one table has ids.
    async fn known(
        &self,
        session: &mut Session<'_>,
        ids: [Vec<&str>; RESOURCES.len()],
    ) -> sqlx::Result<Known> {
        let asked = |(_, ids): &(usize, Vec<&str>)| !ids.is_empty();
        let (numbers, ids): (Vec<usize>, Vec<_>) = ids.into_iter().enumerate().filter(asked).unzip();
        let mut arguments = PgArguments::default();
        for ids in ids {
            arguments.add(ids).map_err(sqlx::Error::Encode)?;
        }
        let mut known = Known::default();
        for row in session.fetch(&self.statements.stored(numbers.into_iter()), arguments).await? {
            let number = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            known[number].insert(row.try_get(1)?, stored(&row)?);
        }
        Ok(known)
    }

    async fn apply(
        &self,
        session: &mut Session<'_>,
        number: usize,
        part: &Part<'_>,
        mut known: HashMap<String, Stored>,
    ) -> sqlx::Result<Vec<Applied>> {
        let folded = merge::fold(&part.assertions, |id| known.get(id).copied());
        if folded.winners.is_empty() {
            return Ok(folded.outcomes);
        }
        let arguments = upsert_arguments(part, &folded.winners, self.now).map_err(sqlx::Error::Encode)?;
        let rows = session.fetch(&self.statements.of(part.resource).upsert, arguments).await?;
        let mut advanced: HashMap<String, bool> = HashMap::with_capacity(rows.len());
        for row in rows {
            advanced.insert(row.try_get(0)?, row.try_get(1)?);
        }
        let winners = folded.winners.iter().map(|winner| &*part.assertions[*winner].id);
        let lost: Vec<&str> = winners.filter(|id| !advanced.contains_key(*id)).collect();
        let mut outcomes = folded.outcomes;
        if !lost.is_empty() {
            // Another worker has written them since we read: what it wrote is committed now.
            let mut ids: [Vec<&str>; RESOURCES.len()] = Default::default();
            ids[number] = lost;
            let mut again = self.known(session, ids).await?;
            known.extend(std::mem::take(&mut again[number]));
            outcomes = merge::fold(&part.assertions, |id| known.get(id).copied()).outcomes;
        }
        for (outcome, change) in outcomes.iter_mut().zip(&part.assertions) {
            // Likewise: there was a row, older than ours.
            if *outcome == Applied::Inserted && advanced.get(&change.id) == Some(&false) {
                *outcome = Applied::Updated;
            }
        }
        Ok(outcomes)
    }

    /// The first thing that became of a delivery stays: when it comes again there is nothing new to tell.
    async fn record(&self, session: &mut Session<'_>, outcomes: &[Applied]) -> sqlx::Result<()> {
        let mut lines: BTreeMap<&str, (&Change, Applied)> = BTreeMap::new();
        for (change, outcome) in self.changes.iter().zip(outcomes) {
            lines.entry(change.origin.message_id.as_str()).or_insert((change, *outcome));
        }
        let changes = || lines.values().map(|(change, _)| *change);
        let mut arguments = PgArguments::default();
        let mut add = || -> Result<(), BoxDynError> {
            arguments.add(lines.keys().copied().collect::<Vec<&str>>())?;
            arguments.add(changes().map(|change| &*change.origin.event_type).collect::<Vec<&str>>())?;
            arguments.add(changes().map(Change::subject_id).collect::<Vec<Option<&str>>>())?;
            arguments.add(lines.values().map(|(_, outcome)| outcome.as_str()).collect::<Vec<&str>>())?;
            arguments.add(changes().map(|change| Time(change.origin.event_at)).collect::<Vec<Time>>())?;
            arguments.add(changes().map(|change| Time(change.origin.received_at)).collect::<Vec<Time>>())?;
            let attempts = |change: &Change| i32::try_from(change.origin.attempt).unwrap_or(i32::MAX);
            arguments.add(changes().map(attempts).collect::<Vec<i32>>())?;
            arguments.add(Time(self.now))
        };
        add().map_err(sqlx::Error::Encode)?;
        session.fetch(&self.statements.record, arguments).await.map(drop)
    }
}

fn stored(row: &PgRow) -> sqlx::Result<Stored> {
    let hash: Vec<u8> = row.try_get(5)?;
    let hash = hash.try_into().map_err(|_| sqlx::Error::Decode("version_hash has another length".into()))?;
    let version =
        Version { dead: row.try_get(2)?, updated_at: row.try_get(3)?, event_at: row.try_get(4)?, hash };
    Ok(Stored { version: Some(version), floor: row.try_get(6)? })
}

/// One array for each column. A deleted row keeps its id, its version and when it was deleted: no content.
fn upsert_arguments(part: &Part<'_>, winners: &[usize], now: Timestamp) -> Result<PgArguments, BoxDynError> {
    let changes: Vec<&Assertion> = winners.iter().map(|winner| part.assertions[*winner]).collect();
    let contents: Vec<Option<&Row>> = changes.iter().map(|change| change.row.as_ref()).collect();
    let mut arguments = PgArguments::default();
    arguments.add(changes.iter().map(|change| &*change.id).collect::<Vec<&str>>())?;
    for (index, column) in part.resource.columns.iter().enumerate() {
        let values = contents.iter().map(|row| row.map(|row| &row.values[index]));
        add_column(&mut arguments, column.kind, values)?;
    }
    let time = |at: Option<Timestamp>| at.map(Time);
    let each = |value: fn(&Row) -> Option<Timestamp>| -> Vec<Option<Time>> {
        contents.iter().map(|row| time(row.and_then(value))).collect()
    };
    arguments
        .add(contents.iter().map(|row| row.map(|row| Json(&row.data))).collect::<Vec<Option<Json<'_>>>>())?;
    arguments.add(each(|row| row.created_at))?;
    arguments.add(each(|row| row.updated_at))?;
    let versions = || changes.iter().map(|change| &change.version);
    let deleted_at = |version: &Version| version.dead.then(|| Time(Timestamp::from_millis(version.event_at)));
    arguments.add(versions().map(deleted_at).collect::<Vec<Option<Time>>>())?;
    arguments.add(vec![Time(now); changes.len()])?;
    arguments.add(winners.iter().map(|winner| part.origins[*winner]).collect::<Vec<&str>>())?;
    arguments.add(versions().map(|version| version.dead).collect::<Vec<bool>>())?;
    arguments.add(versions().map(|version| version.updated_at).collect::<Vec<i64>>())?;
    arguments.add(versions().map(|version| version.event_at).collect::<Vec<i64>>())?;
    arguments.add(versions().map(|version| &version.hash[..]).collect::<Vec<&[u8]>>())?;
    Ok(arguments)
}

/// The values of one typed column; what is of another kind, which no event gives, is null.
fn add_column<'a>(
    arguments: &mut PgArguments,
    kind: Kind,
    values: impl Iterator<Item = Option<&'a Field>>,
) -> Result<(), BoxDynError> {
    macro_rules! array {
        ($type:ty, $field:pat => $value:expr) => {{
            let value = |field: &'a Field| match field {
                $field => Some($value),
                _ => None,
            };
            arguments.add(values.map(|field| field.and_then(value)).collect::<Vec<Option<$type>>>())
        }};
    }
    match kind {
        Kind::Text | Kind::Id => array!(&str, Field::Text(text) => text.as_str()),
        Kind::Integer => array!(i64, Field::Integer(number) => *number),
        Kind::Bool => array!(bool, Field::Bool(yes) => *yes),
        Kind::Time => array!(Time, Field::Time(at) => Time(*at)),
        Kind::Json => array!(Json<'_>, Field::Json(text) => Json(text)),
    }
}
