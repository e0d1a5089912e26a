//! Columns for people, with colours where they are wanted.

/// How a cell is painted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Paint {
    /// As it is.
    #[default]
    Plain,
    /// It goes well.
    Good,
    /// It waits.
    Waits,
    /// Something is wrong.
    Bad,
    /// Of less interest.
    Faint,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Waits => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) paint: Paint,
    right: bool,
}

/// A text; nothing is drawn as `-`.
pub(super) fn text(text: impl Into<String>) -> Cell {
    let text = text.into();
    // What others have named is shown, not obeyed.
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Cell { text: if text.is_empty() { "-".to_owned() } else { text }, ..Cell::default() }
}

/// A number, to the right; 0 is drawn as `-`.
pub(super) fn number(number: u32) -> Cell {
    let cell = if number == 0 { text("") } else { text(number.to_string()) };
    Cell { right: true, ..cell }
}

/// A text to the right.
pub(super) fn right(what: impl Into<String>) -> Cell {
    Cell { right: true, ..text(what) }
}

impl Cell {
    pub(super) fn painted(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }
}

/// What is to be written: lines of cells, each line aligned with those around it or on its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawn {
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    Table(Vec<Vec<Cell>>),
    Line(Vec<Cell>),
}

impl Drawn {
    /// A table under its head.
    pub(super) fn table(mut self, head: &[&str], rows: Vec<Vec<Cell>>) -> Self {
        let head = head.iter().map(|name| text(*name).painted(Paint::Faint)).collect();
        self.blocks.push(Block::Table([vec![head], rows].concat()));
        self
    }

    /// A line of its own.
    pub(super) fn line(mut self, cells: Vec<Cell>) -> Self {
        self.blocks.push(Block::Line(cells));
        self
    }

    /// As text.
    pub(super) fn paint(&self, colours: bool) -> String {
        let mut out = String::new();
        for block in &self.blocks {
            match block {
                Block::Line(cells) => line(&mut out, cells, &[], colours),
                Block::Table(rows) => {
                    let widths = widths(rows);
                    for row in rows {
                        line(&mut out, row, &widths, colours);
                    }
                }
            }
        }
        out
    }
}

/// The width of each column; a head follows the side of its column, which is that of the row below.
fn widths(rows: &[Vec<Cell>]) -> Vec<(usize, bool)> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let column = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i));
        let width = cells.clone().map(|cell| cell.text.chars().count()).max().unwrap_or(0);
        (width, cells.skip(1).any(|cell| cell.right))
    };
    (0..columns).map(column).collect()
}

fn line(out: &mut String, cells: &[Cell], widths: &[(usize, bool)], colours: bool) {
    let mut written = String::new();
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            written.push_str(if widths.is_empty() { " " } else { "  " });
        }
        let (width, right) = widths.get(i).copied().unwrap_or((0, false));
        let gap = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let painted = colours && cell.paint != Paint::Plain;
        if right {
            written.push_str(&gap);
        }
        if painted {
            written.push_str(cell.paint.code());
        }
        written.push_str(&cell.text);
        if painted {
            written.push_str("\x1b[0m");
        }
        if !right {
            written.push_str(&gap);
        }
    }
    out.push_str(written.trim_end());
    out.push('\n');
}
