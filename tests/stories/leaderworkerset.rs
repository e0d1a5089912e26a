//! LeaderWorkerSets with their real controller: each group is a gang, also when it is made anew.

use std::collections::BTreeSet;
use std::time::Duration;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::BaseState;
use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};
use serde_json::json;

/// The pods of one group.
fn group(pods: &[Pod], index: u32) -> Vec<Pod> {
    let key = "leaderworkerset.sigs.k8s.io/group-index";
    let own = |pod: &&Pod| pod.labels.get(key) == Some(&index.to_string());
    pods.iter().filter(own).cloned().collect()
}

fn ranks_are_worker_indexes(pods: &[Pod]) {
    for pod in pods {
        let index = pod.labels.get("leaderworkerset.sigs.k8s.io/worker-index");
        assert_eq!(index, Some(&pod.rank().to_string()), "{}", pod.name);
    }
}

#[tokio::test]
async fn each_group_is_a_gang() {
    let Some(story) = Story::begin("lws").await else { return };
    let template = manifest::template(8, &[]);
    let set = manifest::leader_worker_set("set", 2, 3, "LeaderCreated", &template);
    story.kube.create(&set).await;
    let pods = story.bound("set-", 6).await;
    let mut jobs = BTreeSet::new();
    for index in 0..2 {
        let own = group(&pods, index);
        assert_eq!(own.len(), 3);
        jobs.insert(story.seated(&own).await.id);
        ranks_are_worker_indexes(&own);
    }
    assert_eq!(jobs.len(), 2, "two gangs, two placeholders");
    assert_eq!(story.slurm.placeholders().await.len(), 2);
    story.end().await;
}

/// The workers are made when the leader is ready: it must not wait for them.
#[tokio::test]
async fn whose_leader_goes_first_is_asked_for_as_a_whole() {
    let Some(story) = Story::begin("lws-leader-ready").await else { return };
    let template = manifest::template(8, &[]);
    let room = story.room().await;
    let large = manifest::indexed_job("large", room - 2, &template);
    story.kube.create(&large).await;
    story.bound("large-", room as usize - 2).await;
    let set = manifest::leader_worker_set("set", 1, 4, "LeaderReady", &template);
    story.kube.create(&set).await;
    let leader = story.told("set-", "Slurm job").await;
    assert_eq!(leader.len(), 1, "only the leader is there");
    let live = story.slurm.live().await;
    let (_, asked) = live.iter().find(|(stamp, _)| stamp.gang == leader[0].uid).expect("it");
    assert_eq!(asked.state.base, BaseState::Pending, "room for the leader is not room for all");

    story.kube.delete(&large).await;
    let pods = wait("all four are bound", SOON, async || {
        let pods = story.pods("set-").await;
        let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
        if bound == 4 { Ok(pods) } else { Err(format!("{bound} of {}", pods.len())) }
    })
    .await;
    assert_eq!(story.seated(&pods).await.id, asked.id);
    ranks_are_worker_indexes(&pods);
    story.end().await;
}

/// A leader without devices, whose workers come later: Slurm is asked for both at once, apart.
#[tokio::test]
async fn a_leader_that_needs_less_keeps_its_workers_their_nodes() {
    let Some(story) = Story::begin("lws-roles").await else { return };
    let template = manifest::template(8, &[]);
    let mut set = manifest::leader_worker_set("set", 1, 4, "LeaderReady", &template);
    let mut leader = manifest::template(0, &[]);
    leader["spec"]["restartPolicy"] = json!("Always");
    set["spec"]["leaderWorkerTemplate"]["leaderTemplate"] = leader;
    story.kube.create(&set).await;
    let pods = story.bound("set-", 4).await;
    let placeholder = story.seated(&pods).await;
    assert_eq!(placeholder.parts.len(), 2, "a component for each role: {placeholder:?}");
    ranks_are_worker_indexes(&pods);
    let gpus = |pod: &Pod| pod.annotations.get("gangway.dev/index.gpu").cloned();
    for pod in &pods {
        let want = (pod.rank() > 0).then(|| "0-7".to_owned());
        assert_eq!(gpus(pod), want, "{}", pod.name);
    }
    assert_eq!(story.slurm.live().await.len(), 1, "one placeholder");
    story.end().await;
}

/// A group that is made anew has the same names and the same key; one of its old workers is still
/// going when the new leader comes.
#[tokio::test]
async fn a_group_made_anew_is_another_gang() {
    let Some(story) = Story::begin("lws-anew").await else { return };
    let template = manifest::template(8, &[]);
    let mut set = manifest::leader_worker_set("set", 1, 3, "LeaderCreated", &template);
    // Or its controller would take the new leader away as long as an old worker is there.
    set["spec"]["leaderWorkerTemplate"]["restartPolicy"] = json!("None");
    story.kube.create(&set).await;
    let before = story.bound("set-", 3).await;
    let first = story.seated(&before).await;
    story
        .kube
        .patch_pod("set-0-1", &json!({"metadata": {"finalizers": ["gangway.dev/story"]}}))
        .await;
    // Deleted so, the leader does not wait for its workers.
    story.kube.delete_pod("set-0").await;

    let old: BTreeSet<&str> = before.iter().map(|pod| pod.uid.as_str()).collect();
    wait("a new leader beside an old worker", SOON, async || {
        let pods = story.pods("set-").await;
        let is = |name: &str, new: bool| {
            pods.iter().any(|p| p.name == name && old.contains(p.uid.as_str()) != new)
        };
        let seen = || pods.iter().map(|p| (&p.name, p.deleting)).collect::<Vec<_>>();
        if is("set-0", true) && is("set-0-1", false) {
            Ok(())
        } else {
            Err(format!("{:?}", seen()))
        }
    })
    .await;
    wait("the new leader waits for its workers", SOON, async || {
        let why = story.kube.pod("set-0").await.why();
        if why.contains("of 3 are there") { Ok(()) } else { Err(why) }
    })
    .await;
    let live = story.slurm.live().await;
    assert_eq!(live.len(), 1, "the new group is not whole");
    assert_eq!((live[0].1.id, &live[0].1.state.base), (first.id, &BaseState::Running));

    story.kube.patch_pod("set-0-1", &json!({"metadata": {"finalizers": null}})).await;
    let after = story.bound("set-", 3).await;
    let second = story.seated(&after).await;
    assert_ne!(first.id, second.id);
    ranks_are_worker_indexes(&after);
    assert!(after.iter().all(|pod| !old.contains(pod.uid.as_str())));
    let key = "leaderworkerset.sigs.k8s.io/group-key";
    assert_eq!(before[0].labels.get(key), after[0].labels.get(key), "the key says nothing");
    story.end().await;
}

/// Where leaders go first, a new leader is asked for with its whole group at once, while an old worker
/// is still going: both groups have their nodes then.
#[tokio::test]
async fn a_group_made_anew_leader_first_has_nodes_beside_the_old_one() {
    let Some(story) = Story::begin("lws-overlap").await else { return };
    let template = manifest::template(8, &[]);
    let mut set = manifest::leader_worker_set("set", 1, 3, "LeaderReady", &template);
    // Or its controller would take the new leader away as long as an old worker is there.
    set["spec"]["leaderWorkerTemplate"]["restartPolicy"] = json!("None");
    story.kube.create(&set).await;
    let before = story.bound("set-", 3).await;
    let first = story.seated(&before).await;
    let uid = |pods: &[Pod], name: &str| {
        pods.iter().find(|pod| pod.name == name).map(|pod| pod.uid.clone()).unwrap_or_default()
    };
    let hold = |on: bool| json!({"metadata": {"finalizers": on.then_some(["gangway.dev/story"])}});
    story.kube.patch_pod("set-0-2", &hold(true)).await;
    // Deleted so, the leader does not wait for its workers.
    story.kube.delete_pod("set-0").await;

    // The held one's successor has its name and cannot be made yet.
    let pods =
        wait("a new leader and a new worker are bound beside an old worker", SOON, async || {
            let pods = story.pods("set-").await;
            let new =
                |pod: &&Pod| pod.node.is_some() && before.iter().all(|old| old.uid != pod.uid);
            let bound: Vec<&str> = pods.iter().filter(new).map(|pod| pod.name.as_str()).collect();
            let old = pods.iter().any(|p| p.uid == uid(&before, "set-0-2") && p.deleting);
            if bound == ["set-0", "set-0-1"] && old && pods.len() == 3 {
                Ok(pods.clone())
            } else {
                Err(format!("{bound:?} of {}, old: {old}", pods.len()))
            }
        })
        .await;
    let hosts = Hostlist::parse(&first.nodes).expect("a hostlist").names();
    let new: Vec<&Pod> = pods.iter().filter(|pod| pod.name != "set-0-2").collect();
    let second = new[0].job();
    for pod in new {
        let node = pod.node.as_ref().expect("bound");
        assert!(!hosts.contains(node), "{node} of {} belongs to the old group", pod.name);
        assert_eq!(pod.job(), second);
    }
    let mut both = [(uid(&before, "set-0"), first.id.0), (uid(&pods, "set-0"), second)];
    both.sort();
    stays("both groups have their nodes", Duration::from_secs(2), async || {
        let live = story.slurm.live().await;
        let running = live.iter().filter(|(_, job)| job.state.base == BaseState::Running);
        let mut seen: Vec<_> = running.map(|(stamp, job)| (stamp.gang.clone(), job.id.0)).collect();
        seen.sort();
        if seen == both && live.len() == 2 { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;

    story.kube.patch_pod("set-0-2", &hold(false)).await;
    let after = story.bound("set-", 3).await;
    assert_eq!(story.seated(&after).await.id.0, second, "the placeholder it was asked for with");
    ranks_are_worker_indexes(&after);
    story.slurm.reaches(first.id.0, BaseState::Cancelled).await;
    assert_eq!(story.slurm.placeholders().await.len(), 2, "one placeholder for each group");
    story.end().await;
}

/// The controller's own way: whoever loses one worker loses the group.
#[tokio::test]
async fn a_lost_worker_takes_its_group_along() {
    let Some(story) = Story::begin("lws-lost").await else { return };
    let template = manifest::template(8, &[]);
    let set = manifest::leader_worker_set("set", 2, 2, "LeaderReady", &template);
    story.kube.create(&set).await;
    let before = story.bound("set-", 4).await;
    let (lost, kept) = (group(&before, 0), group(&before, 1));
    let first = story.seated(&lost).await;
    let other = story.seated(&kept).await;
    // Its controller has to see the worker go, which takes no time here.
    let hold = |on: bool| json!({"metadata": {"finalizers": on.then_some(["gangway.dev/story"])}});
    story.kube.patch_pod("set-0-1", &hold(true)).await;
    story.kube.delete_pod("set-0-1").await;
    wait("the leader is told to go", SOON, async || {
        let leader = story.kube.pod("set-0").await;
        if leader.deleting { Ok(()) } else { Err(format!("{} {}", leader.name, leader.phase)) }
    })
    .await;
    story.kube.patch_pod("set-0-1", &hold(false)).await;
    let after = wait("the group is bound anew", SOON, async || {
        let pods = story.pods("set-").await;
        let new = |p: &&Pod| p.node.is_some() && before.iter().all(|old| old.uid != p.uid);
        let there = pods.iter().filter(new).count();
        if there == 2 && pods.len() == 4 { Ok(pods) } else { Err(format!("{there} new")) }
    })
    .await;
    assert_ne!(story.seated(&group(&after, 0)).await.id, first.id);
    assert_eq!(story.seated(&group(&after, 1)).await.id, other.id, "the other group runs on");
    story.end().await;
}
