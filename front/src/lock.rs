//! A lock that a panic elsewhere does not spoil: a panic ends one connection, and the others go on.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub fn new(content: T) -> Self {
        Self(Mutex::new(content))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
