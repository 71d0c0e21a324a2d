//! The ports in memory: the specification of each, in the simplest code.
//!
//! Data does not survive the process. Everything else that the ports promise holds, and the conformance
//! suites run on these models as on any engine.

pub mod clerk;
pub mod queue;
pub mod store;
