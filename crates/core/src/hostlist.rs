//! Slurm hostlists: `node[001-128],gpu7` as compact runs of names, read and written as Slurm does.
//!
//! What Slurm granted arrives in this form, and what we ask for leaves in it.
//! A list stays compact: a range is one run, however many names it stands for, and names come out
//! through one reused buffer ([`Hostlist::for_each_name`]) or all into one ([`Arena`]).
//! This room must never guess: text that is not a list of names is an error with its position, and
//! hostile text costs no more than its own length plus [`MAX_NAMES`] names.
//!
//! `scontrol` is the oracle (`tests/hostlist_oracle.rs`). Where Slurm reads text that no Slurm daemon
//! writes into names nobody meant, we refuse instead:
//!
//! | text | Slurm | here |
//! |---|---|---|
//! | `n[1, 2]`, `n[+1]` | counts the blank or sign as a digit: `n1 n02`, `n01` | [`Problem::NotANumber`] |
//! | `n[1-]` | `n1` | [`Problem::EmptyRange`] |
//! | `n]`, `n[1]]` | a name with `]` in it | [`Problem::StrayBracket`] |
//! | `n[[1]]`, `n[1,m[2]` | the names `n[1]`, `n[1,m2` | [`Problem::NestedBracket`], [`Problem::NotANumber`] |
//! | `n[99999999999999999999]` | `n18446744073709551615` | [`Problem::NumberTooLarge`] |
//! | `n99999999999999999999` | `n18446744073709551615` | the name as written |
//! | more than 65,536 names, `n[0-65535]a[0-65535]b` | reads on, for as long as it takes | [`Problem::TooManyNames`] |
//! | `n[1-2]03`, written | `n103,n203` | `n[103,203]`, as for the same names given singly |
//! | `n[18446744073709551614-18446744073709551615]` | crashes | both names |
//! | names over 255 bytes | accepted | [`Problem::NameTooLong`] |
//! | `{`, `}`, control characters | hostlist functions, or part of a name | [`Problem::BadCharacter`] |
//!
//! Read next: `parse` (text to runs), `print` (runs to text), `names` (runs to names), `order`.

mod arena;
mod names;
mod order;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::fmt;

pub use arena::Arena;
pub use names::Names;

/// How many names one list may hold: Slurm's own limit on nodes in a cluster.
pub const MAX_NAMES: usize = 65_536;

/// How long one name may be in bytes; a DNS name, and so a Kubernetes node name, is at most 253.
pub const MAX_NAME_LEN: usize = 255;

/// An ordered list of host names, duplicates and all, kept as runs of consecutive numbers.
///
/// Two lists are equal when they give the same names in the same order, however they were written.
///
/// ```
/// use gangway_core::hostlist::Hostlist;
///
/// let list = Hostlist::parse("gpu[08-11],login")?;
/// assert_eq!(list.names(), ["gpu08", "gpu09", "gpu10", "gpu11", "login"]);
/// assert_eq!(Hostlist::from_names(list.iter())?.to_string(), "gpu[08-11],login");
/// # Ok::<(), gangway_core::hostlist::HostlistError>(())
/// ```
#[derive(Clone, Default)]
pub struct Hostlist {
    /// Every prefix and suffix, one after another; runs point into it.
    text: String,
    runs: Vec<Run>,
    len: usize,
}

/// Why text or names are not a hostlist, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at {at})")]
pub struct HostlistError {
    /// What is wrong.
    pub problem: Problem,
    /// Where: the byte offset in the text that was parsed, or for [`Hostlist::from_names`] the index
    /// of the name.
    pub at: usize,
}

/// What can be wrong with a hostlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A `[` without its `]`.
    #[error("bracket is never closed")]
    UnclosedBracket,
    /// A `]` without its `[`.
    #[error("closing bracket without an opening one")]
    StrayBracket,
    /// A `[` inside brackets.
    #[error("bracket inside a bracket")]
    NestedBracket,
    /// A number is missing, as in `[]`, `[1,,2]` or `[1-]`.
    #[error("number is missing in brackets")]
    EmptyRange,
    /// Something other than digits, `-` and `,` in brackets.
    #[error("not a number in brackets")]
    NotANumber,
    /// A number beyond 64 bits.
    #[error("number is too large")]
    NumberTooLarge,
    /// A range that ends before it starts.
    #[error("range ends before it starts")]
    ReversedRange,
    /// A single range of more than [`MAX_NAMES`].
    #[error("range holds more than {MAX_NAMES} names")]
    RangeTooLarge,
    /// The list as a whole holds more than [`MAX_NAMES`].
    #[error("list holds more than {MAX_NAMES} names")]
    TooManyNames,
    /// A name longer than [`MAX_NAME_LEN`].
    #[error("name is longer than {MAX_NAME_LEN} bytes")]
    NameTooLong,
    /// A character that no name may have: a control character, `{` or `}`.
    #[error("character that no host name has")]
    BadCharacter,
    /// [`Hostlist::from_names`] met something that is not one name: empty, or with a separator or
    /// bracket in it.
    #[error("not a single host name")]
    NotAName,
}

impl Problem {
    pub(crate) fn at(self, at: usize) -> HostlistError {
        HostlistError { problem: self, at }
    }
}

/// Consecutive names: `prefix`, a number counting up from `range.lo`, `suffix`.
/// Without a number (`range` is `None`) it is one name, the prefix.
#[derive(Clone, Copy)]
struct Run {
    prefix: Span,
    suffix: Span,
    range: Option<Range>,
}

/// A piece of `Hostlist::text`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u8,
}

/// The numbers `lo`, `lo + 1` … (`count` of them), each written with at least `width` digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    lo: u64,
    count: u32,
    width: u8,
}

impl Range {
    fn hi(self) -> u64 {
        self.lo + u64::from(self.count - 1)
    }

    /// Whether `next` carries on where `self` ends, written the way `self` would write it.
    fn continues_with(self, next: Self) -> bool {
        self.lo.checked_add(u64::from(self.count)) == Some(next.lo) && {
            let digits = digit_count(next.lo);
            self.width.max(digits) == next.width.max(digits)
        }
    }

    /// Appends `value` to `out`, padded to this range's width.
    fn write(self, value: u64, out: &mut String) {
        self.digits(value, |digits| {
            // Digits are text.
            out.push_str(std::str::from_utf8(digits).unwrap_or_default());
        });
    }

    /// Hands out `value` in digits, padded to this range's width; in pieces where that is very wide.
    #[inline]
    fn digits(self, value: u64, mut out: impl FnMut(&[u8])) {
        let mut digits = [b'0'; U64_DIGITS];
        let mut start = U64_DIGITS;
        let mut rest = value;
        while rest >= 10 {
            start -= 2;
            let pair = (rest % 100) as usize * 2;
            digits[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
            rest /= 100;
        }
        if rest > 0 || start == U64_DIGITS {
            start -= 1;
            digits[start] = b'0' + rest as u8;
        }
        let width = usize::from(self.width);
        for _ in U64_DIGITS..width {
            out(b"0");
        }
        start = start.min(U64_DIGITS.saturating_sub(width));
        out(&digits[start..]);
    }
}

/// 00 to 99.
const PAIRS: [u8; 200] = {
    let mut pairs = [b'0'; 200];
    let mut n = 0;
    while n < 100 {
        pairs[n * 2] += (n / 10) as u8;
        pairs[n * 2 + 1] += (n % 10) as u8;
        n += 1;
    }
    pairs
};

/// How many digits the largest number has.
const U64_DIGITS: usize = 20;

impl Hostlist {
    /// Reads Slurm's notation: names separated by commas or blanks, each with any number of
    /// brackets, as in `r[1-2]n[01-04],login`.
    pub fn parse(text: &str) -> Result<Self, HostlistError> {
        let mut list = Self::default();
        parse::parse(text, &mut list, &mut parse::Scratch::default())?;
        Ok(list)
    }

    /// Folds names into a list, keeping their order and repeats. Neighbours that count up become
    /// one range; sort first ([`Hostlist::sorted`]) to fold all that can be.
    pub fn from_names<I>(names: I) -> Result<Self, HostlistError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut list = Self::default();
        for (index, name) in names.into_iter().enumerate() {
            let name = name.as_ref();
            let pushed = parse::check_name(name).and_then(|()| list.push_name(name));
            pushed.map_err(|problem| problem.at(index))?;
        }
        Ok(list)
    }

    /// How many names the list holds, repeats counted.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds no name.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The names in order, one `String` each; [`Hostlist::for_each_name`] allocates nothing.
    pub fn iter(&self) -> Names<'_> {
        Names::new(self)
    }

    /// Calls `visit` with each name in order, all through one buffer.
    pub fn for_each_name(&self, mut visit: impl FnMut(&str)) {
        let mut names = self.iter();
        while let Some(name) = names.advance() {
            visit(name);
        }
    }

    /// All names in order.
    pub fn names(&self) -> Vec<String> {
        self.iter().collect()
    }

    /// The same names in Slurm's order (`scontrol show hostlistsorted`), repeats kept.
    ///
    /// The order is that of the names alone. Slurm sorts ranges, so where one prefix has numbers both
    /// padded and not (`n[98-100],n099`) it may leave the same names in another order, and drop
    /// repeats. Numbers of ten digits and more, which Slurm compares modulo 2^32, sort as numbers.
    #[must_use]
    pub fn sorted(&self) -> Self {
        order::sorted(self)
    }

    /// Adds one name, folding it into the run before it when it can.
    fn push_name(&mut self, name: &str) -> Result<(), Problem> {
        let (prefix, range) = split_number(name);
        self.push(prefix, "", range)
    }

    /// Adds names, merging them into the last run when they carry on from it.
    fn push(&mut self, prefix: &str, suffix: &str, range: Option<Range>) -> Result<(), Problem> {
        self.len += parse::room_for(self.len, prefix, suffix, range)?;
        let before = self.runs.last().copied();
        let same_prefix = before.map(|run| run.prefix).filter(|&span| self.slice(span) == prefix);
        let same_suffix = before.map(|run| run.suffix).filter(|&span| self.slice(span) == suffix);
        if same_prefix.is_some()
            && same_suffix.is_some()
            && let (Some(last), Some(next)) = (self.runs.last_mut(), range)
            && let Some(open) = &mut last.range
            && open.continues_with(next)
        {
            open.count += next.count;
            return Ok(());
        }
        let prefix = same_prefix.unwrap_or_else(|| self.intern(prefix));
        let suffix = same_suffix.unwrap_or_else(|| self.intern(suffix));
        self.runs.push(Run { prefix, suffix, range });
        Ok(())
    }

    /// Adds names with prefix and suffix of the last run, which leave `room` bytes for the number: what
    /// [`Hostlist::push`] does, in short.
    fn push_again(&mut self, room: usize, range: Range) -> Result<(), Problem> {
        parse::room_again(self.len, room, range)?;
        self.len += range.count as usize;
        let Some(last) = self.runs.last_mut() else { return Ok(()) };
        match &mut last.range {
            Some(open) if open.continues_with(range) => open.count += range.count,
            _ => {
                let run = Run { range: Some(range), ..*last };
                self.runs.push(run);
            }
        }
        Ok(())
    }

    /// Keeps `part` (checked to be at most [`MAX_NAME_LEN`] bytes) in `text`. With at most
    /// [`MAX_NAMES`] runs of two parts each, offsets stay far below `u32::MAX`.
    fn intern(&mut self, part: &str) -> Span {
        if part.is_empty() {
            return Span::default();
        }
        let span = Span { start: self.text.len() as u32, len: part.len() as u8 };
        self.text.push_str(part);
        span
    }

    fn slice(&self, span: Span) -> &str {
        let start = span.start as usize;
        &self.text[start..start + usize::from(span.len)]
    }
}

impl PartialEq for Hostlist {
    fn eq(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.iter(), other.iter());
        self.len == other.len && (0..self.len).all(|_| ours.advance() == theirs.advance())
    }
}

impl Eq for Hostlist {}

impl fmt::Debug for Hostlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hostlist({self})")
    }
}

impl std::str::FromStr for Hostlist {
    type Err = HostlistError;

    fn from_str(text: &str) -> Result<Self, HostlistError> {
        Self::parse(text)
    }
}

impl<'a> IntoIterator for &'a Hostlist {
    type Item = String;
    type IntoIter = Names<'a>;

    fn into_iter(self) -> Names<'a> {
        self.iter()
    }
}

/// Splits the digits off the end of a name. A number beyond 64 bits stays part of the name.
fn split_number(name: &str) -> (&str, Option<Range>) {
    let end = name.bytes().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |last| last + 1);
    let (prefix, digits) = name.split_at(end);
    match (digits.parse(), u8::try_from(digits.len())) {
        (Ok(lo), Ok(width)) => (prefix, Some(Range { lo, count: 1, width })),
        _ => (name, None),
    }
}

fn digit_count(value: u64) -> u8 {
    value.checked_ilog10().map_or(1, |log| log as u8 + 1)
}
