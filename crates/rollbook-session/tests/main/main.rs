//! Tests of the public interface: good tokens, bad tokens, keys, requests, and tokens of other implementations.

mod example;
mod extractors;
mod good;
mod keys;
mod mint;
mod others;
mod properties;
mod published;
mod refused;
mod requests;
mod weights;
