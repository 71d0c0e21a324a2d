//! The rules and the ports of Rollbook.
//!
//! Constraints, each held by a test or a lint:
//!
//! * no I/O, no clock, no randomness: what a rule needs of the world is a parameter;
//! * a rule is a function ([`signature::verify`], [`event::parse`], [`merge::fold`],
//!   [`retry::RetryPolicy::decide`]), a system is a trait ([`queue`], [`store`], [`time::Clock`]);
//! * nothing here names a database, a queue or a web server.
//!
//! The way of one delivery, in the order of the modules: [`signature`] decides whether it is genuine,
//! [`delivery`] is what the [`queue`] keeps of it, [`event`] reads it by the [`catalog`] into a
//! [`change`], [`merge`] says which change wins, [`store`] makes it rows, and [`retry`] says what
//! happens when that fails. [`trace`] is what a sender says of the trace that a delivery is part of, and [`rehearsal`] is written and rolled back by
//! whoever checks a store. [`pace`] says how many rows go into one step of work that grows.

pub mod catalog;
pub mod change;
pub mod delivery;
pub mod event;
pub mod merge;
pub mod pace;
pub mod protection;
pub mod queue;
pub mod rehearsal;
pub mod retry;
pub mod sanitize;
pub mod signature;
pub mod store;
pub mod sweep;
pub mod time;
pub mod trace;
pub mod url;
