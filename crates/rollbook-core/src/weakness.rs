//! A weakness of a deployment: everything works, and something could be lost or read by others.

use std::fmt;

/// A weakness and its fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakness {
    /// The weakness, and its possible consequence.
    pub what: String,
    /// Instruction that fixes it.
    pub fix: String,
}

impl Weakness {
    /// A weakness and its fix.
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// All of them in one text.
pub fn joined(weaknesses: &[Weakness], separator: &str) -> String {
    weaknesses.iter().map(Weakness::to_string).collect::<Vec<_>>().join(separator)
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}
