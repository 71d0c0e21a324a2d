//! Shards: sets of keys over which the messages are distributed.
//!
//! All keys of a shard have the same hash tag, so that in a cluster they are on one node and a script may
//! access them all. A message's shard depends only on its id, so that duplicates are always found.

use sha2::{Digest as _, Sha256};

/// Maximum number of shards.
pub(crate) const SHARDS_MAX: u16 = 64;

/// Default prefix of all keys.
pub const KEY_PREFIX: &str = "rollbook";

/// Maximum length of a key prefix, in bytes.
pub const KEY_PREFIX_MAX: usize = 64;

/// Returns whether `text` is a valid key prefix: letters, digits, `_`, `-` and `.`, which have no special
/// meaning in a hash tag, an ACL pattern or a shell.
pub fn is_key_prefix(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=KEY_PREFIX_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Keys of a shard, in the order in which every script expects them.
#[derive(Clone, Debug)]
pub(crate) struct Keys([String; 13]);

impl Keys {
    pub(crate) fn of(prefix: &str, shard: u16) -> Self {
        // New messages, messages that were delivered before, bodies, due times, attempt counts, batches of
        // leases, times of receipt, dead letters, reasons of dead letters, data about the shard, last leases
        // of each lane, records of discards, notifications of due messages.
        let names = [
            "new",
            "again",
            "messages",
            "due",
            "tries",
            "leases",
            "ages",
            "dead",
            "failures",
            "meta",
            "requests",
            "discarded",
            "bell",
        ];
        Self(names.map(|name| format!("{{{prefix}:{shard}}}:{name}")))
    }

    pub(crate) fn all(&self) -> &[String] {
        &self.0
    }

    /// Stream of new messages.
    pub(crate) fn new_messages(&self) -> &str {
        &self.0[0]
    }

    /// Hash of the bodies; also identifies the shard's slot in a cluster.
    pub(crate) fn messages(&self) -> &str {
        &self.0[2]
    }

    pub(crate) fn dead(&self) -> &str {
        &self.0[7]
    }

    pub(crate) fn failures(&self) -> &str {
        &self.0[8]
    }

    /// Stream of records of discards.
    pub(crate) fn discarded(&self) -> &str {
        &self.0[11]
    }

    /// Hash with data about the shard.
    pub(crate) fn meta(&self) -> &str {
        &self.0[9]
    }

    /// Stream with one entry, which shows idle workers when the first waiting message is due.
    pub(crate) fn bell(&self) -> &str {
        &self.0[12]
    }
}

/// Returns the shard of a message.
pub(crate) fn shard_of(id: &str, shards: u16) -> u16 {
    if shards <= 1 {
        return 0;
    }
    let digest = Sha256::digest(id.as_bytes());
    u16::from_be_bytes([digest[0], digest[1]]) % shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_plain_and_neither_empty_nor_too_long() {
        let longest = "a".repeat(KEY_PREFIX_MAX);
        for prefix in [KEY_PREFIX, "staging-2", "team.app_1", &longest] {
            assert!(is_key_prefix(prefix), "{prefix}");
        }
        for prefix in ["", "a:b", "{a", "a}", "a b", "a*", "ä", &format!("{longest}a")] {
            assert!(!is_key_prefix(prefix), "{prefix}");
        }
    }

    #[test]
    fn all_keys_of_a_shard_have_its_hash_tag() {
        assert!(Keys::of("staging", 7).all().iter().all(|key| key.starts_with("{staging:7}:")));
        assert!(Keys::of(KEY_PREFIX, 7).all().iter().all(|key| key.starts_with("{rollbook:7}:")));
    }

    #[test]
    fn an_id_always_has_the_same_shard_and_ids_spread_over_all() {
        // Pinned: every later version must find the message again.
        let shards = ["msg_a", "msg_b", "msg_c", "msg_d"].map(|id| shard_of(id, 8));
        assert_eq!(shards, [7, 6, 6, 0]);
        let mut counts = [0; 8];
        for number in 0..8_000 {
            counts[usize::from(shard_of(&format!("msg_{number}"), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert!((0..100).all(|number| shard_of(&number.to_string(), 1) == 0));
    }
}
