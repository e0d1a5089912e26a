//! Bounds the values of a label that come from outside.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What every value beyond the bound is called.
const OTHER: &str = "other";
/// Longer words are no words.
const LONGEST: usize = 64;

/// The first so many different values are themselves, and all others one.
#[derive(Clone, Debug)]
pub(crate) struct Few {
    most: usize,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Few {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, seen: Arc::default() }
    }

    /// The value that stands for this one.
    pub(crate) fn of<'a>(&self, value: &'a str) -> &'a str {
        if value.len() > LONGEST {
            return OTHER;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(value) {
            return value;
        }
        if seen.len() >= self.most {
            return OTHER;
        }
        seen.insert(value.to_owned());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_first_stays_and_the_rest_is_one() {
        let few = Few::new(2);
        assert_eq!(
            ["a", "b", "c", "a", "d"].map(|value| few.of(value)),
            ["a", "b", OTHER, "a", OTHER]
        );
        assert_eq!(Few::new(9).of(&"x".repeat(65)), OTHER);
    }
}
