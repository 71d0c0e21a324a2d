//! Shards: which messages share a set of keys.
//!
//! All keys of a shard carry one hash tag, so that in a cluster they are on one node and a script may
//! touch them all. A message's shard follows from its id alone, so the same id always meets itself.

use sha2::{Digest as _, Sha256};

/// The most shards there may be.
pub(crate) const SHARDS_MAX: u16 = 64;

/// What the names of all keys begin with where nobody says otherwise.
pub const KEY_PREFIX: &str = "rollbook";

/// The longest such prefix, in bytes.
pub const KEY_PREFIX_MAX: usize = 64;

/// Whether keys may begin with this: letters, digits, `_`, `-` and `.`, which mean nothing in a hash tag, in a
/// pattern of an ACL, or in a shell.
pub fn is_key_prefix(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=KEY_PREFIX_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// The keys of a shard, in the order in which every script takes them.
#[derive(Clone, Debug)]
pub(crate) struct Keys([String; 11]);

impl Keys {
    pub(crate) fn of(prefix: &str, shard: u16) -> Self {
        // New messages, those that come again, bodies, when what waits is due, how often it was tried,
        // batches of leases, ages, dead letters, why they died, facts about the shard itself, what the last
        // request of each lane was given.
        let names = [
            "new", "again", "messages", "due", "tries", "leases", "ages", "dead", "failures", "meta",
            "requests",
        ];
        Self(names.map(|name| format!("{{{prefix}:{shard}}}:{name}")))
    }

    pub(crate) fn all(&self) -> &[String] {
        &self.0
    }

    /// The stream of what is new.
    pub(crate) fn new_messages(&self) -> &str {
        &self.0[0]
    }

    /// The bodies, by which the shard is found in a cluster.
    pub(crate) fn messages(&self) -> &str {
        &self.0[2]
    }

    pub(crate) fn dead(&self) -> &str {
        &self.0[7]
    }

    pub(crate) fn failures(&self) -> &str {
        &self.0[8]
    }

    /// What the shard is.
    pub(crate) fn meta(&self) -> &str {
        &self.0[9]
    }
}

/// The shard of a message.
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
    fn an_id_has_one_shard_for_good_and_ids_spread_over_all() {
        // Pinned: a message must be found again by every later version.
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
