//! Tests of the simulator's public interface: samples, histories and sender.

mod history;
mod samples;
mod sender;
mod server;
