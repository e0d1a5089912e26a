//! Who else is on a node: jobs of sbatch and srun, in words for `kubectl describe node`, where a pod that fits nowhere
//! sends people.

use std::collections::BTreeMap;

use crate::hostlist::Hostlist;
use crate::job::{Job, Standing};

/// More are counted, not named.
const NAMED: usize = 8;

/// For each node that such jobs hold, what they are: `17 bob gres/gpu=2; 21 alice`.
pub fn tenants(jobs: &[Job]) -> BTreeMap<String, String> {
    let mut on: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut holding: Vec<&Job> =
        jobs.iter().filter(|job| !job.external && job.standing() == Standing::Holding).collect();
    holding.sort_by_key(|job| job.id);
    for job in holding {
        let Ok(nodes) = Hostlist::parse(&job.nodes) else { continue };
        let said = format!("{} {} {}", job.id, job.user, job.tres_per_node);
        nodes.for_each_name(|name| on.entry(name.to_owned()).or_default().push(said.trim().into()));
    }
    let words = |mut said: Vec<String>| {
        let more = said.len().saturating_sub(NAMED);
        said.truncate(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        said.join("; ") + &more
    };
    on.into_iter().map(|(name, said)| (name, words(said))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{BaseState, JobId};

    fn job(id: u32, nodes: &str, external: bool, state: BaseState) -> Job {
        let (nodes, user) = (nodes.to_owned(), "bob".to_owned());
        let mut job = Job { id: JobId(id), nodes, user, external, ..Job::default() };
        job.state.base = state;
        job.tres_per_node = if id == 1 { "gres/gpu=2".into() } else { String::new() };
        job
    }

    #[test]
    fn jobs_of_others_are_named_on_each_of_their_nodes() {
        let jobs = [
            job(2, "h1", false, BaseState::Running),
            job(1, "h[1-2]", false, BaseState::Running),
            job(3, "h1", true, BaseState::Running),
            job(4, "h1", false, BaseState::Completed),
        ];
        let on = tenants(&jobs);
        assert_eq!(on.len(), 2);
        assert_eq!(on["h1"], "1 bob gres/gpu=2; 2 bob");
        assert_eq!(on["h2"], "1 bob gres/gpu=2");
    }

    #[test]
    fn a_crowd_is_counted() {
        let jobs: Vec<Job> = (2..22).map(|id| job(id, "h1", false, BaseState::Running)).collect();
        assert!(tenants(&jobs)["h1"].ends_with("9 bob; and 12 more"));
    }
}
