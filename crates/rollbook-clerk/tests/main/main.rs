//! Tests of the client against a small private HTTP server.

mod answers;
mod copies;
mod proofs;
mod secrets;
mod server;
mod strange;
mod urls;
