//! Parameters of `/v1/changes`. A parameter that is unknown, repeated or not valid is refused: a misspelt filter must not
//! pass for none.

use std::time::Duration;

use rollbook_core::catalog::{RESOURCES, Resource, find_resource};
use rollbook_core::store::{ChangeKind, Generation, LINES_MAX, Position};
use rollbook_core::time::Timestamp;
use rollbook_operator::changes::generation_name;

use crate::problem::Problem;
use crate::query::{self, single};

/// Lines of a page if the request does not say.
pub(crate) const LIMIT: usize = 500;
/// Maximum lines of a page with their rows.
pub(crate) const EXPANDED_MAX: usize = 100;
/// Maximum time for which a request waits for a change: less than the 60 s after which many proxies give up.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(55);
/// The header with which a client of Server-Sent Events resumes.
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

const NAMES: [&str; 8] = ["after", "since", "resource", "kind", "limit", "wait", "expand", "feed"];

/// Beginning of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the oldest line that is kept.
    Oldest,
    /// After the last line.
    Last,
    /// After this position.
    After(Position),
    /// At the first line since this time.
    Since(Timestamp),
}

/// Selection of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) start: Start,
    pub(crate) resources: Vec<&'static Resource>,
    pub(crate) kinds: Vec<ChangeKind>,
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
    pub(crate) expand: bool,
    /// Generation of the feed that the position belongs to, if the reader names it.
    pub(crate) feed: Option<Generation>,
}

impl Parameters {
    /// Parses the query of a URL. A stream has no `limit` and no `wait`; its `last_event_id` replaces the start.
    pub(crate) fn parse(query: &str, stream: bool, last_event_id: Option<&str>) -> Result<Self, Problem> {
        let [after, since, resource, kind, limit, wait, expand, feed] = query::values(query, NAMES)?;
        let [after, since] = [single("after", after)?, single("since", since)?];
        let expand = match single("expand", expand)?.as_deref() {
            None => false,
            Some("row") => true,
            Some(_) => return Err(Problem::parameter("expand", "write row")),
        };
        let limits = [single("limit", limit)?, single("wait", wait)?];
        let set = ["limit", "wait"].into_iter().zip(&limits).find(|(_, value)| value.is_some());
        if let Some((name, _)) = set.filter(|_| stream) {
            return Err(Problem::parameter(name, "a stream has none; leave it out"));
        }
        let [limit, wait] = limits;
        Ok(Self {
            start: match last_event_id {
                Some(id) => Start::After(position("Last-Event-ID", id)?),
                None => start(after.as_deref(), since.as_deref())?,
            },
            resources: list("resource", &resource, find_resource, || {
                RESOURCES.iter().map(|resource| resource.table).collect()
            })?,
            kinds: list("kind", &kind, ChangeKind::parse, || {
                ChangeKind::ALL.map(ChangeKind::as_str).to_vec()
            })?,
            limit: limit
                .map_or(Ok(if expand { EXPANDED_MAX } else { LIMIT }), |text| lines(&text, expand))?,
            wait: wait.map_or(Ok(Duration::ZERO), |text| duration(&text))?,
            expand,
            feed: single("feed", feed)?.map(|text| generation(&text)).transpose()?,
        })
    }
}

fn start(after: Option<&str>, since: Option<&str>) -> Result<Start, Problem> {
    match (after, since) {
        (Some(_), Some(_)) => Err(Problem::parameter("since", "after is there too; write one of the two")),
        (None, None) => Ok(Start::Oldest),
        (Some("last"), None) => Ok(Start::Last),
        (Some(text), None) => Ok(Start::After(position("after", text)?)),
        (None, Some(text)) => Timestamp::parse_rfc_3339(text).map(Start::Since).ok_or_else(|| {
            let accepted = "write a time of RFC 3339 before the end of the year 9999, such as 2026-07-29T08:00:00Z (a + is \
                            written %2B)";
            Problem::parameter("since", accepted)
        }),
    }
}

fn position(name: &str, text: &str) -> Result<Position, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|position| digits && i64::try_from(*position).is_ok());
    read.ok_or_else(|| {
        let word = if name == "after" { ", or last" } else { "" };
        Problem::parameter(name, &format!("write a position, 0 to {}{word}", i64::MAX))
    })
}

/// Reads the generation of a feed.
fn generation(text: &str) -> Result<Generation, Problem> {
    let read = Generation::from_str_radix(text, 16).ok().filter(|read| generation_name(*read) == text);
    read.ok_or_else(|| Problem::parameter("feed", "write the feed of an answer, 16 digits from 0 to f"))
}

fn list<T: PartialEq>(
    name: &str,
    values: &[String],
    find: impl Fn(&str) -> Option<T>,
    accepted: impl Fn() -> Vec<&'static str>,
) -> Result<Vec<T>, Problem> {
    let mut found = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')) {
        let item = find(text).ok_or_else(|| {
            let accepted = accepted().join(", ");
            Problem::parameter(name, &format!("write one or more of {accepted}, separated by commas"))
        })?;
        if !found.contains(&item) {
            found.push(item);
        }
    }
    Ok(found)
}

fn lines(text: &str, expand: bool) -> Result<usize, Problem> {
    let max = if expand { EXPANDED_MAX } else { LINES_MAX };
    let with = if expand { " with expand=row" } else { "" };
    query::number("limit", text, max, with)
}

fn duration(text: &str) -> Result<Duration, Problem> {
    query::duration("wait", text, "500ms or 25s", Duration::ZERO, WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use rollbook_core::catalog::{ORGANIZATIONS, USERS};

    use super::*;

    fn parse(query: &str) -> Result<Parameters, String> {
        Parameters::parse(query, false, None).map_err(|problem| problem.document()["detail"].to_string())
    }

    #[test]
    fn without_parameters_reading_begins_at_the_oldest_line() {
        let none = Parameters {
            start: Start::Oldest,
            resources: Vec::new(),
            kinds: Vec::new(),
            limit: LIMIT,
            wait: Duration::ZERO,
            expand: false,
            feed: None,
        };
        assert_eq!(parse(""), Ok(none.clone()));
        assert_eq!(parse("expand=row"), Ok(Parameters { limit: EXPANDED_MAX, expand: true, ..none }));
    }

    #[test]
    fn every_parameter_is_accepted_up_to_its_limit() {
        let all = parse(
            "after=7&feed=000000000000001f&resource=users,organizations&resource=users&kind=deleted&limit=1000&wait=55s",
        );
        let expected = Parameters {
            start: Start::After(7),
            resources: vec![&USERS, &ORGANIZATIONS],
            kinds: vec![ChangeKind::Deleted],
            limit: LINES_MAX,
            wait: WAIT_MAX,
            expand: false,
            feed: Some(0x1f),
        };
        assert_eq!(all, Ok(expected));
        for (query, start) in [
            ("after=0", Start::After(0)),
            ("after=9223372036854775807", Start::After(i64::MAX.unsigned_abs())),
            ("after=last", Start::Last),
            ("since=2026-07-29T08:00:00.015Z", Start::Since(Timestamp::from_millis(1_785_312_000_015))),
            (
                "since=2026-07-29T10:00:00.015%2B02:00",
                Start::Since(Timestamp::from_millis(1_785_312_000_015)),
            ),
        ] {
            assert_eq!(parse(query).map(|parameters| parameters.start), Ok(start), "{query}");
        }
        for query in ["limit=1", "limit=100&expand=row", "wait=0s", "wait=55000ms", "wait=1ms"] {
            assert!(parse(query).is_ok(), "{query}");
        }
    }

    #[test]
    fn a_refusal_names_the_parameter_and_what_is_accepted() {
        for (query, named) in [
            ("after=", "after: write a position, 0 to 9223372036854775807, or last"),
            ("after=-1", "after: write a position"),
            ("after=%2B1", "after: write a position"),
            ("after=9223372036854775808", "after: write a position"),
            ("after=1&after=2", "after: is repeated"),
            ("after=1&since=2026-07-29T08:00:00Z", "since: after is there too"),
            ("since=yesterday", "since: write a time of RFC 3339"),
            ("since=2026-07-29T10:00:00%2B25:00", "since: write a time of RFC 3339"),
            ("since=99999999999999", "since: write a time of RFC 3339"),
            ("since=9999-12-31T23:59:59Z", "since: write a time of RFC 3339 before the end of the year 9999"),
            ("feed=1f", "feed: write the feed of an answer"),
            ("feed=000000000000001F", "feed: write the feed of an answer"),
            ("feed=", "feed: write the feed of an answer"),
            ("since=2026-07-29T10:00:00+02:00", "since: write a time of RFC 3339"),
            ("resource=user", "resource: write one or more of organizations, users, "),
            ("resource=", "resource: write one or more of organizations, users, "),
            ("kind=created,gone", "kind: write one or more of created, updated, deleted, erased"),
            ("limit=0", "limit: write a number from 1 to 1000"),
            ("limit=1001", "limit: write a number from 1 to 1000"),
            ("limit=%2B5", "limit: write a number from 1 to 1000"),
            ("limit=101&expand=row", "limit: write a number from 1 to 100 with expand=row"),
            ("wait=56s", "wait: write it as 500ms or 25s, at most 55s"),
            ("wait=55001ms", "wait: write it as"),
            ("wait=5", "wait: write it as"),
            ("wait=+5s", "wait: write it as"),
            ("expand=rows", "expand: write row"),
            ("page=2", "page: is not known; the parameters are after, since"),
            ("%3Cb%3E=2", "b: is not known"),
        ] {
            let refusal = parse(query).expect_err(query);
            assert!(refusal.trim_start_matches('"').starts_with(named), "{query}: {refusal}");
        }
    }

    #[test]
    fn a_stream_resumes_after_its_last_event_and_has_no_limit_and_no_wait() {
        let resumed = Parameters::parse("after=3", true, Some("9")).expect("both are valid");
        assert_eq!(resumed.start, Start::After(9));
        for (query, id, named) in [
            ("limit=5", None, "limit: a stream has none"),
            ("wait=5s", None, "wait: a stream has none"),
            ("", Some("last"), "Last-Event-ID: write a position, 0 to 9223372036854775807"),
        ] {
            let problem = Parameters::parse(query, true, id).expect_err(query);
            let detail = problem.document()["detail"].as_str().expect("a text").to_owned();
            assert!(detail.starts_with(named) && !detail.ends_with("last"), "{detail}");
        }
    }
}
