//! Ids as Clerk and Svix make them: a prefix and a KSUID. KSUIDs sort by the second of their creation.

use fastrand::Rng;
use rollbook_core::time::Timestamp;

/// Epoch of KSUIDs, in Unix seconds: 2014-05-13T16:53:20Z.
const EPOCH_SECONDS: i64 = 1_400_000_000;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 27;

/// Returns `prefix` and 27 characters: 32 bits of seconds and 128 random bits in base 62.
pub(crate) fn id(prefix: &str, rng: &mut Rng, at: Timestamp) -> String {
    let seconds = u32::try_from(at.as_millis() / 1000 - EPOCH_SECONDS).unwrap_or_default();
    let random = rng.u128(..);
    // The 160 bits are held in two halves of 80.
    let (mut high, mut low) = (u128::from(seconds) << 48 | random >> 80, random & ((1 << 80) - 1));
    let mut digits = [b'0'; LENGTH];
    for digit in digits.iter_mut().rev() {
        low |= (high % 62) << 80;
        high /= 62;
        *digit = ALPHABET[usize::try_from(low % 62).unwrap_or_default()];
        low /= 62;
    }
    digits.iter().fold(String::from(prefix), |mut text, digit| {
        text.push(char::from(*digit));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_prefix_and_a_ksuid_that_sorts_by_time() {
        let mut rng = Rng::with_seed(1);
        let at = |seconds| Timestamp::from_seconds(seconds);
        let earlier = id("user_", &mut rng, at(1_785_312_000));
        let later = id("user_", &mut rng, at(1_785_312_001));
        assert!(earlier < later, "{earlier} {later}");
        // The fixture has the same second, so the first characters are equal.
        assert_eq!(earlier[..9], "user_3HAXlsF2HZt1LTFMSTEzouK5iZ8"[..9]);
        assert_eq!(earlier.len(), "user_".len() + LENGTH);
    }
}
