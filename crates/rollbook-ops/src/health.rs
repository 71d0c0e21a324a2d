//! Health checks of all components, run concurrently, each with a time limit.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rollbook_core::protection::Protection;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::{CHECK_TIMEOUT, Component, Condition};

/// Maximum length of a component's text in a response, in characters: room for a few weaknesses with their
/// fixes.
const WHY_LENGTH_MAX: usize = 1000;

/// Components that are checked together.
pub(crate) struct Health {
    parts: Vec<Component>,
}

/// Name and condition of a checked component.
pub(crate) type Checked = (&'static str, Condition);

impl Health {
    pub(crate) fn new(parts: Vec<Component>) -> Self {
        Self { parts }
    }

    /// Protection of the connections to the components that have one.
    pub(crate) fn protections(&self) -> impl Iterator<Item = (&'static str, Protection)> {
        self.parts.iter().filter_map(|part| Some((part.name, part.probe.protection()?)))
    }

    /// Checks all components concurrently. The results are in the order of the components.
    pub(crate) async fn check(&self) -> Vec<Checked> {
        let mut asked = JoinSet::new();
        for (index, part) in self.parts.iter().cloned().enumerate() {
            asked.spawn(async move {
                let answer = tokio::time::timeout(CHECK_TIMEOUT, part.probe.check()).await;
                (index, answer.unwrap_or_else(|_| Condition::no_answer()))
            });
        }
        // A probe that panics returns no result and keeps this one.
        let failed = || Condition::Failing("the health check itself failed".to_owned());
        let mut checked: Vec<Checked> = self.parts.iter().map(|part| (part.name, failed())).collect();
        while let Some(ended) = asked.join_next().await {
            if let Ok((index, answer)) = ended {
                checked[index].1 = answer;
            }
        }
        checked
    }
}

/// Times since which parts are not healthy, as far as the checks of this process have seen.
pub(crate) type Since = BTreeMap<&'static str, Timestamp>;

/// Responds 200 if every component in `ready` works and the process is not stopping, otherwise 503. The body lists each
/// component by name, and since when a check of this process has found it not healthy. A failing component in `watched` makes
/// the process impaired, not unready.
pub(crate) fn answer(ready: &[Checked], watched: &[Checked], since: &Since, stopping: bool) -> Response {
    let all = || ready.iter().chain(watched);
    let is_any = |of: fn(&Condition) -> bool| all().any(|(_, condition)| of(condition));
    let (code, status) = if stopping {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if !ready.iter().all(|(_, condition)| condition.is_ready()) {
        (StatusCode::SERVICE_UNAVAILABLE, "failing")
    } else if is_any(|condition| !matches!(condition, Condition::Healthy | Condition::Degraded(_))) {
        (StatusCode::OK, "impaired")
    } else if is_any(|condition| *condition != Condition::Healthy) {
        (StatusCode::OK, "degraded")
    } else {
        (StatusCode::OK, "ok")
    };
    let parts: Map<String, Value> =
        all().map(|(name, condition)| ((*name).to_owned(), text(condition).into())).collect();
    let mut body = json!({ "status": status, "parts": parts });
    let since: Map<String, Value> =
        since.iter().map(|(name, at)| ((*name).to_owned(), at.to_string().into())).collect();
    if !since.is_empty() {
        body["since"] = since.into();
    }
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn text(condition: &Condition) -> String {
    match condition {
        Condition::Healthy => "ok".to_owned(),
        Condition::Degraded(why) => format!("degraded: {}", short(why)),
        Condition::Impaired(why) => format!("impaired: {}", short(why)),
        Condition::Unproven(why) => format!("unproven: {}", short(why)),
        Condition::Failing(why) => short(why),
    }
}

fn short(why: &str) -> String {
    why.chars().take(WHY_LENGTH_MAX).collect()
}
