//! Conformance suites on the in-memory models, and tests of the models and wrappers.

mod faults;
mod proxy;
mod queue;
mod servers;
mod shim;
mod store;
