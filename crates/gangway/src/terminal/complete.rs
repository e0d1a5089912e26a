//! What kubectl asks while somebody types `kubectl gang …` and presses Tab.
//!
//! kubectl runs `kubectl_complete-gang` with the words so far, the last of them unfinished, and reads a candidate a line,
//! a tab and its meaning behind it, then `:` and a directive of its completion
//! (<https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>). Asks nobody: it has to answer between two keys.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// Cobra's "and no names of files".
const NO_FILES: u32 = 4;
/// Cobra's "names of files".
const FILES: u32 = 0;

/// The answer for these words; the last one is the one that is being typed.
pub(super) fn answer(plugin: &Command, words: &[String]) -> String {
    let (typed, before) =
        words.split_last().map_or(("", &[][..]), |(last, all)| (last.as_str(), all));
    let mut verb = plugin;
    for word in before {
        verb = verb.find_subcommand(word).unwrap_or(verb);
    }
    let asked = before.last().and_then(|flag| flag_of(verb, flag)).filter(|arg| takes_value(arg));
    let candidates = match asked {
        Some(flag) => values(flag),
        None if typed.starts_with('-') => flags(verb),
        None => verbs(verb),
    };
    let files = asked.is_some_and(|flag| values(flag).is_empty());
    let mut out = String::new();
    for (word, meaning) in candidates.iter().filter(|(word, _)| word.starts_with(typed)) {
        let _ = writeln!(out, "{word}\t{meaning}");
    }
    let _ = writeln!(out, ":{}", if files { FILES } else { NO_FILES });
    out
}

type Candidates = Vec<(String, String)>;

fn meaning(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Subcommands, or what the first argument without a name may be.
fn verbs(verb: &Command) -> Candidates {
    let own = verb.get_subcommands().filter(|one| !one.is_hide_set());
    let mut all: Candidates =
        own.map(|one| (one.get_name().to_owned(), meaning(one.get_about()))).collect();
    all.extend(verb.get_positionals().flat_map(values));
    all
}

fn flags(verb: &Command) -> Candidates {
    let shown = verb.get_opts().chain(verb.get_arguments().filter(|arg| !takes_value(arg)));
    let named = shown
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| Some((format!("--{}", arg.get_long()?), meaning(arg.get_help()))));
    named.collect()
}

fn values(arg: &Arg) -> Candidates {
    let shown = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    shown.map(|value| (value.get_name().to_owned(), meaning(value.get_help()))).collect()
}

fn flag_of<'a>(verb: &'a Command, word: &str) -> Option<&'a Arg> {
    let is = |arg: &&Arg| {
        let long = word.strip_prefix("--").is_some_and(|name| arg.get_long() == Some(name));
        let short = word.strip_prefix('-').is_some_and(|name| {
            let mut letters = name.chars();
            arg.get_short().is_some()
                && letters.next() == arg.get_short()
                && letters.next().is_none()
        });
        long || short
    };
    verb.get_arguments().find(is)
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_positional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> (Vec<String>, String) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let said = answer(&super::super::plugin_command(), &words);
        let mut lines: Vec<String> = said
            .lines()
            .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
            .collect();
        let directive = lines.pop().expect("a directive");
        (lines, directive)
    }

    #[test]
    fn kubectl_is_told_verbs_flags_and_values() {
        let (verbs, directive) = asked(&[""]);
        assert!(
            ["queue", "explain", "whatif"].iter().all(|verb| verbs.contains(&(*verb).into())),
            "{verbs:?}"
        );
        assert_eq!(directive, ":4");
        assert_eq!(asked(&["ex"]).0, ["explain"]);
        assert_eq!(asked(&["queue", "--wait"]).0, ["--waiting"]);
        assert_eq!(asked(&["queue", "-o", "y"]).0, ["yaml"]);
        assert_eq!(asked(&["usage", "--by", "na"]).0, ["namespace"]);
        assert_eq!(asked(&["completion", "z"]).0, ["zsh"]);
        // A file's name is the shell's to complete.
        assert_eq!(asked(&["queue", "--config", ""]), (vec![], ":0".to_owned()));
        assert_eq!(asked(&["queue", "nothing"]), (vec![], ":4".to_owned()));
    }
}
