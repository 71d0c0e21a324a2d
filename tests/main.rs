//! End to end: the real binary, killed and restarted, and what holds the house together.

mod architecture;
mod audit;
mod crashes;
mod fixtures;
mod hostile;
mod migrations;
mod raw_http;
mod slow_clients;
mod statuses;
mod stopping;
