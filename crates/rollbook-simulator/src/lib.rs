//! Stands in for Clerk and Svix: what `rollbook send`, `rollbook demo`, tests and benches send.
//!
//! * [`samples`]: one event of every type, built in;
//! * [`history`]: a Clerk instance that lives for a while, every event it emits, and the [`truth`]: the
//!   rows that must come of them;
//! * [`sender`]: deliveries over real HTTP, signed and retried as Svix does.
//!
//! Constraints:
//!
//! * The same seed gives the same bytes, on every machine.
//! * The truth is the oracle of the merge, so it shares no code with it: it comes from the simulated
//!   instance's own objects, never from reading the events back.
//! * All data is invented: names and addresses belong to nobody, domains end in `.example`.

pub mod history;
mod ids;
mod instance;
mod model;
mod names;
pub mod samples;
pub mod sender;
pub mod truth;
