//! What a gang waits for: Slurm jobs by number, and workloads of its own namespace by name.
//!
//! Slurm knows a workload only as a placeholder, and a placeholder ends CANCELLED however well its
//! pods have done, so success is Kubernetes' word: `afterok` and `afternotok` of a workload are settled
//! here and never handed to Slurm.

use std::collections::BTreeMap;
use std::fmt;

use super::words::shown;
use crate::job::JobId;
use crate::workload::Kind;

/// One dependency, such as `afterany:123:pytorchjob/prepare,singleton`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// One of the terms is enough (`?`), or all must be met (`,`).
    pub any: bool,
    /// At least one.
    pub terms: Vec<Term>,
}

/// One term of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// No other job of this name and user may run.
    Singleton,
    /// Others must have come so far; at least one of them is named.
    After(After, Vec<On>),
}

/// How far the others must have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Started.
    Start,
    /// Ended in any way.
    End,
    /// Ended badly.
    Failure,
    /// Ended well.
    Success,
}

impl After {
    const ALL: [Self; 4] = [Self::Start, Self::End, Self::Failure, Self::Success];

    fn word(self) -> &'static str {
        match self {
            Self::Start => "after",
            Self::End => "afterany",
            Self::Failure => "afternotok",
            Self::Success => "afterok",
        }
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A Slurm job, and minutes to let pass after its start.
    Job(u32, u32),
    /// A workload of the same namespace, as `kind/name`, the kind in small letters.
    Workload(String),
}

/// How a workload has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
}

/// What Kubernetes shows of a workload that a dependency names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Other {
    /// Its uid, under which its placeholder is found.
    pub uid: String,
    /// How it has ended; `None` while it has not.
    pub outcome: Option<Outcome>,
}

/// Whether a dependency lets its gang go to Slurm now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It does, with this much left for Slurm to wait for.
    Ready(Option<String>),
    /// Not yet, and why, for the user.
    Waits(String),
    /// Not ever, and why, for the user.
    Never(String),
}

impl Dependency {
    /// Reads Slurm's grammar, with `kind/name` wherever a job id may stand.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let any = text.contains('?');
        if any && text.contains(',') {
            return Err("either ',' (all) or '?' (any one) between dependencies, not both".into());
        }
        let terms = text.split(if any { '?' } else { ',' }).map(|term| term_of(term.trim()));
        Ok(Self { any, terms: terms.collect::<Result<_, _>>()? })
    }

    /// The workloads it names, each as `kind/name`.
    pub fn workloads(&self) -> impl Iterator<Item = &str> {
        let others = self.terms.iter().flat_map(|term| match term {
            Term::Singleton => [].iter(),
            Term::After(_, on) => on.iter(),
        });
        others.filter_map(|on| match on {
            On::Job(..) => None,
            On::Workload(path) => Some(path.as_str()),
        })
    }

    /// Settles what Kubernetes shows of the `others` by path; the rest is left to Slurm, with the
    /// live placeholder of a gang (`job_of` its uid) in its place.
    pub fn settle(
        &self,
        others: &BTreeMap<String, Other>,
        job_of: impl Fn(&str) -> Option<JobId>,
    ) -> Settled {
        let mut met = false;
        let mut left: Vec<String> = Vec::new();
        let (mut waits, mut never) = (Vec::new(), Vec::new());
        let mut take = |one: Settled| match one {
            Settled::Ready(None) => met = true,
            Settled::Ready(Some(term)) => left.push(term),
            Settled::Waits(why) => waits.push(why),
            Settled::Never(why) => never.push(why),
        };
        for term in &self.terms {
            match term {
                Term::Singleton => take(Settled::Ready(Some("singleton".to_owned()))),
                Term::After(after, on) => {
                    for one in on {
                        take(settle_one(*after, one, others, &job_of));
                    }
                }
            }
        }
        let enough = self.any && met;
        // One that can never be met counts only where all must be, or where nothing else is left.
        let hopeless = !self.any || (waits.is_empty() && left.is_empty());
        if enough {
            Settled::Ready(None)
        } else if !never.is_empty() && hopeless {
            Settled::Never(never.join("; "))
        } else if !waits.is_empty() {
            Settled::Waits(waits.join("; "))
        } else {
            let joined = left.join(if self.any { "?" } else { "," });
            Settled::Ready(Some(joined).filter(|text| !text.is_empty()))
        }
    }
}

fn settle_one(
    after: After,
    on: &On,
    others: &BTreeMap<String, Other>,
    job_of: &impl Fn(&str) -> Option<JobId>,
) -> Settled {
    let path = match on {
        On::Job(..) => return Settled::Ready(Some(format!("{}:{on}", after.word()))),
        On::Workload(path) => path,
    };
    let Some(other) = others.get(path) else {
        return Settled::Waits(format!(
            "there is no {path} in its namespace (yet); create it, or correct gangway.dev/dependency"
        ));
    };
    match (after, other.outcome) {
        (After::Start | After::End, Some(_))
        | (After::Success, Some(Outcome::Succeeded))
        | (After::Failure, Some(Outcome::Failed)) => Settled::Ready(None),
        (After::Success, Some(Outcome::Failed)) => {
            Settled::Never(format!("{path} has failed, and it was to run only after its success"))
        }
        (After::Failure, Some(Outcome::Succeeded)) => Settled::Never(format!(
            "{path} has succeeded, and it was to run only after its failure"
        )),
        (After::Success, None) => Settled::Waits(format!("waiting until {path} has succeeded")),
        (After::Failure, None) => Settled::Waits(format!("waiting until {path} has failed")),
        (After::Start | After::End, None) => match job_of(&other.uid) {
            Some(job) => Settled::Ready(Some(format!("{}:{job}", after.word()))),
            None => Settled::Waits(format!("waiting for {path}, which is not in Slurm's queue")),
        },
    }
}

fn term_of(term: &str) -> Result<Term, String> {
    if term == "singleton" {
        return Ok(Term::Singleton);
    }
    let (word, rest) = term.split_once(':').unwrap_or((term, ""));
    let Some(after) = After::ALL.into_iter().find(|after| after.word() == word) else {
        return Err(format!(
            "{} is no dependency (after, afterany, afterok or afternotok with :JOB or :KIND/NAME, or singleton)",
            shown(term)
        ));
    };
    let on = rest.split(':').map(|one| on_of(after, one)).collect::<Result<_, _>>()?;
    Ok(Term::After(after, on))
}

fn on_of(after: After, text: &str) -> Result<On, String> {
    if let Some((kind, name)) = text.split_once('/') {
        return workload_of(kind, name);
    }
    let (id, minutes) = text.split_once('+').map_or((text, None), |(id, m)| (id, Some(m)));
    let id = id.parse().ok().filter(|id| *id > 0);
    let minutes = match minutes {
        None => Some(0),
        Some(minutes) if after == After::Start => minutes.parse().ok(),
        Some(_) => None,
    };
    match (id, minutes) {
        (Some(id), Some(minutes)) => Ok(On::Job(id, minutes)),
        _ => Err(format!("{} is neither a Slurm job id nor KIND/NAME", shown(text))),
    }
}

fn workload_of(kind: &str, name: &str) -> Result<On, String> {
    let kind = kind.to_ascii_lowercase();
    let known = Kind::ALL.iter().map(|kind| kind.name().to_ascii_lowercase());
    let known: Vec<String> = std::iter::once("pod".to_owned()).chain(known).collect();
    if !known.contains(&kind) {
        return Err(format!(
            "no workload is called {}; known are {}",
            shown(&kind),
            known.join(", ")
        ));
    }
    if name.contains('/') {
        return Err("a gang may wait only for workloads of its own namespace, as KIND/NAME".into());
    }
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if name.is_empty() || name.len() > 253 || !name.chars().all(fine) {
        return Err(format!("{} is not the name of a Kubernetes object", shown(name)));
    }
    Ok(On::Workload(format!("{kind}/{name}")))
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id, 0) => id.fmt(f),
            Self::Job(id, minutes) => write!(f, "{id}+{minutes}"),
            Self::Workload(path) => f.write_str(path),
        }
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(if self.any { "?" } else { "," })?;
            }
            match term {
                Term::Singleton => f.write_str("singleton")?,
                Term::After(after, on) => {
                    f.write_str(after.word())?;
                    on.iter().try_for_each(|one| write!(f, ":{one}"))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Dependency {
        Dependency::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn settle(text: &str, others: &[(&str, Option<Outcome>)]) -> Settled {
        let others = others.iter().map(|(path, outcome)| {
            ((*path).to_owned(), Other { uid: (*path).to_owned(), outcome: *outcome })
        });
        // Only this one is in Slurm's queue.
        let job_of = |uid: &str| (uid == "job/queued").then_some(JobId(77));
        read(text).settle(&others.collect(), job_of)
    }

    #[test]
    fn slurms_grammar_is_read_and_written_back() {
        for text in [
            "singleton",
            "afterok:1",
            "after:12+5:13",
            "afterany:1:2,singleton,afternotok:3",
            "afterok:1?afterany:pytorchjob/train",
            "afterok:pod/a.b-1",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read("afterok:PyTorchJob/x").to_string(), "afterok:pytorchjob/x");
    }

    #[test]
    fn what_slurm_could_read_otherwise_is_refused() {
        for text in [
            "",
            "afterok",
            "afterok:",
            "afterok:0",
            "afterok:1:",
            "afterok:-1",
            "expand:4",
            "afterok:1,",
            "afterok:1?singleton,after:2",
            "afterok:1+5",
            "afterok:job/",
            "afterok:job/A B",
            "before:1",
            "afterok:deployment/x",
            "afterok:job/other-ns/x",
            "afterok:99999999999",
        ] {
            assert!(Dependency::parse(text).is_err(), "{text}");
        }
        let problem = Dependency::parse("afterok:job/other/x").expect_err("another namespace");
        assert!(problem.contains("own namespace"), "{problem}");
    }

    #[test]
    fn success_is_kubernetes_word_and_the_rest_is_slurms() {
        use Outcome::{Failed, Succeeded};
        let ready = |text: &str| Settled::Ready(Some(text.to_owned()));
        let none = Settled::Ready(None);
        assert_eq!(settle("afterok:5,singleton", &[]), ready("afterok:5,singleton"));
        assert_eq!(settle("afterany:job/queued", &[("job/queued", None)]), ready("afterany:77"));
        assert_eq!(settle("after:job/queued", &[("job/queued", None)]), ready("after:77"));
        assert_eq!(settle("afterany:job/a", &[("job/a", Some(Failed))]), none);
        assert_eq!(settle("afterok:job/a", &[("job/a", Some(Succeeded))]), none);
        assert_eq!(
            settle("afterok:job/a,afterok:9", &[("job/a", Some(Succeeded))]),
            ready("afterok:9")
        );
        for (text, others) in [
            ("afterok:job/queued", vec![("job/queued", None)]),
            ("afterany:job/a", vec![("job/a", None)]),
            ("afterany:job/a", vec![]),
            ("afterok:9,afterok:job/a", vec![("job/a", None)]),
        ] {
            assert!(
                matches!(settle(text, &others), Settled::Waits(why) if why.contains("job/")),
                "{text}"
            );
        }
        for (text, outcome) in [("afterok:job/a", Failed), ("afternotok:job/a", Succeeded)] {
            assert!(
                matches!(settle(text, &[("job/a", Some(outcome))]), Settled::Never(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn all_must_be_met_where_that_was_asked() {
        let failed = ("job/a", Some(Outcome::Failed));
        for text in ["afterok:job/a,afterok:9", "afterok:9:job/a", "afterok:job/a,afterok:job/b"] {
            let settled = settle(text, &[failed, ("job/b", None)]);
            assert!(matches!(settled, Settled::Never(_)), "{text}: {settled:?}");
        }
        let half = settle("afterany:job/a,afterok:job/b", &[failed, ("job/b", None)]);
        assert!(matches!(half, Settled::Waits(_)), "{half:?}");
    }

    #[test]
    fn any_one_is_enough_where_that_was_asked() {
        use Outcome::{Failed, Succeeded};
        let both = |a, b| settle("afterok:job/a?afterok:job/b", &[("job/a", a), ("job/b", b)]);
        assert_eq!(both(Some(Succeeded), None), Settled::Ready(None));
        assert!(matches!(both(Some(Failed), None), Settled::Waits(_)));
        assert!(matches!(both(Some(Failed), Some(Failed)), Settled::Never(_)));
        assert_eq!(
            settle("afterok:job/a?afterok:9", &[("job/a", Some(Failed))]),
            Settled::Ready(Some("afterok:9".to_owned()))
        );
    }
}
