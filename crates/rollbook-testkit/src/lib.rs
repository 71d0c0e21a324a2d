//! Test support: the specifications of the ports as tests, and everything that tests run on. Never shipped.
//!
//! * [`clock`]: a clock that a test controls.
//! * [`memory`]: a queue, a store and Clerk's API in memory. They are the executable specification: simple and obvious.
//! * [`conformance`]: the promises of each port, one named test per property, for every engine.
//! * [`properties`]: properties that hold for any history, and the wrong merge rules that they detect.
//! * [`events`]: events as Clerk sends them.
//! * [`faults`]: wrappers around a port that fail, panic or block as a test says.
//! * [`hooks`]: an HTTP server that receives pushes, and answers as a test says.
//! * [`log`]: the log lines of a test.
//! * [`process`]: the real binary as a separate process.
//! * [`servers`]: real servers, private to a test.
//! * [`synthetic`]: a Clerk instance of any size for the simulated API.
//! * [`tokens`]: session tokens, signed with keys of the tests.

pub mod clock;
pub mod conformance;
mod delegate;
pub mod events;
pub mod faults;
pub mod feed_audit;
pub mod hooks;
pub mod log;
pub mod memory;
pub mod process;
pub mod properties;
pub mod queues;
pub mod servers;
pub mod synthetic;
pub mod tokens;
