//! Typed reading: parses the text of each setting into its value, or into a problem.

use std::collections::BTreeMap;

use super::problem::Problem;
use super::relations::Relation;
use super::setting::{About, Setting};
use super::source::Values;
use super::values::wrong;

/// Set of settings that are declared together.
pub(crate) trait Declared: Sized {
    /// Declarations, in the order of the source.
    fn declarations() -> Vec<&'static About>;

    /// Conditions between the settings.
    fn relations() -> Vec<Relation<Self>>;

    /// Reads every value. `None` if one can't be read: the reader then holds the problem.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

/// Reads settings and collects the problems.
pub(crate) struct Reader<'a> {
    values: &'a Values,
    /// `GROUP.NAME.` before each key of a group's settings, else empty.
    prefix: String,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// Returns the value of a setting. `None` if it is missing or can't be read; then there is a problem.
    pub(crate) fn read<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        let name = format!("{}{}", self.prefix, setting.about.key);
        let given = self.values.get(&name);
        let text = given.map(|given| given.text.as_str()).or(setting.about.default);
        let read = match (text, setting.unset) {
            (Some(text), _) => (setting.parse)(text),
            (None, Some(unset)) => Ok(unset()),
            (None, None) => Err(wrong("is not set", "give it a value")),
        };
        let refuse = |wrong| self.problems.push(Problem::of(name, given.map(|given| &given.origin), wrong));
        read.map_err(refuse).ok()
    }
}

/// Reads all settings of a type. `None` if there are problems.
pub(crate) fn read<T: Declared>(values: &Values, problems: &mut Vec<Problem>) -> Option<T> {
    T::read(&mut Reader { values, prefix: String::new(), problems })
}

/// Reads all `[group.NAME]` of the file, by name. Groups with a problem are left out.
pub(crate) fn read_group<T: Declared>(
    values: &Values,
    group: &str,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, T> {
    let read = |name: &str| {
        let prefix = format!("{group}.{name}.");
        Some((name.to_owned(), T::read(&mut Reader { values, prefix, problems })?))
    };
    values.names(group).filter_map(read).collect()
}
