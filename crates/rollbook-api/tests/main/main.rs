//! The API over real connections, on the store in memory.

mod answers;
mod openapi;
mod polls;
mod stage;
mod streams;
