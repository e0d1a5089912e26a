//! A gang asks for room when it is whole, and its ranks are those of its workload.

use std::time::Duration;

use gangway_core::names;
use gangway_core::place::parse_ranges;
use gangway_core::topology::layout::Layout;
use gangway_tests::{Pod, Story, manifest, stays};
use serde_json::json;

#[tokio::test]
async fn a_half_created_pod_group_waits() {
    let Some(story) = Story::begin("half-created").await else { return };
    let template = manifest::template(8, &[]);
    let of_group = |name: &str| manifest::pod_of_group(name, "trio", &template);
    story.kube.create(&manifest::pod_group("trio", 3)).await;
    story.kube.create(&of_group("trio-a")).await;
    story.kube.create(&of_group("trio-b")).await;
    story.told("trio-", "2 of 3").await;
    stays("nobody asks Slurm", Duration::from_secs(1), async || {
        let asked = story.slurm.placeholders().await.len();
        if asked == 0 { Ok(()) } else { Err(format!("{asked} placeholders")) }
    })
    .await;

    story.kube.create(&of_group("trio-c")).await;
    let pods = story.bound("trio-", 3).await;
    let gang = story.seated(&pods).await;

    // One more than the least is no part of the gang: it starts alone.
    story.kube.create(&of_group("surplus")).await;
    let surplus = story.bound("surplus", 1).await;
    assert_ne!(story.seated(&surplus).await.id, gang.id);
    assert_eq!(story.slurm.live().await.len(), 2);
    story.end().await;
}

#[tokio::test]
async fn a_pod_group_that_is_not_there_is_told() {
    let Some(story) = Story::begin("no-group").await else { return };
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::pod_of_group("early-a", "late", &template)).await;
    story.kube.create(&manifest::pod_of_group("early-b", "late", &template)).await;
    story.told("early-", "late does not exist").await;
    assert!(story.slurm.placeholders().await.is_empty());
    // It may come later than its pods.
    story.kube.create(&manifest::pod_group("late", 2)).await;
    story.seated(&story.bound("early-", 2).await).await;
    story.end().await;
}

#[tokio::test]
async fn ranks_of_an_indexed_job_are_its_completion_indexes() {
    let Some(story) = Story::begin("indexed").await else { return };
    story.kube.create(&manifest::indexed_job("gang", 12, &manifest::template(8, &[]))).await;
    let pods = story.bound("gang-", 12).await;
    story.seated(&pods).await;
    for pod in &pods {
        let index = pod.number("batch.kubernetes.io/job-completion-index");
        assert_eq!(Some(pod.rank()), index, "{}", pod.name);
    }
    assert_eq!(story.slurm.placeholders().await.len(), 1);
    story.end().await;
}

#[tokio::test]
async fn members_share_nodes_where_the_user_says_so() {
    let Some(story) = Story::begin("per-node").await else { return };
    let template = manifest::template(2, &[("gangway.dev/pods-per-node", "4")]);
    story.kube.create(&manifest::indexed_job("gang", 8, &template)).await;
    let pods = story.bound("gang-", 8).await;
    story.seated(&pods).await;
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    story.end().await;
}

/// The world's p5 nodes carry their instance type: who shares one has the network cards beside its
/// own GPUs, not the next ones in a row.
#[tokio::test]
async fn members_that_share_a_node_have_the_network_cards_beside_their_gpus() {
    let Some(story) = Story::begin("near").await else { return };
    let annotations = [("gangway.dev/pods-per-node", "2"), ("gangway.dev/exclusive", "true")];
    let mut template = manifest::template(2, &annotations);
    template["spec"]["containers"][0]["resources"]["limits"]["vpc.amazonaws.com/efa"] = json!("4");
    story.kube.create(&manifest::indexed_job("gang", 4, &template)).await;
    let mut pods = story.bound("gang-", 4).await;
    pods.sort_by_key(Pod::rank);

    let index =
        |pod: &Pod, gres: &str| pod.annotations[&format!("{}{gres}", names::INDEX_PREFIX)].clone();
    let seats: Vec<_> = pods.iter().map(|pod| (index(pod, "gpu"), index(pod, "efa"))).collect();
    story.note(&format!("GPUs and EFAs by rank: {seats:?}"));
    let near = [("0-1", "0-1,4-5"), ("2-3", "8-9,12-13")];
    let near = near.map(|(gpu, efa)| (gpu.to_owned(), efa.to_owned()));
    assert_eq!(seats, [near.clone(), near].concat());

    let known = Layout::known();
    let p5 = known.iter().find(|layout| layout.instance_type == "p5.48xlarge").expect("known");
    let bits = |text: &str| {
        parse_ranges(text).expect("indexes").iter().fold(0u128, |bits, i| bits | 1 << i)
    };
    for (gpus, efas) in &seats {
        let own = (0..p5.switches).filter(|s| p5.behind(*s, "gpu") & bits(gpus) != 0);
        let beside = own.fold(0, |all, s| all | p5.behind(s, "efa"));
        assert_eq!(bits(efas) & !beside, 0, "{efas} are not all beside {gpus}");
    }
    // Slurm gives the whole node, so what is near can be chosen.
    let job = pods[0].job();
    for (gres, count) in [("gpu", 8), ("efa", 32)] {
        let granted = story.slurm.devices(job, gres).await;
        assert_eq!(granted.len(), 2, "two nodes");
        let all: Vec<u32> = (0..count).collect();
        assert!(granted.values().all(|own| *own == all), "{gres}: {granted:?}");
    }
    story.end().await;
}
