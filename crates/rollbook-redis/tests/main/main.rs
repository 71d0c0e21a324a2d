//! The queue on real Redis servers.

mod access;
mod audit;
mod clocks;
mod cluster;
mod connections;
mod durability;
mod fake;
mod healing;
mod idle;
mod lanes;
mod lost_answers;
mod odd_ids;
mod outages;
mod owner;
mod partial;
mod queue;
mod removal;
mod replicas;
mod room;
mod sentinel;
mod shards;
mod sizes;
mod storm;
mod support;
mod tls;
mod work;
