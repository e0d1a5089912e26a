//! From runs to names, one buffer for all of them.
//!
//! Counting up changes the last digit nine times out of ten, so that is all that is rewritten then.
//! Nothing here may allocate per name, except the `String`s that [`Iterator`] has to hand out.

use std::iter::FusedIterator;

use super::{Hostlist, Range, Run, Span};

/// The names of a [`Hostlist`] in order; made by [`Hostlist::iter`].
#[derive(Clone, Debug)]
pub struct Names<'a> {
    list: &'a Hostlist,
    next_run: usize,
    remaining: usize,
    /// The current name.
    buffer: String,
    /// Where the number starts in the buffer: the prefix of `prefix` comes before it.
    number_at: usize,
    prefix: Option<Span>,
    /// Where the number's last digit is in the buffer.
    last_digit_at: usize,
    suffix: &'a str,
    range: Range,
    value: u64,
    /// How many names of the current run are still to come.
    left: u32,
}

impl<'a> Names<'a> {
    pub(super) fn new(list: &'a Hostlist) -> Self {
        Self {
            list,
            next_run: 0,
            remaining: list.len,
            buffer: String::new(),
            number_at: 0,
            prefix: None,
            last_digit_at: 0,
            suffix: "",
            range: Range { lo: 0, count: 1, width: 1 },
            value: 0,
            left: 0,
        }
    }

    /// The next name, valid until the next call: [`Iterator::next`] without the allocation.
    #[inline]
    pub fn advance(&mut self) -> Option<&str> {
        if self.left == 0 {
            let run = *self.list.runs.get(self.next_run)?;
            self.next_run += 1;
            self.open(run);
        } else {
            self.left -= 1;
            self.value += 1;
            let last = self.value % 10;
            if last == 0 {
                self.write_number();
            } else {
                self.buffer.truncate(self.last_digit_at);
                self.buffer.push(char::from(b'0' + last as u8));
                self.buffer.push_str(self.suffix);
            }
        }
        self.remaining -= 1;
        Some(&self.buffer)
    }

    /// Writes the first name of `run`.
    fn open(&mut self, run: Run) {
        if self.prefix != Some(run.prefix) {
            self.buffer.clear();
            self.buffer.push_str(self.list.slice(run.prefix));
            self.prefix = Some(run.prefix);
            self.number_at = self.buffer.len();
        }
        match run.range {
            Some(range) => {
                self.suffix = self.list.slice(run.suffix);
                self.range = range;
                self.value = range.lo;
                self.left = range.count - 1;
                self.write_number();
            }
            None => self.buffer.truncate(self.number_at),
        }
    }

    fn write_number(&mut self) {
        self.buffer.truncate(self.number_at);
        self.range.write(self.value, &mut self.buffer);
        self.last_digit_at = self.buffer.len() - 1;
        self.buffer.push_str(self.suffix);
    }
}

impl Iterator for Names<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.advance().map(str::to_owned)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Names<'_> {}

impl FusedIterator for Names<'_> {}
