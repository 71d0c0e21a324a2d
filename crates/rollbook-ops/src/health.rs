//! How the parts are, asked all at once, each within its time limit.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::{CHECK_TIMEOUT, Part};

/// The longest text of a failing part in an answer, in characters: it is meant for a glance.
const WHY_LENGTH_MAX: usize = 200;

/// Parts that are asked together.
pub(crate) struct Health {
    parts: Vec<Part>,
}

/// What a part said.
pub(crate) type Checked = (&'static str, Result<(), String>);

impl Health {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Asks every part at the same time. The answers are in the order of the parts.
    pub(crate) async fn check(&self) -> Vec<Checked> {
        let mut asked = JoinSet::new();
        for (index, part) in self.parts.iter().cloned().enumerate() {
            asked.spawn(async move {
                let answer = tokio::time::timeout(CHECK_TIMEOUT, part.probe.check()).await;
                (index, answer.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}"))))
            });
        }
        // A probe that panics never answers, and stays at this.
        let mut checked: Vec<Checked> =
            self.parts.iter().map(|part| (part.name, Err("the check itself failed".to_owned()))).collect();
        while let Some(ended) = asked.join_next().await {
            if let Ok((index, answer)) = ended {
                checked[index].1 = answer;
            }
        }
        checked
    }
}

/// 200 where every part is well, else 503; either way with each part by name.
pub(crate) fn answer(checked: &[Checked]) -> Response {
    let failing = checked.iter().any(|(_, answer)| answer.is_err());
    let status = if failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let parts: Map<String, Value> =
        checked.iter().map(|(name, answer)| ((*name).to_owned(), text(answer).into())).collect();
    let body = json!({ "status": if failing { "failing" } else { "ok" }, "parts": parts });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn text(answer: &Result<(), String>) -> String {
    match answer {
        Ok(()) => "ok".to_owned(),
        Err(why) => why.chars().take(WHY_LENGTH_MAX).collect(),
    }
}
