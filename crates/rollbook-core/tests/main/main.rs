//! What the core promises, checked from outside: the verifier against its oracle, and reading events.

mod events;
mod oracle;
mod signatures;
mod values;
