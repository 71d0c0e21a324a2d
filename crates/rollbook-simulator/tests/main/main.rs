//! Tests of the simulator's public interface: samples, histories, sender and Clerk's API.

mod api;
mod history;
mod losses;
mod samples;
mod sender;
mod server;
