//! What has changed between two lists in order: what is gone, what is new or different, and what stands elsewhere.
//!
//! Pure. Whoever has the old list and is told the changes has the new one, and the changes are few where little has
//! happened: that the head of a queue of thousands has started is one row, not thousands that have moved up.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use serde::Serialize;

/// A row that is told apart by a key.
pub(super) trait Keyed {
    type Key<'a>: Copy + Debug + Eq + Hash + Serialize
    where
        Self: 'a;

    fn key(&self) -> Self::Key<'_>;
}

/// From one list to the next.
#[derive(Debug, Serialize)]
pub(super) struct Changes<'a, T: Keyed> {
    /// Keys that are in the old list alone.
    pub(super) gone: Vec<T::Key<'a>>,
    /// Rows that are new, or have changed.
    pub(super) put: Vec<&'a T>,
    /// Rows that stand elsewhere, or are new: each with the row before it, in the order of the new list.
    pub(super) after: Vec<(T::Key<'a>, Option<T::Key<'a>>)>,
}

impl<T: Keyed> Changes<'_, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.put.is_empty() && self.after.is_empty()
    }
}

/// Compares two lists; no key may be in one of them twice.
pub(super) fn changes<'a, T: Keyed + PartialEq>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
) -> Changes<'a, T> {
    let before: HashMap<T::Key<'a>, usize> =
        old.iter().enumerate().map(|(at, row)| (row.key(), at)).collect();
    let mut stays = vec![false; old.len()];
    let (mut put, mut places) = (Vec::new(), Vec::with_capacity(new.len()));
    for row in new {
        let at = before.get(&row.key()).copied();
        let same = at.is_some_and(|at| Arc::ptr_eq(&old[at], row) || old[at] == *row);
        if !same {
            put.push(&**row);
        }
        if let Some(at) = at {
            stays[at] = true;
        }
        places.push(at);
    }
    let gone = old.iter().zip(stays).filter(|(_, stays)| !stays).map(|(row, _)| row.key());
    let mut still = in_order(&places).into_iter().peekable();
    let mut after = Vec::new();
    for (at, row) in new.iter().enumerate() {
        if still.next_if_eq(&at).is_none() {
            after.push((row.key(), at.checked_sub(1).map(|before| new[before].key())));
        }
    }
    Changes { gone: gone.collect(), put, after }
}

/// Indexes of the most places that ascend: what need not be moved. Absent ones never do.
fn in_order(places: &[Option<usize>]) -> Vec<usize> {
    // Of each length the run that ends lowest, by the index of its end.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous = vec![None; places.len()];
    for (at, place) in places.iter().enumerate().filter(|(_, place)| place.is_some()) {
        let length = ends.partition_point(|end| places[*end] < *place);
        previous[at] = length.checked_sub(1).map(|before| ends[before]);
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut run: Vec<usize> =
        std::iter::successors(ends.last().copied(), |at| previous[*at]).collect();
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Card(u8, u8);

    impl Keyed for Card {
        type Key<'a> = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    /// As the page does it (store.js).
    fn apply(old: &[Arc<Card>], changes: &Changes<'_, Card>) -> Vec<Card> {
        let mut rows: HashMap<u8, Card> =
            old.iter().map(|card| (card.0, Card::clone(card))).collect();
        rows.extend(changes.put.iter().map(|card| (card.0, Card::clone(card))));
        let moved: HashSet<u8> = changes.after.iter().map(|(key, _)| *key).collect();
        let next: HashMap<Option<u8>, u8> =
            changes.after.iter().map(|(key, before)| (*before, *key)).collect();
        let stays = old.iter().map(|card| card.0);
        let stays = stays.filter(|key| !changes.gone.contains(key) && !moved.contains(key));
        let mut order = Vec::new();
        for head in std::iter::once(None).chain(stays.map(Some)) {
            order.extend(head);
            let mut last = head;
            while let Some(key) = next.get(&last) {
                order.push(*key);
                last = Some(*key);
            }
        }
        order.into_iter().map(|key| rows[&key].clone()).collect()
    }

    fn list() -> impl Strategy<Value = Vec<Arc<Card>>> {
        prop::collection::vec((0_u8..40, 0_u8..3), 0..40).prop_map(|cards| {
            let mut seen = HashSet::new();
            let once = cards.into_iter().filter(|(key, _)| seen.insert(*key));
            once.map(|(key, face)| Arc::new(Card(key, face))).collect()
        })
    }

    proptest! {
        #[test]
        fn whoever_is_told_the_changes_has_the_new_list(old in list(), new in list()) {
            let changes = changes(&old, &new);
            let told = apply(&old, &changes);
            let wanted: Vec<Card> = new.iter().map(|card| Card::clone(card)).collect();
            prop_assert_eq!(told, wanted);
            prop_assert_eq!(changes.is_empty(), old == new);
        }
    }

    #[test]
    fn little_is_told_where_little_has_happened() {
        let queue: Vec<Arc<Card>> = (0..200).map(|key| Arc::new(Card(key, 0))).collect();
        // The seventh starts: it goes to the front, with another face; and one is cancelled.
        let mut next = queue.clone();
        next.remove(100);
        let started = next.remove(7);
        next.insert(0, Arc::new(Card(started.0, 1)));
        let changes = changes(&queue, &next);
        assert_eq!((changes.gone.as_slice(), changes.put.len()), (&[100][..], 1));
        assert_eq!(changes.after, [(7, None)]);
    }
}
