//! Locks. A value behind one is valid whenever the lock is released.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a value. A thread that panicked while it held the lock does not keep others from it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
