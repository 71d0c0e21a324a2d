//! The verifier against a second implementation. Requests are written so that a fuzzer gets past the MAC.
//!
//! ```text
//! 1649367553000 300
//! svix-id: msg_1
//! svix-timestamp: 1649367553
//! svix-signature: ␁ v1,x
//!
//! the body
//! ```
//!
//! The first line has the current time in milliseconds and the tolerance in seconds. Some bytes in the values
//! stand for a signature of the request:
//!
//! | byte | stands for |
//! | --- | --- |
//! | 1, 2 | the signature with the first, the second secret |
//! | 3 | the signature with a secret that is not configured |
//! | 4 n | the first n characters of 1 |
//! | 5 n c | 1 with the n-th character replaced by c |

use std::sync::LazyLock;
use std::time::Duration;

use rollbook_core::signature::{
    CANDIDATES_MAX, SIGNATURE_HEADER_LENGTH_MAX, SignedHeaders, SigningSecrets, VerifyError, verify,
};
use rollbook_core::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// Key of minimum length, key of exactly one block of the hash, and a key that is not configured.
const KEYS: [&[u8]; 3] = [
    b"twenty-four bytes: a key",
    b"sixty-four bytes, which is exactly one block of the hash: a key.",
    b"thirty-two bytes: nobody's key..",
];
const CONFIGURED: usize = 2;

static SECRETS: LazyLock<SigningSecrets> = LazyLock::new(|| {
    let texts: Vec<String> = KEYS[..CONFIGURED].iter().map(|key| format!("whsec_{}", base64(key))).collect();
    SigningSecrets::parse(&texts.join(" ")).expect("two secrets")
});

/// Result of a verifier.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Genuine. The value is how far the sender's clock is ahead, in milliseconds.
    Genuine(i64),
    TooOld,
    TooNew,
    NoMatch,
    /// One of the headers is missing, repeated or malformed.
    Malformed,
}

/// Checks that both verifiers give the same result.
///
/// # Panics
/// Panics if they do not.
pub fn check(input: &[u8]) {
    let Some(request) = Request::read(input) else { return };
    let Request { now, tolerance, headers, body } = &request;
    let print = |(name, value): &(String, Vec<u8>)| format!("\n{name}: {}", value.escape_ascii());
    let headers: String = headers.iter().map(print).collect();
    let request_text = format_args!("at {now}, tolerance {tolerance}{headers}\n\n{}", body.escape_ascii());
    assert_eq!(ours(&request), theirs(&request), "{request_text}");
}

struct Request {
    now: u64,
    tolerance: u32,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn read(spelled: &[u8]) -> Option<Self> {
        let mut lines = spelled.split(|byte| *byte == b'\n');
        let (now, tolerance) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
        // Limit in the year 36812: beyond the range of twelve digits.
        let now = now.parse::<u64>().ok()? % 1_100_000_000_000_000;
        let mut headers: Vec<(String, &[u8])> = Vec::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = std::str::from_utf8(&line[..colon]).ok()?.to_owned();
            headers.push((name, line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..])));
        }
        let body = lines.collect::<Vec<&[u8]>>().join(&b'\n');
        let first = |part: &str| {
            let found = headers.iter().find(|(name, _)| name.ends_with(part));
            found.map_or(&b""[..], |(_, value)| *value)
        };
        let signatures =
            KEYS.map(|key| format!("v1,{}", base64(&mac(key, first("-id"), first("-timestamp"), &body))));
        let expanded = headers.iter().map(|(name, value)| (name.clone(), expand(value, &signatures)));
        Some(Self { now, tolerance: tolerance.parse().ok()?, headers: expanded.collect(), body })
    }
}

fn expand(value: &[u8], signatures: &[String; 3]) -> Vec<u8> {
    let mut expanded = Vec::new();
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        let mut signature = match byte {
            1..=3 => signatures[usize::from(byte) - 1].clone().into_bytes(),
            4 | 5 => signatures[0].clone().into_bytes(),
            _ => vec![byte],
        };
        if byte == 4 {
            signature.truncate(usize::from(bytes.next().unwrap_or_default()));
        }
        if byte == 5 {
            let at = usize::from(bytes.next().unwrap_or_default()) % signature.len();
            signature[at] = bytes.next().unwrap_or_default();
        }
        expanded.extend(signature);
    }
    expanded
}

fn ours(request: &Request) -> Verdict {
    let pairs = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let now = Timestamp::from_millis(i64::try_from(request.now).expect("a number below 2^63"));
    let tolerance = Duration::from_secs(request.tolerance.into());
    let judged = SignedHeaders::read(pairs)
        .and_then(|headers| verify(&SECRETS, &headers, &request.body, now, tolerance));
    match judged {
        Ok(genuine) => Verdict::Genuine(genuine.ahead_millis),
        Err(VerifyError::TooOld) => Verdict::TooOld,
        Err(VerifyError::TooNew) => Verdict::TooNew,
        Err(VerifyError::NoMatch) => Verdict::NoMatch,
        Err(_) => Verdict::Malformed,
    }
}

/// The second implementation: each rule of the scheme in one line.
fn theirs(request: &Request) -> Verdict {
    let of = |family: &str| {
        ["id", "timestamp", "signature"].map(|part| {
            let is_it = |(name, _): &&(String, Vec<u8>)| *name == format!("{family}-{part}");
            request.headers.iter().filter(is_it).map(|(_, value)| value.as_slice()).collect::<Vec<_>>()
        })
    };
    let (svix, standard) = (of("svix"), of("webhook"));
    let is_there = |family: &[Vec<&[u8]>; 3]| family.iter().any(|values| !values.is_empty());
    if is_there(&svix) && is_there(&standard) && svix != standard {
        return Verdict::Malformed;
    }
    let chosen = if is_there(&svix) { svix } else { standard };
    let [[id], [timestamp], [signature]] = chosen.each_ref().map(Vec::as_slice) else {
        return Verdict::Malformed;
    };
    let is_id = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let is_time = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let is = |value: &[u8], longest: usize, rule: &dyn Fn(&str) -> bool| {
        !value.is_empty() && value.len() <= longest && std::str::from_utf8(value).is_ok_and(rule)
    };
    let entries: Vec<&[u8]> = signature.split(|byte| *byte == b' ').collect();
    if !is(id, 128, &is_id)
        || !is(timestamp, 12, &is_time)
        || signature.len() > SIGNATURE_HEADER_LENGTH_MAX
        || entries.len() > CANDIDATES_MAX
    {
        return Verdict::Malformed;
    }
    // Base64 has only one valid form, so that texts can be compared instead of bytes.
    let genuine = KEYS[..CONFIGURED].iter().any(|key| {
        let expected = format!("v1,{}", base64(&mac(key, id, timestamp, &request.body)));
        entries.contains(&expected.as_bytes())
    });
    let sent_at: i128 = String::from_utf8_lossy(timestamp).parse().expect("digits");
    let (now, tolerance) = (i128::from(request.now), i128::from(request.tolerance));
    match now / 1000 - sent_at {
        _ if !genuine => Verdict::NoMatch,
        age if age > tolerance => Verdict::TooOld,
        age if -age > tolerance => Verdict::TooNew,
        _ => Verdict::Genuine(i64::try_from(sent_at * 1000 - now).expect("both are below 2^62")),
    }
}

/// HMAC-SHA256 according to RFC 2104, for keys of at most one block.
fn mac(key: &[u8], id: &[u8], timestamp: &[u8], body: &[u8]) -> [u8; 32] {
    let padded =
        |pad: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or_default() ^ pad).collect() };
    let signed = [id, timestamp, body].join(&b'.');
    let inner = Sha256::digest([padded(0x36), signed].concat());
    Sha256::digest([&padded(0x5c)[..], &inner].concat()).into()
}

/// Base64 according to RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}
