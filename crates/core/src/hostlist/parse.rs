//! From text to runs.
//!
//! One pass over the bytes; brackets are counted before anything is expanded, so a list that stands
//! for too many names is refused before it costs memory.

use super::{Hostlist, HostlistError, MAX_NAME_LEN, MAX_NAMES, Problem, Range, split_number};

/// Reads a whole hostlist.
pub(super) fn parse(text: &str) -> Result<Hostlist, HostlistError> {
    let mut parser = Parser { text, list: Hostlist::default(), ranges: vec![], brackets: vec![] };
    let mut at = 0;
    while let Some(byte) = parser.byte(at) {
        at = if is_separator(byte) { at + 1 } else { parser.entry(at)? };
    }
    Ok(parser.list)
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

struct Parser<'a> {
    text: &'a str,
    list: Hostlist,
    /// The ranges of the entry at hand, all brackets after one another; kept for its capacity.
    ranges: Vec<Range>,
    brackets: Vec<Bracket<'a>>,
}

/// One bracket of an entry, with the plain text before it.
struct Bracket<'a> {
    before: &'a str,
    /// Which of `Parser::ranges` are its own.
    ranges: std::ops::Range<usize>,
}

impl<'a> Parser<'a> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// Reads the entry that starts at `start`, and returns where it ends.
    fn entry(&mut self, start: usize) -> Result<usize, HostlistError> {
        self.ranges.clear();
        self.brackets.clear();
        let (mut plain, mut at, mut names) = (start, start, 1);
        loop {
            match self.byte(at) {
                None => break,
                Some(byte) if is_separator(byte) => break,
                Some(b'[') => {
                    let (first, before) = (self.ranges.len(), &self.text[plain..at]);
                    (at, names) = self.bracket(at, names)?;
                    plain = at;
                    self.brackets.push(Bracket { before, ranges: first..self.ranges.len() });
                    // Every bracket is a byte or more of the name.
                    if self.brackets.len() > MAX_NAME_LEN {
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
        let room = (MAX_NAMES - self.list.len) / names;
        let (mut at, mut count) = (open + 1, 0);
        loop {
            let range;
            (range, at) = self.range(open, at)?;
            count += range.count as usize;
            if count > room {
                return Err(Problem::TooManyNames.at(open));
            }
            self.ranges.push(range);
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
        let (mut value, mut end) = (0_u64, at);
        while let Some(byte @ b'0'..=b'9') = self.byte(end) {
            value = value
                .checked_mul(10)
                .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
                .ok_or_else(|| Problem::NumberTooLarge.at(at))?;
            end += 1;
        }
        if end == at { Err(unexpected(self.byte(at), open, at)) } else { Ok((value, end)) }
    }

    /// Adds the entry at hand, `tail` being the text after its last bracket.
    ///
    /// The last bracket counts fastest; of the others the first does, then the second (Slurm's order).
    fn emit(&mut self, tail: &str) -> Result<(), Problem> {
        let Some((last, outer)) = self.brackets.split_last() else {
            let (prefix, range) = split_number(tail);
            return self.list.push(prefix, "", range);
        };
        let ranges = &self.ranges[last.ranges.clone()];
        if outer.is_empty() {
            return push_all(&mut self.list, last.before, tail, ranges);
        }
        let mut wheels: Vec<_> =
            outer.iter().map(|bracket| Wheel::new(&self.ranges[bracket.ranges.clone()])).collect();
        let mut prefix = String::new();
        loop {
            prefix.clear();
            for (bracket, wheel) in outer.iter().zip(&wheels) {
                prefix.push_str(bracket.before);
                wheel.write(&mut prefix);
                // A name made of many long pieces is refused while it is being put together.
                if prefix.len() > MAX_NAME_LEN {
                    return Err(Problem::NameTooLong);
                }
            }
            prefix.push_str(last.before);
            push_all(&mut self.list, &prefix, tail, ranges)?;
            if wheels.iter_mut().all(Wheel::turn) {
                return Ok(());
            }
        }
    }
}

fn push_all(
    list: &mut Hostlist,
    prefix: &str,
    suffix: &str,
    ranges: &[Range],
) -> Result<(), Problem> {
    list.runs.reserve(ranges.len());
    ranges.iter().try_for_each(|&range| list.push(prefix, suffix, Some(range)))
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
