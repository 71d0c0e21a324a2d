//! The simulator from outside: its samples, its histories and its sender.

mod history;
mod samples;
mod sender;
mod server;
