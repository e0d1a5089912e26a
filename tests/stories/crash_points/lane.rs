//! One lane of the story: gangs of one size, and a bridge that dies and is started again.

use std::collections::BTreeSet;

use gangway_core::job::JobId;
use gangway_core::placeholder::{JobIds, Stamp};
use gangway_tests::history::Recorder;
use gangway_tests::{Bridge, SOON, Setup, Story, manifest, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// A lane.
pub(super) struct Lane<'a> {
    /// With a bridge of its own.
    pub(super) story: Story,
    /// Members of each gang.
    pub(super) size: u32,
    /// Where its bridges have died.
    pub(super) died: BTreeSet<String>,
    recorder: &'a Recorder,
    gangs: u32,
}

/// One gang of it: a lone pod, or pods of a PodGroup, that nobody makes again.
pub(super) struct Gang {
    pub(super) name: String,
    pub(super) uid: String,
}

impl<'a> Lane<'a> {
    pub(super) async fn begin(beside: &Story, size: u32, recorder: &'a Recorder) -> Self {
        let story = beside.beside(&format!("crash-{size}")).await;
        Self { story, size, died: BTreeSet::new(), recorder, gangs: 0 }
    }

    /// Whole nodes that a gang takes.
    pub(super) fn nodes(&self) -> u32 {
        if self.size > 4 { self.size / 4 } else { self.size }
    }

    /// Whether a bridge of this lane has died at a point.
    pub(super) fn died_at(&self, point: &str) -> bool {
        self.died.iter().any(|at| at.split(':').next() == Some(point))
    }

    /// Another configuration for the bridges that come.
    pub(super) fn set_up(&mut self, differ: impl FnOnce(&mut Setup)) {
        let story = &mut self.story;
        story.bridge.kill();
        let mut setup = Setup::of(story.world);
        setup.more = format!("schedulerName: {}\n", story.cluster);
        differ(&mut setup);
        self.story.bridge = Bridge::new(self.story.world, &self.story.cluster, &setup);
    }

    /// Makes a gang. `edit` may change each pod.
    pub(super) async fn gang(
        &mut self,
        annotations: &[(&str, &str)],
        edit: impl Fn(&mut Value),
    ) -> Gang {
        self.gangs += 1;
        let name = format!("g{}", self.gangs);
        let kube = &self.story.kube;
        let asked: Vec<(String, &str)> = annotations
            .iter()
            .map(|(name, value)| (format!("gangway.dev/{name}"), *value))
            .collect();
        let mut asked: Vec<(&str, &str)> = asked.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        // Whole nodes in any case: what is full is full for everybody.
        let gpus = if self.size > 4 { 2 } else { 8 };
        if self.size > 4 {
            asked.push(("gangway.dev/pods-per-node", "4"));
        }
        let mut template = manifest::template(gpus, &asked);
        template["spec"]["schedulerName"] = json!(self.story.cluster);
        let uid = if self.size == 1 {
            let mut pod = manifest::pod(&format!("{name}-0"), &template);
            edit(&mut pod);
            kube.create(&pod).await
        } else {
            let uid = kube.create(&manifest::pod_group(&name, self.size)).await;
            let make = async |rank| {
                let pod = format!("{name}-{rank}");
                let mut pod = manifest::pod_of_group(&pod, &name, &template);
                edit(&mut pod);
                kube.create(&pod).await
            };
            futures::future::join_all((0..self.size).map(make)).await;
            uid
        };
        self.recorder.expect(&uid, self.size as usize);
        Gang { name: format!("{name}-"), uid }
    }

    /// Starts a bridge that dies at a point, and sees it die.
    pub(super) async fn die(&mut self, at: &str) {
        self.arm(at);
        self.dies(at).await;
    }

    /// Starts a bridge that dies at a point.
    pub(super) fn arm(&mut self, at: &str) {
        self.story.bridge.kill();
        self.story.bridge.arm(at);
        self.story.bridge.spawn();
    }

    pub(super) async fn dies(&mut self, at: &str) {
        self.story.bridge.dies(at).await;
        self.died.insert(at.to_owned());
    }

    /// Starts a bridge that dies nowhere.
    pub(super) fn start(&mut self) {
        self.story.bridge.kill();
        self.story.bridge.spawn();
    }

    /// Waits until all of a gang is bound, and checks it against Slurm. Its placeholder.
    pub(super) async fn bound(&mut self, gang: &Gang) -> JobId {
        let pods = self.story.bound(&gang.name, self.size as usize).await;
        let job = self.story.seated(&pods).await;
        let stamp = Stamp::of(&job).expect("a placeholder has a key");
        assert_eq!(stamp.gang, gang.uid, "{}", gang.name);
        job.id
    }

    /// Waits until all of a gang is told that it waits.
    pub(super) async fn waits(&mut self, gang: &Gang) {
        self.story.told(&gang.name, "Slurm job").await;
    }

    /// Ends a placeholder as an administrator would.
    pub(super) async fn scancel(&self, job: JobId) {
        let cancelled = self.story.slurm.client.cancel(job).await;
        assert!(cancelled.is_ok(), "{cancelled:?}");
    }

    /// Deletes a gang, and waits until nothing is left of it on either side.
    pub(super) async fn over(&mut self, gang: &Gang) {
        self.story.kube.delete_pods(&gang.name).await;
        self.nothing_left(gang).await;
    }

    pub(super) async fn nothing_left(&mut self, gang: &Gang) {
        self.story.gone(&gang.name).await;
        self.story.nothing_lives(SOON).await;
        self.story.bridge.kill();
    }

    /// The same where others go on.
    pub(super) async fn nothing_left_of(&mut self, gang: &Gang) {
        self.story.gone(&gang.name).await;
        wait(&format!("no placeholder of {} is left", gang.name), SOON, async || {
            let live = self.story.slurm.live().await;
            let own = live.iter().filter(|(stamp, _)| stamp.gang == gang.uid).count();
            if own == 0 { Ok(()) } else { Err(format!("{own} are")) }
        })
        .await;
    }

    /// The id that its bridge would choose for its first placeholder.
    pub(super) fn first_id(&self, gang: &Gang) -> JobId {
        let stamp = Stamp {
            cluster: self.story.cluster.clone(),
            gang: gang.uid.clone(),
            generation: 1,
            pods: 0,
            part: None,
        };
        JobIds::default().choose(&stamp, 0)
    }

    pub(super) async fn open_gates(&self, gang: &Gang) {
        let none = json!({"spec": {"schedulingGates": null}});
        for pod in self.story.pods(&gang.name).await {
            self.story.kube.patch_pod(&pod.name, &none).await;
        }
    }

    /// Gives its pods the address of this machine, where their hook is.
    pub(super) async fn at_home(&self, gang: &Gang) {
        let api = self.story.kube.api::<KubePod>();
        for pod in self.story.pods(&gang.name).await {
            wait("KWOK has given the pod its address", SOON, async || {
                let phase = self.story.kube.pod(&pod.name).await.phase;
                if phase == "Running" { Ok(()) } else { Err(phase) }
            })
            .await;
            let home = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
            let patch = Patch::Merge(&home);
            let patched = api.patch_status(&pod.name, &PatchParams::default(), &patch).await;
            assert!(patched.is_ok(), "{patched:?}");
        }
    }
}
