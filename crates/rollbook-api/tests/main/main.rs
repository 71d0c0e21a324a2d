//! The API over real connections, on the store in memory and on a real Postgres.

mod answers;
mod authorize;
mod context;
mod engine;
mod keys;
mod openapi;
mod polls;
mod postgres;
mod refreshes;
mod rows;
mod sessions;
mod stage;
mod streams;
