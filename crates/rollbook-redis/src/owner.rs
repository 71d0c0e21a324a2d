//! Owner of a queue. Two deployments that share a queue by mistake would take each other's deliveries.
//!
//! The owner is stored in every shard's `meta` when the queue is first used: the id of the Clerk instance if
//! `clerk_instance_id` is set, and fingerprints of the signing secrets. A fingerprint is a truncated
//! HMAC-SHA256 under the secret (`SigningSecrets::fingerprints`): the secret can't be derived from it.
//!
//! * If both sides have an instance id, it decides: equal ids are the same owner, different ids are different
//!   owners.
//! * Otherwise one common fingerprint makes the same owner. New fingerprints are added, so that a rotated
//!   secret is known before the old one is removed.
//! * A process with nothing to compare (a worker without either) is accepted, and writes nothing.

use std::fmt;

/// Maximum number of stored fingerprints, equal to the maximum number of secrets.
const FINGERPRINTS_MAX: usize = 16;

/// Identity of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Id of the Clerk instance.
    pub instance_id: Option<String>,
    /// Fingerprints of the signing secrets.
    pub fingerprints: Vec<String>,
}

/// Result of comparing this deployment with the stored owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// No contradiction: the owners are equal, or one is unknown.
    Same,
    /// Equal owners, with additional data to store.
    Add(Owner),
    /// A different owner.
    Other,
}

impl Owner {
    /// Parses the output of [`Display`](fmt::Display). Unknown parts are ignored.
    pub(crate) fn parse(written: &str) -> Self {
        let mut owner = Self::default();
        for part in written.split(' ') {
            match part.split_once('=') {
                Some(("instance", id)) => owner.instance_id = Some(id.to_owned()),
                Some(("secrets", list)) => owner.fingerprints = list.split(',').map(str::to_owned).collect(),
                _ => {}
            }
        }
        owner
    }

    /// Returns this deployment after its secrets were replaced. The earlier fingerprints stay, so that a queue which knows
    /// only them is still this deployment's.
    pub(crate) fn with_secrets(&self, fingerprints: &[String]) -> Self {
        let known = self.fingerprints.iter().filter(|known| !fingerprints.contains(known));
        let all = fingerprints.iter().chain(known).take(FINGERPRINTS_MAX);
        Self { instance_id: self.instance_id.clone(), fingerprints: all.cloned().collect() }
    }

    /// Compares this deployment with the stored owner.
    pub(crate) fn claim(&self, written: &Self) -> Claim {
        let shares_secret = self.fingerprints.iter().any(|ours| written.fingerprints.contains(ours));
        let is_same = match (&self.instance_id, &written.instance_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ if self.fingerprints.is_empty() || written.fingerprints.is_empty() => return Claim::Same,
            _ => shares_secret,
        };
        if !is_same {
            return Claim::Other;
        }
        let mut known = written.clone();
        known.instance_id = known.instance_id.or_else(|| self.instance_id.clone());
        let new = self.fingerprints.iter().filter(|ours| !written.fingerprints.contains(ours));
        known.fingerprints.splice(0..0, new.cloned().collect::<Vec<_>>());
        known.fingerprints.truncate(FINGERPRINTS_MAX);
        if known == *written { Claim::Same } else { Claim::Add(known) }
    }
}

impl fmt::Display for Owner {
    /// Writes `instance=ins_… secrets=…,…`, without unknown parts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.instance_id.iter().map(|id| format!("instance={id}"));
        let secrets = Some(&self.fingerprints).filter(|fingerprints| !fingerprints.is_empty());
        let secrets = secrets.map(|fingerprints| format!("secrets={}", fingerprints.join(",")));
        f.write_str(&instance.chain(secrets).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(instance_id: &str, fingerprints: &[&str]) -> Owner {
        Owner {
            instance_id: Some(instance_id.to_owned()).filter(|id| !id.is_empty()),
            fingerprints: fingerprints.iter().map(|&fingerprint| fingerprint.to_owned()).collect(),
        }
    }

    #[test]
    fn a_written_owner_is_parsed_back() {
        for owner in [owner("ins_1", &["a1", "b2"]), owner("", &["a1"]), owner("ins_1", &[]), owner("", &[])]
        {
            assert_eq!(Owner::parse(&owner.to_string()), owner);
        }
        assert_eq!(Owner::parse("later=x instance=ins_1"), owner("ins_1", &[]));
    }

    #[test]
    fn another_instance_or_no_common_secret_is_another_owner() {
        for (ours, written) in [
            (owner("ins_2", &[]), owner("ins_1", &[])),
            (owner("ins_2", &["a"]), owner("ins_1", &["a"])),
            (owner("", &["b"]), owner("", &["a"])),
            (owner("ins_2", &["b"]), owner("", &["a"])),
            (owner("", &["b"]), owner("ins_1", &["a"])),
        ] {
            assert_eq!(ours.claim(&written), Claim::Other, "{ours} at {written}");
        }
    }

    #[test]
    fn a_process_with_nothing_to_compare_is_accepted_and_adds_nothing() {
        for (ours, written) in [
            (owner("", &[]), owner("ins_1", &["a"])),
            (owner("ins_1", &[]), owner("", &["a"])),
            (owner("", &["a"]), owner("ins_1", &[])),
            (owner("ins_1", &["a"]), owner("ins_1", &["a", "b"])),
            (owner("", &["b"]), owner("ins_1", &["a", "b"])),
        ] {
            assert_eq!(ours.claim(&written), Claim::Same, "{ours} at {written}");
        }
    }

    #[test]
    fn replaced_secrets_come_before_the_earlier_ones_and_make_no_other_owner() {
        let (before, new) = (owner("ins_1", &["old", "older"]), ["new".to_owned(), "older".to_owned()]);
        let after = before.with_secrets(&new);
        assert_eq!(after, owner("ins_1", &["new", "older", "old"]));
        let replaced = owner("", &["old"]).with_secrets(&["new".to_owned()]);
        let Claim::Add(written) = replaced.claim(&owner("", &["old"])) else { panic!("the same owner") };
        assert_eq!(
            owner("", &["new"]).claim(&written),
            Claim::Same,
            "a process with the new one alone is known"
        );
        let many: Vec<String> = (0..FINGERPRINTS_MAX).map(|number| number.to_string()).collect();
        assert_eq!(before.with_secrets(&many).fingerprints, many);
    }

    #[test]
    fn a_rotated_secret_is_added_before_the_old_one_is_removed() {
        let rotating = owner("", &["new", "old"]);
        let Claim::Add(written) = rotating.claim(&owner("", &["old"])) else { panic!("the same owner") };
        assert_eq!(written, owner("", &["new", "old"]));
        assert_eq!(owner("", &["new"]).claim(&written), Claim::Same);
        let Claim::Add(written) = owner("ins_1", &["next"]).claim(&owner("ins_1", &["new"])) else {
            panic!("the instance is the same")
        };
        assert_eq!(written, owner("ins_1", &["next", "new"]));
        let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let many = Owner { instance_id: None, fingerprints: many };
        let Claim::Add(written) = many.claim(&owner("", &["0"])) else { panic!("the same owner") };
        assert_eq!(written.fingerprints.len(), FINGERPRINTS_MAX);
    }
}
