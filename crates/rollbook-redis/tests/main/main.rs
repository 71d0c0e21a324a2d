//! The queue on real Redis servers.

mod queue;
