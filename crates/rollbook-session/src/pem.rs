//! Reads public keys in PEM, in each form in which `CLERK_JWT_KEY` is found: several lines, one line, `\n` as
//! two characters, or only the base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key::{Key, KeysError};
use crate::limits::{KEY_DOCUMENT_BYTES_MAX, KEYS_MAX};

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// DER of the algorithm `rsaEncryption` with its parameter NULL.
const RSA_ENCRYPTION: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Returns the keys of a text. They have no id.
pub(crate) fn read(text: &str) -> Result<Vec<Key>, KeysError> {
    if text.len() > KEY_DOCUMENT_BYTES_MAX {
        return Err(KeysError::TooLong(KEY_DOCUMENT_BYTES_MAX));
    }
    let text = text.replace("\\n", "\n");
    if text.contains("PRIVATE KEY-----") {
        return Err(KeysError::PrivateKey);
    }
    let mut keys = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let number = keys.len() + 1;
        if number > KEYS_MAX {
            return Err(KeysError::TooMany(KEYS_MAX));
        }
        let body;
        (body, rest) = next_block(rest).ok_or(KeysError::NotAPem)?;
        let der = STANDARD.decode(body.split_whitespace().collect::<String>());
        let der = der.map_err(|_| KeysError::NotAPem)?;
        let (info, rest) = element(&der, SEQUENCE).ok_or(KeysError::Damaged(number))?;
        let key = info.strip_prefix(&RSA_ENCRYPTION).ok_or(KeysError::NotRsa(number))?;
        let numbers = numbers(key).filter(|_| rest.is_empty());
        let (modulus, exponent) = numbers.ok_or(KeysError::Damaged(number))?;
        keys.push(Key::new(None, modulus, exponent, number)?);
    }
    if keys.is_empty() { Err(KeysError::NoKey) } else { Ok(keys) }
}

/// Returns the base64 of the first block, and the text after it.
fn next_block(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix(BEGIN) {
        Some(inner) => inner.split_once(END).map(|(body, rest)| (body, rest.trim_start())),
        None if text.contains("-----") => None,
        None => Some((text, "")),
    }
}

/// Returns modulus and exponent of a public key of RSA in DER: the part of a `SubjectPublicKeyInfo` after the
/// algorithm.
fn numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (bits, end) = element(der, BIT_STRING)?;
    // The first byte is the number of unused bits.
    let (key, after) = element(bits.strip_prefix(&[0])?, SEQUENCE)?;
    let (modulus, numbers) = element(key, INTEGER)?;
    let (exponent, last) = element(numbers, INTEGER)?;
    let is_complete = [end, after, last].iter().all(|rest| rest.is_empty());
    let is_negative = |number: &[u8]| number.first().is_none_or(|byte| byte & 0x80 != 0);
    (is_complete && !is_negative(modulus) && !is_negative(exponent)).then_some((modulus, exponent))
}

/// Returns the content of the first DER element, which must have this tag, and the bytes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = der.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        // One or two bytes of length: 64 KB are more than any key has.
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 2 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length)
}
