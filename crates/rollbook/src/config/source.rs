//! Values as the sources give them, before they are parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::problem::{Origin, Problem};
use super::setting::{About, Kind};
use super::values::{self, wrong};

/// Value and its source. Without `Debug`, because the value may be a secret.
#[derive(Clone)]
pub(crate) struct Given {
    /// Setting of the value.
    pub(crate) setting: &'static About,
    /// Text of the value.
    pub(crate) text: String,
    /// Source of the value.
    pub(crate) origin: Origin,
}

/// Values by the key of their setting; in a group by `GROUP.NAME.KEY`.
#[derive(Clone, Default)]
pub(crate) struct Values {
    given: BTreeMap<String, Given>,
    /// Group and name of each `[GROUP.NAME]`.
    members: BTreeSet<(String, String)>,
    /// Way of reading the files that hold a value.
    pub(super) contents: Contents,
}

impl Values {
    /// Returns no values, for reading the same sources again.
    pub(super) fn empty_again(&self) -> Self {
        Self { contents: self.contents.again(), ..Self::default() }
    }

    /// Returns the value of a setting, if there is one.
    pub(crate) fn get(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// Returns all values, each with its key.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Given)> {
        self.given.iter().map(|(key, given)| (key.as_str(), given))
    }

    /// Adds the values of a source with higher precedence.
    pub(crate) fn override_by(&mut self, stronger: Self) {
        self.given.extend(stronger.given);
        self.members.extend(stronger.members);
        self.contents.join(stronger.contents);
    }

    /// Adds a `[GROUP.NAME]`, which may be empty.
    pub(super) fn add_member(&mut self, group: &str, name: &str) {
        self.members.insert((group.to_owned(), name.to_owned()));
    }

    /// Returns the names in a group.
    pub(super) fn names(&self, group: &str) -> impl Iterator<Item = &str> {
        let names = self.members.iter().filter(move |(known, _)| known == group);
        names.map(|(_, name)| name.as_str())
    }

    /// Removes the value of a setting.
    pub(crate) fn remove(&mut self, key: &str) {
        self.given.remove(key);
    }

    /// Sets a value in place of any other.
    pub(crate) fn set(&mut self, key: &str, given: Given) {
        self.given.insert(key.to_owned(), given);
    }

    /// Adds a value, or the content of the file with this name. One source must not give both.
    pub(crate) fn give(&mut self, key: &str, is_file: bool, given: Given, problems: &mut Vec<Problem>) {
        let (origin, setting) = (given.origin.clone(), given.setting);
        let mut refuse =
            |what: &str, fix: &str| problems.push(Problem::of(key, Some(&origin), wrong(what, fix)));
        if given.text.trim().is_empty() {
            return refuse("is empty", "give it a value, or leave it out");
        }
        let given = if is_file {
            if let Err(wrong) = values::path(&given.text, "file") {
                // The value itself stands in place of its file's name.
                return refuse(
                    &wrong.what,
                    &format!("{}, which holds the value and nothing else", wrong.fix),
                );
            }
            match self.contents.value(Path::new(&given.text)) {
                Ok(text) => {
                    let path = PathBuf::from(given.text);
                    let origin = Origin::Content { path, named_by: Box::new(given.origin) };
                    Given { setting, text, origin }
                }
                Err(why) => {
                    return refuse(&why, "name a readable file that holds the value and nothing else");
                }
            }
        } else {
            given
        };
        let by_flag = matches!(given.origin, Origin::Flag(_));
        if by_flag && setting.kind == Kind::Url && super::url::has_password(&given.text) {
            return refuse(
                "holds a password, which every user of this machine can read in the process list",
                &format!("set {} or {0}_FILE instead", setting.environment()),
            );
        }
        if self.given.insert(key.to_owned(), given).is_some() {
            refuse("is set directly and by a file", "keep one of the two");
        }
    }
}
