//! Kubernetes as it is: watches pods, nodes and workloads, keeps the index, wakes the gangs.
//!
//! Knows Kubernetes, no Slurm. One task owns the index and the table of gangs; every gang that
//! has pods gets a follower, which is told whenever the gang changes.

mod waiters;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gangway_core::policy::Policy;
use gangway_core::workload::Kind;
use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use watch::Event;

use waiters::Waiters;
pub(crate) use watch::{Telling, until};

use crate::cluster::{Cluster, View, World};
use crate::follow::Follower;
use crate::http::Readiness;
use crate::index::{Group, PodReach};

/// How long events are gathered before gangs are looked at: members of one gang come in bursts.
const GATHER: Duration = Duration::from_millis(3);

/// Watches until `stop`.
pub(crate) struct Source {
    world: World,
    cluster: Cluster,
    readiness: Arc<Readiness>,
    followers: HashMap<String, channel::Sender<View>>,
    /// Gangs formed from each group when it was last looked at.
    formed: HashMap<Group, BTreeSet<String>>,
    waiters: Waiters,
    synced: Synced,
    /// Groups with a gang that may go nowhere: any change of any node may mend that.
    stuck: HashSet<Group>,
    /// Nodes or constraints have changed since gangs were last looked at.
    unsettled: bool,
    /// The watches of volumes run.
    volumes: bool,
    /// What is granted to whom.
    policy: Option<channel::Receiver<Arc<Policy>>>,
}

/// Which watches have been read to the end once.
#[derive(Default)]
struct Synced {
    pods: bool,
    strangers: bool,
    nodes: bool,
    kinds: HashSet<Kind>,
    /// Kinds that the API server does not serve have nothing to be read.
    discovered: bool,
    expected: HashSet<Kind>,
}

impl Synced {
    fn all(&self) -> bool {
        self.pods
            && self.strangers
            && self.nodes
            && self.discovered
            && self.expected.is_subset(&self.kinds)
    }
}

impl Source {
    pub(crate) fn new(cluster: Cluster, world: World, readiness: Arc<Readiness>) -> Self {
        Self {
            world,
            cluster,
            readiness,
            followers: HashMap::new(),
            formed: HashMap::new(),
            waiters: Waiters::default(),
            synced: Synced::default(),
            stuck: HashSet::new(),
            unsettled: false,
            volumes: false,
            policy: None,
        }
    }

    /// Has gangs that were refused ask again when this changes.
    pub(crate) fn heeding(self, policy: channel::Receiver<Arc<Policy>>) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// Runs the watches, and once `begin` is over hands every change on. Until then they are kept warm.
    pub(crate) async fn run(
        mut self,
        client: Client,
        begin: impl Future<Output = ()>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (sender, mut events) = mpsc::channel(8192);
        let (nursery, name) = (&self.cluster.nursery, &self.cluster.scheduler_name);
        watch::start(nursery, &client, &sender, &stop, name, self.readiness.clone());
        let (gone, mut ended) = mpsc::unbounded_channel::<String>();
        let mut dirty: BTreeSet<Group> = BTreeSet::new();
        let mut due: Option<Instant> = None;
        let (mut may_begin, mut begun) = (false, false);
        tokio::pin!(begin);
        let mut policy = self.policy.take();
        loop {
            tokio::select! {
                // The order is that of what must not wait: a stream of events never keeps gangs from
                // being looked at.
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(uid) = ended.recv() => self.bury(&uid, &gone),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.settle(&mut dirty);
                    for group in std::mem::take(&mut dirty) {
                        self.look(&group, &gone);
                    }
                }
                () = &mut begin, if !may_begin => may_begin = true,
                () = changed(&mut policy) => {
                    dirty.extend(self.world.change().policies_changed().cloned());
                }
                Some(event) = events.recv() => {
                    self.apply(event, &mut dirty);
                    if !self.volumes && self.world.index().needs_volumes() {
                        self.volumes = true;
                        watch::start_volumes(&self.cluster.nursery, &client, &sender, &stop);
                    }
                }
            }
            let synced = self.synced.all();
            if synced && !self.readiness.synced.swap(true, Ordering::Relaxed) {
                tracing::info!("watches are synced");
            }
            if begun && (self.unsettled || !dirty.is_empty()) && due.is_none() {
                due = Some(Instant::now() + GATHER);
            } else if !begun && synced && may_begin {
                begun = true;
                dirty.extend(self.world.index().groups().cloned());
                due = Some(Instant::now());
                self.cluster.sweep.notify_one();
                self.cluster.gangs.begun.notify_one();
            } else if !begun {
                // All are looked at when it begins.
                dirty.clear();
            }
        }
    }

    fn apply(&mut self, event: Event, dirty: &mut BTreeSet<Group>) {
        let mut freed = false;
        {
            let mut index = self.world.change();
            match event {
                Event::Pod(pod) => {
                    freed = pod.finished();
                    dirty.extend(self.waiters.for_pod(&pod.namespace, &pod.name));
                    // It may have moved.
                    dirty.extend(index.group_of(&pod.uid).cloned());
                    dirty.insert(index.put_pod(*pod));
                }
                Event::PodGone(uid) => {
                    freed = true;
                    dirty.extend(self.waiters.for_pod_of(&index, &uid));
                    dirty.extend(index.drop_pod(&uid));
                }
                Event::PodsListed(uids) => {
                    self.synced.pods = true;
                    let gone: Vec<String> = index.pods_not_in(&uids);
                    for uid in gone {
                        freed = true;
                        dirty.extend(self.waiters.for_pod_of(&index, &uid));
                        dirty.extend(index.drop_pod(&uid));
                    }
                }
                Event::Stranger(pod) => {
                    freed = pod.finished();
                    index.put_stranger(*pod);
                }
                Event::StrangerGone(uid) => {
                    freed = true;
                    index.drop_stranger(&uid);
                }
                Event::StrangersListed(uids) => {
                    self.synced.strangers = true;
                    freed = true;
                    index.keep_strangers(&uids);
                }
                // A heartbeat changes nothing of what is kept, and wakes nobody.
                Event::Node(mut node) => {
                    // Written for the pods of others. A stock kube-scheduler looks at all taints itself, so there they
                    // count.
                    if self.cluster.terms.is_none() {
                        node.taints.retain(|taint| !taint.is_own(&self.cluster.id));
                    }
                    freed = index.reach().put_node(&node);
                    self.world.atlas().put(&node.name, &node.labels);
                    self.unsettled |= freed;
                }
                Event::NodeGone(name) => {
                    freed = index.reach().drop_node(&name);
                    self.world.atlas().forget(&name);
                    self.unsettled |= freed;
                }
                Event::NodesListed(names) => {
                    self.synced.nodes = true;
                    index.reach().keep_nodes(&names);
                    self.world.atlas().keep(&names);
                    self.unsettled = true;
                }
                Event::Workload(workload) => {
                    dirty.extend(index.put_workload(*workload));
                }
                Event::WorkloadGone { kind, namespace, name, uid } => {
                    dirty.insert(index.drop_workload(kind, &namespace, &name, &uid));
                }
                Event::WorkloadsListed(kind, uids) => {
                    self.synced.kinds.insert(kind);
                    dirty.extend(index.keep_workloads(kind, &uids));
                }
                Event::Discovered(kinds) => {
                    self.synced.discovered = true;
                    self.synced.expected.extend(kinds);
                }
                event => {
                    let pods = of_volumes(index.reach(), event);
                    freed = !pods.is_empty();
                    dirty.extend(index.look_at_claims(pods));
                }
            }
        }
        if freed {
            self.world.seats_freed();
        }
        self.waiters.wake(dirty);
    }

    /// Finds the groups whose pods may go elsewhere than before.
    fn settle(&mut self, dirty: &mut BTreeSet<Group>) {
        dirty.extend(self.world.change().settle());
        if std::mem::take(&mut self.unsettled) {
            dirty.extend(self.stuck.drain());
        }
    }

    /// Looks at one group and tells its gangs.
    fn look(&mut self, group: &Group, gone: &mpsc::UnboundedSender<String>) {
        let assembled = self.world.index().assemble(group);
        self.waiters.note(group, &assembled);
        let mut now = BTreeSet::new();
        if assembled.iter().any(|gang| gang.nowhere.is_some()) {
            self.stuck.insert(group.clone());
        } else {
            self.stuck.remove(group);
        }
        for assembled in assembled {
            now.insert(assembled.gang.uid.clone());
            let ready = self.world.index().ready(&assembled.gang);
            self.tell(View { assembled, group: group.clone(), ready }, gone);
        }
        let before = self.formed.remove(group).unwrap_or_default();
        for uid in before.difference(&now) {
            self.empty(uid);
        }
        if !now.is_empty() {
            self.formed.insert(group.clone(), now);
        }
    }

    fn tell(&mut self, view: View, gone: &mpsc::UnboundedSender<String>) {
        let uid = view.assembled.gang.uid.clone();
        match self.followers.get(&uid) {
            Some(follower) => {
                follower.send_if_modified(|old| {
                    *old != view && {
                        *old = view;
                        true
                    }
                });
            }
            // A gang that nobody follows and that has nothing left needs no follower.
            None if view.assembled.gang.members.is_empty() && view.assembled.leaving.is_empty() => {
            }
            None => {
                let (sender, views) = channel::channel(view);
                self.followers.insert(uid.clone(), sender);
                let follower = Follower::new(self.cluster.clone(), views);
                let gone = gone.clone();
                let following = async move {
                    follower.run().await;
                    // The source is gone only when the process ends.
                    let _ = gone.send(uid);
                    Ok(())
                };
                self.cluster.nursery.start("follower", following);
            }
        }
    }

    /// Tells a gang that it has no pods left.
    fn empty(&self, uid: &str) {
        if let Some(follower) = self.followers.get(uid) {
            follower.send_modify(|view| {
                view.assembled.gang.members.clear();
                view.assembled.leaving.clear();
                view.assembled.stand_ins.clear();
                view.assembled.over = true;
            });
        }
    }

    /// A follower has ended. If its gang has pods again by now, a new one follows.
    fn bury(&mut self, uid: &str, gone: &mpsc::UnboundedSender<String>) {
        let Some(follower) = self.followers.remove(uid) else { return };
        let group = follower.borrow().group.clone();
        self.look(&group, gone);
    }
}

/// Waits until it changes, for ever where it cannot any more.
async fn changed(policy: &mut Option<channel::Receiver<Arc<Policy>>>) {
    let ended = match policy {
        Some(policy) => policy.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

/// Takes in what was heard of claims, volumes and classes. Returns the pods to look at.
fn of_volumes(reach: &mut PodReach, event: Event) -> Vec<String> {
    match event {
        Event::Claim(key, claim) => reach.put_claim(key, Some(*claim)),
        Event::ClaimGone(key) => reach.put_claim(key, None),
        Event::ClaimsListed(keys) => reach.keep_claims(&keys),
        Event::Volume(name, whence) => reach.put_volume(name, Some(*whence)),
        Event::VolumeGone(name) => reach.put_volume(name, None),
        Event::VolumesListed(names) => reach.keep_volumes(&names),
        Event::Class(name, class) => reach.put_class(name, Some(*class)),
        Event::ClassGone(name) => reach.put_class(name, None),
        Event::ClassesListed(names) => reach.keep_classes(&names),
        _ => Vec::new(),
    }
}
