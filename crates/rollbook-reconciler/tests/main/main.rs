//! The reconciler against Clerk's API in memory: walks, deletions, faults, resumption, and any interleaving
//! with webhooks.

mod deletions;
mod faults;
mod instance;
mod interleavings;
mod mutants;
mod reading_ahead;
mod resumption;
mod resyncs;
mod schedules;
mod scripted;
mod statuses;
mod walks;
mod world;
