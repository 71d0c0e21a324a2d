//! Declarations of the settings of one `[forward.NAME]`.

use std::sync::LazyLock;
use std::time::Duration;

use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::ChangeKind;
use rollbook_forwarder::{CONCURRENCY_MAX, ForwardUrl, SLOW_MAX, TIMEOUT_MAX};

use super::reader::{Declared, Reader};
use super::relations::Relation;
use super::relations::Scope::Any;
use super::setting::{About, Setting, count, duration, endpoint, number, secret, settings, text, yes_or_no};
use super::values::{Wrong, signing_secrets, wrong};
use crate::nearest::nearest;

/// Name of the group.
pub(crate) const GROUP: &str = "forward";

/// Maximum of waits between two attempts.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum of `give_up_after`.
const MONTH: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// Maximum of `blocked_max`: each subject is held in memory.
const BLOCKED_MAX: u64 = 10_000;

settings! {
    /// Settings of one `[forward.NAME]`.
    ForwardGroup {
        ("Forwards: `[forward.NAME]`",
         "Pushes of the change feed to your own endpoints: see [FORWARDS.md](FORWARDS.md). Each `[forward.NAME]` of the file is one \
          forward; they run on serve and work, one process at a time each. Flags and the environment have no names for them.") => {
            url: ForwardUrl = endpoint(forward_url).such_as("https://app.example.com/hooks/rollbook"),
                "URL that gets a POST for each change",
                must(Any, "https://, or allow_http = \"yes\"", |s, _| s.allow_http || !s.url.is_plaintext(),
                    "begins with http:// and is not on this machine: changes would cross the network without encryption");
            secret: SigningSecrets = secret(signing_secrets).such_as("/run/secrets/…").live(),
                "one or more whsec_…, separated by commas or spaces; each request is signed with all, so that a secret can be rotated";
            resources: Vec<&'static Resource> = text(resources).or("all"),
                "tables of the changes that are sent, separated by commas, or all";
            kinds: Vec<ChangeKind> = text(kinds).or("all"),
                "kinds of changes that are sent (created, updated, deleted, erased), separated by commas, or all";
            expand: bool = yes_or_no().or("no"),
                "whether a request also has the row as it is then; it holds personal data";
            backfill: bool = yes_or_no().or("no"),
                "whether changes of a backfill are sent too: the first reconciliation makes one for each object at Clerk";
            allow_http: bool = yes_or_no().or("no"),
                "whether url may begin with http:// and another host than this machine";
            timeout: Duration = duration(TIMEOUT_MAX).or("10s"),
                "maximum time for one request";
            concurrency: usize = number(CONCURRENCY_MAX).or("8"),
                "maximum requests at once; of one user, organization or other object there is only one";
            slow_max: usize = count(SLOW_MAX).or("64"),
                "maximum requests in addition to concurrency: first attempts that take longer than a second while the endpoint accepts other changes within one";
            attempts_max: u32 = number(1_000).or("12"),
                "attempts that count before a change becomes a dead letter; while the endpoint accepts nothing, none counts";
            give_up_after: Duration = duration(MONTH).or("3d"),
                "time since its first failure after which a change becomes a dead letter in any case";
            backoff: Duration = duration(DAY).or("5s"),
                "maximum wait after a first failed attempt; it doubles",
                must(Any, "at most backoff_max", |s, _| s.backoff <= s.backoff_max,
                    "is longer than backoff_max");
            backoff_max: Duration = duration(DAY).or("10m"),
                "maximum wait between two attempts";
            blocked_max: usize = number(BLOCKED_MAX).or("1000"),
                "number of objects with failed changes from which on no further change is read until some are delivered";
        }
    }
}

/// Parses the URL of an endpoint. No error quotes it.
fn forward_url(text: &str) -> Result<ForwardUrl, Wrong> {
    ForwardUrl::parse(text).map_err(|error| wrong(error.to_string(), "write https://HOST/PATH"))
}

/// Parses names, or `all`, which is an empty list.
fn names<T>(
    text: &str,
    what: &str,
    known: &[&'static str],
    find: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Wrong> {
    let mut found = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name == "all" && text.trim() == "all" {
            return Ok(Vec::new());
        }
        let fix = || {
            let meant = nearest(name, known.iter().map(|known| (*known).to_owned()));
            meant.map_or_else(
                || format!("write {}, or all", known.join(", ")),
                |meant| format!("did you mean {meant}?"),
            )
        };
        found.push(find(name).ok_or_else(|| wrong(format!("has a name that is not {what}"), fix()))?);
    }
    if found.is_empty() {
        Err(wrong("has no name", format!("write {}, or all", known.join(", "))))
    } else {
        Ok(found)
    }
}

fn resources(text: &str) -> Result<Vec<&'static Resource>, Wrong> {
    let known = RESOURCES.map(|resource| resource.table);
    names(text, "a table", &known, |name| RESOURCES.into_iter().find(|resource| resource.table == name))
}

fn kinds(text: &str) -> Result<Vec<ChangeKind>, Wrong> {
    names(text, "a kind of change", &ChangeKind::ALL.map(ChangeKind::as_str), ChangeKind::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_kinds_are_names_or_all() {
        assert_eq!(resources("all").map(|found| found.len()), Ok(0));
        let found = resources("users, organizations").expect("tables");
        assert_eq!(
            found.iter().map(|resource| resource.table).collect::<Vec<_>>(),
            ["users", "organizations"]
        );
        assert_eq!(kinds("created,deleted"), Ok(vec![ChangeKind::Created, ChangeKind::Deleted]));
        assert_eq!(kinds("all"), Ok(Vec::new()));
        assert_eq!(resources("usres").map(drop).expect_err("unknown").fix, "did you mean users?");
        for text in ["", ",", "all, users", "whsec_hidden"] {
            let refusal = resources(text).map(drop).expect_err(text);
            assert!(!format!("{refusal:?}").contains("hidden"), "{refusal:?}");
        }
    }

    #[test]
    fn the_url_is_never_quoted() {
        for text in ["hidden", "https://u:hidden@h/", "ftp://hidden/"] {
            assert!(!format!("{:?}", forward_url(text).expect_err(text)).contains("hidden"));
        }
    }
}
