//! Where everything that we link comes from: licences, sources, banned crates, a reason for each, and the list of parts.
//!
//! It checks by deny.toml what `cargo deny check bans licenses sources` checks, from what cargo itself says, so that
//! every CI run can afford it. The list of parts is in CycloneDX's form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::ask;
use crate::world::repo;

/// Checks everything and writes target/gangway.cdx.json; false when something is not as it should be.
pub(crate) fn run() -> Result<bool> {
    let top = repo()?;
    let problems = problems(&top)?;
    for problem in &problems {
        eprintln!("supply: {problem}");
    }
    let bill = top.join("target/gangway.cdx.json");
    fs::create_dir_all(top.join("target"))?;
    let parts = packages(&top, &["-p", "gangway", "-e", "normal"])?;
    fs::write(&bill, cyclonedx(&parts, &Lock::read(&top)?))
        .with_context(|| format!("cannot write {}", bill.display()))?;
    println!("{} parts are in {}", parts.len(), bill.display());
    Ok(problems.is_empty())
}

/// What is wrong.
pub(crate) fn problems(top: &Path) -> Result<Vec<String>> {
    let rules = fs::read_to_string(top.join("deny.toml")).context("deny.toml")?;
    let (allowed, banned) = (quoted(&rules, "allow = ["), quoted(&rules, "deny = ["));
    let sources = quoted(&rules, "allow-registry = [");
    let mut problems = Vec::new();
    for part in packages(top, &["--workspace", "-e", "normal,build,dev"])? {
        if !license_is_fine(&part.license, &allowed) {
            let Part { name, version, license } = &part;
            problems.push(format!(
                "{name} {version} has the licence {license:?}, which deny.toml does not allow"
            ));
        }
    }
    let lock = Lock::read(top)?;
    problems.extend(lock.strangers(&banned, &sources));
    let manifest = fs::read_to_string(top.join("Cargo.toml"))?;
    problems.extend(without_reason(&manifest));
    problems.extend(stale_lock(top));
    Ok(problems)
}

/// The fuzz targets have a lock of their own, which nobody else needs: it is forgotten where a dependency is new.
fn stale_lock(top: &Path) -> Option<String> {
    let cargo = crate::process::cargo();
    let mut tree = Command::new(cargo);
    tree.current_dir(top.join("fuzz")).args(["tree", "--locked", "--depth", "0"]);
    ask(&mut tree, "").err().map(|_| {
        "fuzz/Cargo.lock is not up to date: run `cargo metadata` in fuzz, and commit it".to_owned()
    })
}

/// One crate of a tree.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    name: String,
    version: String,
    license: String,
}

fn packages(top: &Path, of: &[&str]) -> Result<BTreeSet<Part>> {
    let cargo = crate::process::cargo();
    let mut tree = Command::new(cargo);
    tree.current_dir(top)
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}|{l}"])
        .args(of);
    let said = ask(&mut tree, "")?;
    Ok(said.lines().filter_map(part).collect())
}

/// `ahash v0.8.12|MIT OR Apache-2.0 (*)`
fn part(line: &str) -> Option<Part> {
    let (package, license) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let license = license.trim_end_matches(" (*)").to_owned();
    Some(Part { name: name.to_owned(), version: version.to_owned(), license })
}

/// Whether we may use what is offered under this expression of SPDX: one side of an OR, all sides of an AND. The old way
/// of writing OR is a slash.
fn license_is_fine(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let fine = either(&mut words, allowed);
    fine && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut fine = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        // Not short-circuited: the words have to be read.
        fine |= both(words, allowed);
    }
    fine
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut fine = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        fine &= one(words, allowed);
    }
    fine
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let fine = either(words, allowed);
        return words.next_if_eq(&")").is_some() && fine;
    }
    let Some(mut name) = words.next().map(str::to_owned) else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let _ = write!(name, " WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&name)
}

/// Cargo.lock: where each crate comes from, and the hash of it.
struct Lock(Vec<BTreeMap<String, String>>);

impl Lock {
    fn read(top: &Path) -> Result<Self> {
        Ok(Self::parse(&fs::read_to_string(top.join("Cargo.lock")).context("Cargo.lock")?))
    }

    fn parse(text: &str) -> Self {
        let packages = text.split("[[package]]").skip(1).map(|package| {
            let pairs = package.lines().filter_map(|line| line.split_once(" = "));
            pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect()
        });
        Self(packages.collect())
    }

    fn checksum(&self, part: &Part) -> Option<&str> {
        let is = |package: &&BTreeMap<String, String>| {
            package.get("name") == Some(&part.name) && package.get("version") == Some(&part.version)
        };
        self.0.iter().find(is)?.get("checksum").map(String::as_str)
    }

    fn strangers(&self, banned: &BTreeSet<String>, sources: &BTreeSet<String>) -> Vec<String> {
        let mut problems = Vec::new();
        for package in &self.0 {
            let name = package.get("name").map_or("", String::as_str);
            if banned.contains(name) {
                problems.push(format!("{name} is banned by deny.toml"));
            }
            // Ours have none.
            let Some(source) = package.get("source") else { continue };
            if !source.strip_prefix("registry+").is_some_and(|from| sources.contains(from)) {
                problems
                    .push(format!("{name} comes from {source}, which deny.toml does not allow"));
            }
            if !package.contains_key("checksum") {
                problems.push(format!("{name} has no checksum in Cargo.lock"));
            }
        }
        problems
    }
}

/// The texts in quotes of a list in a TOML file, from the line that begins so to the end of the list.
fn quoted(text: &str, begins: &str) -> BTreeSet<String> {
    let Some((_, rest)) = text.split_once(&format!("\n{begins}")) else { return BTreeSet::new() };
    let end = rest.find("\n]").or_else(|| rest.find(']')).unwrap_or(rest.len());
    let end = rest.find('\n').filter(|line| rest[..*line].contains(']')).unwrap_or(end);
    rest[..end].split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Lines of the table of dependencies that do not say why a crate is here, and versions that are a wildcard.
fn without_reason(manifest: &str) -> Vec<String> {
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let table = table.split("\n[").next().unwrap_or_default();
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut problems = Vec::new();
    for (name, rest) in lines.filter_map(|line| line.split_once(" = ")) {
        let (value, reason) = rest.split_once('#').unwrap_or((rest, ""));
        if !value.contains("path = ") && reason.trim().len() < 10 {
            problems.push(format!("Cargo.toml does not say in one line why {name} is here"));
        }
        if value.contains("\"*\"") || value.contains("git = ") {
            problems.push(format!("Cargo.toml takes {name} in no fixed version"));
        }
    }
    problems
}

fn cyclonedx(parts: &BTreeSet<Part>, lock: &Lock) -> String {
    let mut text = String::from(
        "{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.5\",\n  \"version\": 1,\n  \"metadata\": {\"component\": \
         {\"type\": \"application\", \"name\": \"gangway\"}},\n  \"components\": [",
    );
    for (at, part) in parts.iter().enumerate() {
        let Part { name, version, license } = part;
        let comma = if at == 0 { "" } else { "," };
        let license = license.replace('/', " OR ");
        let purl = format!("pkg:cargo/{name}@{version}");
        let _ = write!(
            text,
            "{comma}\n    {{\"type\": \"library\", \"bom-ref\": \"{purl}\", \"name\": \"{name}\", \"version\": \"{version}\", \
             \"purl\": \"{purl}\", \"licenses\": [{{\"expression\": \"{license}\"}}]"
        );
        if let Some(hash) = lock.checksum(part) {
            let _ =
                write!(text, ", \"hashes\": [{{\"alg\": \"SHA-256\", \"content\": \"{hash}\"}}]");
        }
        text.push('}');
    }
    text.push_str("\n  ]\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn an_expression_is_fine_when_what_we_may_use_satisfies_it() {
        let allowed = set(&["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]);
        for fine in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(license_is_fine(fine, &allowed), "{fine}");
        }
        for not in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT", "MIT MIT"] {
            assert!(!license_is_fine(not, &allowed), "{not}");
        }
    }

    #[test]
    fn strangers_and_banned_crates_are_told() {
        let lock = "[[package]]\nname = \"ours\"\nversion = \"1\"\n[[package]]\nname = \"a\"\nversion = \"1\"\n\
            source = \"registry+https://r\"\nchecksum = \"00\"\n[[package]]\nname = \"b\"\nversion = \"1\"\n\
            source = \"git+https://g\"\n";
        let said = Lock::parse(lock).strangers(&set(&["a"]), &set(&["https://r"]));
        assert_eq!(
            said,
            [
                "a is banned by deny.toml",
                "b comes from git+https://g, which deny.toml does not allow",
                "b has no checksum in Cargo.lock",
            ]
        );
    }

    #[test]
    fn lists_are_read_from_one_line_and_from_many() {
        let text = "[a]\nallow = [\n  \"x\",\n  \"y z\",\n]\ndeny = [{ crate = \"no\" }]\nmore = [\"not\"]\n";
        assert_eq!(quoted(text, "allow = ["), set(&["x", "y z"]));
        assert_eq!(quoted(text, "deny = ["), set(&["no"]));
    }

    #[test]
    fn a_crate_without_a_reason_is_told() {
        let text = "[workspace.dependencies]\nours = { path = \"x\" }\na = \"1\" # a good enough reason\nb = \"1\"\nc = \"*\" # for no reason at all\n\n[x]\nd = 1\n";
        assert_eq!(
            without_reason(text),
            [
                "Cargo.toml does not say in one line why b is here",
                "Cargo.toml takes c in no fixed version"
            ]
        );
    }

    #[test]
    fn the_bill_names_each_part_once_with_its_hash() {
        let parts = BTreeSet::from([part("a v1.0.0|MIT/Apache-2.0 (*)").unwrap()]);
        let lock =
            Lock::parse("[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"00ff\"\n");
        let bill = cyclonedx(&parts, &lock);
        for word in ["pkg:cargo/a@1.0.0", "MIT OR Apache-2.0", "00ff"] {
            assert!(bill.contains(word), "{bill}");
        }
    }
}
