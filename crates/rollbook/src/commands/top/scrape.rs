//! Answers of the ops ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rollbook_http::client::{Answer, Connection, RequestError};
use serde_json::Value;
use tokio::time::Instant;

/// Maximum wait for an answer: a scrape asks the queue for at most 2 s.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A process and the connection to its ops port.
pub(super) struct Process {
    address: SocketAddr,
    /// Token that is presented, never shown.
    token: Option<String>,
    connection: Option<Connection>,
}

/// Answers of all processes at one time.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) answers: Vec<Asked>,
}

/// Answer of one process.
pub(super) struct Asked {
    pub(super) address: SocketAddr,
    pub(super) answer: Result<Scrape, String>,
}

/// Metrics and readiness of a process.
pub(super) struct Scrape {
    pub(super) metrics: Metrics,
    /// Status in `/readyz`: `ok`, `degraded`, `impaired`, `failing` or `stopping`.
    pub(super) status: String,
    /// State of each part, by its name.
    pub(super) parts: BTreeMap<String, String>,
    /// Time since which a part is not ok, by its name.
    pub(super) since: BTreeMap<String, String>,
}

impl Process {
    pub(super) fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token, connection: None }
    }

    /// Asks for metrics and readiness. A broken connection is opened again once.
    pub(super) async fn ask(&mut self) -> Asked {
        let mut answer = self.scrape().await;
        if answer.is_err() && self.connection.take().is_some() {
            answer = self.scrape().await;
        }
        if answer.is_err() {
            self.connection = None;
        }
        Asked { address: self.address, answer: answer.map_err(|why| why.to_string()) }
    }

    async fn scrape(&mut self) -> Result<Scrape, RequestError> {
        let metrics = self.get("/metrics").await?;
        let ready = self.get("/readyz").await?;
        let Readiness { mut status, parts, since } = readiness(&ready.body);
        if metrics.status == 401 {
            "asks for another token than ops_tokens here".clone_into(&mut status);
        }
        Ok(Scrape { metrics: Metrics::parse(&metrics.body), status, parts, since })
    }

    async fn get(&mut self, path: &str) -> Result<Answer, RequestError> {
        if self.connection.as_ref().is_none_or(|connection| !connection.is_open()) {
            let connection = Connection::connect(self.address, TIMEOUT).await?;
            self.connection = Some(match &self.token {
                Some(token) => connection.with_bearer(token)?,
                None => connection,
            });
        }
        match &mut self.connection {
            Some(connection) => connection.get(path).await,
            None => Err(RequestError::Timeout(TIMEOUT)),
        }
    }
}

/// Answer of `/readyz`.
#[derive(Debug, PartialEq, Eq)]
struct Readiness {
    status: String,
    parts: BTreeMap<String, String>,
    since: BTreeMap<String, String>,
}

/// Reads the answer of `/readyz`. Another answer has no parts.
fn readiness(body: &str) -> Readiness {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |of: &Value| {
        let entries = of.as_object().into_iter().flatten();
        entries.map(|(name, state)| (name.clone(), text(state))).collect()
    };
    let status = if body["status"].is_string() { text(&body["status"]) } else { "no answer".to_owned() };
    Readiness { status, parts: texts(&body["parts"]), since: texts(&body["since"]) }
}

/// Values of metrics, by series.
#[derive(Debug, Default)]
pub(super) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(super) fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse::<f64>().ok().filter(|value| value.is_finite())?))
        });
        Self(series.collect())
    }

    /// Returns the series of a metric: labels and value.
    pub(super) fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let from = self.0.range(name.to_owned()..);
        let of_name = from.take_while(move |(series, _)| series.starts_with(name));
        of_name.filter_map(move |(series, value)| match series.strip_prefix(name)? {
            "" => Some(("", *value)),
            labels if labels.starts_with('{') => Some((labels, *value)),
            _ => None,
        })
    }

    /// Returns the sum of the series of a metric with labels that match; `None` if there is no such series.
    pub(super) fn sum(&self, name: &str, matches: impl Fn(&str) -> bool) -> Option<f64> {
        let values = self.series(name).filter(|(labels, _)| matches(labels)).map(|(_, value)| value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Returns the value of a metric without labels.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
}

/// Returns the value of a label.
pub(super) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_the_whole_name_of_their_metric() {
        let metrics = Metrics::parse(
            "# HELP rollbook_up x\nrollbook_up{part=\"queue\"} 1\nrollbook_up{part=\"store\"} 0\nrollbook_up_other 7\nrollbook_queue_depth 12\n\
             bad\nrollbook_nan NaN\n",
        );
        assert_eq!(metrics.sum("rollbook_up", |_| true), Some(1.0));
        assert_eq!(metrics.sum("rollbook_up", |labels| label(labels, "part") == Some("store")), Some(0.0));
        assert_eq!(metrics.sum("rollbook_none", |_| true), None);
        assert_eq!(
            (metrics.value("rollbook_queue_depth"), metrics.value("rollbook_nan")),
            (Some(12.0), None)
        );
    }

    #[test]
    fn an_answer_that_is_not_of_readyz_has_no_parts() {
        let found = readiness(
            "{\"status\":\"failing\",\"parts\":{\"queue\":\"refused\"},\"since\":{\"queue\":\"2026\"}}",
        );
        let shown = [&found.status, &found.parts["queue"], &found.since["queue"]];
        assert_eq!(shown, ["failing", "refused", "2026"]);
        for body in ["", "<html>", "[]", "{\"status\":1,\"parts\":[]}"] {
            let none = BTreeMap::new;
            let empty = Readiness { status: "no answer".to_owned(), parts: none(), since: none() };
            assert_eq!(readiness(body), empty, "{body}");
        }
    }
}
