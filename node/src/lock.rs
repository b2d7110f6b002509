//! Locks whose holders leave nothing half done.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock, also after a panic of another holder: what it guards is whole between any two statements that could panic, and one
/// request's end must not be everybody's.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
