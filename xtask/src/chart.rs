//! The Helm chart: linted, rendered, and its renders and README compared with what is committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::world::repo;

/// The oldest Kubernetes that is promised, which decides what a render may hold.
const KUBERNETES: &str = "1.29";

/// What must be refused, and a word of why: values that cannot work together, and such as the schema does not know.
const REFUSED: [(&[&str], &str); 9] = [
    (&["slurm.url=https://slurmrestd:6820"], "slurm.tls.secret"),
    (&["extender.enabled=true"], "door.enabled"),
    (&["ui.enabled=true"], "door.enabled"),
    (&["admission.enabled=true"], "certManager.enabled"),
    (&["certificates.enabled=true"], "nothing to make"),
    (
        &["certificates.enabled=true,certManager.enabled=true,door.enabled=true"],
        "exclude each other",
    ),
    (&["controllers.enabled=true"], "config.nodes"),
    (&["cluster=two words"], "cluster"),
    (&["slurm.tokn.secret=x"], "tokn"),
];

/// Checks everything; false when something is not as committed. `accept` writes it instead.
pub(crate) fn run(accept: bool) -> Result<bool> {
    let top = repo()?;
    let chart =
        Chart { helm: cache::binaries::helm()?.join("helm"), dir: top.join("manifests/chart") };
    let all = chart.dir.join("ci/all-values.yaml");
    let all = all.to_string_lossy();
    let mut problems = chart.missing(&top)?;
    chart.helm(&["lint", "--strict", "--quiet"], &[])?;
    chart.helm(&["lint", "--strict", "--quiet"], &["--values", &all])?;
    for (set, why) in REFUSED {
        let words: Vec<&str> = set.iter().flat_map(|value| ["--set", value]).collect();
        match chart.render(&words) {
            Err(error) if format!("{error:#}").contains(why) => {}
            Err(error) => {
                problems.push(format!("{set:?} is refused without a word on {why}: {error:#}"));
            }
            Ok(_) => problems.push(format!("{set:?} is not refused")),
        }
    }
    // Kinds that no world serves, so they are in no file that is applied in one.
    let monitoring = ["serviceMonitor=true", "rules=true", "dashboards=true"];
    let monitoring = monitoring.map(|value| format!("monitoring.{value}"));
    let words: Vec<&str> = monitoring.iter().flat_map(|value| ["--set", value]).collect();
    let text = chart.render(&words)?;
    for what in ["kind: ServiceMonitor", "alert: GangwaySlurmDown", "gangway-bridge.json: |"] {
        if !text.contains(what) {
            problems.push(format!("with all of monitoring there is no {what}"));
        }
    }
    let values = fs::read_to_string(chart.dir.join("values.yaml"))?;
    let made = [
        ("manifests/gangway.yaml", chart.render(&["--set", "namespace.create=true"])?),
        ("tests/golden/chart-all.yaml", chart.render(&["--values", &all])?),
        ("manifests/chart/README.md", readme(&values)?),
    ];
    for (name, text) in made {
        let committed = fs::read_to_string(top.join(name)).unwrap_or_default();
        if committed == text {
            continue;
        }
        if accept {
            fs::write(top.join(name), text).with_context(|| format!("cannot write {name}"))?;
        } else {
            let line = first_difference(&committed, &text);
            problems.push(format!(
                "{name}:{line} is not what the chart gives: look at it, and accept it by `cargo xtask chart --accept`"
            ));
        }
    }
    for problem in &problems {
        eprintln!("chart: {problem}");
    }
    Ok(problems.is_empty())
}

struct Chart {
    helm: PathBuf,
    dir: PathBuf,
}

impl Chart {
    fn helm(&self, verb: &[&str], words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.helm);
        command.args(verb).arg(&self.dir).args(words).stdin(Stdio::null());
        // No cluster and no settings of a person's.
        command.env("KUBECONFIG", "/dev/null").env("HELM_CONFIG_HOME", self.dir.join("none"));
        let out =
            command.output().with_context(|| format!("cannot run {}", self.helm.display()))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            let own = said.lines().filter(|line| !line.contains("found symbolic link"));
            let own = own.collect::<Vec<_>>().join("\n");
            bail!("helm {verb:?} {words:?}: {own} {}", String::from_utf8_lossy(&out.stdout));
        }
        String::from_utf8(out.stdout).context("helm prints UTF-8")
    }

    fn render(&self, words: &[&str]) -> Result<String> {
        let verb = ["template", "gangway"];
        let always = ["--namespace", "gangway", "--kube-version", KUBERNETES, "--include-crds"];
        let text = self.helm(&verb, &[&always[..], words].concat())?;
        let head =
            "# Made by `cargo xtask chart --accept` from manifests/chart. Not to be edited.\n";
        Ok(head.to_owned() + &text)
    }

    /// Roles and CRDs that the chart does not carry.
    fn missing(&self, top: &Path) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for (from, to, ends) in
            [("manifests", "rbac", "-rbac.yaml"), ("manifests/crds", "crds", ".yaml")]
        {
            let Ok(entries) = fs::read_dir(top.join(from)) else { continue };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.ends_with(ends) && !self.dir.join(to).join(&name).is_file() {
                    problems.push(format!(
                        "{from}/{name} is not in the chart: link it at manifests/chart/{to}/{name}"
                    ));
                }
            }
        }
        Ok(problems)
    }
}

fn first_difference(one: &str, two: &str) -> usize {
    one.lines().zip(two.lines()).take_while(|(a, b)| a == b).count() + 1
}

/// The table of all values: each `# -- ` line of values.yaml, with the key below it and its default.
fn readme(values: &str) -> Result<String> {
    let mut text = "# The Gangway chart\n\n\
        How to install it, step by step: [docs/install.md](../../docs/install.md).\n\
        This table is made from values.yaml by `cargo xtask chart --accept`; values.schema.json refuses what is not in it.\n\n\
        | value | default | meaning |\n|---|---|---|\n"
        .to_owned();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut meaning: Option<String> = None;
    for line in values.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(says) = line.strip_prefix("# -- ") {
            meaning = Some(says.to_owned());
        } else if let Some(more) = line.strip_prefix("# ") {
            if let Some(meaning) = &mut meaning {
                meaning.push(' ');
                meaning.push_str(more);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            while path.last().is_some_and(|(depth, _)| *depth >= indent) {
                path.pop();
            }
            path.push((indent, key));
            let name = path.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
            match meaning.take() {
                Some(meaning) => {
                    let value = value.trim().replace('|', "\\|");
                    text.push_str(&format!(
                        "| `{name}` | `{value}` | {} |\n",
                        meaning.replace('|', "\\|")
                    ));
                }
                None if !value.trim().is_empty() => {
                    bail!("values.yaml does not say what {name} means")
                }
                None => {}
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_whole_names_and_wrapped_meanings() {
        let values = "# Head.\n# -- One\na: 1\nb:\n  # -- Two\n  # and more\n  c: { d: e }\n# -- Three\nf: []\n";
        let table = readme(values).expect("a table");
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(
            rows,
            [
                "| `a` | `1` | One |",
                "| `b.c` | `{ d: e }` | Two and more |",
                "| `f` | `[]` | Three |"
            ]
        );
        assert!(readme("a: 1\n").is_err(), "a value without a meaning");
    }
}
