//! The API server: pods that are made, bound once, told to leave, and gone. It checks uids and decides nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use gangway_core::gang::{Assembled, assemble};
use gangway_core::names;
use gangway_core::pod::{
    Conditions, Container, Controller, Pod as Facts, PodSpec, PodStatus, Resources,
};
use gangway_core::workload::{Kind, Workload};
use serde_json::json;

/// A pod's uid: no two pods ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid {
    pub(crate) gang: u8,
    pub(crate) rank: u8,
    /// How many were made before it for its rank.
    pub(crate) made: u8,
}

impl Uid {
    pub(crate) fn text(self) -> String {
        let Self { gang, rank, made } = self;
        format!("{}-{rank}-{made}", gang_uid(gang))
    }

    /// What [`Self::text`] wrote.
    pub(crate) fn read(text: &str) -> Self {
        let number = |part: Option<&str>| part.and_then(|p| p.parse().ok()).expect("a uid of ours");
        let mut parts = text.split('-');
        let (gang, rank, made) = (parts.next(), number(parts.next()), number(parts.next()));
        Self { gang: gang_of(gang.expect("a gang")), rank, made }
    }
}

/// The uid of a gang.
pub(crate) fn gang_uid(gang: u8) -> String {
    char::from(b'a' + gang).to_string()
}

fn gang_of(uid: &str) -> u8 {
    uid.as_bytes()[0] - b'a'
}

/// One pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) uid: Uid,
    pub(crate) bound: Option<Binding>,
    /// Its deletion has begun.
    pub(crate) leaving: bool,
    /// Its containers have ended well.
    pub(crate) finished: bool,
    /// When it was made, or bound if it is: only which came first among those of its gang.
    at: u8,
}

/// What a Binding wrote on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) job: u32,
    pub(crate) generation: u32,
    pub(crate) node: u8,
    pub(crate) rank: u8,
}

/// One workload: an indexed Job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// Its user wants it to run.
    pub(crate) wanted: bool,
    /// It has finished.
    pub(crate) over: bool,
    /// Pods made so far, by rank.
    pub(crate) made: Vec<u8>,
}

/// All pods, in the order of their uids, and what made them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kubernetes {
    pub(crate) pods: Vec<Pod>,
    pub(crate) owners: Vec<Owner>,
}

impl Kubernetes {
    pub(crate) fn new(gangs: u8, members: u8) -> Self {
        let owner = Owner { wanted: true, over: false, made: vec![0; usize::from(members)] };
        Self { pods: Vec::new(), owners: vec![owner; usize::from(gangs)] }
    }

    pub(crate) fn owner(&self, gang: u8) -> &Owner {
        &self.owners[usize::from(gang)]
    }

    pub(crate) fn of(&self, gang: u8) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.uid.gang == gang)
    }

    pub(crate) fn find(&mut self, uid: Uid) -> Option<&mut Pod> {
        self.pods.iter_mut().find(|pod| pod.uid == uid)
    }

    /// Ranks for which the controller makes a pod: as soon as the one before is told to leave.
    pub(crate) fn missing(&self, gang: u8) -> impl Iterator<Item = u8> {
        let owner = self.owner(gang);
        let there = move |rank: u8| self.of(gang).any(|p| p.uid.rank == rank && !p.leaving);
        let ranks = (0..).take(owner.made.len()).filter(|_| owner.wanted && !owner.over);
        ranks.filter(move |rank| !there(*rank))
    }

    pub(crate) fn make(&mut self, gang: u8, rank: u8) {
        let made = &mut self.owners[usize::from(gang)].made[usize::from(rank)];
        let uid = Uid { gang, rank, made: *made };
        *made += 1;
        let at = self.pods.partition_point(|pod| pod.uid < uid);
        let pod = Pod { uid, bound: None, leaving: false, finished: false, at: u8::MAX };
        self.pods.insert(at, pod);
        self.order_moments(gang);
    }

    /// POST binding with a uid. Whether it was made: not twice, and not for a pod that leaves (409, 404).
    pub(crate) fn bind(&mut self, uid: Uid, binding: Binding) -> bool {
        match self.find(uid) {
            Some(pod) if pod.bound.is_none() && !pod.leaving => {
                (pod.bound, pod.at) = (Some(binding), u8::MAX);
                self.order_moments(uid.gang);
                true
            }
            _ => false,
        }
    }

    /// An eviction or a deletion with a uid: a pod that no kubelet has is gone at once.
    pub(crate) fn delete(&mut self, uid: Uid) {
        let Some(pod) = self.find(uid) else { return };
        pod.leaving = true;
        if pod.bound.is_none() {
            self.gone(uid);
        }
        self.order_moments(uid.gang);
    }

    /// Numbers the moments of a gang anew: neighbours of one kind, made or bound, are as one.
    fn order_moments(&mut self, gang: u8) {
        let mut pods: Vec<&mut Pod> = Vec::new();
        for pod in self.pods.iter_mut().filter(|pod| pod.uid.gang == gang) {
            if pod.leaving || pod.finished {
                pod.at = 0;
            } else {
                pods.push(pod);
            }
        }
        pods.sort_by_key(|pod| pod.at);
        let (mut number, mut last) = (0, None);
        for pod in pods {
            let bound = pod.bound.is_some();
            number += u8::from(last != Some(bound));
            (pod.at, last) = (number, Some(bound));
        }
    }

    pub(crate) fn gone(&mut self, uid: Uid) {
        self.pods.retain(|pod| pod.uid != uid);
    }
}

/// What a bridge sees of one gang at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct View {
    gang: u8,
    members: usize,
    over: bool,
    pub(crate) pods: Vec<Pod>,
}

impl View {
    pub(crate) fn of(kubernetes: &Kubernetes, gang: u8) -> Self {
        let owner = kubernetes.owner(gang);
        let over = owner.over || !owner.wanted;
        Self { gang, members: owner.made.len(), over, pods: kubernetes.of(gang).copied().collect() }
    }

    /// The gang, from real pods of a real workload.
    pub(crate) fn assembled(&self) -> Rc<Assembled> {
        thread_local! {
            // It depends on nothing else, and few different things are seen.
            static SEEN: RefCell<HashMap<View, Rc<Assembled>>> = RefCell::default();
        }
        SEEN.with_borrow_mut(|seen| {
            if let Some(known) = seen.get(self) {
                return known.clone();
            }
            let assembled = Rc::new(self.assemble());
            seen.insert(self.clone(), assembled.clone());
            assembled
        })
    }

    fn assemble(&self) -> Assembled {
        let workload = workload(self.gang, self.members, self.over);
        let facts: Vec<Facts> = self.pods.iter().map(|pod| facts(pod, &workload)).collect();
        let mut gangs = assemble(Some(&workload), &facts.iter().collect::<Vec<_>>());
        assert_eq!(gangs.len(), 1, "an indexed Job is one gang");
        let assembled = gangs.remove(0);
        assert_eq!(assembled.problems, Vec::<String>::new());
        assembled
    }
}

fn workload(gang: u8, members: usize, over: bool) -> Workload {
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": "team", "name": format!("train-{gang}"), "uid": gang_uid(gang)},
        "spec": {"completionMode": "Indexed", "parallelism": members, "completions": members},
    });
    let read = Workload::read(Kind::Job, &job, names::SCHEDULER).expect("a Job");
    Workload { over, ..read }
}

fn facts(pod: &Pod, workload: &Workload) -> Facts {
    let name = format!("{}-{}", workload.name, pod.uid.rank);
    let index = "batch.kubernetes.io/job-completion-index".to_owned();
    let mut annotations = BTreeMap::from([(index, pod.uid.rank.to_string())]);
    if let Some(Binding { job, generation, node, rank }) = pod.bound {
        annotations.extend([
            (names::GANG.to_owned(), workload.uid.clone()),
            (names::GENERATION.to_owned(), generation.to_string()),
            (names::JOB_ID.to_owned(), job.to_string()),
            (names::NODE.to_owned(), node_name(node)),
            (names::RANK.to_owned(), rank.to_string()),
            (format!("{}gpu", names::INDEX_PREFIX), "0".to_owned()),
        ]);
    }
    let limits = BTreeMap::from([("nvidia.com/gpu".to_owned(), "1".to_owned())]);
    let resources = Some(Resources { requests: None, limits: Some(limits) });
    let container = Container { name: "main".to_owned(), resources, ..Container::default() };
    Facts {
        namespace: workload.namespace.clone(),
        name,
        uid: pod.uid.text(),
        annotations,
        controller: Some(Controller {
            group: "batch".to_owned(),
            kind: "Job".to_owned(),
            name: workload.name.clone(),
            uid: workload.uid.clone(),
        }),
        deleting: pod.leaving,
        spec: PodSpec {
            node_name: pod.bound.map(|bound| node_name(bound.node)),
            containers: Arc::new(vec![container]),
            ..PodSpec::default()
        },
        created: if pod.bound.is_none() { u64::from(pod.at) } else { 0 },
        status: PodStatus {
            phase: pod.finished.then(|| "Succeeded".to_owned()),
            conditions: Conditions {
                scheduled: if pod.bound.is_some() { u64::from(pod.at) } else { 0 },
                ..Conditions::default()
            },
        },
        ..Facts::default()
    }
}

/// A node's name, the same on both sides.
pub(crate) fn node_name(node: u8) -> String {
    format!("n{node}")
}

/// What [`node_name`] wrote.
pub(crate) fn node_of(name: &str) -> u8 {
    name[1..].parse().expect("a node of ours")
}
