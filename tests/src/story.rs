//! One story: a namespace, a bridge, and the promise that nothing is left of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_core::hostlist::Hostlist;
use gangway_core::job::{BaseState, Job};
use gangway_core::names;
use gangway_core::place::parse_ranges;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{DeleteParams, Patch, PatchParams};

use crate::bridge::{Bridge, Setup};
use crate::kubernetes::{Kubernetes, Pod};
use crate::slurm::Slurm;
use crate::wait::{SOON, wait};
use crate::world::World;

/// A story under way.
pub struct Story {
    /// Where it plays.
    pub world: &'static World,
    /// Its namespace.
    pub kube: Kubernetes,
    /// Slurm.
    pub slurm: Slurm,
    /// Its bridge.
    pub bridge: Bridge,
    /// The bridge's name in every placeholder.
    pub cluster: String,
    name: String,
    began: Instant,
    ended: bool,
}

impl Story {
    /// Begins a story with its bridge ready. `None`: there is no world, and the test is skipped.
    pub async fn begin(name: &str) -> Option<Self> {
        let mut story = Self::prepare(name, |_| {}).await?;
        story.bridge.start().await;
        Some(story)
    }

    /// The same in a world that will do, where several kinds are to be had. `None`: there is none, and the test is
    /// skipped.
    pub async fn begin_where(
        name: &str,
        which: &str,
        will_do: impl Fn(&World) -> bool,
    ) -> Option<Self> {
        let Some(world) = World::find_where(will_do) else {
            tell(name, &format!("skipped: there is no world {which}"));
            return None;
        };
        let mut story = Self::enter(name, world, |_| {}).await;
        story.bridge.start().await;
        Some(story)
    }

    /// Begins a story whose bridge differs, or starts later.
    pub async fn prepare(name: &str, differ: impl FnOnce(&mut Setup)) -> Option<Self> {
        let Some(world) = World::find() else {
            tell(name, "skipped: GANGWAY_WORLD_ENV is not set, there is no world to play in");
            return None;
        };
        Some(Self::enter(name, world, differ).await)
    }

    /// Prepares another one in the same world, for as long as this one is told. The scheduler name of
    /// its bridge is that of its cluster, so that neither sees the other's pods.
    pub async fn beside(&self, name: &str) -> Self {
        let scheduler = format!("schedulerName: {}\n", cluster(name));
        Self::enter(name, self.world, |setup| setup.more.push_str(&scheduler)).await
    }

    async fn enter(name: &str, world: &'static World, differ: impl FnOnce(&mut Setup)) -> Self {
        let began = Instant::now();
        let cluster = cluster(name);
        let kube = Kubernetes::reach(&world.kubeconfig(), &cluster).await;
        let slurm = Slurm::reach(world, &cluster);
        slurm.look_around().await;
        kube.make_namespace().await;
        let mut setup = Setup::of(world);
        differ(&mut setup);
        let bridge = Bridge::new(world, &cluster, &setup);
        let name = name.to_owned();
        Self { world, kube, slurm, bridge, cluster, name, began, ended: false }
    }

    /// Another bridge of the same cluster id, not started yet.
    pub fn another(&self, who: &str, differ: impl FnOnce(&mut Setup)) -> Bridge {
        let mut setup = Setup { who: who.to_owned(), ..Setup::of(self.world) };
        differ(&mut setup);
        Bridge::new(self.world, &self.cluster, &setup)
    }

    /// Runs kubectl as the administrator and gives what it prints.
    pub fn kubectl(&self, words: &[&str]) -> String {
        let mut command = std::process::Command::new(self.world.binary("kubectl"));
        let ran = command.args(words).env("KUBECONFIG", self.world.kubeconfig()).output();
        let ran = ran.expect("kubectl can be started");
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "kubectl {words:?}: {complaint}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// Runs kubectl in the story's namespace as somebody who is in a group: what it prints, or its complaint.
    pub fn kubectl_as(
        &self,
        (user, group): (&str, &str),
        words: &[&str],
        input: &str,
    ) -> Result<String, String> {
        let mut command = std::process::Command::new(self.world.binary("kubectl"));
        let namespace = format!("--namespace={}", self.kube.namespace);
        let (user, group) = (format!("--as={user}"), format!("--as-group={group}"));
        command.args([&namespace, &user, &group, "--as-group=system:authenticated"]).args(words);
        crate::admission::fed(command.env("KUBECONFIG", self.world.kubeconfig()), input)
    }

    /// Prints a figure.
    pub fn note(&self, what: &str) {
        tell(&self.name, what);
    }

    /// How many nodes the partition `gangway` has.
    pub async fn room(&self) -> u32 {
        let nodes = self.slurm.client.nodes().await.expect("nodes can be listed");
        let own = nodes.iter().filter(|node| node.name.starts_with("p5-")).count();
        u32::try_from(own).expect("a number of nodes")
    }

    /// The pods whose names begin so.
    pub async fn pods(&self, prefix: &str) -> Vec<Pod> {
        let mut pods = self.kube.pods().await;
        pods.retain(|pod| pod.name.starts_with(prefix));
        pods
    }

    /// Waits until exactly `count` pods of that prefix are there and all are bound.
    pub async fn bound(&self, prefix: &str, count: usize) -> Vec<Pod> {
        wait(&format!("{count} pods {prefix} are bound"), SOON, async || {
            let pods = self.pods(prefix).await;
            let there = pods.iter().filter(|pod| pod.node.is_some() && !pod.deleting).count();
            if there == count && pods.len() == count {
                return Ok(pods);
            }
            let why = pods.iter().map(Pod::why).find(|why| !why.is_empty()).unwrap_or_default();
            Err(format!("{there} of {} pods are bound; {why}", pods.len()))
        })
        .await
    }

    /// Waits until the pods of that prefix all tell why they wait, in words that contain `words`.
    pub async fn told(&self, prefix: &str, words: &str) -> Vec<Pod> {
        wait(&format!("the pods {prefix} tell {words:?}"), SOON, async || {
            let pods = self.pods(prefix).await;
            let all = !pods.is_empty() && pods.iter().all(|pod| pod.why().contains(words));
            let said = || pods.iter().map(Pod::why).collect::<Vec<_>>().join(" | ");
            if all { Ok(pods.clone()) } else { Err(said()) }
        })
        .await
    }

    /// Waits until no pod of that prefix is there.
    pub async fn gone(&self, prefix: &str) {
        wait(&format!("the pods {prefix} are gone"), SOON, async || {
            let left = self.pods(prefix).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{} are there", left.len())) }
        })
        .await;
    }

    /// Checks a bound gang against Slurm (rules 1, 3, 4, 9) and gives its placeholder.
    pub async fn seated(&self, pods: &[Pod]) -> Job {
        let id = pods.first().expect("a gang has pods").job();
        let job = self.slurm.job(id).await;
        assert_eq!(job.state.base, BaseState::Running, "job {id} {}", job.reason);
        assert_eq!((job.user.as_str(), job.account.as_str()), ("alice", "team1"));
        let hosts = Hostlist::parse(&job.nodes).expect("Slurm writes hostlists").names();
        let mut ranks: Vec<u32> = pods.iter().map(Pod::rank).collect();
        ranks.sort_unstable();
        let expected: Vec<u32> = (0..).take(pods.len()).collect();
        assert_eq!(ranks, expected, "each rank once");
        for gres in ["gpu", "efa"] {
            let mut used: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            for pod in pods {
                assert_eq!(pod.job(), id, "{} is bound for another job", pod.name);
                assert_eq!(pod.labels.get(names::JOB_LABEL), Some(&id.to_string()));
                let node = pod.node.as_deref().expect("a bound pod");
                assert_eq!(pod.annotations.get(names::NODE).map(String::as_str), Some(node));
                assert!(hosts.iter().any(|host| host == node), "{node} is not of job {id}");
                let indexes = pod.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX));
                let indexes = indexes.and_then(|text| parse_ranges(text)).unwrap_or_default();
                used.entry(node).or_default().extend(indexes);
            }
            let granted = self.slurm.devices(id, gres).await;
            for (node, mut indexes) in used {
                indexes.sort_unstable();
                assert_eq!(granted.get(node), Some(&indexes), "{gres} of job {id} on {node}");
            }
        }
        job
    }

    /// Deletes everything and checks that nothing is left on either side.
    pub async fn end(mut self) {
        if self.bridge.alive() {
            self.kube.delete_all().await;
            self.gone("").await;
            self.nothing_lives(SOON).await;
            let status = self.bridge.stop(Duration::from_secs(15)).await;
            assert!(status.is_some_and(|s| s.success()), "the bridge ended with {status:?}");
        }
        clean_up(&self.kube, &self.slurm).await;
        self.slurm.wait_made_over().await;
        self.bridge.clear();
        self.ended = true;
        self.note(&format!("told in {:.1} s", self.began.elapsed().as_secs_f32()));
    }

    /// Waits until no placeholder of this bridge is alive.
    pub async fn nothing_lives(&self, within: Duration) {
        wait("no placeholder is left", within, async || {
            let live = self.slurm.live().await;
            let live: Vec<String> =
                live.iter().map(|(_, job)| format!("{} {}", job.id, job.state)).collect();
            if live.is_empty() { Ok(()) } else { Err(live.join(", ")) }
        })
        .await;
    }
}

impl Drop for Story {
    /// A story that broke off: shows the bridge's last words and leaves the world to the next one.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.bridge.kill();
        // It may have broken off while slurmctld was away, which must not end other stories too.
        let _ = self.world.command("slurm-daemon").args(["start", "slurmctld"]).status();
        tell(&self.name, &format!("broke off; its bridge said last:\n{}", self.bridge.tail(60)));
        let (kubeconfig, namespace) = (self.world.kubeconfig(), self.cluster.clone());
        let slurm = self.slurm.again();
        // The runtime of a test that panics no longer runs anything.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let kube = Kubernetes::reach(&kubeconfig, &namespace).await;
                clean_up(&kube, &slurm).await;
                slurm.wait_made_over().await;
            });
        });
        if cleaning.join().is_err() {
            tell(&self.name, "could not clean up");
        }
    }
}

/// A name for the bridge of a story that no other has.
fn cluster(story: &str) -> String {
    format!("t-{story}-{}", std::process::id())
}

/// Leaves nothing of a story on either side, with or without its bridge.
async fn clean_up(kube: &Kubernetes, slurm: &Slurm) {
    // Workloads first, or their controllers make the pods anew.
    kube.delete_all().await;
    wait("the namespace is empty", SOON, async || {
        let pods = kube.pods().await;
        for pod in &pods {
            // A pod that a story holds back goes too; one that is gone by now is fine.
            let none = serde_json::json!({"metadata": {"finalizers": null}});
            let patch = Patch::Merge(&none);
            let api = kube.api::<KubePod>();
            let _ = api.patch(&pod.name, &PatchParams::default(), &patch).await;
            let _ = api.delete(&pod.name, &DeleteParams::default()).await;
        }
        if pods.is_empty() { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
    .await;
    slurm.cancel_all().await;
    kube.drop_namespace().await;
}

#[expect(clippy::print_stdout, reason = "a test talks to a person")]
fn tell(name: &str, what: &str) {
    println!("{name}: {what}");
}
