//! The rules of the house that code can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::ask;
use crate::world::repo;

/// What `gangway-core` may link: data and errors, nothing that reads, waits or looks at a clock.
const PURE: [&str; 14] = [
    "gangway-core",
    "itoa",
    "memchr",
    "proc-macro2",
    "quote",
    "ryu",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];
/// serde_json's way of printing floats, by its current name.
const PURE_TOO: &str = "zmij";

/// Longer than this is more than one room.
const LONGEST: usize = 600;

/// Crates whose every top-level module the architecture page names.
const DESCRIBED: [&str; 2] = ["crates/core", "crates/gangway"];

/// Prints every problem; true when there is none.
pub(crate) fn run() -> Result<bool> {
    let top = repo()?;
    let files = Files::of(&top)?;
    let mut problems = core_is_pure(&top)?;
    problems.extend(forbidden_words(&files));
    problems.extend(unreachable_files(&files));
    problems.extend(long_files(&files));
    problems.extend(broken_links(&files));
    problems.extend(architecture(&files));
    problems.extend(paths_of_one_machine(&files));
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    Ok(problems.is_empty())
}

/// The files of the repository, relative to its top: tracked ones and new ones that are not ignored.
struct Files {
    top: PathBuf,
    names: Vec<String>,
}

impl Files {
    fn of(top: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(top).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        let said = ask(&mut git, "").context("tidy asks git for the list of files")?;
        let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
        names.retain(|name| top.join(name).is_file());
        Ok(Self { top: top.to_owned(), names })
    }

    /// Names and texts of the files with one of these extensions.
    fn with(&self, extensions: &[&str]) -> impl Iterator<Item = (&str, String)> {
        let wanted: Vec<String> = extensions.iter().map(|end| format!(".{end}")).collect();
        let names = self.names.iter().map(String::as_str);
        let names = names.filter(move |name| wanted.iter().any(|end| name.ends_with(end.as_str())));
        names.map(|name| (name, fs::read_to_string(self.top.join(name)).unwrap_or_default()))
    }

    fn exists(&self, name: &str) -> bool {
        self.top.join(name).exists()
    }
}

fn core_is_pure(top: &Path) -> Result<Vec<String>> {
    let cargo = crate::process::cargo();
    let mut tree = Command::new(cargo);
    tree.current_dir(top).args([
        "tree",
        "--locked",
        "-p",
        "gangway-core",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let said = ask(&mut tree, "")?;
    let names: BTreeSet<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    let foreign = names
        .into_iter()
        .filter(|name| !name.is_empty() && !PURE.contains(name) && *name != PURE_TOO);
    Ok(foreign
        .map(|name| format!("crates/core depends on {name}: core has no I/O, no async, no clock"))
        .collect())
}

fn forbidden_words(files: &Files) -> Vec<String> {
    // In pieces, so that this file does not find itself.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
        concat!("thread::", "sleep"),
    ];
    let mut problems = Vec::new();
    for (name, text) in files.with(&["rs"]) {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(*word)) {
                // The chores wait for real daemons; nothing else waits by the clock.
                if !(name.starts_with("xtask/") && word.ends_with("sleep")) {
                    problems.push(format!("{name}:{}: {word} does not belong here", number + 1));
                }
            }
        }
    }
    problems
}

fn unreachable_files(files: &Files) -> Vec<String> {
    let sources: Vec<(&str, String)> = files.with(&["rs"]).collect();
    let mut reached = BTreeSet::new();
    let is_root = |name: &str| {
        ["/src/lib.rs", "/src/main.rs"].iter().any(|end| name.ends_with(end))
            || name.contains("/src/bin/")
    };
    let roots = sources.iter().map(|(name, _)| *name).filter(|name| is_root(name));
    let mut open: Vec<(String, bool)> = roots.map(|name| (name.to_owned(), true)).collect();
    while let Some((name, own_folder)) = open.pop() {
        let Some((_, text)) = sources.iter().find(|(known, _)| *known == name) else { continue };
        if reached.insert(name.clone()) {
            open.extend(named_files(&name, own_folder, text));
        }
    }
    let inside = |name: &str| name.starts_with("crates/") && name.contains("/src/");
    sources
        .iter()
        .filter(|(name, _)| inside(name) && !reached.contains(*name))
        .map(|(name, _)| format!("{name}: no `mod` leads here, so it is never compiled"))
        .collect()
}

/// The files that the `mod`, `#[path]` and `include!` lines of a file may mean, and of each whether its own modules lie
/// beside it (`own_folder`: roots, and files that a `#[path]` names) or in a folder of its name.
fn named_files(name: &str, own_folder: bool, text: &str) -> Vec<(String, bool)> {
    let path = Path::new(name);
    let beside = path.parent().unwrap_or_else(|| Path::new(""));
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let below = match stem {
        "mod" => beside.to_owned(),
        _ if own_folder => beside.to_owned(),
        _ => beside.join(stem),
    };
    let mut named = Vec::new();
    let mut placed = false;
    for line in text.lines().map(str::trim) {
        let declared = line.strip_suffix(';').and_then(|line| line.rsplit_once("mod "));
        if let Some((before, module)) = declared
            && (before.is_empty() || before.starts_with("pub"))
            && !std::mem::take(&mut placed)
        {
            named.push((below.join(format!("{module}.rs")), false));
            named.push((below.join(module).join("mod.rs"), false));
        }
        if line.contains("include!(") || line.starts_with("#[path") {
            let file = line.split('"').nth(1).map(|file| clean(&beside.join(file)));
            named.extend(file.map(|file| (file, true)));
            placed = line.starts_with("#[path");
        }
    }
    named.into_iter().map(|(path, own)| (path.to_string_lossy().into_owned(), own)).collect()
}

fn long_files(files: &Files) -> Vec<String> {
    let long = files.with(&["rs"]).filter_map(|(name, text)| {
        let lines = text.lines().count();
        let generated = name.contains("/generated/") || text.starts_with("// @generated");
        (lines > LONGEST && !generated)
            .then(|| format!("{name} has {lines} lines: more than one room ({LONGEST})"))
    });
    long.collect()
}

fn broken_links(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in files.with(&["md"]) {
        let directory = Path::new(name).parent().unwrap_or_else(|| Path::new(""));
        for (number, target) in links(&text) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !path.is_empty() && !elsewhere {
                let path = clean(&directory.join(path)).to_string_lossy().into_owned();
                if !files.exists(&path) {
                    problems.push(format!("{name}:{number}: the link to {target} leads nowhere"));
                }
            }
        }
    }
    problems
}

/// Line number and target of every inline link outside of code blocks.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for piece in line.split("](").skip(1) {
            let target = piece.split(')').next().unwrap_or_default();
            found.push((number + 1, target.split(' ').next().unwrap_or_default()));
        }
    }
    found
}

/// docs/architecture.md names every crate and every top-level module in lines that start with "- `path`", and no path
/// that is not there.
fn architecture(files: &Files) -> Vec<String> {
    let page = "docs/architecture.md";
    let Ok(text) = fs::read_to_string(files.top.join(page)) else {
        return vec![format!("{page} is missing")];
    };
    let named: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- `")?.split('`').next())
        .collect();
    let mut wanted = BTreeSet::new();
    for name in &files.names {
        let mut parts = name.split('/');
        if let (Some("crates"), Some(krate), Some(_)) = (parts.next(), parts.next(), parts.next()) {
            wanted.insert(format!("crates/{krate}"));
        }
        for krate in DESCRIBED {
            let Some(inside) = name.strip_prefix(&format!("{krate}/src/")) else { continue };
            let root = ["lib.rs", "main.rs"].contains(&inside);
            if !inside.contains('/') && inside.ends_with(".rs") && !root {
                wanted.insert(name.clone());
            }
        }
    }
    let missing = wanted.iter().filter(|path| !named.contains(path.as_str())).map(|path| {
        format!("{page} does not name {path} (a line that starts with \"- `{path}`\")")
    });
    let ghosts = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.starts_with("crates/") && !word.contains([' ', '*', '{']))
        .filter(|path| !files.exists(path))
        .map(|path| format!("{page} names {path}, which is not there"));
    missing.chain(ghosts).collect()
}

fn paths_of_one_machine(files: &Files) -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut foreign = vec![format!("{}/", files.top.display())];
    if home.len() > 1 {
        foreign.push(format!("{}/", home.trim_end_matches('/')));
    }
    let mut problems = Vec::new();
    for (name, text) in files.with(&["rs", "md", "toml", "yaml"]) {
        for (number, line) in text.lines().enumerate() {
            for path in foreign.iter().filter(|path| line.contains(path.as_str())) {
                problems.push(format!("{name}:{}: {path} is a path of one machine", number + 1));
            }
        }
    }
    problems
}

/// Resolves `.` and `..` without asking the file system.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_outside_code_are_found() {
        let text = "see [a](docs/a.md) and [b](../b.md#c \"t\")\n```\n[no](x.md)\n```\n";
        assert_eq!(links(text), [(1, "docs/a.md"), (1, "../b.md#c")]);
    }

    #[test]
    fn a_module_line_names_its_files() {
        let names = |name: &str, own: bool, text: &str| -> Vec<String> {
            named_files(name, own, text).into_iter().map(|(name, _)| name).collect()
        };
        let named = names("crates/x/src/gang.rs", false, "mod inner;\npub(crate) mod outer;\n");
        assert!(named.contains(&"crates/x/src/gang/inner.rs".to_owned()), "{named:?}");
        assert!(named.contains(&"crates/x/src/gang/outer/mod.rs".to_owned()), "{named:?}");
        let text = "// use mod things;\ninclude!(\"g/h.rs\");";
        assert_eq!(names("crates/x/src/lib.rs", true, text), ["crates/x/src/g/h.rs"]);
    }

    #[test]
    fn modules_of_a_file_named_by_its_path_lie_beside_it() {
        let named = named_files("x/gang.rs", false, "#[path = \"gang/tests.rs\"]\nmod tests;\n");
        assert_eq!(named, [("x/gang/tests.rs".to_owned(), true)]);
        let named = named_files("x/gang/tests.rs", true, "mod never;\n");
        assert!(named.contains(&("x/gang/never.rs".to_owned(), false)), "{named:?}");
    }
}
