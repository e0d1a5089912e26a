//! Slurm's order of names, for lists that should fold as far as they can.
//!
//! Prefixes compare in natural order (`r9n` before `r10n`), then the number at the end: none first,
//! then fewer digits, then smaller.

use std::cmp::Ordering;

use super::{Hostlist, Run, split_number};

/// The same names, sorted and folded.
pub(super) fn sorted(list: &Hostlist) -> Hostlist {
    let mut flat = Hostlist::default();
    let mut singles = Vec::with_capacity(list.len);
    list.for_each_name(|name| {
        let (prefix, range) = split_number(name);
        let same = singles.last().map(|run: &Run| run.prefix);
        let prefix = match same {
            Some(span) if flat.slice(span) == prefix => span,
            _ => flat.intern(prefix),
        };
        singles.push(Run { prefix, suffix: Default::default(), range });
    });
    singles.sort_by(|a, b| {
        let by_prefix = if a.prefix == b.prefix {
            Ordering::Equal
        } else {
            natural(flat.slice(a.prefix).as_bytes(), flat.slice(b.prefix).as_bytes())
        };
        let number = |run: &Run| run.range.map(|range| (range.width, range.lo));
        by_prefix.then_with(|| number(a).cmp(&number(b)))
    });
    let mut sorted = Hostlist::default();
    for run in singles {
        let pushed = sorted.push(flat.slice(run.prefix), "", run.range);
        debug_assert!(pushed.is_ok(), "no more names, and none longer, than in a valid list");
    }
    sorted
}

/// Natural order of bytes, which Slurm takes as signed: digits in a row compare as a number, or as a
/// decimal fraction when either starts with 0.
pub(super) fn natural(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (Some((&x, rest_a)), Some((&y, rest_b))) = (a.split_first(), b.split_first()) else {
            return a.len().cmp(&b.len());
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (digits_a, digits_b);
            (digits_a, a) = split_digits(a);
            (digits_b, b) = split_digits(b);
            let fraction = x == b'0' || y == b'0';
            let by_size =
                if fraction { Ordering::Equal } else { digits_a.len().cmp(&digits_b.len()) };
            match by_size.then_with(|| digits_a.cmp(digits_b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        } else if x == y {
            (a, b) = (rest_a, rest_b);
        } else {
            return x.cast_signed().cmp(&y.cast_signed());
        }
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}
