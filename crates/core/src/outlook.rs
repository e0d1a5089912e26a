//! What would help a job that waits, and where it stands: Slurm's nodes and queue in a few words.
//!
//! For people. Slurm alone decides who starts when and where; whatever it weighs besides (topology, limits,
//! backfill) is not weighed here again, so nothing may be decided by this.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::hostlist::Hostlist;
use crate::job::{GresAllocation, Job, JobId};

/// What matters of one node of Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Base state and flags by Slurm's names.
    pub state: Vec<String>,
    /// Why it is drained or down.
    pub reason: String,
    /// Who said so.
    pub reason_user: String,
    /// As in slurm.conf: `gpu:h100:8,efa:32`.
    pub gres: String,
    /// What of it jobs have.
    pub used: Vec<GresAllocation>,
    /// CPUs, and how many of them jobs have.
    pub cpus: (u32, u32),
    /// MiB, and how many of them jobs have.
    pub memory_mib: (u64, u64),
    /// Partitions it is in.
    pub partitions: Vec<String>,
}

/// A job that waits in a queue, as far as its place matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter<'a> {
    /// Its id.
    pub id: JobId,
    /// Partition, or several with commas.
    pub partition: &'a str,
    /// Slurm's priority of it.
    pub priority: u32,
    /// It waits for something else than nodes, and stands in nobody's way.
    pub aside: bool,
}

/// Reasons for which nodes are what is lacking.
const FOR_NODES: [&str; 6] =
    ["Resources", "Priority", "ReqNodeNotAvail", "NodeDown", "BadConstraints", "PartitionDown"];
/// At most so many causes are told one by one.
const CAUSES: usize = 3;
/// At most so many kinds of nodes of a heterogeneous job.
const KINDS: usize = 3;

/// Whether a look at the nodes may tell something about a job that waits for this.
pub fn is_about_nodes(reason: &str) -> bool {
    FOR_NODES.contains(&reason)
}

/// Where each of those that wait stands in its partition, from 1, by Slurm's order: priority, then id. In
/// several partitions the best place counts. Who stands aside has none.
pub fn positions(waiters: &[Waiter<'_>]) -> HashMap<JobId, u32> {
    let mut queues: BTreeMap<&str, Vec<(std::cmp::Reverse<u32>, JobId)>> = BTreeMap::new();
    for waiter in waiters.iter().filter(|waiter| !waiter.aside) {
        for partition in waiter.partition.split(',') {
            let place = (std::cmp::Reverse(waiter.priority), waiter.id);
            queues.entry(partition).or_default().push(place);
        }
    }
    let mut places: HashMap<JobId, u32> = HashMap::new();
    for queue in queues.values_mut() {
        queue.sort_unstable();
        for (place, (_, id)) in (1_u32..).zip(queue.iter()) {
            places.entry(*id).and_modify(|best| *best = (*best).min(place)).or_insert(place);
        }
    }
    places
}

/// What of a job its [`outlook`] hangs on: who asks for the same is told the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    partition: String,
    /// One for each kind of component of a heterogeneous job.
    wants: Vec<Want>,
}

/// So many nodes, each of which has to give this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Want {
    nodes: u32,
    tres_per_node: String,
    cpus: u32,
    memory_mib: u64,
    excluded: String,
}

impl Ask {
    /// `None` where Slurm does not say how many nodes it needs.
    pub fn of(job: &Job) -> Option<Self> {
        let want = |nodes: u32, cpus: u32, memory_mib, tres: &str, excluded: &str| Want {
            nodes,
            tres_per_node: tres.to_owned(),
            cpus: cpus.div_ceil(nodes.max(1)),
            memory_mib,
            excluded: excluded.to_owned(),
        };
        let mut wants: Vec<Want> = Vec::new();
        for part in &job.parts {
            let (tres, excluded) = (&part.tres_per_node, &part.excluded_nodes);
            let own = want(part.node_count, part.cpus, part.memory_mib, tres, excluded);
            match wants.iter_mut().find(|want| want.is_like(&own)) {
                Some(same) => same.nodes += own.nodes,
                None => wants.push(own),
            }
        }
        if job.parts.is_empty() {
            let mut tres = job.tres_per_node.clone();
            // Batch jobs may ask for GPUs in other ways, which come to so many on each node.
            let each = job.gpus.checked_div(job.node_count).unwrap_or(0);
            if each > 0 && read_tres(&tres).iter().all(|device| device.name != "gpu") {
                tres.push_str(&format!(",gres/gpu={each}"));
            }
            wants.push(want(job.node_count, job.cpus, job.memory_mib, &tres, &job.excluded_nodes));
        }
        let said = wants.iter().all(|want| want.nodes > 0);
        said.then(|| Self { partition: job.partition.clone(), wants })
    }
}

/// What a job that waits needs, and what of it there is: `needs 4 nodes with 8 x gpu:h100 and 96 CPUs; of 7 such nodes
/// 2 are free, 2 busy, 3 drained by admin 'bad NIC'`. Looks at every node: with thousands of those, not once for every
/// job.
pub fn outlook(ask: &Ask, nodes: &[Node]) -> String {
    let told = ask.wants.iter().take(KINDS).map(|want| want.outlook(&ask.partition, nodes));
    let mut told = format!("needs {}", told.collect::<Vec<_>>().join("; and "));
    let more = ask.wants.len().saturating_sub(KINDS);
    if more > 0 {
        let what = if more == 1 { "kind" } else { "kinds" };
        told.push_str(&format!("; and {more} {what} of nodes more"));
    }
    told
}

impl Want {
    /// Whether its nodes have to give the same.
    fn is_like(&self, other: &Self) -> bool {
        let each = |want: &Self| (want.cpus, want.memory_mib);
        self.tres_per_node == other.tres_per_node
            && self.excluded == other.excluded
            && each(self) == each(other)
    }

    fn outlook(&self, partition: &str, nodes: &[Node]) -> String {
        let devices = read_tres(&self.tres_per_node);
        let needs = self.needs(&devices);
        let shut = Hostlist::parse(&self.excluded).map(|list| list.names()).unwrap_or_default();
        let shut: HashSet<String> = shut.into_iter().collect();
        let own = |node: &&Node| {
            let in_it = |name: &str| node.partitions.iter().any(|own| own == name);
            partition.split(',').any(in_it) && !shut.contains(&node.name)
        };
        // What Slurm does not tell of a node is no reason against it.
        let fits = |node: &&Node| {
            devices.iter().all(|device| device.of(&node.gres) >= device.count)
                && (node.cpus.0 == 0 || node.cpus.0 >= self.cpus)
                && (node.memory_mib.0 == 0 || node.memory_mib.0 >= self.memory_mib)
        };
        let such: Vec<&Node> = nodes.iter().filter(own).filter(fits).collect();
        if such.is_empty() {
            return format!(
                "{needs}; no node of partition {partition} that is open to it has that"
            );
        }
        let mut standings: BTreeMap<Standing, usize> = BTreeMap::new();
        for node in &such {
            *standings.entry(self.standing(node, &devices)).or_default() += 1;
        }
        format!("{needs}; of {} {}", counted(such.len(), "such node"), told(standings))
    }

    /// `4 nodes with 8 x gpu:h100, 32 x efa, 96 CPUs and 1000 GiB`
    fn needs(&self, devices: &[Device]) -> String {
        let mut what: Vec<String> = devices.iter().map(Device::told).collect();
        // One CPU is what Slurm gives whoever asks for none.
        if self.cpus > 1 {
            what.push(format!("{} CPUs", self.cpus));
        }
        if self.memory_mib > 1 {
            what.push(memory(self.memory_mib));
        }
        let nodes = counted(self.nodes as usize, "node");
        match what.as_slice() {
            [] => nodes,
            [one] => format!("{nodes} with {one}"),
            [first @ .., last] => format!("{nodes} with {} and {last}", first.join(", ")),
        }
    }

    fn standing(&self, node: &Node, devices: &[Device]) -> Standing {
        let is = |name: &str| node.state.iter().any(|state| state == name);
        if is("DOWN") || is("NOT_RESPONDING") || is("FAIL") || is("ERROR") || is("UNKNOWN") {
            return Standing::Down(cause(node));
        }
        if is("DRAIN") {
            return Standing::Drained(cause(node));
        }
        if is("RESERVED") || is("MAINTENANCE") {
            return Standing::Reserved;
        }
        let room = |device: &Device| {
            device.of(&node.gres).saturating_sub(device.taken(&node.used)) >= device.count
        };
        if !devices.iter().all(room) {
            return Standing::Busy;
        }
        let ((cpus, taken), (memory, used)) = (node.cpus, node.memory_mib);
        if cpus > 0 && cpus.saturating_sub(taken) < self.cpus.max(1) {
            return Standing::Short("CPUs");
        }
        if memory > 0 && memory.saturating_sub(used) < self.memory_mib {
            return Standing::Short("memory");
        }
        if is("ALLOCATED") { Standing::Busy } else { Standing::Free }
    }
}

fn cause(node: &Node) -> String {
    let mut cause = String::new();
    if !node.reason_user.is_empty() {
        cause = format!(" by {}", node.reason_user);
    }
    if !node.reason.is_empty() {
        cause.push_str(&format!(" '{}'", node.reason.chars().take(80).collect::<String>()));
    }
    cause
}

/// MiB as people say them.
fn memory(mib: u64) -> String {
    if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

/// `1 node`, `2 nodes`
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Where a node stands towards a job, in the order in which it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Free,
    Busy,
    /// Its devices are free, and this is not.
    Short(&'static str),
    Reserved,
    Drained(String),
    Down(String),
}

fn told(standings: BTreeMap<Standing, usize>) -> String {
    let mut out = Vec::new();
    let free = standings.get(&Standing::Free).copied().unwrap_or(0);
    out.push(match free {
        0 => "none is free".to_owned(),
        1 => "1 is free".to_owned(),
        free => format!("{free} are free"),
    });
    let mut others = 0;
    let mut causes = 0;
    for (standing, count) in standings {
        let (what, cause) = match &standing {
            Standing::Free => continue,
            Standing::Busy => ("busy", ""),
            Standing::Short(of) => {
                out.push(format!("{count} short of {of}"));
                continue;
            }
            Standing::Reserved => ("reserved", ""),
            Standing::Drained(cause) => ("drained", cause.as_str()),
            Standing::Down(cause) => ("down", cause.as_str()),
        };
        causes += usize::from(!cause.is_empty());
        if causes > CAUSES && !cause.is_empty() {
            others += count;
        } else {
            out.push(format!("{count} {what}{cause}"));
        }
    }
    if others > 0 {
        out.push(format!("{others} more drained or down"));
    }
    out.join(", ")
}

/// How many devices of this name a node has, of whatever type, by `gpu:h100:8(S:0-1),efa:32`.
pub fn devices(gres: &str, name: &str) -> u32 {
    Device { name: name.to_owned(), kind: None, count: 0 }.of(gres)
}

/// So many devices of one kind on each node.
struct Device {
    name: String,
    kind: Option<String>,
    count: u32,
}

impl Device {
    /// `8 x gpu:h100`
    fn told(&self) -> String {
        match &self.kind {
            Some(kind) => format!("{} x {}:{kind}", self.count, self.name),
            None => format!("{} x {}", self.count, self.name),
        }
    }

    /// How many of these a node has, by `gpu:h100:8(S:0-1),efa:32`.
    fn of(&self, gres: &str) -> u32 {
        let one = |item: &str| {
            let item = item.split('(').next().unwrap_or(item);
            let mut words = item.split(':');
            if words.next()? != self.name {
                return None;
            }
            let words: Vec<&str> = words.collect();
            let (kinds, number) = match words[..] {
                [number] => ("", number),
                [kinds, number, ..] => (kinds, number),
                [] => return None,
            };
            let same = self.kind.as_ref().is_none_or(|kind| kind == kinds);
            if same { number.parse::<u32>().ok() } else { None }
        };
        gres.split(',').filter_map(one).fold(0, u32::saturating_add)
    }

    /// How many of these jobs have.
    fn taken(&self, used: &[GresAllocation]) -> u32 {
        let same = |used: &&GresAllocation| {
            used.name == self.name && self.kind.as_ref().is_none_or(|kind| used.kind == *kind)
        };
        used.iter().filter(same).map(|used| used.count).fold(0, u32::saturating_add)
    }
}

/// What a job asks for on each node, from `gres/efa=32,gres/gpu:h100=8`; what cannot be read is left out.
fn read_tres(text: &str) -> Vec<Device> {
    let one = |item: &str| {
        let (what, count) = item.trim().strip_prefix("gres/")?.rsplit_once(['=', ':'])?;
        let (name, kind) = match what.split_once(':') {
            Some((name, kind)) => (name, Some(kind.to_owned())),
            None => (what, None),
        };
        Some(Device { name: name.to_owned(), kind, count: count.parse().ok()? })
    };
    let mut wanted: Vec<Device> = text.split(',').filter_map(one).collect();
    // What people ask for first: GPUs.
    wanted.sort_by_key(|device| device.name != "gpu");
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Part;

    fn told_of(job: &Job, nodes: &[Node]) -> String {
        Ask::of(job).map(|ask| outlook(&ask, nodes)).unwrap_or_default()
    }

    fn part(nodes: u32, tres: &str) -> Part {
        let tres_per_node = tres.to_owned();
        Part { node_count: nodes, cpus: nodes * 2, tres_per_node, ..Part::default() }
    }

    fn node(name: &str, state: &str, taken: u32) -> Node {
        let gpus = GresAllocation {
            name: "gpu".into(),
            kind: "h100".into(),
            count: taken,
            indexes: vec![],
        };
        Node {
            name: name.to_owned(),
            state: state.split('+').map(str::to_owned).collect(),
            gres: "gpu:h100:8(S:0-1),efa:32".to_owned(),
            used: vec![gpus],
            cpus: (192, taken * 24),
            partitions: vec!["gangway".to_owned()],
            ..Node::default()
        }
    }

    fn because(node: Node, user: &str, reason: &str) -> Node {
        Node { reason: reason.to_owned(), reason_user: user.to_owned(), ..node }
    }

    fn job(tres: &str) -> Job {
        Job {
            id: JobId(7),
            reason: "Resources".to_owned(),
            node_count: 4,
            partition: "gangway".to_owned(),
            tres_per_node: tres.to_owned(),
            ..Job::default()
        }
    }

    #[test]
    fn it_says_what_is_needed_and_what_there_is() {
        let mut nodes = vec![
            node("n1", "IDLE+EXTERNAL", 0),
            node("n2", "MIXED", 0),
            node("n3", "ALLOCATED", 8),
            node("n4", "MIXED", 4),
        ];
        nodes.extend(
            ["n5", "n6", "n7"].map(|n| because(node(n, "IDLE+DRAIN", 0), "admin", "bad NIC")),
        );
        nodes.push(Node { partitions: vec!["other".to_owned()], ..node("n8", "IDLE", 0) });
        assert_eq!(
            told_of(&job("gres/efa=32,gres/gpu:h100=8"), &nodes),
            "needs 4 nodes with 8 x gpu:h100 and 32 x efa; of 7 such nodes 2 are free, 2 busy, 3 drained by admin 'bad NIC'"
        );
        // Half a node is free for whoever needs half of one.
        assert!(told_of(&job("gres/gpu:h100=4"), &nodes).contains("3 are free, 1 busy"));
        // What is excluded is not there for it.
        let excluded = Job { excluded_nodes: "n[1-2,5-7]".to_owned(), ..job("gres/gpu=8") };
        assert_eq!(
            told_of(&excluded, &nodes),
            "needs 4 nodes with 8 x gpu; of 2 such nodes none is free, 2 busy"
        );
        assert!(
            told_of(&job("gres/gpu:a100=8"), &nodes)
                .ends_with("no node of partition gangway that is open to it has that")
        );
        let one = Job { node_count: 1, ..job("") };
        assert!(told_of(&one, &nodes[..1]).starts_with("needs 1 node; of 1 such node 1 is free"));
    }

    #[test]
    fn many_causes_are_told_together() {
        let nodes: Vec<Node> = (0..6)
            .map(|n| because(node(&format!("n{n}"), "DOWN", 0), "root", &format!("why {n}")))
            .collect();
        let text = told_of(&job("gres/gpu=8"), &nodes);
        assert!(text.ends_with("1 down by root 'why 2', 3 more drained or down"), "{text}");
    }

    #[test]
    fn nothing_is_said_where_slurm_does_not_tell_how_many_nodes_it_takes() {
        let nodes = [node("n1", "IDLE", 0)];
        assert_eq!(told_of(&Job { node_count: 0, ..job("gres/gpu=8") }, &nodes), "");
        let parts = vec![part(1, "gres/gpu=8"), part(0, "")];
        assert_eq!(told_of(&Job { parts, ..job("") }, &nodes), "");
    }

    #[test]
    fn cpus_and_memory_count_too() {
        let memory = |total, used, node| Node { memory_mib: (total, used), ..node };
        let nodes = [
            memory(2048, 0, node("n1", "IDLE", 0)),
            memory(2048, 1536, node("n2", "MIXED", 0)),
            // Half of its GPUs are free, and fewer CPUs.
            memory(2048, 0, Node { cpus: (192, 180), ..node("n3", "MIXED", 4) }),
            memory(2048, 0, node("n4", "MIXED", 7)),
            memory(512, 0, node("n5", "IDLE", 0)),
        ];
        let wanted = Job { cpus: 96, memory_mib: 1024, ..job("gres/gpu=4") };
        assert_eq!(
            told_of(&wanted, &nodes),
            "needs 4 nodes with 4 x gpu, 24 CPUs and 1 GiB; of 4 such nodes 1 is free, 1 busy, 1 short of CPUs, 1 short of memory"
        );
        assert!(
            told_of(&Job { memory_mib: 4000, ..wanted.clone() }, &nodes)
                .contains("and 4000 MiB; no node")
        );
        let unknown = [Node { cpus: (0, 0), ..node("n1", "IDLE", 0) }];
        assert!(told_of(&wanted, &unknown).ends_with("of 1 such node 1 is free"));
    }

    #[test]
    fn a_heterogeneous_job_is_told_of_each_kind_of_node() {
        let nodes = [node("n1", "IDLE", 0), node("n2", "MIXED", 8)];
        let parts = vec![part(1, ""), part(2, "gres/gpu=8"), part(1, "gres/gpu=8")];
        let told = told_of(&Job { parts, ..job("") }, &nodes);
        assert_eq!(
            told,
            "needs 1 node with 2 CPUs; of 2 such nodes 1 is free, 1 short of CPUs; \
             and 3 nodes with 8 x gpu and 2 CPUs; of 2 such nodes 1 is free, 1 busy"
        );
        let many = (1..=5).map(|gpus| part(1, &format!("gres/gpu={gpus}"))).collect();
        assert!(
            told_of(&Job { parts: many, ..job("") }, &nodes)
                .ends_with("; and 2 kinds of nodes more")
        );
    }

    #[test]
    fn gpus_that_are_asked_for_in_another_way_count_by_node() {
        let told = told_of(&Job { gpus: 16, ..job("") }, &[node("n1", "IDLE", 0)]);
        assert!(told.starts_with("needs 4 nodes with 4 x gpu; of 1 such node"), "{told}");
    }

    #[test]
    fn places_are_by_priority_and_in_each_partition() {
        let waiter =
            |id, partition, priority, aside| Waiter { id: JobId(id), partition, priority, aside };
        let places = positions(&[
            waiter(1, "a", 10, false),
            waiter(2, "a", 30, false),
            waiter(3, "a", 10, false),
            waiter(4, "a", 50, true),
            waiter(5, "b,a", 5, false),
        ]);
        let place = |id| places.get(&JobId(id)).copied();
        assert_eq!([1, 2, 3, 4, 5].map(place), [Some(2), Some(1), Some(3), None, Some(1)]);
    }
}
