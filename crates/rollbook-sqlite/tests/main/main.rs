//! Tests of the SQLite engines: the conformance suites of queue and store, and tests about files.

mod audit;
mod bytes;
mod disk;
mod queue;
mod retention;
mod steps;
mod store;
mod triggers;
