//! Names for things that live in a slab and may be gone.
//!
//! Invariant: a key whose thing was removed never names the thing that took its place.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Index of a slab slot and the generation of what lives in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// A key naming nothing.
    pub const NONE: Self = Self { index: u32::MAX, generation: 0 };

    /// Slot `index`, generation `generation`.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The slab slot.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A slab whose keys go stale when their value is removed.
#[derive(Debug)]
pub struct Arena<T> {
    slab: slab::Slab<(u32, T)>,
    generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slab: slab::Slab::new(), generation: 0 }
    }
}

impl<T> Arena<T> {
    /// Adds a value made from its own key.
    pub fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let key = Key::new(entry.key() as u32, self.generation);
        entry.insert((self.generation, make(key)));
        key
    }

    /// The value, if it is still there.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slab.get(key.index()).filter(|(g, _)| *g == key.generation).map(|(_, t)| t)
    }

    /// The value, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slab.get_mut(key.index()).filter(|(g, _)| *g == key.generation).map(|(_, t)| t)
    }

    /// Takes the value out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index()).1)
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slab.iter().map(|(i, (g, t))| (Key::new(i as u32, *g), t))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_names_nothing() {
        let mut a = Arena::default();
        let first = a.insert_with(|_| "first");
        a.remove(first);
        let second = a.insert_with(|_| "second");
        assert_eq!(first.index(), second.index());
        assert_eq!(a.get(first), None);
        assert_eq!(a.get(second), Some(&"second"));
        assert_eq!(a.remove(first), None);
    }
}
