//! Bytes that all connections may have of something, of which none can keep others out.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::lock::Lock;

/// What is not counted: ten thousand of them hold little.
pub const SMALL: usize = 4096;

/// Bytes over a limit that are kept for who has little, at most.
const MAX_RESERVE: usize = 64 << 20;

/// A limit; once it is reached, who has little gets a part of a reserve beyond it.
pub struct FairLimit {
    limit: usize,
    reserve: usize,
    taken: Lock<Taken>,
    released: Notify,
}

#[derive(Default)]
struct Taken {
    total: usize,
    of: HashMap<u64, usize>,
}

impl FairLimit {
    pub fn new(limit: usize) -> Arc<Self> {
        let reserve = (limit / 4).min(MAX_RESERVE);
        Arc::new(Self { limit, reserve, taken: Lock::default(), released: Notify::new() })
    }

    /// Note that `who` has more, besides what it `held` of the same thing, which alone may exceed the limit.
    fn take(&self, who: u64, amount: usize, held: usize) -> bool {
        let mut taken = self.taken.lock();
        let total = taken.total.saturating_add(amount);
        let of_who = taken.of.get(&who).copied().unwrap_or(0);
        if total > self.limit && taken.total > held {
            let sharers = taken.of.len() + usize::from(of_who == 0);
            if of_who + amount > self.reserve / sharers || total > self.limit + self.reserve {
                return false;
            }
        }
        taken.total = total;
        taken.of.insert(who, of_who + amount);
        true
    }

    fn release(&self, who: u64, amount: usize) {
        let mut taken = self.taken.lock();
        taken.total -= amount;
        let left = taken.of.get(&who).copied().unwrap_or(0) - amount;
        if left == 0 {
            taken.of.remove(&who);
        } else {
            taken.of.insert(who, left);
        }
        drop(taken);
        self.released.notify_waiters();
    }

    /// What is ready once something is released after this call.
    pub fn released(&self) -> Notified<'_> {
        self.released.notified()
    }
}

/// What one thing holds of a limit, until it is dropped.
pub struct Hold {
    limit: Arc<FairLimit>,
    who: u64,
    bytes: usize,
}

impl Hold {
    pub fn new(limit: &Arc<FairLimit>, who: u64) -> Self {
        Self { limit: limit.clone(), who, bytes: 0 }
    }

    /// Hold more; returns false where it may not.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let may = self.limit.take(self.who, bytes, self.bytes);
        if may {
            self.bytes += bytes;
        }
        may
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.limit.release(self.who, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_gets_in_though_another_has_all() {
        let limit = FairLimit::new(100);
        let mut greedy = Hold::new(&limit, 1);
        assert!(greedy.grow(100));
        assert!(!greedy.grow(1) || greedy.bytes <= 112);
        let mut other = Hold::new(&limit, 2);
        assert!(other.grow(12));
        assert!(!other.grow(2));
        drop(greedy);
        assert!(other.grow(80));
        drop(other);
        assert_eq!(limit.taken.lock().total, 0);
        assert!(limit.taken.lock().of.is_empty());
    }

    #[test]
    fn a_lone_one_may_exceed_the_limit() {
        let limit = FairLimit::new(10);
        let mut lone = Hold::new(&limit, 1);
        assert!(lone.grow(6) && lone.grow(50));
        assert!(!Hold::new(&limit, 2).grow(5));
    }
}
