//! Features and plans in a token, each for the organization, the user or both; and the permissions, which are
//! bits in masks, one mask for each feature.

use std::collections::BTreeSet;

use crate::limits::{GRANTS_MAX, MASK_DIGITS_MAX, NAME_BYTES_MAX, PERMISSION_NAMES_MAX};
use crate::refusal::Refusal;

/// Names of features or plans, by scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    pub(crate) organization: Vec<String>,
    pub(crate) user: Vec<String>,
}

impl Grants {
    /// Looks for `name` in both scopes, for `org:name` or `user:name` in one.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let is_in = |names: &[String], name: &str| names.iter().any(|known| known == name);
        match name.split_once(':') {
            Some(("org", name)) => is_in(&self.organization, name),
            Some(("user", name)) => is_in(&self.user, name),
            Some(_) => false,
            None => is_in(&self.organization, name) || is_in(&self.user, name),
        }
    }
}

/// One entry of `fea` or `pla`.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    is_organization: bool,
    is_user: bool,
    name: &'a str,
}

/// Reads a list such as `o:dashboard,u:badge,uo:projects`. `claim` names it in a refusal.
///
/// An entry with an unknown scope grants nothing and keeps its place.
pub(crate) fn entries<'a>(list: &'a str, claim: &'static str) -> Result<Vec<Entry<'a>>, Refusal> {
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    let read = |entry: &'a str| {
        let (scope, name) = entry.trim().split_once(':')?;
        let is_both = ["ou", "uo"].contains(&scope);
        // A further colon would make "org:a:b:c" ambiguous.
        let is_valid = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(':');
        is_valid.then_some(Entry {
            is_organization: is_both || scope == "o",
            is_user: is_both || scope == "u",
            name,
        })
    };
    let entries: Option<Vec<_>> = list.split(',').map(read).collect();
    let entries = entries.ok_or(Refusal::ClaimInvalid(claim))?;
    if entries.len() > GRANTS_MAX { Err(Refusal::PermissionsTooMany) } else { Ok(entries) }
}

/// Sorts entries by scope.
pub(crate) fn grants(entries: &[Entry]) -> Grants {
    let names = |is_in: fn(&Entry) -> bool| {
        entries.iter().filter(|entry| is_in(entry)).map(|entry| entry.name.to_owned()).collect()
    };
    Grants { organization: names(|entry| entry.is_organization), user: names(|entry| entry.is_user) }
}

/// Decodes the organization's permissions: `names` (`per`) and `masks` (`fpm`) are lists with commas. Bit j of
/// mask i grants name j of feature i.
///
/// Clerk's libraries count only the organization's features, Clerk's documentation counts all. Both give the same
/// result as long as user features come last, as in every published token. Otherwise the token is refused.
pub(crate) fn permissions(features: &[Entry], names: &str, masks: &str) -> Result<Vec<String>, Refusal> {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    if names.len() > PERMISSION_NAMES_MAX || masks.split(',').count() > GRANTS_MAX {
        return Err(Refusal::PermissionsTooMany);
    }
    if names.iter().any(|name| name.contains(':')) {
        return Err(Refusal::ClaimInvalid("o.per"));
    }
    let masks = masks.split(',').map(|mask| Mask::read(mask.trim())).collect::<Result<Vec<_>, _>>()?;
    let organization: Vec<&Entry> = features.iter().filter(|entry| entry.is_organization).collect();
    let granted = decode(organization.iter().copied(), &names, &masks)?;
    let is_in_order = features.iter().take(organization.len()).all(|entry| entry.is_organization);
    if !is_in_order {
        let by_documentation = decode(features.iter(), &names, &masks)?;
        if BTreeSet::from_iter(&granted) != BTreeSet::from_iter(&by_documentation) {
            return Err(Refusal::PermissionsAmbiguous);
        }
    }
    Ok(granted)
}

fn decode<'a>(
    features: impl Iterator<Item = &'a Entry<'a>>,
    names: &[&str],
    masks: &[Mask],
) -> Result<Vec<String>, Refusal> {
    let mut granted = Vec::new();
    for (feature, mask) in features.zip(masks).filter(|(feature, _)| feature.is_organization) {
        for (_, name) in names.iter().enumerate().filter(|(bit, name)| mask.has(*bit) && !name.is_empty()) {
            if granted.len() == GRANTS_MAX {
                return Err(Refusal::PermissionsTooMany);
            }
            granted.push(["org:", feature.name, ":", name].concat());
        }
    }
    Ok(granted)
}

/// A number of any size, as its bits.
enum Mask {
    /// Numbers below 2^128.
    Small(u128),
    /// Greater numbers: parts of 32 bits, the lowest first.
    Large(Vec<u32>),
}

impl Mask {
    /// Reads decimal digits. Any other text grants nothing.
    fn read(text: &str) -> Result<Self, Refusal> {
        if text.len() > MASK_DIGITS_MAX {
            return Err(Refusal::PermissionsTooMany);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Small(0));
        }
        Ok(text.parse().map_or_else(|_| Self::large(text), Self::Small))
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
            Self::Small(bits) => bit < 128 && bits >> bit & 1 == 1,
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
            let mask = Mask::read(&digits).expect("within the limit");
            let expected = bits_by_division(&digits);
            for bit in 0..1100 {
                prop_assert_eq!(mask.has(bit), expected.get(bit).copied().unwrap_or(false), "bit {}", bit);
            }
        }
    }
}
