//! What is done when a task panics: a bug ends one connection, not more.
//!
//! Invariant: without a panic it does nothing.

/// Carried out when the task that holds it panics: a bug ends one connection, and nobody waits for it.
pub(super) struct IfPanics<F: Fn()>(pub F);

impl<F: Fn()> Drop for IfPanics<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_a_panic_sets_the_guard_off() {
        let fired = Cell::new(0);
        let fire = || fired.set(fired.get() + 1);
        drop(IfPanics(fire));
        assert_eq!(fired.get(), 0);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = IfPanics(fire);
            panic!("as a bug would");
        }));
        assert!(outcome.is_err());
        assert_eq!(fired.get(), 1);
    }
}
