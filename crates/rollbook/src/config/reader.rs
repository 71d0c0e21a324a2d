//! Values by their keys, each read as what its setting is. What can't be read is a problem, and stands
//! in as something harmless so that the rest is read too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rollbook_core::signature::SigningSecrets;

use super::problem::Problem;
use super::settings::{Kind, Setting, find};
use super::source::Values;
use super::url::{self, Place, Role};
use super::values::{self, Wrong};

pub(crate) struct Reader<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(values: &'a Values, problems: &'a mut Vec<Problem>) -> Self {
        Self { values, problems }
    }

    /// The value, if there is one and `read` can read it.
    fn read<T>(&mut self, key: &str, read: impl FnOnce(&Setting, &str) -> Result<T, Wrong>) -> Option<T> {
        let setting = find(key)?;
        let given = self.values.get(key)?;
        match read(setting, &given.text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.problems.push(Problem {
                    name: key.to_owned(),
                    origin: Some(given.origin.clone()),
                    wrong: wrong.what,
                    mend: wrong.mend,
                });
                None
            }
        }
    }

    pub(crate) fn duration(&mut self, key: &str) -> Duration {
        let read = |setting: &Setting, text: &str| match setting.kind {
            Kind::Duration(max) => values::duration(text, max),
            _ => Err(wrong_kind()),
        };
        self.read(key, read).unwrap_or_default()
    }

    pub(crate) fn pause(&mut self, key: &str) -> Duration {
        let read = |setting: &Setting, text: &str| match setting.kind {
            Kind::Pause(max) => values::pause(text, max),
            _ => Err(wrong_kind()),
        };
        self.read(key, read).unwrap_or_default()
    }

    pub(crate) fn size(&mut self, key: &str) -> usize {
        let read = |setting: &Setting, text: &str| match setting.kind {
            Kind::Size(max) => values::size(text, max),
            _ => Err(wrong_kind()),
        };
        self.read(key, read).unwrap_or_default()
    }

    pub(crate) fn number(&mut self, key: &str) -> usize {
        let read = |setting: &Setting, text: &str| match setting.kind {
            Kind::Number(max) => values::number(text, max),
            _ => Err(wrong_kind()),
        };
        self.read(key, read).unwrap_or_default()
    }

    pub(crate) fn count(&mut self, key: &str) -> usize {
        let read = |setting: &Setting, text: &str| match setting.kind {
            Kind::Count(max) => values::count(text, max),
            _ => Err(wrong_kind()),
        };
        self.read(key, read).unwrap_or_default()
    }

    pub(crate) fn choice(&mut self, key: &str) -> Option<&'static str> {
        self.read(key, |setting, text| match setting.kind {
            Kind::Choice(words) => values::choice(text, words),
            _ => Err(wrong_kind()),
        })
    }

    pub(crate) fn address(&mut self, key: &str) -> SocketAddr {
        self.read(key, |_, text| values::address(text)).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn path(&mut self, key: &str) -> PathBuf {
        self.read(key, |_, text| Ok(PathBuf::from(text))).unwrap_or_default()
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, |_, text| Ok(text.to_owned()))
    }

    pub(crate) fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.read(key, |_, text| Ok(PathBuf::from(text)))
    }

    pub(crate) fn place(&mut self, key: &str, role: Role) -> Option<Place> {
        self.read(key, |_, text| url::place(text, role))
    }

    pub(crate) fn log_filter(&mut self, key: &str) -> String {
        self.read(key, |_, text| values::log_filter(text)).unwrap_or_default()
    }

    pub(crate) fn identifier(&mut self, key: &str) -> Option<String> {
        self.read(key, |_, text| values::identifier(text))
    }

    pub(crate) fn key_prefix(&mut self, key: &str) -> Option<String> {
        self.read(key, |_, text| values::key_prefix(text))
    }

    pub(crate) fn signing_secrets(&mut self, key: &str) -> Option<SigningSecrets> {
        self.read(key, |_, text| {
            SigningSecrets::parse(text).map_err(|error| Wrong {
                what: error.to_string(),
                mend: "write whsec_…, and more of them separated by commas or spaces".to_owned(),
            })
        })
    }
}

/// The table and the reader disagree: a fault of ours, which every start would show.
fn wrong_kind() -> Wrong {
    Wrong { what: "is read as another kind than it is".to_owned(), mend: "report this as a bug".to_owned() }
}
