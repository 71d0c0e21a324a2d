//! The suites on the models in memory, and the models and wrappers themselves.

mod faults;
mod proxy;
mod queue;
mod servers;
mod shim;
mod store;
