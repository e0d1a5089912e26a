//! What the page has seen of each job's life while somebody watched: Slurm's record tells only when a job was submitted
//! and started last, not what became of it in between.
//!
//! It is no record: it begins when this process begins, has gaps where nobody watched, and is gone with the process.
//! Every moment says since when it may have been so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::picture::{Job, Kind, Node, Picture};

/// So many jobs that have left are remembered.
const ENDED: usize = 256;
/// So many moments of one job, the last ones.
const MOMENTS: usize = 24;

/// Lives of the jobs that are in the queue, and of those that have left it lately.
#[derive(Default)]
pub(super) struct Lives {
    /// When the page looked first, and last.
    began: i64,
    looked: i64,
    moments: HashMap<u32, VecDeque<Moment>>,
    ended: VecDeque<Arc<Job>>,
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moment {
    /// When it was seen to be so; seconds since the epoch.
    pub(super) at: i64,
    /// When it was last seen not to be so.
    pub(super) since: i64,
    pub(super) what: What,
    /// Nodes, or a reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// It came into the queue.
    Came,
    /// It waits for another reason.
    Reason,
    /// It holds nodes.
    Started,
    /// All its pods have their nodes.
    Seated,
    /// It holds other nodes than before.
    Moved,
    /// It waits again after it had nodes.
    Requeued,
    /// Slurm says another state.
    State,
    /// It is in the queue no more.
    Left,
}

/// One job's life as far as it is known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Life {
    /// When the page began to look.
    pub(super) began: i64,
    /// The job as it was seen last, where it has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Arc<Job>>,
    pub(super) moments: Vec<Moment>,
}

impl Lives {
    /// Of one job.
    pub(super) fn of(&self, job: u32) -> Life {
        Life {
            began: self.began,
            last: self.ended.iter().rev().find(|one| one.id == job).cloned(),
            moments: self
                .moments
                .get(&job)
                .map(|all| all.iter().cloned().collect())
                .unwrap_or_default(),
        }
    }

    /// Takes down what is different in the next picture.
    pub(super) fn see(&mut self, old: &Picture, new: &Picture, now: i64) {
        let since = std::mem::replace(&mut self.looked, now);
        if since == 0 {
            // What was before the first look has not been seen.
            self.began = now;
            return;
        }
        let before: HashMap<u32, &Arc<Job>> = old.jobs.iter().map(|job| (job.id, job)).collect();
        let unseated = standing(&old.nodes);
        let seated = standing(&new.nodes);
        let moment =
            |what, detail: &str| Moment { at: now, since, what, detail: detail.to_owned() };
        let mut here = HashSet::with_capacity(new.jobs.len());
        for job in &new.jobs {
            here.insert(job.id);
            let was = before.get(&job.id).filter(|was| same(was, job));
            match was {
                None => {
                    // An id that is used again is another life.
                    self.forget(job.id);
                    self.note(job.id, moment(What::Came, &job.reason));
                    if job.state == "RUNNING" {
                        self.note(job.id, moment(What::Started, &job.hosts));
                    }
                }
                Some(was) if !Arc::ptr_eq(was, job) => {
                    if let Some((what, detail)) = became(was, job) {
                        self.note(job.id, moment(what, detail));
                    }
                }
                Some(_) => {}
            }
            if unseated.get(&job.id) == Some(&false) && seated.get(&job.id) == Some(&true) {
                self.note(job.id, moment(What::Seated, ""));
            }
        }
        for job in old.jobs.iter().filter(|job| !here.contains(&job.id)) {
            self.note(job.id, moment(What::Left, ""));
            self.ended.push_back(job.clone());
        }
        while self.ended.len() > ENDED {
            if let Some(job) = self.ended.pop_front()
                && !here.contains(&job.id)
            {
                self.moments.remove(&job.id);
            }
        }
    }

    fn note(&mut self, job: u32, moment: Moment) {
        let moments = self.moments.entry(job).or_default();
        if moments.len() == MOMENTS {
            moments.pop_front();
        }
        moments.push_back(moment);
    }

    fn forget(&mut self, job: u32) {
        self.moments.remove(&job);
        self.ended.retain(|one| one.id != job);
    }
}

/// Whether it is the same job: Slurm may use an id again, and counts a requeue as another submission.
fn same(a: &Job, b: &Job) -> bool {
    a.name == b.name && a.user == b.user && a.kind == b.kind
}

/// What has become of a job that is not as it was, where that is worth a line.
fn became<'a>(was: &Job, is: &'a Job) -> Option<(What, &'a str)> {
    match (was.state.as_str(), is.state.as_str()) {
        ("PENDING", "PENDING") if was.reason != is.reason => Some((What::Reason, &is.reason)),
        ("PENDING", "PENDING") => None,
        (_, "RUNNING") if was.state != "RUNNING" || was.start != is.start => {
            Some((What::Started, &is.hosts))
        }
        ("RUNNING", "RUNNING") if was.hosts != is.hosts => Some((What::Moved, &is.hosts)),
        (_, "PENDING") => Some((What::Requeued, &is.reason)),
        (was, state) if was != state => Some((What::State, state)),
        _ => None,
    }
}

/// Which gangs that hold nodes have a pod on each of them.
fn standing(nodes: &[Arc<Node>]) -> HashMap<u32, bool> {
    let mut all = HashMap::new();
    let holders = nodes.iter().flat_map(|node| &node.holders);
    for holder in holders.filter(|holder| holder.kind == Kind::Gang) {
        *all.entry(holder.job).or_insert(true) &= !holder.pod.is_empty();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::picture::Holder;
    use super::*;

    fn job(id: u32, state: &str, reason: &str, hosts: &str) -> Job {
        let (state, reason, hosts) = (state.into(), reason.into(), hosts.into());
        Job { id, name: format!("ml/{id}"), state, reason, hosts, ..Job::default() }
    }

    fn picture(jobs: Vec<Job>, pod: &str) -> Picture {
        let holder = |job: &Job| Holder { job: job.id, pod: pod.into(), ..Holder::default() };
        let holders = jobs.iter().filter(|job| job.state == "RUNNING").map(holder).collect();
        let node = Node { name: "n".into(), holders, ..Node::default() };
        let jobs = jobs.into_iter().map(Arc::new).collect();
        Picture { number: 1, jobs, nodes: vec![Arc::new(node)], ..Picture::default() }
    }

    #[test]
    fn a_life_is_what_was_seen_of_it_and_says_between_which_looks() {
        let steps = [
            picture(vec![], ""),
            picture(vec![job(7, "PENDING", "Priority", "")], ""),
            picture(vec![job(7, "PENDING", "Resources", "")], ""),
            picture(vec![job(7, "RUNNING", "", "n")], ""),
            picture(vec![job(7, "RUNNING", "", "n")], "pod-0"),
            picture(vec![job(7, "PENDING", "BeginTime", "")], ""),
            picture(vec![], ""),
        ];
        let mut lives = Lives::default();
        lives.see(&Picture::default(), &steps[0], 100);
        for (pair, at) in steps.windows(2).zip(1..) {
            lives.see(&pair[0], &pair[1], 100 + 10 * at);
        }
        let life = lives.of(7);
        let told: Vec<(i64, What, &str)> =
            life.moments.iter().map(|one| (one.at, one.what, one.detail.as_str())).collect();
        let wanted = [
            (110, What::Came, "Priority"),
            (120, What::Reason, "Resources"),
            (130, What::Started, "n"),
            (140, What::Seated, ""),
            (150, What::Requeued, "BeginTime"),
            (160, What::Left, ""),
        ];
        assert_eq!(told, wanted);
        assert!(life.moments.iter().all(|one| one.since == one.at - 10), "{life:?}");
        assert_eq!((life.began, life.last.map(|job| job.id)), (100, Some(7)));
    }

    #[test]
    fn what_has_left_is_remembered_for_a_while_and_an_id_used_again_is_another_life() {
        let mut lives = Lives::default();
        let nobody = picture(vec![], "");
        lives.see(&Picture::default(), &nobody, 1);
        for id in 1..=1000 {
            let one = picture(vec![job(id, "RUNNING", "", "n")], "");
            lives.see(&nobody, &one, i64::from(id) * 2);
            lives.see(&one, &nobody, i64::from(id) * 2 + 1);
        }
        assert_eq!((lives.moments.len(), lives.ended.len()), (ENDED, ENDED));
        assert!(lives.of(1).moments.is_empty());
        let again = picture(vec![job(1000, "PENDING", "None", "")], "");
        lives.see(&nobody, &again, 5000);
        let life = lives.of(1000);
        assert_eq!((life.moments.len(), life.moments[0].what), (1, What::Came));
        assert!(life.last.is_none());
    }
}
