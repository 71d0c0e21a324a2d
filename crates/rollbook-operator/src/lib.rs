//! Use cases of an operator: explain, erase, lookup of names, and dead letters.
//!
//! Constraints:
//!
//! * The crate knows the ports of `rollbook-core` only. It does no I/O of its own, prints nothing and reads no
//!   clock: the caller passes the ports, the clock included.
//! * Results are `Serialize`. Their JSON is what `--output json` prints; `ops/JSON.md` documents it. The binary turns
//!   the same results into text.
//! * Every read of the queue or the store has a named limit.

pub mod changes;
pub mod dead_letters;
pub mod erase;
pub mod explain;
pub mod forwards;
pub mod lookup;
mod ownership;
mod serialize;
pub mod words;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};

/// Dead letters per page. A dead letter comes with its body of up to 1 MiB.
const DEAD_LETTERS_PAGE: usize = 64;
/// Messages per page. Most messages have two or three kilobytes.
const MESSAGES_PAGE: usize = 200;

/// Returns the resource that the prefix of an id names, for users and organizations.
pub fn resource_of_id(id: &str) -> Option<&'static Resource> {
    match id.split_once('_') {
        Some(("user", _)) => Some(&USERS),
        Some(("org", _)) => Some(&ORGANIZATIONS),
        _ => None,
    }
}
