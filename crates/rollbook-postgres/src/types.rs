//! Statements, and timestamps and JSON in Postgres's binary forms, exact to the digit.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::json::Document;
use rollbook_core::time::Timestamp;
use serde_json::Value;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Row as _, Type};

use crate::fault::Unreadable;

/// 2000-01-01, from which Postgres counts its microseconds, in milliseconds since 1970.
const EPOCH: i64 = 946_684_800_000;
/// Timestamps that can be shown: the years 1 to 9999.
const SHOWN: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_207_200_000;
/// The version byte before the text of a jsonb.
const JSONB: u8 = 1;

/// A statement. Its identifiers come from the catalog and the validated schema; its values are bound.
pub(crate) type Sql = Arc<str>;

/// A `timestamptz`. A timestamp outside of [`SHOWN`] is stored as the nearest one inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

/// The text of a `jsonb`.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a>(pub(crate) &'a str);

/// A parsed `jsonb`.
pub(crate) struct Read<T>(pub(crate) T);

impl Time {
    /// Returns the timestamp as a bound of a range; `None` if it is before or after all that can be stored.
    pub(crate) fn bound(at: Timestamp) -> Option<Self> {
        SHOWN.contains(&at.as_millis()).then_some(Self(at))
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let millis = self.0.as_millis().clamp(*SHOWN.start(), *SHOWN.end());
        buffer.extend_from_slice(&((millis - EPOCH) * 1000).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        // Infinity, which Rollbook never writes, is the greatest number and reads as the last timestamp.
        Ok(Self(Timestamp::from_millis((micros.div_euclid(1000)).saturating_add(EPOCH))))
    }
}

impl Type<Postgres> for Json<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(3802))
    }
}

impl PgHasArrayType for Json<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(3807))
    }
}

impl Encode<'_, Postgres> for Json<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl<T> Type<Postgres> for Read<T> {
    fn type_info() -> PgTypeInfo {
        Json::type_info()
    }
}

impl Decode<'_, Postgres> for Read<Value> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(serde_json::from_slice(jsonb(&value)?)?))
    }
}

impl Decode<'_, Postgres> for Read<Document> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(Document::read(jsonb(&value)?)?))
    }
}

/// Returns the text of a `jsonb`.
fn jsonb<'r>(value: &PgValueRef<'r>) -> Result<&'r [u8], BoxDynError> {
    Ok(value.as_bytes()?.strip_prefix(&[JSONB]).ok_or("a jsonb of an unknown version")?)
}

/// Reads a count, which is never negative.
pub(crate) fn count(row: &PgRow, column: usize) -> sqlx::Result<u64> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| Unreadable("a count").into())
}

/// Returns the time span of this many milliseconds. None is left of a time that has passed.
pub(crate) fn span(millis: i64) -> Duration {
    Duration::from_millis(millis.max(0).unsigned_abs())
}

/// Reads a number that is never negative, such as that of a table, from the first column.
pub(crate) fn number(row: &PgRow) -> sqlx::Result<usize> {
    usize::try_from(row.try_get::<i32, _>(0)?).map_err(|error| sqlx::Error::Decode(error.into()))
}
