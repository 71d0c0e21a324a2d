//! The queue on real Redis servers.

mod access;
mod cluster;
mod connections;
mod durability;
mod fake;
mod healing;
mod idle;
mod lanes;
mod outages;
mod partial;
mod queue;
mod removal;
mod replicas;
mod room;
mod sentinel;
mod shards;
mod storm;
mod support;
mod tls;
