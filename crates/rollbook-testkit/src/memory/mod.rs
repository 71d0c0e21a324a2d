//! The ports in memory: what each must do, in the plainest code that does it.
//!
//! Nothing here survives the process. Everything else that the ports promise holds, and the
//! conformance suites run on these models as on any engine.

pub mod queue;
pub mod store;
