//! `cargo xtask bench ui`: how soon the web page of a large cluster is on the screen, and what that takes. The story
//! `ui::crowd` measures in a real browser; here it gets a release build, its figures are judged, and its picture is kept.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::faults::{build, story};
use crate::cache;
use crate::progress::say;
use crate::world::repo;

/// What a figure may be at most.
const FLOORS: [(&str, f64); 3] =
    [("first_paint_ms", 1000.0), ("filled_ms", 1000.0), ("rss_most_mb", 50.0)];
/// Bytes of the picture in docs.
const PICTURE: u64 = 200_000;

/// Runs it; false when a floor is missed. `accept` makes the picture that of docs.
pub(crate) fn run(accept: bool) -> Result<bool> {
    let chromium = cache::browser::ensure()?.display().to_string();
    build("building gangway in release", &["--release"])?;
    let target = super::target()?;
    let (binary, picture) = (target.join("release/gangway"), target.join("ui.png"));
    let words = [
        ("GANGWAY_CHROMIUM", chromium),
        ("GANGWAY_BIN", binary.display().to_string()),
        ("GANGWAY_UI_PICTURE", picture.display().to_string()),
    ];
    let mut lines = Vec::new();
    // It plays in no world.
    let mut well = story(Path::new(""), "ui::crowd", &words, &mut lines)?;
    let line = lines.first().context("the story ui::crowd told no figures")?;
    for (figure, most) in FLOORS {
        let is = super::number(line, figure)?;
        if is > most {
            eprintln!("bench: {figure} is {is}; at most {most} is promised");
            well = false;
        }
    }
    say(&format!("the page as it was seen: {}", picture.display()));
    if accept {
        let size = fs::metadata(&picture)?.len();
        ensure!(size < PICTURE, "the picture has {size} bytes; docs take less than {PICTURE}");
        fs::copy(&picture, repo()?.join("docs/ui.png")).context("cannot write docs/ui.png")?;
    }
    Ok(well)
}
