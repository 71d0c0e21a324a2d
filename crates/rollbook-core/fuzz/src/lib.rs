//! What must hold of whatever comes from outside. Each `check` panics where it does not.
//!
//! * The second opinions here (a verifier, a JSON reader, a finder of escapes) are written from the scheme and
//!   the standard, and share no code with what they judge: not the HMAC, not base64, not `serde_json`.
//! * Anything may come: a check must not be slow, deep or wrong on bytes that mean nothing.

pub mod event;
pub mod json;
pub mod sanitize;
pub mod signature;
