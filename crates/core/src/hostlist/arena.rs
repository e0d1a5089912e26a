//! All names of a list in one piece of memory, which is kept from one list to the next.
//!
//! The next name of a run is the last one with its number counted up, so it is copied and only the
//! digits that change are touched. After the first list of its size hardly anything is allocated.

use super::parse::{Scratch, parse};
use super::{Hostlist, HostlistError, MAX_NAME_LEN, Range, Span, digit_count};

/// Names one after another, read from a list and kept until the next.
///
/// ```
/// use gangway_core::hostlist::Arena;
///
/// let mut arena = Arena::default();
/// arena.read("n[09-11],m")?;
/// assert_eq!(arena.iter().collect::<Vec<_>>(), ["n09", "n10", "n11", "m"]);
/// assert_eq!(arena.get(3), Some("m"));
/// # Ok::<(), gangway_core::hostlist::HostlistError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Arena {
    text: String,
    /// Where each name ends. With at most `MAX_NAMES` names of `MAX_NAME_LEN` bytes it fits.
    ends: Vec<u32>,
    list: Hostlist,
    scratch: Scratch,
}

impl Arena {
    /// Reads Slurm's notation ([`Hostlist::parse`]) and writes out all its names, in place of what was
    /// there. After an error there are none.
    pub fn read(&mut self, text: &str) -> Result<(), HostlistError> {
        self.text.clear();
        self.ends.clear();
        parse(text, &mut self.list, &mut self.scratch)?;
        let mut list = std::mem::take(&mut self.list);
        list.expand_into(self);
        std::mem::swap(&mut self.list, &mut list);
        Ok(())
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name with this number, from 0.
    pub fn get(&self, number: usize) -> Option<&str> {
        let end = *self.ends.get(number)? as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start as usize..*end as usize])
    }
}

impl Hostlist {
    /// Puts all names, in order, into `arena` in place of what was there.
    pub fn expand_into(&self, arena: &mut Arena) {
        let mut text = std::mem::take(&mut arena.text).into_bytes();
        let ends = &mut arena.ends;
        text.clear();
        ends.clear();
        ends.reserve(self.len);
        let mut stem = Stem::default();
        for run in &self.runs {
            match run.range {
                Some(range) if range.count > 1 => {
                    let (prefix, suffix) = (self.slice(run.prefix), self.slice(run.suffix));
                    count_up(range, prefix.as_bytes(), suffix.as_bytes(), &mut text, ends);
                }
                Some(range) if run.suffix == Span::default() => {
                    stem.keep(run.prefix, self.slice(run.prefix).as_bytes());
                    text.extend_from_slice(stem.with(range));
                    ends.push(text.len() as u32);
                }
                one => {
                    text.extend_from_slice(self.slice(run.prefix).as_bytes());
                    if let Some(range) = one {
                        range.digits(range.lo, |digits| text.extend_from_slice(digits));
                    }
                    text.extend_from_slice(self.slice(run.suffix).as_bytes());
                    ends.push(text.len() as u32);
                }
            }
        }
        // Every piece was text, and so are they in a row; only that is checked again here.
        arena.text = String::from_utf8(text).unwrap_or_default();
    }
}

/// The prefix that single names in a row share, ready for the number.
struct Stem {
    name: [u8; MAX_NAME_LEN],
    prefix: Option<Span>,
    length: usize,
}

impl Default for Stem {
    fn default() -> Self {
        Self { name: [0; MAX_NAME_LEN], prefix: None, length: 0 }
    }
}

impl Stem {
    fn keep(&mut self, span: Span, prefix: &[u8]) {
        if self.prefix != Some(span) {
            self.prefix = Some(span);
            self.length = prefix.len();
            self.name[..prefix.len()].copy_from_slice(prefix);
        }
    }

    /// The name with the range's first number; checked to be no longer than a name may be.
    fn with(&mut self, range: Range) -> &[u8] {
        let count = range.width.max(digit_count(range.lo));
        let end = self.length + usize::from(count);
        let mut rest = range.lo;
        for digit in self.name[self.length..end].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.name[..end]
    }
}

/// Writes the names of one run. Ten names of a decade differ in one digit each from the ten before
/// them, so whole decades are copied where they can be.
fn count_up(range: Range, prefix: &[u8], suffix: &[u8], text: &mut Vec<u8>, ends: &mut Vec<u32>) {
    let mut value = range.lo;
    // Where the decade before begins, when it is whole and has all its digits but one in common.
    let mut decade = None;
    while value <= range.hi() {
        let start = text.len();
        if let Some(before) = decade
            && range.hi() - value >= 9
            && !(value / 10).is_multiple_of(10)
        {
            text.extend_from_within(before..start);
            let length = (start - before) / 10;
            let tens = length - suffix.len() - 2;
            text[start..].iter_mut().skip(tens).step_by(length).for_each(|digit| *digit += 1);
            ends.extend((1..=10).map(|n| (start + n * length) as u32));
            decade = Some(start);
            value += 10;
            continue;
        }
        write(range, value, prefix, suffix, text);
        ends.push(text.len() as u32);
        let length = text.len() - start;
        let last = length - suffix.len() - 1;
        let more = (range.hi() - value).min(9 - value % 10);
        for _ in 0..more {
            let end = text.len();
            text.extend_from_within(end - length..end);
            text[end + last] += 1;
            ends.push(text.len() as u32);
        }
        // A single digit has no tens to count.
        decade = Some(start).filter(|_| more == 9 && last > prefix.len());
        match value.checked_add(more + 1) {
            Some(next) => value = next,
            None => break,
        }
    }
}

fn write(range: Range, value: u64, prefix: &[u8], suffix: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(prefix);
    range.digits(value, |digits| text.extend_from_slice(digits));
    text.extend_from_slice(suffix);
}
