//! Values of a statement.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Encode, Postgres, Type};

/// Values of a statement.
#[derive(Clone, Default)]
pub(crate) struct Values {
    arguments: PgArguments,
    refused: Option<String>,
}

impl Values {
    pub(crate) fn with<'v>(mut self, value: impl Encode<'v, Postgres> + Type<Postgres>) -> Self {
        if let Err(error) = self.arguments.add(value) {
            self.refused = Some(error.to_string());
        }
        self
    }

    /// Adds an array.
    pub(crate) fn with_all<'v, T>(self, values: impl IntoIterator<Item = T>) -> Self
    where
        Vec<T>: Encode<'v, Postgres> + Type<Postgres>,
    {
        self.with(values.into_iter().collect::<Vec<T>>())
    }

    pub(crate) fn with_limit(self, limit: usize) -> Self {
        self.with(i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// Returns the values as arguments, for a statement that may run again.
    ///
    /// # Errors
    /// One of them could not be encoded.
    pub(crate) fn arguments(&self) -> sqlx::Result<PgArguments> {
        self.clone().into_arguments()
    }

    /// Returns the values as arguments.
    ///
    /// # Errors
    /// One of them could not be encoded.
    pub(crate) fn into_arguments(self) -> sqlx::Result<PgArguments> {
        match self.refused {
            Some(error) => Err(sqlx::Error::Encode(error.into())),
            None => Ok(self.arguments),
        }
    }
}
