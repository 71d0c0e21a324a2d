//! Description of a server's certificate: the parts of X.509 that an operator needs to recognize it.
//!
//! The bytes come from a server that is not trusted: whatever cannot be read is left out.

use sha2::{Digest as _, Sha256};

/// Maximum length of one value of a name, in characters.
const VALUE_MAX: usize = 64;
/// Maximum number of values of a name.
const VALUES_MAX: usize = 4;

/// SHA-256 fingerprint of a certificate.
pub type Fingerprint = [u8; 32];

/// Returns the SHA-256 fingerprint of a certificate (DER).
pub(crate) fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Sha256::digest(certificate).into()
}

/// Shows a fingerprint as `openssl x509 -fingerprint -sha256` does.
pub(crate) fn show(fingerprint: &Fingerprint) -> String {
    let pairs: Vec<String> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// Names and dates of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Days from and until which it is valid, as `2026-11-29`.
    pub(crate) valid: (String, String),
}

impl Summary {
    /// Reads a certificate (DER).
    pub(crate) fn read(certificate: &[u8]) -> Option<Self> {
        let mut fields = Der(Der(Der(certificate).take(SEQUENCE)?).take(SEQUENCE)?);
        let (tag, _) = fields.next()?;
        if tag == VERSION {
            fields.next()?;
        }
        fields.take(SEQUENCE)?;
        let issuer = name(fields.take(SEQUENCE)?);
        let mut dates = Der(fields.take(SEQUENCE)?);
        let valid = (date(dates.next()?)?, date(dates.next()?)?);
        let subject = name(fields.take(SEQUENCE)?);
        Some(Self { subject, issuer, valid })
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Tag of the optional version.
const VERSION: u8 = 0xa0;

/// Parts of a name that are shown, by the last byte of their id (2.5.4.x).
const ATTRIBUTES: [(u8, &str); 3] = [(3, "CN"), (10, "O"), (11, "OU")];

/// DER values one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// Returns the content of the next value, which must have this tag.
    fn take(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
    }
}

fn name(content: &[u8]) -> String {
    let (mut sets, mut shown) = (Der(content), Vec::new());
    while let Some(set) = sets.take(SET) {
        let mut pair = Der(Der(set).take(SEQUENCE).unwrap_or_default());
        let (Some(id), Some((_, value))) = (pair.take(OBJECT_ID), pair.next()) else { continue };
        let label = ATTRIBUTES.iter().find(|(last, _)| id == [0x55, 4, *last]);
        if let (Some((_, label)), true) = (label, shown.len() < VALUES_MAX) {
            let value = String::from_utf8_lossy(value);
            let value: String = value.chars().filter(|c| !c.is_control()).take(VALUE_MAX).collect();
            shown.push(format!("{label}={value}"));
        }
    }
    if shown.is_empty() { "without a name".to_owned() } else { shown.join(", ") }
}

fn date((tag, text): (u8, &[u8])) -> Option<String> {
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
    let century = match tag {
        // X.509: two digits below 50 are of this century.
        UTC_TIME if text < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let text = format!("{century}{text}");
    Some(format!("{}-{}-{}", text.get(..4)?, text.get(4..6)?, text.get(6..8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_shown_as_openssl_does() {
        assert_eq!(show(&[0x0f; 32]), ["0F"; 32].join(":"));
    }

    #[test]
    fn damaged_certificates_have_no_summary_and_do_no_harm() {
        let certificate = [
            0x30, 0x2b, 0x30, 0x29, 0x02, 0x01, 0x01, 0x30, 0x00, 0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06,
            0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, b'i', 0x30, 0x0f, 0x17, 0x0d,
        ];
        for length in 0..certificate.len() {
            assert_eq!(Summary::read(&certificate[..length]), None);
        }
        for tag in 0..=u8::MAX {
            for length in [0, 1, 0x7f, 0x80, 0x81, 0x84, 0x85, 0xff] {
                assert_eq!(Summary::read(&[tag, length, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
            }
        }
    }

    #[test]
    fn dates_of_both_forms_are_days() {
        assert_eq!(date((UTC_TIME, b"261129120000Z")).as_deref(), Some("2026-11-29"));
        assert_eq!(date((UTC_TIME, b"991129120000Z")).as_deref(), Some("1999-11-29"));
        assert_eq!(date((GENERALIZED_TIME, b"20521129120000Z")).as_deref(), Some("2052-11-29"));
        for wrong in [(UTC_TIME, &b"26"[..]), (GENERALIZED_TIME, b"2026\xff"), (SET, b"261129120000Z")] {
            assert_eq!(date(wrong), None);
        }
    }
}
