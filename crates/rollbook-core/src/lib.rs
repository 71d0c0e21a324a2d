//! Rules and ports of Rollbook.
//!
//! Constraints, each enforced by a test or a lint:
//!
//! * No I/O, no clock, no randomness: a rule gets everything it needs as a parameter.
//! * A rule is a function ([`signature::verify`], [`event::parse`], [`merge::fold`],
//!   [`retry::RetryPolicy::decide`]); an external system is a trait ([`queue`], [`store`], [`backend`], [`time::Clock`]).
//! * Nothing here names a database, a queue or a web server.
//!
//! Path of one delivery through the modules: [`signature`] decides whether it is genuine. [`delivery`] is the
//! part of it that the [`queue`] stores. [`event`] parses it by the [`catalog`] into a [`change`]. [`merge`]
//! decides which change wins. [`store`] writes rows. [`retry`] decides what happens after a failure.
//!
//! A reconciliation reads objects of Clerk's API ([`source`]), and [`compare`] decides which of them differ from
//! the rows ([`drift`]).
//!
//! For the SQL engines: [`table_layout`] is what their tables share, [`pace`] sizes the steps of large work, [`sweep`]
//! orders the rows that retention reads, [`sanitize`] replaces what not every engine can store, [`json`] writes it in one form, and [`rehearsal`] has
//! changes that a check of a store writes and rolls back.
//!
//! For the connections: [`url`] parses URLs without repeating them, [`protection`] says how bytes are protected on their
//! way, [`weakness`] is a finding with its fix, [`trace`] the trace context of a delivery, [`live`] a value that is
//! replaced while it is used, and [`lock`] locks one.

pub mod backend;
pub mod catalog;
pub mod change;
pub mod compare;
pub mod delivery;
pub mod drift;
pub mod event;
pub mod json;
pub mod live;
pub mod lock;
pub mod merge;
pub mod named;
pub mod pace;
pub mod protection;
pub mod queue;
pub mod rehearsal;
pub mod retry;
pub mod sanitize;
mod serialize;
pub mod signature;
pub mod source;
pub mod store;
pub mod sweep;
pub mod table_layout;
pub mod time;
pub mod trace;
pub mod url;
pub mod weakness;
