//! From runs to text, as `scontrol show hostlist` writes it.
//!
//! Slurm folds only the number at the end of a name: `n[1-2]-ib` is read, but written `n1-ib,n2-ib`.
//! This room must never change a name or its place in the list: parsing the text gives the list back.

use std::fmt;

use super::{Hostlist, Range, Run, split_number};

impl fmt::Display for Hostlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fold =
            Fold { out: f, first: true, prefix: String::new(), open: None, number: String::new() };
        let mut name = String::new();
        for &Run { prefix, suffix, range } in &self.runs {
            let (prefix, suffix) = (self.slice(prefix), self.slice(suffix));
            match range {
                Some(range) if !suffix.is_empty() => {
                    for value in range.lo..=range.hi() {
                        name.clear();
                        name.push_str(prefix);
                        range.write(value, &mut name);
                        name.push_str(suffix);
                        let (prefix, range) = split_number(&name);
                        fold.add(prefix, range)?;
                    }
                }
                range => fold.add(prefix, range)?,
            }
        }
        fold.close()
    }
}

/// Writes entries, holding back the last range in case the next one carries on from it.
struct Fold<'f, 'g> {
    out: &'f mut fmt::Formatter<'g>,
    first: bool,
    /// The prefix of the entry being written; means something only while `open` is `Some`.
    prefix: String,
    open: Option<Open>,
    /// A number in digits; kept for its capacity.
    number: String,
}

/// An entry whose prefix is written and whose last range is not.
struct Open {
    range: Range,
    bracketed: bool,
}

impl Fold<'_, '_> {
    fn add(&mut self, prefix: &str, range: Option<Range>) -> fmt::Result {
        if let (Some(open), Some(next)) = (&mut self.open, range)
            && self.prefix == prefix
        {
            if open.range.continues_with(next) {
                open.range.count += next.count;
                return Ok(());
            }
            self.out.write_str(if open.bracketed { "," } else { "[" })?;
            open.bracketed = true;
            let last = std::mem::replace(&mut open.range, next);
            return self.write(last);
        }
        self.close()?;
        if !std::mem::take(&mut self.first) {
            self.out.write_str(",")?;
        }
        self.out.write_str(prefix)?;
        if let Some(range) = range {
            self.prefix.clear();
            self.prefix.push_str(prefix);
            self.open = Some(Open { range, bracketed: false });
        }
        Ok(())
    }

    fn close(&mut self) -> fmt::Result {
        let Some(Open { range, bracketed }) = self.open.take() else { return Ok(()) };
        match (bracketed, range.count) {
            (true, _) => self.out.write_str(",")?,
            (false, 1) => return self.write(range),
            (false, _) => self.out.write_str("[")?,
        }
        self.write(range)?;
        self.out.write_str("]")
    }

    fn write(&mut self, range: Range) -> fmt::Result {
        self.digits(range, range.lo)?;
        if range.count > 1 {
            self.out.write_str("-")?;
            self.digits(range, range.hi())?;
        }
        Ok(())
    }

    fn digits(&mut self, range: Range, value: u64) -> fmt::Result {
        self.number.clear();
        range.write(value, &mut self.number);
        self.out.write_str(&self.number)
    }
}
