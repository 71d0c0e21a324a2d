//! Tests of the simulator's public interface: samples, histories and sender.

mod api;
mod history;
mod samples;
mod sender;
mod server;
