//! The API over real connections, on the store in memory and on a real Postgres.

mod answers;
mod engine;
mod openapi;
mod polls;
mod postgres;
mod stage;
mod streams;
