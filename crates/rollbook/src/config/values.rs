//! Parsing of values: returns the typed value, or what is wrong and how to fix it.
//!
//! No error text holds the value of a secret or of a URL: the caller knows the setting.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rollbook_api::{JwksUrl, Tokens};
use rollbook_clerk::{ApiUrl, SecretKey};
use rollbook_core::signature::SigningSecrets;
use rollbook_receiver::WebhookPaths;
use rollbook_session::{KeySet, Policy};

use crate::nearest::nearest;
use crate::secrets::{self, looks_secret};

/// Maximum age that a command accepts: nothing is older than Rollbook.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Problem of a value, and its fix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Description of the problem.
    pub(crate) what: String,
    /// Instruction that fixes it.
    pub(crate) fix: String,
}

/// Creates a problem with its fix.
pub(crate) fn wrong(what: impl Into<String>, fix: impl Into<String>) -> Wrong {
    Wrong { what: what.into(), fix: fix.into() }
}

/// Returns the value as an error may quote it: a secret in the wrong setting must not reach a log.
fn quoted(text: &str) -> String {
    if looks_secret(text) {
        "the value looks like a URL or a secret, and".to_owned()
    } else {
        format!("{text:?}")
    }
}

/// Parses a duration: a whole number and a unit, such as `60s`.
pub(crate) fn duration(text: &str, max: Duration) -> Result<Duration, Wrong> {
    const FIX: &str = "write it as 500ms, 60s, 10m, 2h or 7d";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(wrong(format!("{} is not a duration", quoted(text)), FIX));
    }
    let millis: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        "" => return Err(wrong(format!("{} has no unit", quoted(text)), FIX)),
        _ => return Err(wrong(format!("{} has an unknown unit", quoted(text)), FIX)),
    };
    let span =
        number.parse().ok().and_then(|number: u64| number.checked_mul(millis)).map(Duration::from_millis);
    match span {
        Some(Duration::ZERO) => Err(wrong("is zero", "give it some time, at least 1ms")),
        Some(span) if span <= max => Ok(span),
        _ => Err(wrong(format!("{} is too long", quoted(text)), format!("at most {}", longest(max)))),
    }
}

/// Returns the maximum of a duration as a person writes it, in the largest unit of which it is a whole number up to hours.
pub(crate) fn longest(max: Duration) -> String {
    match max.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// Parses a duration that may be zero: `0s`.
pub(crate) fn pause(text: &str, max: Duration) -> Result<Duration, Wrong> {
    if text == "0s" { Ok(Duration::ZERO) } else { duration(text, max) }
}

/// Parses a duration, or `off`.
pub(crate) fn interval(text: &str, max: Duration) -> Result<Option<Duration>, Wrong> {
    if text == "off" { Ok(None) } else { duration(text, max).map(Some) }
}

/// Parses a number above zero, at most one, such as `0.5`.
pub(crate) fn share(text: &str) -> Result<f64, Wrong> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| {
        wrong(format!("{} is not a share", quoted(text)), "write a number above 0, at most 1, such as 0.5")
    })
}

/// Parses a number of bytes, such as `1MiB`, `64KiB` or `4096`.
pub(crate) fn size<N: TryFrom<u64>>(text: &str, max: u64) -> Result<N, Wrong> {
    const FIX: &str = "write it in bytes, or as 64KiB, 1MiB or 1GiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bytes: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong(format!("{} is not a size", quoted(text)), FIX)),
    };
    let size = number.parse().ok().and_then(|number: u64| number.checked_mul(bytes));
    within(text, size, max, FIX)
}

/// Parses a whole number, at least one.
pub(crate) fn number<N: TryFrom<u64>>(text: &str, max: u64) -> Result<N, Wrong> {
    within(text, text.parse().ok(), max, &format!("write a whole number from 1 to {max}"))
}

/// Parses a whole number, which may be zero.
pub(crate) fn count<N: TryFrom<u64>>(text: &str, max: u64) -> Result<N, Wrong> {
    let fix = format!("write a whole number from 0 to {max}");
    if text == "0" { fitting(text, 0, &fix) } else { within(text, text.parse().ok(), max, &fix) }
}

fn within<N: TryFrom<u64>>(text: &str, number: Option<u64>, max: u64, fix: &str) -> Result<N, Wrong> {
    match number {
        Some(0) => Err(wrong("is zero", "at least 1")),
        Some(number) if number > max => {
            Err(wrong(format!("{} is too much", quoted(text)), format!("at most {max}")))
        }
        Some(number) => fitting(text, number, fix),
        None => Err(wrong(format!("{} is not a whole number", quoted(text)), fix)),
    }
}

fn fitting<N: TryFrom<u64>>(text: &str, number: u64, fix: &str) -> Result<N, Wrong> {
    N::try_from(number)
        .map_err(|_| wrong(format!("{} is more than this machine can count", quoted(text)), fix))
}

/// Parses a path of a `folder` or `file`. A URL or a key is refused: it would be printed, or become a folder's name.
pub(crate) fn path(text: &str, what: &str) -> Result<PathBuf, Wrong> {
    if text.contains(secrets::URL) {
        return Err(wrong(format!("is a URL, not a {what}"), format!("write the path of a {what}")));
    }
    if secrets::stands_for_a_path(text) {
        return Err(wrong(
            format!("looks like a key or a password, not like a {what}"),
            format!("write the path of a {what}; ./NAME if its name does look so"),
        ));
    }
    Ok(PathBuf::from(text))
}

/// Parses any text but a URL or a secret.
pub(crate) fn plain(text: &str) -> Result<String, Wrong> {
    if looks_secret(text) {
        return Err(wrong("looks like a URL or a secret", "write it into the setting that it is meant for"));
    }
    Ok(text.to_owned())
}

/// Parses `HOST:PORT` with an IP address or `localhost` as the host. Other names are refused: their addresses
/// may change between two starts.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let local = local.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    local.or_else(|| text.parse().ok()).ok_or_else(|| {
        wrong(
            format!("{} is not an address", quoted(text)),
            "write IP:PORT, such as 127.0.0.1:8080 or [::]:8080",
        )
    })
}

/// Place of health and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpsListen {
    /// An address of its own.
    Own(SocketAddr),
    /// The address for deliveries.
    Same,
}

/// Parses an address of its own, or `same`.
pub(crate) fn ops_listen(text: &str) -> Result<OpsListen, Wrong> {
    if text == "same" {
        return Ok(OpsListen::Same);
    }
    address(text)
        .map(OpsListen::Own)
        .map_err(|error| wrong(error.what, format!("{}, or write same", error.fix)))
}

/// Bearer tokens of the ops port.
#[derive(Clone)]
pub(crate) struct OpsTokens {
    /// Tokens that are accepted.
    pub(crate) accepted: Tokens,
    /// Token that this program presents, never shown.
    first: String,
}

impl OpsTokens {
    /// Returns the token that this program presents to a running process.
    pub(crate) fn presented(&self) -> &str {
        &self.first
    }
}

/// Parses one or more bearer tokens of the ops port.
pub(crate) fn ops_tokens(text: &str) -> Result<OpsTokens, Wrong> {
    let accepted = api_tokens(text)?;
    let first = text.split(|c: char| c == ',' || c.is_whitespace()).find(|token| !token.is_empty());
    Ok(OpsTokens { accepted, first: first.unwrap_or_default().to_owned() })
}

/// Parses one of these words, each with its value.
pub(crate) fn choice<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Wrong> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        wrong(format!("{} is not known", quoted(text)), format!("write {}", words.join(" or ")))
    })
}

/// All words of a setting that is on or off.
const YES_OR_NO: &str = "write yes or no (or true, on or 1; false, off or 0)";

/// Parses `yes` or `no`, or what other programs write for them.
pub(crate) fn yes_or_no(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(wrong(format!("{} is not known", quoted(text)), YES_OR_NO)),
    }
}

/// Parses one signing secret or more.
pub(crate) fn signing_secrets(text: &str) -> Result<SigningSecrets, Wrong> {
    SigningSecrets::parse(text).map_err(|error| {
        wrong(error.to_string(), "write whsec_…, and more of them separated by commas or spaces")
    })
}

/// Parses the paths of deliveries.
pub(crate) fn webhook_paths(text: &str) -> Result<WebhookPaths, Wrong> {
    if looks_secret(text) {
        return Err(wrong("looks like a URL or a secret", "write only the path, such as /webhooks/clerk"));
    }
    WebhookPaths::parse(text).map_err(|error| wrong(error.what, error.fix))
}

/// Parses one or more bearer tokens.
pub(crate) fn api_tokens(text: &str) -> Result<Tokens, Wrong> {
    Tokens::parse(text).map_err(|error| wrong(error.to_string(), "make one: openssl rand -hex 32"))
}

/// Parses the secret key of a Clerk instance.
pub(crate) fn secret_key(text: &str) -> Result<SecretKey, Wrong> {
    SecretKey::parse(text)
        .map_err(|error| wrong(error.to_string(), "a secret key is in Clerk's dashboard, API keys"))
}

/// Parses the URL of Clerk's API. No error quotes it.
pub(crate) fn api_url(text: &str) -> Result<ApiUrl, Wrong> {
    let fix = "leave it out, or write https://HOST/v1";
    ApiUrl::parse(text).map_err(|error| wrong(error.to_string(), fix))
}

/// Parses the public key of a Clerk instance, as PEM.
pub(crate) fn jwt_key(text: &str) -> Result<KeySet, Wrong> {
    let fix = "copy the JWKS Public Key from Clerk's dashboard, API keys";
    KeySet::from_pem(text).map_err(|error| {
        // The library's texts may have the same instruction behind a semicolon.
        let text = error.to_string();
        let (what, own_fix) = text.split_once("; ").unwrap_or((&text, fix));
        wrong(what, if own_fix.starts_with("copy the") { fix } else { own_fix })
    })
}

/// Parses the issuer of session tokens: the Frontend API URL. No error quotes it.
pub(crate) fn issuer(text: &str) -> Result<String, Wrong> {
    let fix = "write the Frontend API URL of Clerk's dashboard, API keys, such as https://clerk.example.com";
    // A user, a password or a key has no place in it.
    if text.contains(['@', '?', '#']) || secrets::contains_key(text) {
        return Err(wrong("has a user, a query or a key", fix));
    }
    let text = text.trim_end_matches('/');
    Policy::for_any_party(text).map_err(|error| wrong(error.to_string(), fix))?;
    JwksUrl::of_issuer(text).map_err(|error| wrong(error.to_string(), fix))?;
    Ok(text.to_owned())
}

/// Parses the origins of the applications that session tokens are issued to. No error quotes one.
pub(crate) fn authorized_parties(text: &str) -> Result<Vec<String>, Wrong> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
    let parties: Vec<String> = parts.map(str::to_owned).collect();
    let fix = "write origins separated by commas, such as https://app.example.com";
    if parties.is_empty() {
        return Err(wrong("names no origin", format!("{fix}; or leave it out to accept any")));
    }
    Policy::new("https://clerk.example.com", parties.clone())
        .map_err(|error| wrong(error.to_string(), fix))?;
    Ok(parties)
}

/// Parses the URL of a JWKS. No error quotes it.
pub(crate) fn jwks_url(text: &str) -> Result<JwksUrl, Wrong> {
    JwksUrl::parse(text).map_err(|error| {
        wrong(error.to_string(), "leave it out, or write https://HOST/.well-known/jwks.json")
    })
}

/// Parses a log filter: levels and `target=level`, separated by commas. A bare word must be a level: as the
/// name of a target, a misspelt `debgu` would turn everything else off.
pub(crate) fn log_filter(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A part of a secret may not look like a secret.
    let shown = |part: &str| if looks_secret(text) { quoted(text) } else { quoted(part) };
    for part in text.split(',').map(str::trim) {
        if !part.contains(['=', '[']) && !LEVELS.contains(&part.to_ascii_lowercase().as_str()) {
            let meant = nearest(part, LEVELS.map(str::to_owned)).unwrap_or_else(|| "info".to_owned());
            return Err(wrong(
                format!("{} is not a level", shown(part)),
                format!("did you mean {meant}? Levels are {}", LEVELS.join(", ")),
            ));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            let why = if looks_secret(text) { String::new() } else { format!(" ({error})") };
            Err(wrong(
                format!("{} is not a log filter{why}", quoted(text)),
                "write info, or rollbook=debug,info",
            ))
        }
    }
}

/// Parses a prefix of keys.
pub(crate) fn key_prefix(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) && !secrets::begins_with_key(text) {
        return Ok(text.to_owned());
    }
    Err(wrong(format!("{} can't begin a key", quoted(text)), "write at most 64 letters, digits, _, - and ."))
}

/// SHA-256 fingerprint of a certificate.
pub(crate) type Fingerprint = [u8; 32];

/// Parses SHA-256 fingerprints: 64 hexadecimal digits each, with or without colons.
pub(crate) fn fingerprints(text: &str) -> Result<Vec<Fingerprint>, Wrong> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let parsed: Option<Vec<Fingerprint>> = words.map(fingerprint).collect();
    parsed.filter(|parsed| !parsed.is_empty()).ok_or_else(|| {
        let fix = "write 64 hexadecimal digits, with or without colons: openssl x509 -noout -fingerprint -sha256 -in FILE shows them";
        wrong(format!("{} is not a SHA-256 fingerprint", quoted(text)), fix)
    })
}

fn fingerprint(word: &str) -> Option<Fingerprint> {
    let digits: Vec<u8> = word.bytes().filter(|byte| *byte != b':').collect();
    let mut found = Fingerprint::default();
    if digits.len() != 2 * found.len() {
        return None;
    }
    for (byte, pair) in found.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().try_fold(0, |value, digit| {
            Some(value << 4 | u8::try_from(char::from(*digit).to_digit(16)?).ok()?)
        })?;
    }
    Some(found)
}

/// Parses a plain SQL identifier.
pub(crate) fn identifier(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let whole =
        (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.as_bytes()[0].is_ascii_digit();
    let fix = "write at most 63 of a-z, 0-9 and _, no digit first";
    if text.starts_with("pg_") {
        return Err(wrong(
            format!("{} is a name that Postgres keeps for itself", quoted(text)),
            "begin it otherwise than pg_",
        ));
    }
    let whole = whole && !secrets::begins_with_key(text);
    if whole { Ok(text.to_owned()) } else { Err(wrong(format!("{} is not a plain name", quoted(text)), fix)) }
}

#[cfg(test)]
mod tests;
