//! End to end: the real binary, killed and restarted, and what holds the house together.

mod architecture;
mod audit;
mod crashes;
mod damage;
mod documents;
mod erasing;
mod faults;
mod fixtures;
mod growth;
mod hostile;
mod intake;
mod large_bodies;
mod logs;
mod migrations;
mod moving;
mod operations;
mod previous_release;
mod raw_http;
mod rolling;
mod rows;
mod slow_clients;
mod slow_redis;
mod statuses;
mod stopping;
mod store_network;
mod units;
