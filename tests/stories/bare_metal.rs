//! Hosts that run slurmd and no kubelet share a Slurm, and even a partition, with pods' nodes, and no pod's placeholder
//! ever lands there.

use gangway_core::job::BaseState;
use gangway_slurm::Client;
use gangway_tests::{Pool, SOON, Story, manifest, wait};

/// A partition of both kinds of nodes, for as long as this lives.
struct Shared {
    slurm: Option<Client>,
}

impl Shared {
    const NAME: &str = "metal";

    async fn of(story: &Story) -> Self {
        let slurm = story.slurm.client_again();
        let both = ["set_mixed".to_owned(), "h4".to_owned()];
        slurm.create_partition(Self::NAME, &both).await.expect("an administrator may");
        Self { slurm: Some(slurm) }
    }

    async fn end(mut self) {
        let slurm = self.slurm.take().expect("it has not ended");
        wait("the partition is gone", SOON, async || {
            slurm.delete_partition(Self::NAME).await.map_err(|error| error.to_string())
        })
        .await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(slurm) = self.slurm.take() else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // The story has failed already; what cannot be undone shows in the next one.
        let undo =
            move || runtime.map(|runtime| runtime.block_on(slurm.delete_partition(Self::NAME)));
        let _ = std::thread::spawn(undo).join();
    }
}

#[tokio::test]
async fn a_host_that_kubernetes_does_not_have_is_for_sbatch_alone() {
    // It is the pool's nodes that have this feature.
    let differ = |setup: &mut gangway_tests::Setup| setup.policy = "feature: mixed".to_owned();
    let Some(mut story) = Story::prepare("metal", differ).await else { return };
    let shared = Shared::of(&story).await;
    let mut pool = Pool::of(&story, "");
    pool.nodes.take_away("h4").await;
    story.bridge.start().await;
    pool.controllers.start().await;
    pool.add("metal-1").await;
    pool.in_slurm("metal-1", "is idle in both partitions", |node| {
        node.is("IDLE") && node.partitions.iter().any(|name| name == Shared::NAME)
    })
    .await;

    // Three gangs for two nodes that Slurm would give, one of which has no kubelet.
    let template = manifest::template(8, &[("gangway.dev/partition", Shared::NAME)]);
    let gang = |name: &str| manifest::indexed_job(name, 1, &template);
    story.kube.create(&gang("first")).await;
    let pods = story.bound("first-", 1).await;
    story.seated(&pods).await;
    assert_eq!(pods[0].node.as_deref(), Some("metal-1"));
    for late in ["second", "third"] {
        story.kube.create(&gang(late)).await;
    }
    let pending = |count: usize| {
        let story = &story;
        async move || {
            let live = story.slurm.live().await;
            let waiting = live.iter().filter(|(_, job)| job.state.base == BaseState::Pending);
            let asked: Vec<_> = waiting.map(|(_, job)| (job.id, job.reason.clone())).collect();
            if asked.len() == count { Ok(()) } else { Err(format!("{asked:?}")) }
        }
    };
    wait("the others wait in the queue", SOON, pending(2)).await;
    // All of the host's GPUs: it is free, and people of sbatch have it.
    let words = ["-p", Shared::NAME, "-w", "h4", "--gres=gpu:8", "-n1", "-c1", "--mem=500"];
    let id = story.slurm.sbatch("bob", &words);
    let job = story.slurm.reaches(id, BaseState::Running).await;
    assert_eq!(job.nodes, "h4");
    pending(2)().await.expect("the others still wait");
    story.slurm.scancel("bob", id);

    // Slurm's scheduler has looked at them since the host is free again: it starts them where they belong.
    for node in ["metal-2", "metal-3"] {
        pool.add(node).await;
    }
    let mut nodes: Vec<String> = Vec::new();
    for late in ["second-", "third-"] {
        let pods = story.bound(late, 1).await;
        story.seated(&pods).await;
        nodes.extend(pods.into_iter().filter_map(|pod| pod.node));
    }
    nodes.sort();
    assert_eq!(nodes, ["metal-2", "metal-3"]);
    for name in ["first", "second", "third"] {
        story.kube.delete(&gang(name)).await;
        story.gone(&format!("{name}-")).await;
    }
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    shared.end().await;
    story.end().await;
}
