//! All names of a list in one piece of memory, which is kept from one list to the next.
//!
//! The next name of a run is the last one with its number counted up, so it is copied and only the
//! digits that change are touched. After the first list of its size hardly anything is allocated.

#[cfg(doc)]
use super::Hostlist;
use super::parse::{Scratch, Sink, parse, room_again, room_for};
use super::{HostlistError, MAX_NAME_LEN, PAIRS, Problem, Range, digit_count};

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
    scratch: Scratch,
}

impl Arena {
    /// Reads Slurm's notation ([`Hostlist::parse`]) and writes out all its names, in place of what was
    /// there. After an error there are none.
    pub fn read(&mut self, text: &str) -> Result<(), HostlistError> {
        let mut names = Expansion {
            text: std::mem::take(&mut self.text).into_bytes(),
            ends: std::mem::take(&mut self.ends),
        };
        names.clear();
        let read = parse(text, &mut names, &mut self.scratch);
        if read.is_err() {
            names.clear();
        }
        // Every piece was text, and so are they in a row; only that is checked again here.
        self.text = String::from_utf8(names.text).unwrap_or_default();
        self.ends = names.ends;
        read
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

/// The names while they are being written.
struct Expansion {
    text: Vec<u8>,
    ends: Vec<u32>,
}

impl Expansion {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}

impl Sink for Expansion {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, prefix: &str, suffix: &str, range: Option<Range>) -> Result<(), Problem> {
        room_for(self.len(), prefix, suffix, range)?;
        match range {
            Some(range) => {
                let Self { text, ends } = self;
                count_up(range, prefix.as_bytes(), suffix.as_bytes(), text, ends);
            }
            None => {
                self.text.extend_from_slice(prefix.as_bytes());
                self.ends.push(self.text.len() as u32);
            }
        }
        Ok(())
    }

    fn push_all(&mut self, prefix: &str, suffix: &str, ranges: &[Range]) -> Result<(), Problem> {
        let room = MAX_NAME_LEN.saturating_sub(prefix.len() + suffix.len());
        let mut stem = Stem::new(prefix);
        let Self { text, ends } = self;
        for range in ranges {
            room_again(ends.len(), room, *range)?;
            if range.count == 1 && suffix.is_empty() {
                stem.write(*range, text);
                ends.push(text.len() as u32);
            } else {
                count_up(*range, prefix.as_bytes(), suffix.as_bytes(), text, ends);
            }
        }
        Ok(())
    }
}

/// Most names are no longer, and are copied at this length.
const SHORT: usize = 32;

/// The prefix that single names in a row share, ready for the number.
struct Stem {
    name: [u8; MAX_NAME_LEN],
    length: usize,
}

impl Stem {
    /// A prefix that is too long is cut: no number fits behind it, and nothing is written.
    fn new(prefix: &str) -> Self {
        let length = prefix.len().min(MAX_NAME_LEN);
        let mut name = [0; MAX_NAME_LEN];
        name[..length].copy_from_slice(&prefix.as_bytes()[..length]);
        Self { name, length }
    }

    /// Appends the name with the range's first number; checked to be no longer than a name may be.
    fn write(&mut self, range: Range, text: &mut Vec<u8>) {
        // A single number is as wide as it was written.
        debug_assert!(range.width >= digit_count(range.lo), "{range:?}");
        let end = self.length + usize::from(range.width);
        let mut rest = range.lo;
        let mut pairs = self.name[self.length..end].rchunks_exact_mut(2);
        for pair in &mut pairs {
            let digits = (rest % 100) as usize * 2;
            pair.copy_from_slice(&PAIRS[digits..digits + 2]);
            rest /= 100;
        }
        if let [digit] = pairs.into_remainder() {
            *digit = b'0' + (rest % 10) as u8;
        }
        if end > SHORT {
            text.extend_from_slice(&self.name[..end]);
            return;
        }
        // As many bytes for every short name, so that no copy depends on its length.
        let start = text.len();
        let short: [u8; SHORT] = *self.name.first_chunk().unwrap_or(&[0; SHORT]);
        text.extend_from_slice(&short);
        text.truncate(start + end);
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
