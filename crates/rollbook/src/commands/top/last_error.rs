//! The last error of a process or a part, with the time since which it lasts.

use serde::Serialize;

use super::scrape::Asked;

/// An error, and when it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LastError {
    /// Time at which it was last seen.
    pub(super) at: String,
    /// Time since which the part is not ok, as far as the process knows; else the time at which it was first seen.
    pub(super) since: String,
    /// Address of the process.
    pub(super) address: String,
    /// Part of the process; null if the process did not answer.
    pub(super) part: Option<String>,
    /// Words of the process or of the connection.
    pub(super) error: String,
}

impl LastError {
    /// Returns the first error among the answers: of a process that does not answer, or of a part. `before` is the error of the
    /// view before: the same error of the same part has the same beginning.
    pub(super) fn of(answers: &[Asked], at: &str, before: Option<&Self>) -> Option<Self> {
        answers.iter().find_map(|asked| {
            let error = |part: Option<&String>, since: Option<&String>, error: String| {
                let address = asked.address.to_string();
                let is_same = |before: &&Self| (&before.address, before.part.as_ref()) == (&address, part);
                let known = before.filter(is_same).map(|before| &before.since);
                let since = since.or(known).map_or(at, String::as_str).to_owned();
                Some(Self { at: at.to_owned(), since, part: part.cloned(), error, address })
            };
            match &asked.answer {
                Err(why) => error(None, None, why.clone()),
                Ok(scrape) => {
                    let (part, state) = scrape.parts.iter().find(|(_, state)| *state != "ok")?;
                    error(Some(part), scrape.since.get(part), state.clone())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::scrape::{Metrics, Scrape};
    use super::*;

    fn error(answer: Result<Scrape, String>, at: &str, before: Option<&LastError>) -> LastError {
        let asked = Asked { address: ([127, 0, 0, 1], 1).into(), answer };
        LastError::of(&[asked], at, before).expect("an error")
    }

    #[test]
    fn an_error_has_the_time_of_its_beginning_as_the_process_or_the_first_view_saw_it() {
        let texts = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let scrape = Scrape {
            metrics: Metrics::default(),
            status: "failing".to_owned(),
            parts: texts("store", "connection refused"),
            since: texts("store", "07:59"),
        };
        let of_part = error(Ok(scrape), "08:00", None);
        assert_eq!((of_part.since.as_str(), of_part.at.as_str()), ("07:59", "08:00"));
        let refused = || Err("refused".to_owned());
        let first = error(refused(), "08:01", Some(&of_part));
        assert_eq!(first.since, "08:01", "another error");
        let second = error(refused(), "08:02", Some(&first));
        assert_eq!((second.since.as_str(), second.at.as_str()), ("08:01", "08:02"));
    }
}
