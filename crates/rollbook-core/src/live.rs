//! Value that is replaced while it is used, such as secrets that an operator rotates.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Value that one task replaces and many read. Clones share the value. `Debug` shows nothing of it.
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    /// Creates a shared value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// Returns the value as it is now. A later replacement does not change what was returned.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value for all clones.
    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_reaches_all_clones_and_no_value_that_was_read_before() {
        let (live, before) = {
            let live = Live::new("old".to_owned());
            let before = live.current();
            (live, before)
        };
        let clone = live.clone();
        live.replace("new".to_owned());
        assert_eq!((before.as_str(), clone.current().as_str()), ("old", "new"));
        assert_eq!(format!("{clone:?}"), "Live(redacted)");
    }
}
