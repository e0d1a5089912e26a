//! The order people expect of numbered names: `node-2` before `node-10`.

use std::cmp::Ordering;

/// Compares names with runs of digits taken as numbers; equal numbers fall back to the text, so
/// that the order is total and the same everywhere.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    loop {
        match (x.first(), y.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(p), Some(q)) if p.is_ascii_digit() && q.is_ascii_digit() => {
                let (m, rest_x) = number(x);
                let (n, rest_y) = number(y);
                // Without leading zeros the longer run is the larger number.
                match m.len().cmp(&n.len()).then_with(|| m.cmp(n)) {
                    Ordering::Equal => (x, y) = (rest_x, rest_y),
                    unequal => return unequal,
                }
            }
            (Some(p), Some(q)) => match p.cmp(q) {
                Ordering::Equal => (x, y) = (&x[1..], &y[1..]),
                unequal => return unequal,
            },
        }
    }
}

/// The leading digits without zeros in front, and what follows them.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let start = digits.iter().position(|c| *c != b'0').unwrap_or(digits.len());
    (&digits[start..], rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = ["n10", "n2", "n02", "n", "m9-10", "m9-9", "n2a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["m9-9", "m9-10", "n", "n02", "n2", "n2a", "n10"]);
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(mut names in proptest::collection::vec("[ab0-9]{0,4}", 0..12)) {
            names.sort_by(|a, b| natural(a, b));
            for (i, a) in names.iter().enumerate() {
                for b in &names[i..] {
                    prop_assert!(natural(a, b) != Ordering::Greater);
                    prop_assert_eq!(natural(a, b), natural(b, a).reverse());
                }
            }
        }
    }
}
