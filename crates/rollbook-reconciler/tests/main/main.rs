//! The reconciler against Clerk's API in memory: walks, deletions, faults, resumption, and any interleaving
//! with webhooks.

mod approvals;
mod backfills;
mod background;
mod cascades;
mod clock_steps;
mod clocks;
mod contradictions;
mod cursors;
mod deletions;
mod faults;
mod features;
mod instance;
mod interleavings;
mod lying;
mod mutants;
mod numbers;
mod reading_ahead;
mod resumption;
mod resyncs;
mod schedules;
mod scripted;
mod sizes;
mod statuses;
mod strangers;
mod undeleted;
mod unproven;
mod walks;
mod world;
