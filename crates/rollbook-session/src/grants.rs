//! Features and plans in a token, each for the organization, the user or both; and the permissions, which are
//! bits in masks, one mask for each feature.

use std::collections::BTreeSet;

use crate::limits::{GRANTS_MAX, MASK_DIGITS_MAX, NAME_BYTES_MAX, PERMISSION_NAMES_MAX};
use crate::refusal::Refusal;

/// A list of features or plans, such as `o:dashboard,u:badge,uo:projects`. Entries are read when they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants(String);

/// One entry of a list. An unknown scope grants nothing and keeps its place.
#[derive(Clone, Copy)]
struct Entry<'a> {
    scope: &'a str,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn read(entry: &'a str) -> Option<Self> {
        let entry = entry.trim_ascii();
        // A scope has one or two letters.
        let colon = entry.bytes().position(|byte| byte == b':')?;
        let (scope, name) = (&entry[..colon], &entry[colon + 1..]);
        // A further colon would make "org:a:b:c" ambiguous.
        let is_valid = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.as_bytes().contains(&b':');
        is_valid.then_some(Self { scope, name })
    }

    fn is_organization(&self) -> bool {
        matches!(self.scope, "o" | "ou" | "uo")
    }

    fn is_user(&self) -> bool {
        matches!(self.scope, "u" | "ou" | "uo")
    }
}

impl Grants {
    /// Checks a list. `claim` names it in a refusal.
    pub(crate) fn read(list: &str, claim: &'static str) -> Result<Self, Refusal> {
        let grants = Self(list.to_owned());
        let mut count = 0;
        for part in grants.parts() {
            count += 1;
            if count > GRANTS_MAX {
                return Err(Refusal::PermissionsTooMany);
            }
            Entry::read(part).ok_or(Refusal::ClaimInvalid(claim))?;
        }
        Ok(grants)
    }

    fn parts(&self) -> impl Iterator<Item = &str> + Clone {
        let parts = if self.0.is_empty() { None } else { Some(self.0.split(',')) };
        parts.into_iter().flatten()
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        self.parts().filter_map(Entry::read)
    }

    /// Returns the names for the organization.
    pub(crate) fn organization(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries().filter(Entry::is_organization).map(|entry| entry.name)
    }

    /// Returns the names for the user.
    pub(crate) fn user(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries().filter(Entry::is_user).map(|entry| entry.name)
    }

    /// Looks for `name` in both scopes, for `org:name` or `user:name` in one.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match name.split_once(':') {
            Some(("org", name)) => self.organization().any(|known| known == name),
            Some(("user", name)) => self.user().any(|known| known == name),
            Some(_) => false,
            None => self.organization().chain(self.user()).any(|known| known == name),
        }
    }
}

/// Decodes the organization's permissions: `names` (`per`) and `masks` (`fpm`) are lists with commas. Bit j of
/// mask i grants name j of feature i.
///
/// Clerk's libraries count only the organization's features, Clerk's documentation counts all. Both give the same
/// result as long as user features come last, as in every published token. Otherwise the token is refused.
pub(crate) fn permissions(features: &Grants, names: &str, masks: &str) -> Result<Permissions, Refusal> {
    let names: Vec<&str> = names.split(',').map(str::trim_ascii).collect();
    let is_long = |mask: &str| mask.len() > MASK_DIGITS_MAX;
    if names.len() > PERMISSION_NAMES_MAX || masks.split(',').any(is_long) {
        return Err(Refusal::PermissionsTooMany);
    }
    if names.iter().any(|name| name.contains(':') || !is_visible(name)) {
        return Err(Refusal::ClaimInvalid("o.per"));
    }
    let granted = decode(features.entries().filter(Entry::is_organization), &names, masks)?;
    if !features.entries().is_sorted_by_key(|entry| !entry.is_organization()) {
        let by_documentation = decode(features.entries(), &names, masks)?;
        if granted.set() != by_documentation.set() {
            return Err(Refusal::PermissionsAmbiguous);
        }
    }
    Ok(granted)
}

fn decode<'a>(
    features: impl Iterator<Item = Entry<'a>>,
    names: &[&str],
    masks: &str,
) -> Result<Permissions, Refusal> {
    let (mut granted, mut count) = (String::with_capacity(256), 0);
    for (feature, mask) in features.zip(masks.split(',')).filter(|(feature, _)| feature.is_organization()) {
        let mask = Mask::read(mask.trim_ascii());
        for (_, name) in names.iter().enumerate().filter(|(bit, name)| mask.has(*bit) && !name.is_empty()) {
            count += 1;
            if count > GRANTS_MAX {
                return Err(Refusal::PermissionsTooMany);
            }
            for part in ["org:", feature.name, ":", name, ","] {
                granted.push_str(part);
            }
        }
    }
    granted.pop();
    // Names of permissions are checked before, so that this is a name of a feature.
    if is_visible(&granted) { Ok(Permissions(granted)) } else { Err(Refusal::ClaimInvalid("fea")) }
}

/// Whether a text is visible ASCII, as ids and roles are, so that it is safe in a header and in a log.
fn is_visible(text: &str) -> bool {
    // A fold, not `all`: it needs no branch for each byte.
    text.bytes().fold(true, |is_visible, byte| is_visible & byte.is_ascii_graphic())
}

/// Keys of permissions such as `org:tasks:delete`, in one text with commas: a token can grant hundreds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissions(String);

impl Permissions {
    /// Takes keys without commas. `claim` names them in a refusal.
    pub(crate) fn from_keys(keys: &[String], claim: &'static str) -> Result<Self, Refusal> {
        if keys.len() > GRANTS_MAX {
            return Err(Refusal::PermissionsTooMany);
        }
        let is_valid = |key: &String| !key.is_empty() && !key.contains(',') && is_visible(key);
        if keys.iter().all(is_valid) { Ok(Self(keys.join(","))) } else { Err(Refusal::ClaimInvalid(claim)) }
    }

    fn set(&self) -> BTreeSet<&str> {
        self.iter().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|key| !key.is_empty())
    }
}

/// A number of any size, as its bits.
enum Mask {
    /// Numbers below 2^64.
    Small(u64),
    /// Greater numbers: parts of 32 bits, the lowest first.
    Large(Vec<u32>),
}

impl Mask {
    /// Reads decimal digits, at most [`MASK_DIGITS_MAX`]. Any other text grants nothing.
    fn read(text: &str) -> Self {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::Small(0);
        }
        text.parse().map_or_else(|_| Self::large(text), Self::Small)
    }

    fn large(digits: &str) -> Self {
        let mut parts: Vec<u32> = Vec::new();
        for digit in digits.bytes().map(|digit| u64::from(digit - b'0')) {
            let mut carry = digit;
            for part in &mut parts {
                let product = u64::from(*part) * 10 + carry;
                (*part, carry) = low_and_high(product);
            }
            if carry > 0 {
                parts.push(low_and_high(carry).0);
            }
        }
        Self::Large(parts)
    }

    fn has(&self, bit: usize) -> bool {
        match self {
            Self::Small(bits) => bit < 64 && bits >> bit & 1 == 1,
            Self::Large(parts) => parts.get(bit / 32).is_some_and(|part| part >> (bit % 32) & 1 == 1),
        }
    }
}

/// Splits a number into its lower 32 bits and the rest.
fn low_and_high(number: u64) -> (u32, u64) {
    let low = u32::try_from(number & 0xffff_ffff).expect("32 bits");
    (low, number >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Mask;

    /// Bits of a decimal number by division, digit by digit: a second implementation.
    fn bits_by_division(digits: &str) -> Vec<bool> {
        let mut digits: Vec<u8> = digits.bytes().map(|digit| digit - b'0').collect();
        let mut bits = Vec::new();
        while digits.iter().any(|digit| *digit > 0) {
            let mut rest = 0;
            for digit in &mut digits {
                let value = rest * 10 + *digit;
                (*digit, rest) = (value / 2, value % 2);
            }
            bits.push(rest == 1);
        }
        bits
    }

    proptest! {
        #[test]
        fn the_bits_of_a_mask_of_any_size_are_those_of_its_number(digits in "[0-9]{1,310}") {
            let mask = Mask::read(&digits);
            let expected = bits_by_division(&digits);
            for bit in 0..1100 {
                prop_assert_eq!(mask.has(bit), expected.get(bit).copied().unwrap_or(false), "bit {}", bit);
            }
        }
    }
}
