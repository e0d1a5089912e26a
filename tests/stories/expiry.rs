//! Watches that expire (410) and writes that meet a conflict (409): everything converges, nothing is lost.

use std::time::Duration;

use gangway_core::job::BaseState;
use gangway_tests::{Chronicle, Fault, Faults, SOON, Story, World, audited, manifest, stays, wait};

/// A story whose bridge reaches the API server through a proxy.
async fn behind_a_proxy(name: &str) -> Option<(Story, Faults)> {
    let world = World::find()?;
    let proxy = Faults::before_kubernetes(&world.bridge_kubeconfig()).await;
    let kubeconfig = proxy.kubeconfig();
    let more = format!("leaderElection: {{ enabled: true, name: story-{name} }}\n");
    let differ = |setup: &mut gangway_tests::Setup| {
        setup.kubeconfig = Some(kubeconfig);
        // So that the Lease is among the writes.
        setup.more = more;
    };
    Some((Story::prepare(name, differ).await?, proxy))
}

#[tokio::test]
async fn watches_expire_while_gangs_come_and_go() {
    let Some((mut story, proxy)) = behind_a_proxy("expired").await else { return };
    story.bridge.start().await;
    let chronicle = Chronicle::begin(&story.kube).await;
    let template = manifest::template(8, &[]);
    let first = manifest::indexed_job("first", 4, &template);
    story.kube.create(&first).await;
    let before = story.bound("first-", 4).await;
    for round in 0..4 {
        // Every watch ends with 410, and the next few attempts to go on meet one too.
        proxy.expire(3 * round);
        let name = format!("round{round}");
        let job = manifest::indexed_job(&name, 4, &template);
        story.kube.create(&job).await;
        story.seated(&story.bound(&format!("{name}-"), 4).await).await;
        proxy.expire(3 * round);
        story.kube.delete(&job).await;
        story.gone(&format!("{name}-")).await;
        wait("its placeholder has ended", SOON, async || {
            let live = story.slurm.live().await;
            if live.len() == 1 { Ok(()) } else { Err(format!("{} live", live.len())) }
        })
        .await;
    }
    wait("every 410 was met", SOON, async || match proxy.still_gone() {
        0 => Ok(()),
        left => Err(left.to_string()),
    })
    .await;
    let after = story.bound("first-", 4).await;
    let versions = |pods: &[gangway_tests::Pod]| -> Vec<_> {
        pods.iter().map(|p| (p.uid.clone(), p.version.clone())).collect()
    };
    assert_eq!(versions(&before), versions(&after), "nobody has touched who runs");
    assert_eq!(chronicle.shared_devices(), [""; 0]);
    let evicted = audited(story.world, &story.cluster, |a| {
        a.namespace == story.cluster && a.what == "pods/eviction"
    });
    assert!(evicted.is_empty(), "{evicted:?}");
    story.end().await;
}

#[tokio::test]
async fn every_write_meets_a_conflict_at_first() {
    let Some((mut story, proxy)) = behind_a_proxy("conflicts").await else { return };
    proxy.conflicts();
    story.bridge.start().await;
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("large", room, &template);
    story.kube.create(&large).await;
    let pods = story.bound("large-", room as usize).await;
    let placeholder = story.seated(&pods).await;

    // The condition of a pod that waits, and an event for its owner.
    story.kube.create(&manifest::indexed_job("small", 2, &template)).await;
    story.told("small-", "Slurm job").await;
    // An eviction, with its events on the pod and the Job.
    story.slurm.scancel("alice", placeholder.id.0);
    story.slurm.reaches(placeholder.id.0, BaseState::Cancelled).await;
    let id = placeholder.id.to_string();
    wait("the pods and their Job are told why they leave", SOON, async || {
        let events = story.kube.events().await;
        let told = |kind: &str| {
            let of = |e: &&gangway_tests::Note| e.kind == kind && e.reason == "Evicted";
            events.iter().filter(of).filter(|e| e.message.contains(&id)).count()
        };
        let (pods, jobs) = (told("Pod"), told("Job"));
        if pods == room as usize && jobs == 1 { Ok(()) } else { Err(format!("{pods} {jobs}")) }
    })
    .await;
    let old: Vec<String> = pods.into_iter().map(|pod| pod.uid).collect();
    wait("the old pods are gone", SOON, async || {
        let left = story.pods("large-").await.iter().filter(|p| old.contains(&p.uid)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are there")) }
    })
    .await;
    story.seated(&story.bound("small-", 2).await).await;
    stays("it still leads", Duration::from_secs(1), async || {
        let leads = story.bridge.metric("gangway_leads").await;
        if leads > 0.0 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    let met = proxy.count(Fault::Conflict);
    story.note(&format!("{met} writes met a conflict"));
    assert!(met > 2 * room as usize, "{met}: bindings and evictions alone are more");
    story.kube.delete(&large).await;
    story.end().await;
}
