//! Facts about nodes and partitions.
//!
//! It must never change a node of the cluster: only one of its own, in no partition.

use super::{Outcome, Report, Stage, answered, hold};
use crate::{NodeUpdate, SlurmCode};

pub(super) async fn run(stage: &Stage<'_>, report: &mut Report) {
    report.add("partitions are listed and found by name", partitions(stage).await);
    report.add("a node that never was is None or 2018", unknown_node(stage).await);
    let outcome = round_trip(stage).await;
    let name = format!("{}-node", stage.tag);
    // After a failure half-way; the usual answer is 2018.
    drop(stage.client.delete_node(&name).await);
    report.add("an EXTERNAL node is created, changed, stirred and deleted", outcome);
    let outcome = several(stage).await;
    drop(stage.client.delete_nodes(&format!("{}-many[1-4]", stage.tag)).await);
    report.add(
        "of a hostlist all nodes that are there are deleted, whatever is said of others",
        outcome,
    );
    report.add("stirring a node changes nothing of it", kick(stage).await);
}

async fn partitions(stage: &Stage<'_>) -> Outcome {
    let name = &stage.world.partition;
    let all = stage.client.partitions().await?;
    hold(all.iter().any(|one| &one.name == name), &all)?;
    let one = stage.client.partition(name).await?;
    hold(one.as_ref().is_some_and(|one| one.is_up() && one.node_count > 0), one)?;
    let none = stage.client.partition(&format!("{}-nowhere", stage.tag)).await?;
    hold(none.is_none(), none)
}

async fn unknown_node(stage: &Stage<'_>) -> Outcome {
    let name = format!("{}-nowhere", stage.tag);
    let none = stage.client.node(&name).await?;
    hold(none.is_none(), none)?;
    answered(stage.client.kick(&name).await, SlurmCode::INVALID_NODE_NAME)?;
    answered(stage.client.delete_node(&name).await, SlurmCode::INVALID_NODE_NAME)
}

async fn round_trip(stage: &Stage<'_>) -> Outcome {
    let (client, name) = (&stage.client, format!("{}-node", stage.tag));
    let conf = format!(
        "NodeName={name} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Feature={} \
         Gres=gpu:h100:2,efa:4 GresConf=\"count=2,name=gpu,type=h100,file=gpu[0-1]\
         +count=4,name=efa,file=efa[0-3]\" State=EXTERNAL",
        stage.tag
    );
    client.create_node(&conf).await?;
    let node = client.node(&name).await?;
    let right = node.as_ref().is_some_and(|node| {
        node.is("EXTERNAL")
            && node.is("IDLE")
            && (node.cpus, node.memory_mib) == (4, 1000)
            && node.gres == "gpu:h100:2,efa:4"
            && node.address == "127.0.0.1"
    });
    hold(right, node)?;
    let again = client.create_node(&conf).await;
    answered(again, SlurmCode::NODE_EXISTS)?;

    let update = NodeUpdate {
        comment: Some("seen".into()),
        extra: Some("a=b".into()),
        address: Some("127.0.0.2".into()),
        ..NodeUpdate::default()
    };
    client.update_node(&name, &update).await?;
    let drain = NodeUpdate {
        state: Some(vec!["DRAIN".into()]),
        reason: Some("conformance".into()),
        ..NodeUpdate::default()
    };
    client.update_node(&name, &drain).await?;
    let node = client.node(&name).await?;
    let right = node.as_ref().is_some_and(|node| {
        node.is("DRAIN")
            && node.reason == "conformance"
            && node.comment == "seen"
            && node.extra == "a=b"
            && node.address == "127.0.0.2"
    });
    hold(right, node)?;
    let back = NodeUpdate { state: Some(vec!["UNDRAIN".into()]), ..NodeUpdate::default() };
    client.update_node(&name, &back).await?;
    let node = client.node(&name).await?;
    hold(node.as_ref().is_some_and(|node| node.is("IDLE") && !node.is("DRAIN")), node)?;

    client.delete_node(&name).await?;
    hold(client.node(&name).await?.is_none(), "the deleted node")
}

async fn several(stage: &Stage<'_>) -> Outcome {
    let (client, name) = (&stage.client, format!("{}-many", stage.tag));
    for n in 1..=3 {
        let conf =
            format!("NodeName={name}{n} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=EXTERNAL");
        client.create_node(&conf).await?;
    }
    client.delete_nodes(&format!("{name}[1-2]")).await?;
    hold(client.node(&format!("{name}1")).await?.is_none(), "the first is gone")?;
    hold(client.node(&format!("{name}3")).await?.is_some(), "the third is there")?;
    let list = format!("{name}[2-4]");
    answered(client.delete_nodes(&list).await, SlurmCode::INVALID_NODE_NAME)?;
    hold(client.node(&format!("{name}3")).await?.is_none(), "the third is gone too")
}

async fn kick(stage: &Stage<'_>) -> Outcome {
    let nodes = stage.client.nodes().await?;
    let ours = |node: &&crate::Node| node.partitions.contains(&stage.world.partition);
    let before = nodes.iter().find(ours).ok_or("the partition has no node")?;
    stage.client.kick(&before.name).await?;
    let after = stage.client.node(&before.name).await?.ok_or("the node is gone")?;
    let same = (&after.comment, &after.reason, &after.extra, &after.address)
        == (&before.comment, &before.reason, &before.extra, &before.address);
    hold(same, after)
}
