//! A placeholder that Slurm holds because the nodes it needs were away goes on when they are back.

use gangway_core::job::BaseState;
use gangway_slurm::{Node, NodeUpdate};
use gangway_tests::{SOON, Story, World, manifest, wait};

/// Nodes that are taken out of Slurm, and put back when this is dropped at the latest.
struct Away {
    world: &'static World,
    nodes: Vec<Node>,
}

impl Away {
    async fn take(story: &Story, names: &[&str]) -> Self {
        let mut away = Self { world: story.world, nodes: Vec::new() };
        let client = &story.slurm.client;
        for name in names {
            let node = client.node(name).await.expect("Slurm answers").expect("the node is there");
            away.nodes.push(node);
        }
        for name in names {
            client.delete_node(name).await.expect("the node can be deleted");
        }
        away
    }

    /// As `cargo xtask world up` makes them.
    fn put_back(&mut self) {
        let files = |name: &str, count: usize| -> String {
            (0..count).map(|i| format!(",file={name}{i}")).collect()
        };
        let gres = format!(
            "GresConf=count=8,name=gpu,type=h100{}+count=32,name=efa{}",
            files("gpu", 8),
            files("efa", 32)
        );
        for node in self.nodes.drain(..) {
            let words = [
                "create".to_owned(),
                format!("NodeName={}", node.name),
                format!("NodeAddr={}", node.address),
                format!("Port={}", node.port),
                "State=EXTERNAL".to_owned(),
                format!("CPUs={}", node.cpus),
                format!("Sockets={}", node.sockets),
                format!("CoresPerSocket={}", node.cores_per_socket),
                format!("ThreadsPerCore={}", node.threads_per_core),
                format!("RealMemory={}", node.memory_mib),
                format!("Feature={}", node.features.join(",")),
                format!("Gres={}", node.gres),
                gres.clone(),
            ];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.world.run_as("root", "scontrol", &words);
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.put_back();
    }
}

#[tokio::test]
async fn a_gang_that_slurm_holds_goes_on_when_its_nodes_are_back() {
    let Some(story) = Story::begin("held").await else { return };
    let room = story.room().await;
    let spare = ["p5-0015", "p5-0016"];
    let others = manifest::template(8, &[("gangway.dev/exclude", "p5-[0015-0016]")]);
    story.kube.create(&manifest::indexed_job("others", room - 2, &others)).await;
    story.bound("others-", room as usize - 2).await;
    let on_spare = manifest::template(8, &[("gangway.dev/constraints", "spare")]);
    // The spare nodes are taken, then away; the gang waits for them.
    story.kube.create(&manifest::pod_group("first", 2)).await;
    for name in ["first-a", "first-b"] {
        story.kube.create(&manifest::pod_of_group(name, "first", &on_spare)).await;
    }
    let first = story.bound("first-", 2).await[0].job();
    let uid = story.kube.create(&manifest::indexed_job("gang", 2, &on_spare)).await;
    story.told("gang-", "Slurm job").await;
    // Nothing starts on them any more, and then they are gone.
    let client = &story.slurm.client;
    for name in spare {
        let update = NodeUpdate {
            state: Some(vec!["DRAIN".to_owned()]),
            reason: Some("a story".to_owned()),
            ..NodeUpdate::default()
        };
        client.update_node(name, &update).await.expect("the node can be drained");
    }
    story.slurm.scancel("alice", first);
    story.slurm.reaches(first, BaseState::Cancelled).await;
    let mut away = Away::take(&story, &spare).await;
    let pods = story.told("gang-", "BadConstraints").await;
    story.note(&pods[0].why());
    let id = wait("its placeholder is held", SOON, async || {
        let live = story.slurm.live().await;
        let own = live.iter().find(|(stamp, _)| stamp.gang == uid);
        let held = own.filter(|(_, job)| job.priority == Some(0));
        held.map(|(_, job)| job.id).ok_or_else(|| format!("{own:?}"))
    })
    .await;
    away.put_back();
    let pods = story.bound("gang-", 2).await;
    assert_eq!(story.seated(&pods).await.id, id, "the same placeholder, with its age");
    story.end().await;
}
