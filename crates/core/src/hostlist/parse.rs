//! From text to runs.
//!
//! One pass over the bytes; brackets are counted before anything is expanded, so a list that stands
//! for too many names is refused before it costs memory.

use super::{
    Hostlist, HostlistError, MAX_NAME_LEN, MAX_NAMES, Problem, Range, U64_DIGITS, digit_count,
    split_number,
};

/// What takes the names of a list as they are read.
pub(super) trait Sink {
    /// How many names it has.
    fn len(&self) -> usize;
    /// Adds a run of names that fits ([`room_for`]), or the one name without a number.
    fn push(&mut self, prefix: &str, suffix: &str, range: Option<Range>) -> Result<(), Problem>;
    /// Adds runs with the same prefix and suffix: what [`Sink::push`] does for each, in short.
    fn push_all(&mut self, prefix: &str, suffix: &str, ranges: &[Range]) -> Result<(), Problem>;
}

/// All limits are here: how many names these are, in a list of `len`, if all may be in it.
pub(super) fn room_for(
    len: usize,
    prefix: &str,
    suffix: &str,
    range: Option<Range>,
) -> Result<usize, Problem> {
    let (count, number) = range.map_or((1, 0), |range| {
        (range.count as usize, usize::from(range.width.max(digit_count(range.hi()))))
    });
    if prefix.len() + number + suffix.len() > MAX_NAME_LEN {
        return Err(Problem::NameTooLong);
    }
    if len + count > MAX_NAMES {
        return Err(Problem::TooManyNames);
    }
    Ok(count)
}

/// The same where prefix and suffix leave `room` bytes for the number.
#[inline]
pub(super) fn room_again(len: usize, room: usize, range: Range) -> Result<(), Problem> {
    let wide = usize::from(range.width).max(U64_DIGITS) > room;
    if wide && usize::from(range.width.max(digit_count(range.hi()))) > room {
        return Err(Problem::NameTooLong);
    }
    if len + range.count as usize > MAX_NAMES { Err(Problem::TooManyNames) } else { Ok(()) }
}

/// Reads a whole hostlist into `list`, which is empty.
pub(super) fn parse(
    text: &str,
    list: &mut impl Sink,
    scratch: &mut Scratch,
) -> Result<(), HostlistError> {
    let mut parser = Parser { text, list, scratch };
    let mut at = 0;
    while let Some(byte) = parser.byte(at) {
        at = if is_separator(byte) { at + 1 } else { parser.entry(at)? };
    }
    Ok(())
}

/// Memory that parsing needs beside the list; kept for its capacity.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// The ranges of the entry at hand, all brackets after one another.
    ranges: Vec<Range>,
    brackets: Vec<Bracket>,
}

/// Whether `name` is one name and nothing else.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(Problem::NotAName);
    }
    name.bytes().try_for_each(|byte| match byte {
        b'[' | b']' => Err(Problem::NotAName),
        byte if is_separator(byte) => Err(Problem::NotAName),
        byte if is_bad(byte) => Err(Problem::BadCharacter),
        _ => Ok(()),
    })
}

/// What Slurm takes for the end of an entry outside brackets.
fn is_separator(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'\t' | b'\n')
}

fn is_bad(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'{' | b'}')
}

struct Parser<'a, S> {
    text: &'a str,
    list: &'a mut S,
    scratch: &'a mut Scratch,
}

/// One bracket of an entry, with the plain text before it.
#[derive(Clone, Debug)]
struct Bracket {
    /// In the text.
    before: std::ops::Range<usize>,
    /// Which of `Scratch::ranges` are its own.
    ranges: std::ops::Range<usize>,
}

impl<S: Sink> Parser<'_, S> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// Reads the entry that starts at `start`, and returns where it ends.
    fn entry(&mut self, start: usize) -> Result<usize, HostlistError> {
        self.scratch.ranges.clear();
        self.scratch.brackets.clear();
        let (mut plain, mut at, mut names) = (start, start, 1);
        loop {
            match self.byte(at) {
                None => break,
                Some(byte) if is_separator(byte) => break,
                Some(b'[') => {
                    let (first, before) = (self.scratch.ranges.len(), plain..at);
                    (at, names) = self.bracket(at, names)?;
                    plain = at;
                    let ranges = first..self.scratch.ranges.len();
                    self.scratch.brackets.push(Bracket { before, ranges });
                    // Every bracket is a byte or more of the name.
                    if self.scratch.brackets.len() > MAX_NAME_LEN {
                        return Err(Problem::NameTooLong.at(start));
                    }
                }
                Some(b']') => return Err(Problem::StrayBracket.at(at)),
                Some(byte) if is_bad(byte) => return Err(Problem::BadCharacter.at(at)),
                Some(_) => at += 1,
            }
        }
        self.emit(&self.text[plain..at]).map_err(|problem| problem.at(start))?;
        Ok(at)
    }

    /// Reads the bracket that opens at `open`, in an entry that so far stands for `names` names.
    /// Returns where it ends and how many names the entry stands for now.
    fn bracket(&mut self, open: usize, names: usize) -> Result<(usize, usize), HostlistError> {
        let room = (MAX_NAMES - self.list.len()) / names;
        let (mut at, mut count) = (open + 1, 0);
        loop {
            let range;
            (range, at) = self.range(open, at)?;
            count += range.count as usize;
            if count > room {
                return Err(Problem::TooManyNames.at(open));
            }
            self.scratch.ranges.push(range);
            match self.byte(at) {
                Some(b',') => at += 1,
                Some(b']') => return Ok((at + 1, names * count)),
                other => return Err(unexpected(other, open, at)),
            }
        }
    }

    /// Reads `7` or `001-128` at `at`, and returns where it ends.
    fn range(&self, open: usize, at: usize) -> Result<(Range, usize), HostlistError> {
        let (lo, end) = self.number(open, at)?;
        let width = u8::try_from(end - at).map_err(|_| Problem::NameTooLong.at(at))?;
        if self.byte(end) != Some(b'-') {
            return Ok((Range { lo, count: 1, width }, end));
        }
        let (hi, end) = self.number(open, end + 1)?;
        let more = hi.checked_sub(lo).ok_or_else(|| Problem::ReversedRange.at(at))?;
        if more >= MAX_NAMES as u64 {
            return Err(Problem::RangeTooLarge.at(at));
        }
        Ok((Range { lo, count: more as u32 + 1, width }, end))
    }

    /// Reads the digits at `at`, and returns where they end.
    fn number(&self, open: usize, at: usize) -> Result<(u64, usize), HostlistError> {
        let digits = self.text.as_bytes().get(at..).unwrap_or_default();
        if let Some((value, count)) = digits.first_chunk().and_then(short_number) {
            return Ok((value, at + count));
        }
        let (mut value, mut end) = (0_u64, at);
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            // Checked below, where there are enough digits for it to go wrong.
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            end += 1;
        }
        if end - at >= U64_DIGITS {
            let digits = &self.text[at..end];
            value = digits.parse().map_err(|_| Problem::NumberTooLarge.at(at))?;
        }
        if end == at { Err(unexpected(self.byte(at), open, at)) } else { Ok((value, end)) }
    }

    /// Adds the entry at hand, `tail` being the text after its last bracket.
    ///
    /// The last bracket counts fastest; of the others the first does, then the second (Slurm's order).
    fn emit(&mut self, tail: &str) -> Result<(), Problem> {
        let Scratch { ranges: all, brackets } = &*self.scratch;
        let Some((last, outer)) = brackets.split_last() else {
            let (prefix, range) = split_number(tail);
            return self.list.push(prefix, "", range);
        };
        let ranges = &all[last.ranges.clone()];
        let before = &self.text[last.before.clone()];
        if outer.is_empty() {
            return self.list.push_all(before, tail, ranges);
        }
        let mut wheels: Vec<_> =
            outer.iter().map(|bracket| Wheel::new(&all[bracket.ranges.clone()])).collect();
        let mut prefix = String::new();
        loop {
            prefix.clear();
            for (bracket, wheel) in outer.iter().zip(&wheels) {
                prefix.push_str(&self.text[bracket.before.clone()]);
                wheel.write(&mut prefix);
                // A name made of many long pieces is refused while it is being put together.
                if prefix.len() > MAX_NAME_LEN {
                    return Err(Problem::NameTooLong);
                }
            }
            prefix.push_str(before);
            self.list.push_all(&prefix, tail, ranges)?;
            if wheels.iter_mut().all(Wheel::turn) {
                return Ok(());
            }
        }
    }
}

/// The number at the start of eight bytes and how many digits it has, one to seven: all at once, as
/// Daniel Lemire describes it. `None` where there are none or more.
fn short_number(bytes: &[u8; 8]) -> Option<(u64, usize)> {
    /// The same byte eight times.
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    // A digit becomes 0 to 9; anything else gets its highest bit set, which may carry into bytes behind
    // it and never into one before it.
    let digits = u64::from_le_bytes(*bytes) ^ all(b'0');
    let others = (digits.wrapping_add(all(0x76)) | digits) & all(0x80);
    let count = (others.trailing_zeros() / 8) as usize;
    if !(1..8).contains(&count) {
        return None;
    }
    // To the right, behind zeros; then two, four and eight digits become one number.
    let digits = digits << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let of = |pairs: u64| pairs & 0x0000_00ff_0000_00ff;
    let high = of(pairs).wrapping_mul(100 + (1_000_000 << 32));
    let low = of(pairs >> 16).wrapping_mul(1 + (10_000 << 32));
    Some((high.wrapping_add(low) >> 32, count))
}

impl Sink for Hostlist {
    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, prefix: &str, suffix: &str, range: Option<Range>) -> Result<(), Problem> {
        Self::push(self, prefix, suffix, range)
    }

    fn push_all(&mut self, prefix: &str, suffix: &str, ranges: &[Range]) -> Result<(), Problem> {
        self.runs.reserve(ranges.len());
        let Some((first, rest)) = ranges.split_first() else { return Ok(()) };
        self.push(prefix, suffix, Some(*first))?;
        let room = MAX_NAME_LEN.saturating_sub(prefix.len() + suffix.len());
        rest.iter().try_for_each(|range| self.push_again(room, *range))
    }
}

/// A bracket other than the last, standing at one of its numbers.
struct Wheel<'r> {
    ranges: &'r [Range],
    current: usize,
    offset: u32,
}

impl<'r> Wheel<'r> {
    fn new(ranges: &'r [Range]) -> Self {
        Self { ranges, current: 0, offset: 0 }
    }

    fn write(&self, out: &mut String) {
        let range = self.ranges[self.current];
        range.write(range.lo + u64::from(self.offset), out);
    }

    /// Moves to the next number; true when that is the first one again.
    fn turn(&mut self) -> bool {
        self.offset += 1;
        if self.offset == self.ranges[self.current].count {
            self.offset = 0;
            self.current = (self.current + 1) % self.ranges.len();
            return self.current == 0;
        }
        false
    }
}

/// Names what was found at `at` where a bracket should have gone on.
fn unexpected(found: Option<u8>, open: usize, at: usize) -> HostlistError {
    match found {
        None => Problem::UnclosedBracket.at(open),
        Some(b'[') => Problem::NestedBracket.at(at),
        Some(b',' | b']') => Problem::EmptyRange.at(at),
        Some(_) => Problem::NotANumber.at(at),
    }
}
