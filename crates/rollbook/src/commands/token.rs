//! `token inspect`: what a session token says, whether it would be accepted, and what makes it long.
//!
//! The token itself is neither printed nor logged.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rollbook_api::{KeySource, SessionSettings, fetch_keys};
use rollbook_core::time::Clock as _;
use rollbook_session::limits::{COOKIE_BYTES_MAX, TOKEN_BYTES_RANGE};
use rollbook_session::unverified::Unverified;
use rollbook_session::{Refusal, Verdict, Version, Weights, verify, weigh};
use serde::Serialize;
use serde_json::{Value, json};

use super::on_all_cores;
use crate::application;
use crate::cli::TokenCommand;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::live_secrets::LiveSecrets;
use crate::output::{Table, harmless_lines, print_as};

/// Maximum time for the keys of the issuer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of claims in the table of weights.
const HEAVIEST: usize = 10;

/// Maximum number of bytes around a token: the name of its header or cookie, and white space.
const AROUND_BYTES_MAX: usize = 1024;

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    /// `ok`, `warning`, `failed` or `skipped`.
    state: &'static str,
    /// Name of the refusal, for programs; `keys-unavailable` if the keys can't be fetched.
    reason: Option<&'static str>,
    found: String,
}

/// A token that was read.
struct Inspected {
    token: Unverified,
    weights: Weights,
    checks: Vec<Check>,
}

/// Runs the command.
///
/// # Errors
/// The token can't be read, would be refused, or is too long for a cookie.
pub(crate) fn run(config: &Config, command: &TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Inspect { output } = command;
    let token = read(io::stdin().lock())?;
    let sessions = application::sessions(config, LiveSecrets::of(config).jwt_keys())?;
    let inspected = on_all_cores(async { inspect(&token, sessions).await })?;
    print_as(*output, &inspected.json(), |_| inspected.text())?;
    match inspected.checks.iter().filter(|check| check.state == "failed").count() {
        0 => Ok(()),
        1 => bail!("1 check has failed"),
        count => bail!("{count} checks have failed"),
    }
}

/// Reads a token, without the white space around it and without the name of its header or cookie.
fn read(input: impl io::Read) -> anyhow::Result<String> {
    let max = *TOKEN_BYTES_RANGE.end();
    let mut text = String::new();
    let limit = max.saturating_add(AROUND_BYTES_MAX);
    let bytes = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    input.take(bytes).read_to_string(&mut text).context("standard input is not a text")?;
    match bare(&text) {
        "" if text.len() > limit => {
            bail!("standard input begins with more than {limit} bytes of white space")
        }
        "" => bail!("standard input has no token; write the token to it"),
        token if token.len() > max => bail!("the token is longer than {max} bytes"),
        token => Ok(token.to_owned()),
    }
}

/// Returns the token of a header or a cookie, or of a line with the token alone.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let text = without(text, "authorization:").unwrap_or(text);
    let text = without(text, "cookie:").unwrap_or(text);
    match without(text, "__session=") {
        Some(token) => token.trim_end_matches(';').trim_end(),
        None if text.eq_ignore_ascii_case("bearer") => "",
        None => without(text, "bearer ").unwrap_or(text),
    }
}

fn without<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| rest.trim_start())
}

async fn inspect(token: &str, sessions: Option<SessionSettings>) -> anyhow::Result<Inspected> {
    let unverified = Unverified::read(token)?;
    let weights = weigh(token)?;
    let checks = vec![form(&unverified), accepted(token, sessions).await, size(&weights)];
    Ok(Inspected { token: unverified, weights, checks })
}

fn refused(name: &'static str, refusal: Refusal) -> Check {
    Check { name, state: "failed", reason: Some(refusal.name()), found: refusal.to_string() }
}

/// Whether the claims are those of a session.
fn form(token: &Unverified) -> Check {
    match token.session() {
        Err(refusal) => refused("claims", refusal),
        Ok(session) => {
            let version = match session.version() {
                Version::V1 => 1,
                Version::V2 => 2,
            };
            let found = format!("claims of a session, version {version}");
            Check { name: "claims", state: "ok", reason: None, found }
        }
    }
}

/// Whether the API would accept the token now.
async fn accepted(token: &str, sessions: Option<SessionSettings>) -> Check {
    let skipped = |found: String| Check { name: "accepted", state: "skipped", reason: None, found };
    let Some(SessionSettings { policy, keys, .. }) = sessions else {
        return skipped(
            "not verified: set clerk_issuer, and clerk_jwt_key unless the keys are fetched".to_owned(),
        );
    };
    let (keys, origin) = match keys {
        KeySource::Fixed(keys) => (keys.current(), "clerk_jwt_key".to_owned()),
        KeySource::Jwks(url) => match fetch_keys(&url, FETCH_TIMEOUT).await {
            Ok(keys) => (Arc::new(keys), url.server().to_owned()),
            Err(why) => {
                let found = format!("not verified: the keys can't be fetched: {why}");
                return Check { name: "accepted", state: "failed", reason: Some("keys-unavailable"), found };
            }
        },
    };
    let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().as_millis().unsigned_abs());
    match verify(token, &keys, &policy, now) {
        Ok(_) => {
            let found = format!("genuine, valid now, and as the settings demand; keys from {origin}");
            Check { name: "accepted", state: "ok", reason: None, found }
        }
        Err(refusal) => refused("accepted", refusal),
    }
}

/// Whether the token fits in a cookie.
fn size(weights: &Weights) -> Check {
    let found = format!("{} bytes; as cookie {} of {COOKIE_BYTES_MAX}", weights.token, weights.cookie);
    let (state, found) = match weights.verdict() {
        Verdict::Fits => ("ok", found),
        Verdict::Heavy(claims) => ("warning", format!("{found}; heavy claims: {}", claims.join(", "))),
        Verdict::TooLarge(claims) => (
            "failed",
            format!("{found}: browsers drop it, and the user cannot sign in; remove: {}", claims.join(", ")),
        ),
    };
    Check { name: "size", state, reason: None, found }
}

/// Parses a part of the token. Both parts were read as JSON objects before.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

impl Inspected {
    fn json(&self) -> Value {
        let claims =
            self.weights.claims.iter().map(
                |claim| json!({ "name": claim.name, "bytes": claim.bytes, "is_custom": claim.is_custom }),
            );
        let size = json!({
            "token_bytes": self.weights.token,
            "cookie_bytes": self.weights.cookie,
            "custom_bytes": self.weights.custom_bytes(),
            "claims": claims.collect::<Vec<Value>>(),
        });
        json!({
            "header": parsed(self.token.header()),
            "claims": parsed(self.token.claims()),
            "checks": self.checks,
            "size": size,
        })
    }

    fn text(&self) -> String {
        let checks = Table::new(&["check", "state", "found"]).with(self.checks.iter().map(|of| {
            let reason = of.reason.map_or_else(String::new, |reason| format!("{reason}: "));
            [of.name.to_owned(), of.state.to_owned(), format!("{reason}{}", of.found)]
        }));
        let heaviest = self.weights.claims.iter().take(HEAVIEST);
        let weights = Table::new(&["claim", "bytes", "set by"]).with(heaviest.map(|claim| {
            let by = if claim.is_custom { "you" } else { "Clerk" };
            [claim.name.clone(), claim.bytes.to_string(), by.to_owned()]
        }));
        let shown = |text: &str| harmless_lines(&format!("{:#}", parsed(text)));
        let mut text = format!("header {}\n", shown(self.token.header()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "claims {}\n\n{checks}\n{weights}", shown(self.token.claims()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_up_to_the_limit_and_never_repeated_in_an_error() {
        let max = *TOKEN_BYTES_RANGE.end();
        let longest = "t".repeat(max);
        assert_eq!(read(format!("{longest}\n").as_bytes()).expect("it fits"), longest);
        for (input, words) in [
            (String::new(), "has no token"),
            (" \n".to_owned(), "has no token"),
            ("Bearer \n".to_owned(), "has no token"),
            (" ".repeat(1 << 20), "bytes of white space"),
            ("t".repeat(max + 1), "longer than 65536 bytes"),
            ("t".repeat(max * 2), "longer than 65536 bytes"),
        ] {
            let error = read(input.as_bytes()).expect_err("it is refused").to_string();
            assert!(error.contains(words) && !error.contains("ttt"), "{error}");
        }
    }

    #[test]
    fn a_token_is_found_in_its_header_and_in_its_cookie() {
        for input in [
            "t.t.t",
            "Bearer t.t.t\n",
            "bearer  t.t.t",
            "Authorization: Bearer t.t.t\r\n",
            "__session=t.t.t",
            "Cookie: __session=t.t.t;",
        ] {
            assert_eq!(read(input.as_bytes()).expect("it is read"), "t.t.t", "{input}");
        }
    }
}
