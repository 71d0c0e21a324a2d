//! Problems of a configuration. Each text says how to fix the problem.

use std::fmt;
use std::path::PathBuf;

use super::values::{Wrong, wrong};

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The default.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
    /// The content of a file that a setting names.
    Content {
        /// The file.
        path: PathBuf,
        /// Source of the file's name.
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

/// One problem. None of its texts holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Name of the setting, as the source spells it.
    pub(crate) name: String,
    /// Source of the value, if there is one.
    pub(crate) origin: Option<Origin>,
    /// Description of the problem.
    pub(crate) wrong: String,
    /// Instruction that fixes it.
    pub(crate) fix: String,
}

impl Problem {
    /// Creates a problem of this setting, with the source of its value if there is one.
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

/// All problems of a configuration, reported together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// Returns a list of one problem.
    pub(crate) fn one(name: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self(vec![Problem::of(name, None, wrong(what, fix))])
    }

    /// Returns an error if there is at least one problem.
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
