//! Properties that must hold for any input from outside. Each `check` panics if one does not.
//!
//! * The second implementations here (verifiers, a JSON parser, a finder of escapes) are written from the
//!   scheme and the standard. They share no code with the code under test: not the HMAC, not base64, not
//!   `serde_json`.
//! * The input can be any bytes: a check must not be slow, deeply recursive or wrong on meaningless bytes.

pub mod event;
pub mod json;
pub mod sanitize;
pub mod signature;
pub mod token;
