//! End to end: the real binary, killed and restarted, and what holds the house together.

mod architecture;
mod audit;
mod crashes;
mod documents;
mod erasing;
mod fixtures;
mod hostile;
mod logs;
mod migrations;
mod moving;
mod operations;
mod raw_http;
mod rolling;
mod rows;
mod slow_clients;
mod slow_redis;
mod statuses;
mod stopping;
mod units;
