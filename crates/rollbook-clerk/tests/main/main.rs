//! Tests of the client against a small private HTTP server.

mod answers;
mod proofs;
mod secrets;
mod server;
mod urls;
