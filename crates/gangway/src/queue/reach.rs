//! Which nodes a placeholder must not get, in names that Slurm knows, and kept true while it waits; so is
//! the type of GPU that these nodes leave.
//!
//! Slurm refuses a list with one name it does not know (error 2018), and Kubernetes has nodes that are
//! none of Slurm's, so every list is cut to the nodes of the gang's partition. Without a list nothing
//! here asks Slurm anything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gangway_core::ask::Ask;
use gangway_core::gang::Gang;
use gangway_core::hostlist::Hostlist;
use gangway_core::job::{Job, JobId, PlaceholderRequest};
use gangway_core::policy::{Category, Refusal};
use gangway_core::translate::{Group, gpu};
use gangway_core::{eligible, translate};
use gangway_slurm::{Client, Error, SlurmCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Entry, Queue};
use crate::chain::explain;
use crate::failpoint::{self, Point};

/// How long what was read of the partitions is believed. A node that comes to one meanwhile is not
/// excluded; a gang that gets it although its pods may not go there gives it back.
const BELIEVED: Duration = Duration::from_secs(10);
/// Between two changes of one placeholder: nodes often shut and open several at a time.
const PAUSE: Duration = Duration::from_secs(2);
/// Changes under way at once.
const LANES: usize = 2;
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// Slurm's nodes by partition, as last read, and the lane for changes: few at a time, for a cordon can
/// concern every gang that waits, and others have questions too.
pub(super) struct Reaches {
    known: tokio::sync::Mutex<Option<Known>>,
    lane: Semaphore,
    texts: Mutex<HashSet<Arc<str>>>,
}

struct Known {
    read: Instant,
    nodes: HashMap<String, HashSet<String>>,
}

/// A list cut to a partition.
struct Cut {
    excluded: String,
    /// Nodes of the partition that are left.
    open: usize,
    /// Nodes of the partition.
    all: usize,
}

/// What a waiting placeholder was told, and when.
pub(super) struct Told {
    table: Vec<Arc<str>>,
    /// Which news of GPUs it takes into account.
    gpu_news: u64,
    shunned: String,
    at: Option<Instant>,
}

impl Reaches {
    pub(super) fn new() -> Self {
        Self {
            known: tokio::sync::Mutex::new(None),
            lane: Semaphore::new(LANES),
            texts: Mutex::default(),
        }
    }

    /// Keeps one copy of each list: thousands of gangs have the same, and one can be long.
    pub(super) fn share(&self, gang: &mut Gang) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        for text in &mut gang.excluded_nodes {
            match texts.get(text) {
                Some(known) => *text = known.clone(),
                None => {
                    texts.retain(|text| Arc::strong_count(text) > 1);
                    texts.insert(text.clone());
                }
            }
        }
    }

    async fn cut(&self, slurm: &Client, partition: &str, excluded: &str) -> Result<Cut, Error> {
        let mut known = self.known.lock().await;
        let known = match &mut *known {
            Some(known) if known.read.elapsed() < BELIEVED => known,
            stale => {
                let read = Instant::now();
                let partitions = slurm.partitions().await?;
                failpoint::pass(Point::PartitionsRead);
                let names = |text: &str| Hostlist::parse(text).map(|list| list.names());
                let nodes = partitions
                    .into_iter()
                    .map(|p| (p.name, names(&p.nodes).unwrap_or_default().into_iter().collect()));
                stale.insert(Known { read, nodes: nodes.collect() })
            }
        };
        // Several may be named. Of none, or of one that Slurm does not know, all nodes are taken.
        let mut of: Vec<&HashSet<String>> =
            partition.split(',').filter_map(|name| known.nodes.get(name)).collect();
        if of.is_empty() {
            of = known.nodes.values().collect();
        }
        let mut shut = Hostlist::parse(excluded).map(|list| list.names()).unwrap_or_default();
        shut.retain(|name| of.iter().any(|nodes| nodes.contains(name)));
        let all = match of.as_slice() {
            [one] => one.len(),
            several => several.iter().flat_map(|nodes| nodes.iter()).collect::<HashSet<_>>().len(),
        };
        Ok(Cut { open: all - shut.len(), excluded: eligible::hostlist(shut), all })
    }

    /// Slurm did not know a name. Whether what was believed then is older than `since`: it is read anew.
    pub(super) async fn was_stale(&self, since: Instant) -> bool {
        let mut known = self.known.lock().await;
        let stale = known.as_ref().is_some_and(|known| known.read < since);
        if stale {
            *known = None;
        }
        stale
    }

    /// Reads the partitions anew before they are used again.
    pub(super) async fn forget(&self) {
        *self.known.lock().await = None;
    }
}

impl Queue {
    /// Cuts a request's lists to its partition, but not what the user wrote: of that Slurm says itself
    /// whether it knows the names. `Some`: too few nodes are left for it.
    pub(super) async fn cut(
        &self,
        request: &mut PlaceholderRequest,
        exclude: Option<&str>,
        shunned: &str,
    ) -> Result<Option<Refusal>, Error> {
        let partition = &request.partition;
        for component in &mut request.components {
            if component.excluded_nodes.is_empty() && shunned.is_empty() {
                continue;
            }
            let needed = component.nodes as usize;
            let cut = self.open_to(partition, &component.excluded_nodes, shunned, needed).await?;
            let short = cut.open < needed && !cut.excluded.is_empty();
            component.excluded_nodes =
                eligible::union(&[cut.excluded.as_str(), exclude.unwrap_or("")]);
            if short {
                return Ok(Some(Refusal::new(
                    Category::Nodes,
                    format!(
                        "its pods need {needed} nodes, and {} of the {} nodes of partition {partition} are open to all of them; the others do not match their nodeSelector or affinity, have taints they do not tolerate, are cordoned, or do not reach their volumes",
                        cut.open, cut.all
                    ),
                )));
            }
        }
        Ok(None)
    }

    /// Cuts a list to a partition, with the nodes that are shunned; but who cannot do without these has
    /// them, if Slurm gives them.
    async fn open_to(
        &self,
        partition: &str,
        shut: &str,
        shunned: &str,
        needed: usize,
    ) -> Result<Cut, Error> {
        if !shunned.is_empty() {
            let both = eligible::union(&[shut, shunned]);
            let cut = self.reaches.cut(&self.slurm, partition, &both).await?;
            if cut.open >= needed {
                return Ok(cut);
            }
        }
        self.reaches.cut(&self.slurm, partition, shut).await
    }

    /// Tells a waiting placeholder what its gang's nodes are now, where that is news. Returns when to
    /// come back.
    pub(super) async fn keep_reach(
        &self,
        entry: &Entry,
        job: &Job,
        gpu_news: u64,
        told: &mut Option<Told>,
    ) -> Option<Duration> {
        let table = entry.excluded();
        let Ok(shunned) = self.shunned(&entry.key.cluster).await else { return Some(RETRY) };
        let again = shunned.as_ref().map(|shunned| shunned.left.max(RETRY));
        let shunned = shunned.map(|shunned| shunned.nodes).unwrap_or_default();
        match told {
            Some(told)
                if told.table == table && told.shunned == shunned && told.gpu_news == gpu_news =>
            {
                return again;
            }
            Some(Told { at: Some(at), .. }) if at.elapsed() < PAUSE => {
                return Some(PAUSE.saturating_sub(at.elapsed()));
            }
            _ => {}
        }
        let parts = waiting(job);
        let none = table.is_empty() && shunned.is_empty() && !self.atlas.knows_gpus();
        if none && parts.iter().all(|part| part.excluded.is_empty()) {
            *told = Some(Told { table, gpu_news, shunned, at: None });
            return None;
        }
        // Whoever finds the lane taken comes back: it must hear of its own start meanwhile.
        let Ok(_lane) = self.reaches.lane.try_acquire() else { return Some(RETRY) };
        let gang = entry.gang();
        let Ok(Some(held)) = translate::held_by(&gang, &self.table, job) else { return None };
        let mut at = None;
        for part in parts {
            let own = held.iter().find(|(_, id)| *id == part.id).map(|(group, _)| group);
            let Some(group) = own else { continue };
            let changed = self.tell(&part, &job.partition, group, &gang.ask, &shunned).await;
            match changed {
                Ok(changed) => at = at.or_else(|| changed.then(Instant::now)),
                Err(error) => {
                    if error.code() == Some(SlurmCode::INVALID_NODE_NAME) {
                        self.reaches.forget().await;
                    }
                    // It may just have started: then there is nothing to tell any more.
                    tracing::debug!(
                        part = part.id.0,
                        error = explain(&error),
                        "could not say which nodes are shut"
                    );
                    return Some(RETRY);
                }
            }
        }
        *told = Some(Told { table, gpu_news, shunned, at });
        // What it says next may be another reason to wait, or a start.
        if at.is_some() {
            // Where that fails, the board reads it in a moment.
            let _ = self.board.read(job.id).await;
        }
        again
    }

    /// Tells a waiting job which nodes are shut, unless it knows, and of which type its GPUs must be
    /// now, where that is news. Returns whether anything was.
    async fn tell(
        &self,
        part: &Waiting<'_>,
        partition: &str,
        group: &Group,
        ask: &Ask,
        shunned: &str,
    ) -> Result<bool, Error> {
        let id = part.id;
        let needed = group.places.len().div_ceil(group.per_node.max(1) as usize);
        let cut = self.open_to(partition, &group.excluded(ask), shunned, needed).await?;
        let wanted = cut.excluded;
        let open = gpu::left_open(&ask.with_gres(group.gres.clone()));
        let gpus = open.then(|| self.atlas.other_gpus(partition, &wanted, part.tres)).flatten();
        if let Some(tres) = &gpus {
            self.slurm.set_tres_per_node(id, tres).await?;
            tracing::info!(part = id.0, tres, "the nodes' type of GPU is another");
        }
        let shut = !same_nodes(&wanted, part.excluded);
        if shut {
            self.slurm.set_excluded_nodes(id, &wanted).await?;
            failpoint::pass(Point::Excluded);
            tracing::info!(part = id.0, excluded = wanted, "nodes have opened or shut");
        }
        Ok(shut || gpus.is_some())
    }
}

/// A placeholder that waits, or a component of it, and what was asked for it.
struct Waiting<'a> {
    id: JobId,
    excluded: &'a str,
    tres: &'a str,
}

/// A placeholder's components, or itself.
fn waiting(job: &Job) -> Vec<Waiting<'_>> {
    if job.parts.is_empty() {
        return vec![Waiting {
            id: job.id,
            excluded: &job.excluded_nodes,
            tres: &job.tres_per_node,
        }];
    }
    let parts = job.parts.iter();
    parts
        .map(|part| Waiting {
            id: part.id,
            excluded: &part.excluded_nodes,
            tres: &part.tres_per_node,
        })
        .collect()
}

/// Whether two hostlists name the same nodes.
fn same_nodes(a: &str, b: &str) -> bool {
    a == b || {
        let names = |text: &str| Hostlist::parse(text).map(|list| list.names()).unwrap_or_default();
        eligible::hostlist(names(a)) == eligible::hostlist(names(b))
    }
}
