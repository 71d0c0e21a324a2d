//! Promises of each port, as one named test per property. The tests of an engine run a whole suite with one
//! macro. Two engines that pass it differ only where the port leaves a choice.
//!
//! * Queues: [`queue_conformance!`](crate::queue_conformance) and, against the model in memory,
//!   [`queue_agrees_with_model!`](crate::queue_agrees_with_model).
//! * Stores: [`store_conformance!`](crate::store_conformance) and, for histories in any order,
//!   [`store_converges!`](crate::store_converges).

pub mod queue;
pub mod store;
