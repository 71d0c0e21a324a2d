//! Problems of a configuration, worded so that each can be fixed without looking anything up.

use std::fmt;
use std::path::PathBuf;

use super::values::{Wrong, wrong};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
    },
    /// This variable.
    Environment(String),
    /// This flag, with its dashes.
    Flag(String),
    /// The content of a file that a setting names.
    Content {
        /// The file.
        path: PathBuf,
        /// Where its name came from.
        named_by: Box<Origin>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Content { path, named_by } => write!(f, "file {} ({named_by})", path.display()),
        }
    }
}

/// One thing that is wrong. None of its texts holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The setting, as the one who set it knows it.
    pub(crate) name: String,
    /// Where its value came from, where it has one.
    pub(crate) origin: Option<Origin>,
    /// What is wrong.
    pub(crate) wrong: String,
    /// What to do.
    pub(crate) fix: String,
}

impl Problem {
    /// A problem of this name and, where a source gave the value, of this origin.
    pub(crate) fn of(name: impl Into<String>, origin: Option<&Origin>, wrong: Wrong) -> Self {
        Self { name: name.into(), origin: origin.cloned(), wrong: wrong.what, fix: wrong.fix }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}; {}", self.wrong, self.fix)
    }
}

/// Everything that is wrong, reported at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// One problem.
    pub(crate) fn one(name: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self(vec![Problem::of(name, None, wrong(what, fix))])
    }

    /// An error where there is at least one.
    pub(crate) fn check(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
