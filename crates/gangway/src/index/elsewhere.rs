//! Where pods may go, as nodes, claims, volumes and classes come and go.

use gangway_core::eligible::taint::{Taint, Toleration};
use gangway_core::eligible::volume::{
    Claim, ClaimSource, Class, EphemeralSource, ToSelect, Topology, TopologyLabel, Volume,
    VolumeSpec, whence,
};
use gangway_core::follow::Spot;
use serde_json::{Value, json};

use super::*;

#[test]
fn a_gang_is_looked_at_again_when_a_node_opens_or_shuts_to_it_and_never_for_a_heartbeat() {
    let mut index = zones();
    let (here, there) = (in_zone("here", "a"), in_zone("there", "b"));
    let groups = [index.put_pod(here), index.put_pod(there)];
    index.settle();
    assert_eq!(excluded(&index, &groups[0]), "n3");
    assert_eq!(excluded(&index, &groups[1]), "n[1-2]");
    assert!(!index.reach().put_node(&zone("n1", "a")), "nothing has changed");
    assert_eq!(index.settle(), []);
    let mut cordoned = zone("n1", "a");
    cordoned.unschedulable = true;
    assert!(index.reach().put_node(&cordoned));
    assert_eq!(index.settle(), [groups[0].clone()], "to the other it was shut before");
    assert_eq!(excluded(&index, &groups[0]), "n[1,3]");
    assert!(
        matches!(spot_on(&index, "here", "n1"), Spot::Shut { why, .. } if why == "is cordoned")
    );
    assert_eq!(spot_on(&index, "here", "n2"), Spot::Free("n2".to_owned()));
    cordoned.labels.insert("zone".to_owned(), "b".to_owned());
    index.reach().put_node(&cordoned);
    assert_eq!(index.settle(), [], "shut for another reason");
    index.reach().drop_node("n2");
    index.settle();
    let told = index.assemble(&groups[0])[0].nowhere.clone().expect("it may go nowhere");
    assert!(told.problem && told.message.starts_with("0 of 2 nodes may take pod here"), "{told:?}");
}

#[test]
fn what_is_bound_goes_nowhere_and_a_gang_without_constraints_carries_no_table() {
    let mut index = zones();
    let mut bound = in_zone("bound", "a");
    bound.spec.node_name = Some("n1".to_owned());
    let group = index.put_pod(bound);
    let free = index.put_pod(pod("free"));
    let mut tolerant = pod("tolerant");
    tolerant.spec.tolerations =
        vec![Toleration { operator: "Exists".to_owned(), ..Toleration::default() }];
    let tolerant = index.put_pod(tolerant);
    assert_eq!(index.settle(), []);
    for group in [&group, &free, &tolerant] {
        assert!(index.assemble(group)[0].gang.excluded_nodes.is_empty());
    }
    let mut cordoned = zone("n1", "a");
    cordoned.unschedulable = true;
    index.reach().put_node(&cordoned);
    assert_eq!(index.settle(), [free], "nobody else is touched");
    assert_eq!(spot_on(&index, "bound", "n1"), Spot::Free("n1".to_owned()), "it is there already");
}

#[test]
fn members_of_a_gang_have_their_own_rows() {
    let mut index = zones();
    index.put_workload(job());
    let mut first = worker("a", 0);
    first.spec.node_selector = in_zone("x", "b").spec.node_selector;
    index.put_pod(first);
    index.put_pod(worker("b", 1));
    index.settle();
    let gang = &index.assemble(&job_group())[0].gang;
    let rows: Vec<&str> = gang.excluded_nodes.iter().map(AsRef::as_ref).collect();
    assert_eq!(rows, ["n[1-2]", ""]);
    assert_eq!(gang.members.iter().map(|m| m.reach).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn who_stands_in_stays_off_the_node_that_was_lost_also_where_kubernetes_does_not_have_it() {
    let mut index = zones();
    index.put_workload(job());
    let mut successor = worker("b", 1);
    successor.spec.node_selector = in_zone("x", "b").spec.node_selector;
    let said = "job-uid/1/7/gone".to_owned();
    successor.annotations.insert(names::STANDS_IN.to_owned(), said);
    index.put_pod(worker("a", 0));
    index.put_pod(successor);
    index.settle();
    let formed = index.assemble(&job_group());
    let rows = |gang: usize| -> Vec<&str> {
        formed[gang].gang.excluded_nodes.iter().map(AsRef::as_ref).collect()
    };
    assert_eq!((formed.len(), rows(0), rows(1)), (2, vec![], vec!["gone,n[1-2]"]));
    // One whose kubelet is not heard of is lost, one that is cordoned is not.
    let taint = |key: &str, node: &str| {
        let (key, effect) = (key.to_owned(), "NoSchedule".to_owned());
        let taints = vec![Taint { key, value: String::new(), effect }];
        Node { taints, ..zone(node, "b") }
    };
    for (key, lost) in [("node.kubernetes.io/unreachable", true), ("team", false)] {
        index.reach().put_node(&taint(key, "n3"));
        assert_eq!(spot_on(&index, "b", "n3").is_lost(), lost, "{key}");
    }
}

#[test]
fn a_claim_that_waits_for_its_pod_keeps_it_in_its_zones_and_is_told_its_node() {
    let mut index = zones();
    let group = index.put_pod(with_claim("p", "data"));
    assert!(index.needs_volumes());
    assert!(nowhere(&index, &group).contains("has not been read yet"));
    class(&mut index, "slow", "example.com/disk", &["b"]);
    claim(&mut index, "data", &Claim { class: Some("slow".to_owned()), ..data() });
    sync(&mut index);
    index.settle();
    assert_eq!(excluded(&index, &group), "n[1-2]");
    let Spot::Volumes { node, claims, message } = spot_on(&index, "p", "n3") else {
        panic!("it has no volume yet")
    };
    assert!(message.contains("claims data"), "{message}");
    let [name, uid] = ["data", "data-uid"].map(str::to_owned);
    assert_eq!(
        (node.as_str(), claims),
        ("n3", vec![ToSelect { claim: name, uid, selected: None }])
    );
    assert!(matches!(spot_on(&index, "p", "n1"), Spot::Shut { .. }));
    // Its volume is being made for n3: nowhere else any more.
    let class = Some("slow".to_owned());
    let told = Claim { class: class.clone(), selected: Some("n3".to_owned()), ..data() };
    assert_eq!(claim(&mut index, "data", &told), std::slice::from_ref(&group));
    assert_eq!(claim(&mut index, "data", &told), [], "no news");
    index.settle();
    assert_eq!(excluded(&index, &group), "n[1-2]");
    // The volume is there, and turns out to be reached from zone a only.
    let bound = Claim { class, volume: Some("pv".to_owned()), bound: true, ..data() };
    claim(&mut index, "data", &bound);
    assert!(nowhere(&index, &group).contains("PersistentVolume pv, which is not there"));
    volume(&mut index, "pv", "a");
    index.settle();
    assert_eq!(excluded(&index, &group), "n3");
    assert_eq!(spot_on(&index, "p", "n1"), Spot::Free("n1".to_owned()));
    let Spot::Shut { why, .. } = spot_on(&index, "p", "n3") else { panic!("out of reach") };
    assert_eq!(why, "cannot reach volume claim team/data (PersistentVolume pv)");
}

#[test]
fn a_claim_that_is_not_ready_is_told_with_what_to_do() {
    let mut index = zones();
    let group = index.put_pod(with_claim("p", "data"));
    sync(&mut index);
    class(&mut index, "local", "kubernetes.io/no-provisioner", &[]);
    assert!(nowhere(&index, &group).contains("team/data does not exist; create it"));
    let some = |text: &str| Some(text.to_owned());
    for (is, words) in [
        (Claim { deleting: true, ..data() }, "is being deleted"),
        (Claim { volume: some("pv"), ..data() }, "still to be bound to PersistentVolume pv"),
        (Claim { ..data() }, "is not bound yet (class none binds without waiting"),
        (Claim { class: some("nope"), ..data() }, "is not bound yet (class nope"),
        (Claim { class: some("local"), ..data() }, "gangway does not choose one"),
    ] {
        claim(&mut index, "data", &is);
        assert!(nowhere(&index, &group).contains(words), "{}", nowhere(&index, &group));
    }
    // Claims made for a pod are its own.
    let mut ephemeral = with_claim("e", "");
    let (name, ephemeral_source) = ("tmp".to_owned(), Some(EphemeralSource {}));
    ephemeral.spec.volumes =
        vec![Volume { name, ephemeral: ephemeral_source, ..Volume::default() }];
    let group = index.put_pod(ephemeral);
    assert!(nowhere(&index, &group).contains("team/e-tmp of the pod is still to be made"));
    claim(&mut index, "e-tmp", &data());
    assert!(nowhere(&index, &group).contains("was not made for this pod"));
}

#[test]
fn pods_that_share_a_claim_are_not_tied_to_the_first_ones_node() {
    let mut index = zones();
    class(&mut index, "shared", "example.com/files", &[]);
    sync(&mut index);
    let groups = [with_claim("p", "data"), with_claim("q", "data")].map(|pod| index.put_pod(pod));
    let is = Claim { class: Some("shared".to_owned()), selected: Some("n1".to_owned()), ..data() };
    assert_eq!(claim(&mut index, "data", &is).len(), 2);
    index.settle();
    assert!(groups.iter().all(|group| excluded(&index, group).is_empty()));
    assert!(matches!(spot_on(&index, "q", "n2"), Spot::Volumes { .. }));
    index.drop_pod("p");
    index.drop_pod("q");
    assert!(!index.needs_volumes(), "nothing is left behind");
}

#[test]
fn those_to_come_are_kept_from_nodes_by_their_template() {
    let mut index = zones();
    let workers = |zone: &str| {
        json!({"nodeSelector": {"zone": zone}, "schedulerName": names::SCHEDULER,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]})
    };
    let part = |name: &str, spec: Value| {
        json!({"name": name, "replicas": 1, "template": {"spec":
        {"parallelism": 1, "completions": 1, "completionMode": "Indexed", "template": {"spec": spec}}}})
    };
    let set = |zone: &str| {
        let object = json!({"metadata": {"name": "set", "namespace": "team", "uid": "set-uid"},
            "spec": {"startupPolicy": {"startupPolicyOrder": "InOrder"},
                "replicatedJobs": [part("driver", workers("a")), part("workers", workers(zone))]}});
        Workload::read(Kind::JobSet, &object, names::SCHEDULER).expect("a JobSet")
    };
    let group = index.put_workload(set("b"))[0].clone();
    let mut driver = in_zone("driver", "a");
    let labels = [
        ("replicatedjob-name", "driver"),
        ("jobset-name", "set"),
        ("restart-attempt", "0"),
        ("jobset-uid", "set-uid"),
        ("job-index", "0"),
        ("replicatedjob-replicas", "1"),
    ];
    driver.labels = labels.map(|(k, v)| (format!("jobset.sigs.k8s.io/{k}"), v.to_owned())).into();
    driver.labels.insert("batch.kubernetes.io/job-completion-index".to_owned(), "0".to_owned());
    driver.controller = Some(controller("job-uid"));
    let over = json!([{"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "set",
        "uid": "set-uid", "controller": true}]);
    let job = json!({"metadata": {"name": "train", "namespace": "team", "uid": "job-uid",
        "ownerReferences": over}});
    index.put_workload(Workload::read(Kind::Job, &job, names::SCHEDULER).expect("a Job"));
    assert_eq!(index.put_pod(driver), group);
    index.settle();
    let rows = |index: &Index| {
        let gang = index.assemble(&group)[0].gang.clone();
        let row = |reach: u32| gang.excluded_nodes[reach as usize].to_string();
        (row(gang.members[0].reach), gang.later.iter().map(|l| row(l.reach)).collect::<Vec<_>>())
    };
    assert_eq!(rows(&index), ("n3".to_owned(), vec!["n[1-2]".to_owned()]));
    // A node opens to those to come, and nobody else may go to it.
    index.reach().put_node(&zone("n4", "b"));
    index.reach().put_node(&zone("n1", "b"));
    assert!(index.settle().contains(&group));
    assert_eq!(rows(&index).1, ["n2"]);
    // A template that no node can take is told at once.
    index.put_workload(set("c"));
    index.settle();
    let told = index.assemble(&group)[0].nowhere.clone().expect("it may go nowhere");
    assert!(told.message.contains("pod of template workers"), "{told:?}");
    assert_eq!(index.drop_workload(Kind::JobSet, "team", "set", "set-uid"), group);
}

fn zone(name: &str, zone: &str) -> Node {
    node(name, BTreeMap::from([("zone".to_owned(), zone.to_owned())]))
}

/// n1 and n2 in zone a, n3 in zone b.
fn zones() -> Index {
    let mut index = Index::default();
    for (name, at) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        index.reach().put_node(&zone(name, at));
    }
    index.settle();
    index
}

fn in_zone(name: &str, zone: &str) -> Pod {
    let mut pod = pod(name);
    pod.spec.node_selector.insert("zone".to_owned(), zone.to_owned());
    pod
}

fn with_claim(name: &str, claim: &str) -> Pod {
    let mut pod = pod(name);
    let source = ClaimSource { claim_name: claim.to_owned() };
    let persistent_volume_claim = Some(source);
    pod.spec.volumes = vec![Volume { persistent_volume_claim, ..Volume::default() }];
    pod
}

fn data() -> Claim {
    Claim { uid: "data-uid".to_owned(), ..Claim::default() }
}

fn claim(index: &mut Index, name: &str, claim: &Claim) -> Vec<Group> {
    let key = ("team".to_owned(), name.to_owned());
    let pods = index.reach().put_claim(key, Some(claim.clone()));
    index.look_at_claims(pods)
}

fn class(index: &mut Index, name: &str, provisioner: &str, zones: &[&str]) {
    let topology = |zone: &&str| Topology {
        match_label_expressions: vec![TopologyLabel {
            key: "zone".to_owned(),
            values: vec![(*zone).to_owned()],
        }],
    };
    let class = Class {
        provisioner: provisioner.to_owned(),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        allowed_topologies: zones.iter().map(topology).collect(),
    };
    let pods = index.reach().put_class(name.to_owned(), Some(class));
    index.look_at_claims(pods);
}

fn volume(index: &mut Index, name: &str, zone: &str) {
    let spec: VolumeSpec = serde_json::from_value(json!({"nodeAffinity": {"required": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": [zone]}
        ]}]
    }}}))
    .expect("a volume's spec");
    let pods = index.reach().put_volume(name.to_owned(), Some(whence(&spec)));
    index.look_at_claims(pods);
}

fn sync(index: &mut Index) {
    let keys = ["data", "e-tmp"].map(|name| ("team".to_owned(), name.to_owned()));
    let names = ["pv", "slow", "local", "shared"].map(str::to_owned);
    let mut pods = index.reach().keep_claims(&keys.into());
    pods.extend(index.reach().keep_volumes(&names.clone().into()));
    pods.extend(index.reach().keep_classes(&names.into()));
    index.look_at_claims(pods);
}

fn excluded(index: &Index, group: &Group) -> String {
    index.assemble(group)[0].gang.excluded_nodes.join(" ")
}

fn nowhere(index: &Index, group: &Group) -> String {
    index.assemble(group)[0].nowhere.clone().map(|told| told.message).unwrap_or_default()
}

fn spot_on(index: &Index, pod: &str, node: &str) -> Spot {
    let seat = Seat { rank: 0, node: node.to_owned(), indexes: Vec::new() };
    index.spots(&BTreeMap::from([(pod.to_owned(), seat)]))[pod].clone()
}
