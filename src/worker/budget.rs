//! What the buffers of all workers hold together, and how much that may be.
//!
//! Invariant: the sum lags behind by less than `GRAIN` a worker, so that no worker touches another's
//! cache line for every turn. It does not know who holds what: each worker lets go of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A worker tells the others when what it holds has changed by this much (bytes).
const GRAIN: usize = 64 * 1024;

/// The limit and the sum, shared by all workers of the process.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    used: AtomicUsize,
}

impl Budget {
    /// At most so many bytes; `None`: any number.
    pub fn new(most: Option<usize>) -> Arc<Self> {
        Arc::new(Self { most: most.unwrap_or(usize::MAX), used: AtomicUsize::new(0) })
    }
}

/// What one worker has told the others.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    told: usize,
}

impl Share {
    /// Of this budget, nothing yet.
    pub fn of(budget: Arc<Budget>) -> Self {
        Self { budget, told: 0 }
    }

    /// The worker holds `held` bytes now; returns by how many all hold too much.
    #[inline]
    pub fn update(&mut self, held: usize) -> usize {
        if held.abs_diff(self.told) >= GRAIN {
            self.tell(held);
        }
        self.budget.used.load(Ordering::Relaxed).saturating_sub(self.budget.most)
    }

    fn tell(&mut self, held: usize) {
        // Wraps where less is held than was told.
        self.budget.used.fetch_add(held.wrapping_sub(self.told), Ordering::Relaxed);
        self.told = held;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.tell(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_workers_counts() {
        let budget = Budget::new(Some(1_000_000));
        let (mut a, mut b) = (Share::of(budget.clone()), Share::of(budget.clone()));
        assert_eq!(a.update(700_000), 0);
        assert_eq!(b.update(400_000), 100_000);
        // Not worth telling yet.
        assert_eq!(b.update(400_000 - GRAIN + 1), 100_000);
        assert_eq!(b.update(400_000 - GRAIN), 100_000 - GRAIN);
        drop(a);
        assert_eq!(b.update(1_000_001), 1);
        assert_eq!(b.update(0), 0);
        drop(b);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        assert_eq!(Share::of(Budget::new(None)).update(usize::MAX / 2), 0);
    }
}
