//! What would help a job that waits, and where it stands: Slurm's nodes and queue in a few words.
//!
//! For people. Slurm alone decides who starts when and where; whatever it weighs besides (topology, memory,
//! limits, backfill) is not weighed here again, so nothing may be decided by this.

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
    nodes: u32,
    tres_per_node: String,
    partition: String,
    excluded: String,
}

impl Ask {
    /// `None` where nothing can be said.
    pub fn of(job: &Job) -> Option<Self> {
        if job.node_count == 0 || !job.parts.is_empty() || !is_about_nodes(&job.reason) {
            return None;
        }
        Some(Self {
            nodes: job.node_count,
            tres_per_node: job.tres_per_node.clone(),
            partition: job.partition.clone(),
            excluded: job.excluded_nodes.clone(),
        })
    }
}

/// What a job that waits needs, and what of it there is: `needs 4 nodes with 8 x gpu:h100; of 7 such nodes 2 are
/// free, 2 busy, 3 drained by admin 'bad NIC'`. Looks at every node: with thousands of those, not once for every job.
pub fn outlook(ask: &Ask, nodes: &[Node]) -> String {
    let wanted = read_tres(&ask.tres_per_node);
    let what = wanted.iter().map(|(name, kind, count)| match kind {
        Some(kind) => format!("{count} x {name}:{kind}"),
        None => format!("{count} x {name}"),
    });
    let what = what.collect::<Vec<_>>().join(" and ");
    let with = if what.is_empty() { String::new() } else { format!(" with {what}") };
    let needs = format!("needs {}{with}", counted(ask.nodes as usize, "node"));
    let shut = Hostlist::parse(&ask.excluded).map(|list| list.names()).unwrap_or_default();
    let shut: HashSet<String> = shut.into_iter().collect();
    let own = |node: &&Node| {
        let partitions = || ask.partition.split(',');
        partitions().any(|name| node.partitions.iter().any(|own| own == name))
            && !shut.contains(&node.name)
    };
    let fits = |node: &&Node| wanted.iter().all(|want| count(&node.gres, want) >= want.2);
    let such: Vec<&Node> = nodes.iter().filter(own).filter(fits).collect();
    if such.is_empty() {
        return format!(
            "{needs}; no node of partition {} that is open to it has that",
            ask.partition
        );
    }
    let mut standings: BTreeMap<Standing, usize> = BTreeMap::new();
    for node in &such {
        *standings.entry(standing(node, &wanted)).or_default() += 1;
    }
    format!("{needs}; of {} {}", counted(such.len(), "such node"), told(standings))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

type Want = (String, Option<String>, u32);

/// Where a node stands towards a job, in the order in which it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Free,
    Busy,
    Reserved,
    Drained(String),
    Down(String),
}

fn standing(node: &Node, wanted: &[Want]) -> Standing {
    let is = |name: &str| node.state.iter().any(|state| state == name);
    let cause = || {
        let mut cause = String::new();
        if !node.reason_user.is_empty() {
            cause = format!(" by {}", node.reason_user);
        }
        if !node.reason.is_empty() {
            cause.push_str(&format!(" '{}'", node.reason.chars().take(80).collect::<String>()));
        }
        cause
    };
    if is("DOWN") || is("NOT_RESPONDING") || is("FAIL") || is("ERROR") || is("UNKNOWN") {
        return Standing::Down(cause());
    }
    if is("DRAIN") {
        return Standing::Drained(cause());
    }
    if is("RESERVED") || is("MAINTENANCE") {
        return Standing::Reserved;
    }
    let used = |(name, kind, _): &Want| {
        let same = |used: &&GresAllocation| {
            used.name == *name && kind.as_ref().is_none_or(|kind| used.kind == *kind)
        };
        node.used.iter().filter(same).map(|used| used.count).sum::<u32>()
    };
    let room = |want: &Want| count(&node.gres, want).saturating_sub(used(want)) >= want.2;
    let (cpus, taken) = node.cpus;
    if !is("ALLOCATED") && (taken == 0 || taken < cpus) && wanted.iter().all(room) {
        return Standing::Free;
    }
    Standing::Busy
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

/// What a job asks for on each node, from `gres/efa=32,gres/gpu:h100=8`; what cannot be read is left out.
fn read_tres(text: &str) -> Vec<Want> {
    let one = |item: &str| {
        let (what, count) = item.trim().strip_prefix("gres/")?.rsplit_once(['=', ':'])?;
        let (name, kind) = match what.split_once(':') {
            Some((name, kind)) => (name, Some(kind.to_owned())),
            None => (what, None),
        };
        Some((name.to_owned(), kind, count.parse().ok()?))
    };
    let mut wanted: Vec<Want> = text.split(',').filter_map(one).collect();
    // What people ask for first: GPUs.
    wanted.sort_by_key(|(name, ..)| name != "gpu");
    wanted
}

/// How many of these a node has, by `gpu:h100:8(S:0-1),efa:32`.
fn count(gres: &str, (name, kind, _): &Want) -> u32 {
    let one = |item: &str| {
        let item = item.split('(').next().unwrap_or(item);
        let mut words = item.split(':');
        if words.next()? != name {
            return None;
        }
        let words: Vec<&str> = words.collect();
        let (kinds, number) = match words[..] {
            [number] => ("", number),
            [kinds, number, ..] => (kinds, number),
            [] => return None,
        };
        let same = kind.as_ref().is_none_or(|kind| kind == kinds);
        if same { number.parse::<u32>().ok() } else { None }
    };
    gres.split(',').filter_map(one).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(job: &Job, nodes: &[Node]) -> String {
        Ask::of(job).map(|ask| outlook(&ask, nodes)).unwrap_or_default()
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
    fn nothing_is_said_where_nodes_are_not_what_is_lacking() {
        let nodes = [node("n1", "IDLE", 0)];
        let held = Job { reason: "JobHeldUser".to_owned(), ..job("gres/gpu=8") };
        assert_eq!(told_of(&held, &nodes), "");
        assert_eq!(told_of(&Job { node_count: 0, ..job("gres/gpu=8") }, &nodes), "");
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
