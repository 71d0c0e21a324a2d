//! Clerk session tokens: verification and decoding, as a library for any service.
//!
#![doc = include_str!("../README.md")]
//! # Design
//!
//! * [`verify()`] is pure: no I/O, no clock, no randomness. [`Verifier`] adds the clock, replaceable keys and the
//!   headers of a request.
//! * Every check fails closed: an unknown version, status, category or type is a refusal.
//! * The only algorithm is RS256, by `ring`. A token never chooses a key or an algorithm.
//! * Everything from outside has a limit, in [`limits`].

mod claims;
mod clock;
mod credentials;
#[cfg(feature = "axum")]
mod extract;
mod grants;
mod json;
mod jwks;
mod key;
mod keys;
pub mod limits;
mod pem;
mod policy;
mod refusal;
mod session;
mod token;
pub mod unverified;
mod verify;
mod weight;

pub use credentials::{SESSION_COOKIE, cookie_suffix};
#[cfg(feature = "axum")]
pub use extract::SignedOut;
pub use key::KeysError;
pub use keys::{KeySet, Keys};
pub use policy::{Policy, PolicyError};
pub use refusal::Refusal;
pub use session::{Actor, Denied, FactorAges, Organization, Session, Version};
pub use verify::{Verifier, verify};
pub use weight::{ClaimWeight, Verdict, Weights, weigh};
