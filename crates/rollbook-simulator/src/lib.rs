//! Stand-in for Clerk and Svix. `rollbook send`, `rollbook demo`, tests and benches send its events.
//!
//! * [`samples`]: one built-in event of every type. [`story`]: the same as one story, with ids that are obviously invented.
//! * [`history`]: every event of a simulated Clerk instance, and the [`truth`]: the rows that must result.
//! * [`sender`]: deliveries over real HTTP, signed and retried as Svix does.
//! * [`api`]: Clerk's Backend API over real HTTP, with faults on demand. It serves the [`state`] of a history,
//!   or other objects.
//! * `losses`: events that never arrive, and what a reconciliation can repair of them.
//!
//! Constraints:
//!
//! * The same seed gives the same bytes on every machine.
//! * The truth is the oracle of the merge, so it shares no code with the merge. It is derived from the
//!   simulated instance's own objects, never by parsing the events.
//! * All data is invented: names and addresses belong to nobody, domains end in `.example`.

pub mod api;
mod event;
pub mod history;
mod ids;
mod instance;
mod losses;
mod model;
mod names;
pub mod samples;
pub mod sender;
pub mod state;
pub mod story;
pub mod truth;
