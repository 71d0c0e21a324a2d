//! For tests only: what every engine must keep, written as tests, and what tests run on.
//!
//! * [`clock`]: a clock that moves when it is told to.
//! * [`memory`]: a queue and a store in memory. They are the executable specification: obvious, and
//!   never clever.
//! * [`conformance`]: what a port promises, one named test for each property, for every engine.
//! * [`properties`]: what holds for any history, and the wrong merge rules that it finds out.
//! * [`events`]: events as Clerk sends them.
//! * [`faults`]: wrappers around a port that fail, panic or block as a test says.
//! * [`process`]: the real binary as a process of its own.
//! * [`servers`]: real servers, private to a test.

pub mod clock;
pub mod conformance;
pub mod events;
pub mod faults;
pub mod memory;
pub mod process;
pub mod properties;
pub mod queues;
pub mod servers;
