//! What each port promises, as one named test per property. An engine's own tests run a whole suite
//! with one macro; two engines that pass it differ only where the port leaves the choice.
//!
//! * Queues: [`queue_conformance!`](crate::queue_conformance) and, against the model in memory,
//!   [`queue_agrees_with_model!`](crate::queue_agrees_with_model).
//! * Stores: [`store_conformance!`](crate::store_conformance) and, for histories in any order,
//!   [`store_converges!`](crate::store_converges).

pub mod queue;
pub mod store;
