use std::collections::BTreeSet;

use super::*;

pub(super) fn rules() -> Rules {
    Rules {
        cluster: "c1".into(),
        address: "10.0.0.9".into(),
        port: Some(6818),
        pools: vec![Pool {
            name: "p5".into(),
            labels: BTreeMap::from([("pool".to_owned(), "p5".to_owned())]),
            features: vec!["gangway".into()],
            partitions: vec!["gpu".into()],
            weight: 10,
            hybrid: false,
            listed: false,
        }],
        new_partitions: vec![],
        feature_labels: vec!["topology.kubernetes.io/zone".into()],
        network: Network {
            tree_labels: vec!["rack".into()],
            tree: "topo-tree".into(),
            block_label: None,
            block: "topo-block".into(),
        },
        leaving_taints: vec!["karpenter.sh/disrupted".into()],
        down_after_ms: 300_000,
        resources: ResourceTable::default(),
        gpu_types: GpuTypes::default(),
        layouts: Layout::known(),
        taints: Taints::default(),
        holding: Holding::default(),
    }
}

pub(super) fn host(name: &str) -> Host {
    let labels = [
        ("pool", "p5"),
        ("rack", "r1"),
        ("node.kubernetes.io/instance-type", "p5.48xlarge"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),
        ("topology.kubernetes.io/zone", "us-east-1a"),
    ];
    let allocatable = [
        ("cpu", "191450m"),
        ("memory", "2000Gi"),
        ("nvidia.com/gpu", "8"),
        ("vpc.amazonaws.com/efa", "32"),
        ("pods", "100"),
    ];
    Host {
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        allocatable: allocatable.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Host::default()
    }
}

/// The node that Slurm has once this was registered.
pub(super) fn registered(wanted: &Wanted) -> SlurmNode {
    SlurmNode {
        name: wanted.name.clone(),
        address: wanted.address.clone(),
        state: ["IDLE", "EXTERNAL"].map(str::to_owned).into(),
        cpus: wanted.cpus(),
        sockets: wanted.sockets,
        memory_mib: wanted.memory_mib,
        gres: wanted.gres(),
        features: wanted.features.clone(),
        partitions: BTreeSet::from(["gpu".to_owned()]),
        weight: wanted.weight,
        topology: wanted.topology.clone().unwrap_or_default(),
        ..SlurmNode::default()
    }
}

pub(super) fn node_of(host: &Host) -> SlurmNode {
    let rules = rules();
    registered(&wanted::wanted(&rules, rules.pool(host).expect("a pool"), host))
}

fn steps(host: &Host, node: &SlurmNode) -> Vec<Step> {
    decide(&rules(), std::slice::from_ref(host), std::slice::from_ref(node), 1_000_000).steps
}

fn with(mut node: SlurmNode, states: &[&str], reason: &str) -> SlurmNode {
    node.state.remove("IDLE");
    node.state.extend(states.iter().map(|state| (*state).to_owned()));
    reason.clone_into(&mut node.reason);
    node.reason_user = "root".into();
    node
}

#[test]
fn a_new_node_is_registered_with_all_it_has() {
    let plan = decide(&rules(), &[host("n1")], &[], 0);
    let [Step::Register(wanted)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    assert!(plan.news.is_empty(), "one write, once it is there: {:?}", plan.news);
    let lines = registrations(std::slice::from_ref(wanted));
    let line = &lines[0].conf;
    for part in [
        "NodeName=n1 NodeAddr=10.0.0.9 State=EXTERNAL CPUs=190 Sockets=2 CoresPerSocket=95 ",
        "RealMemory=2048000 Weight=10 Feature=gangway,gangway-c1,us-east-1a Port=6818 ",
        "Topology=topo-tree:r1 Gres=efa:32,gpu:h100:8 GresConf=\"count=16,name=efa,file=efa0,",
        ",file=efa15,cpus=0-94+count=16,name=efa,file=efa16,",
        "+count=4,name=gpu,type=h100,file=gpu4,file=gpu5,file=gpu6,file=gpu7,cpus=95-189\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn nodes_whose_devices_slurm_has_listed_are_registered_together() {
    let mut rules = rules();
    rules.pools[0].listed = true;
    let hosts = ["n1", "n2", "n3", "n4"].map(host);
    let plan = decide(&rules, &hosts, &[], 0);
    let wanted: Vec<Wanted> = plan
        .steps
        .into_iter()
        .filter_map(|step| match step {
            Step::Register(wanted) => Some(wanted),
            _ => None,
        })
        .collect();
    let lines = registrations(&wanted);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.conf.starts_with("NodeName=n[1-4] NodeAddr="), "{}", line.conf);
    assert!(line.conf.ends_with(" Gres=efa:32,gpu:h100:8"), "{}", line.conf);

    // One name that Slurm refuses is found without the others.
    let halves = line.halves().expect("there are four");
    let names: Vec<&[String]> = halves.iter().map(|half| &half.nodes[..]).collect();
    assert_eq!(names, [["n1", "n2"], ["n3", "n4"]]);
    assert!(halves[1].conf.starts_with("NodeName=n[3-4] NodeAddr="), "{}", halves[1].conf);
    let one = halves[0].halves().expect("there are two");
    assert_eq!(one[0].halves(), None);
}

#[test]
fn deletions_name_everybody_once_and_fit_a_url() {
    let names = |of: &dyn Fn(u32) -> String| (0..5_000).map(of).collect::<Vec<_>>();
    let in_a_row = names(&|n| format!("p5-{n:04}"));
    assert_eq!(deletions(&in_a_row), [("p5-[0000-4999]".to_owned(), 5_000)]);
    // As EC2 names them, with holes.
    let scattered = names(&|n| format!("ip-10-{}-{}-{}.ec2.internal", n % 7, n / 251, n * 2 % 251));
    let lists = deletions(&scattered);
    assert!(lists.iter().all(|(list, _)| list.len() <= 4_000), "{lists:?}");
    assert!(lists.len() < 100, "{} requests", lists.len());
    assert_eq!(lists.iter().map(|(_, count)| count).sum::<usize>(), 5_000);
    let read = |list: &str| crate::hostlist::Hostlist::parse(list).expect("a hostlist").names();
    let mut all: Vec<String> = lists.iter().flat_map(|(list, _)| read(list)).collect();
    let mut scattered = scattered;
    all.sort();
    scattered.sort();
    assert_eq!(all, scattered);
    assert_eq!(deletions(&[]), []);
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut host = host("n1");
    let node = node_of(&host);
    let rules = rules();
    let first = decide(&rules, std::slice::from_ref(&host), std::slice::from_ref(&node), 0);
    assert!(first.steps.is_empty(), "{:?}", first.steps);
    assert_eq!(first.news.len(), 1);
    assert_eq!(first.news[0].told.condition.standing, Standing::True);
    host.told = Some(first.news[0].told.clone());
    assert_eq!(decide(&rules, &[host], &[node], 0), Plan::default());
}

#[test]
fn a_poisoned_node_is_made_anew_once_it_is_empty_and_nobody_else_has_drained_it() {
    let host = host("n1");
    let ill = with(node_of(&host), &["IDLE", "NOT_RESPONDING"], "");
    let made = steps(&host, &ill);
    assert!(matches!(&made[..], [Step::Delete { .. }, Step::Register(_)]), "{made:?}");
    let busy = SlurmNode { allocated_cpus: 1, ..ill.clone() };
    assert_eq!(steps(&host, &busy), [], "its gang runs on; the scheduler heals it through that");
    for (state, reason) in [
        ("DRAIN", "bad NIC"),
        ("DOWN", "bad NIC"),
        // Also where a down of ours has stood over it: first it is handed back.
        ("DOWN", "gangway/c1: not ready in Kubernetes; drained before: bad NIC"),
    ] {
        let theirs = steps(&host, &with(ill.clone(), &[state], reason));
        assert!(!theirs.iter().any(|step| matches!(step, Step::Delete { .. })), "{theirs:?}");
    }
    let ours = steps(&host, &with(ill, &["DRAIN"], "gangway/c1: cordoned in Kubernetes"));
    assert!(matches!(&ours[..], [Step::Delete { .. }, Step::Register(_)]), "{ours:?}");
}

#[test]
fn what_an_administrator_has_drained_is_not_registered_anew() {
    let mut host = host("n1");
    let open = node_of(&host);
    let drained = with(open.clone(), &["IDLE", "DRAIN"], "bad NIC");
    host.allocatable.insert("nvidia.com/gpu".into(), "7".into());
    assert_eq!(steps(&host, &drained), [], "its drain would be lost");
    assert!(matches!(&steps(&host, &open)[..], [Step::Delete { .. }, Step::Register(_)]));
}

#[test]
fn nodes_without_devices_go_in_one_request() {
    let hosts: Vec<Host> = (1..=100)
        .map(|n| Host {
            allocatable: [("cpu", "8"), ("memory", "16Gi")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..host(&format!("cpu-{n:03}"))
        })
        .collect();
    let plan = decide(&rules(), &hosts, &[], 0);
    let wanted: Vec<Wanted> = plan
        .steps
        .into_iter()
        .map(|step| match step {
            Step::Register(wanted) => wanted,
            other => panic!("{other:?}"),
        })
        .collect();
    let lines = registrations(&wanted);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].conf.starts_with("NodeName=cpu-[001-100] "), "{}", lines[0].conf);
    assert!(!lines[0].conf.contains("Gres"), "{}", lines[0].conf);
}

#[test]
fn a_cordon_drains_and_its_end_lifts_only_that() {
    let mut host = host("n1");
    let node = node_of(&host);
    host.unschedulable = true;
    let drain =
        Step::Drain { node: "n1".into(), reason: "gangway/c1: cordoned in Kubernetes".into() };
    assert_eq!(steps(&host, &node), [drain]);
    let drained = with(node.clone(), &["IDLE", "DRAIN"], "gangway/c1: cordoned in Kubernetes");
    assert_eq!(steps(&host, &drained), []);
    let theirs = with(node.clone(), &["IDLE", "DRAIN"], "bad NIC");
    assert_eq!(steps(&host, &theirs), [], "drained is drained");
    host.unschedulable = false;
    assert_eq!(steps(&host, &drained), [Step::Resume { node: "n1".into() }]);
    assert_eq!(steps(&host, &theirs), [], "an administrator's drain stays");
    // Another world of ours in the same Slurm.
    let other = with(node, &["IDLE", "DRAIN"], "gangway/c2: cordoned in Kubernetes");
    assert_eq!(steps(&host, &other), []);
}

#[test]
fn a_node_that_stays_away_is_down_and_comes_back() {
    let mut host = host("n1");
    let node = node_of(&host);
    host.unready_since = Some(900_000);
    let drained = with(node.clone(), &["IDLE", "DRAIN"], "gangway/c1: not ready in Kubernetes");
    assert!(matches!(&steps(&host, &node)[..], [Step::Drain { .. }]));
    let plan =
        decide(&rules(), std::slice::from_ref(&host), std::slice::from_ref(&drained), 1_000_000);
    assert_eq!((plan.steps, plan.again), (vec![], Some(1_200_000)));
    host.unready_since = Some(1);
    let reason = "gangway/c1: not ready in Kubernetes".to_owned();
    assert_eq!(steps(&host, &drained), [Step::Down { node: "n1".into(), reason: reason.clone() }]);
    let down = with(node, &["DOWN", "DRAIN"], &reason);
    assert_eq!(steps(&host, &down), []);
    host.unready_since = None;
    assert_eq!(steps(&host, &down), [Step::Resume { node: "n1".into() }]);
}

#[test]
fn an_administrators_drain_outlives_a_down_of_ours() {
    let mut host = host("n1");
    let node = node_of(&host);
    host.unready_since = Some(1);
    let mut draining = with(node, &["ALLOCATED", "DRAIN"], "bad NIC");
    draining.allocated_cpus = 8;
    let steps_down = steps(&host, &draining);
    let [Step::Down { reason, .. }] = &steps_down[..] else { panic!("{steps_down:?}") };
    let down = with(node_of(&host), &["DOWN", "DRAIN"], reason);
    host.unready_since = None;
    assert_eq!(steps(&host, &down), [Step::Drain { node: "n1".into(), reason: "bad NIC".into() }]);
}

#[test]
fn a_node_that_is_gone_leaves_and_its_jobs_first() {
    let node = node_of(&host("n1"));
    let leave = |node: &SlurmNode| decide(&rules(), &[], std::slice::from_ref(node), 0).steps;
    assert_eq!(leave(&node), [Step::Delete { node: "n1".into() }]);
    let mut busy = with(node.clone(), &["MIXED"], "");
    busy.allocated_cpus = 4;
    let steps = leave(&busy);
    assert!(matches!(&steps[..], [Step::Down { .. }]), "{steps:?}");
    // Its jobs have ended by that.
    let down = with(node, &["DOWN"], "gangway/c1: Kubernetes has no such node any more");
    assert_eq!(leave(&down), [Step::Delete { node: "n1".into() }]);
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let mut foreign = node_of(&host("n1"));
    foreign.features.remove("gangway-c1");
    let plan = decide(&rules(), &[], std::slice::from_ref(&foreign), 0);
    assert_eq!((plan.steps, plan.strangers), (vec![], vec!["n1".to_owned()]));
    let mut cordoned = host("n1");
    cordoned.unschedulable = true;
    let plan = decide(&rules(), &[cordoned], &[foreign], 0);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert_eq!(plan.news[0].told.condition.reason, "NotOurs");
    // A host with slurmd that Kubernetes does not know.
    let slurmd = SlurmNode { name: "h1".into(), ..SlurmNode::default() };
    assert_eq!(decide(&rules(), &[], &[slurmd], 0), Plan::default());
}

#[test]
fn a_hybrid_node_is_drained_but_never_registered() {
    let mut rules = rules();
    rules.pools[0].hybrid = true;
    let mut host = host("h1");
    host.unschedulable = true;
    assert!(decide(&rules, std::slice::from_ref(&host), &[], 0).steps.is_empty());
    let slurmd = SlurmNode {
        name: "h1".into(),
        state: BTreeSet::from(["IDLE".to_owned()]),
        partitions: BTreeSet::from(["gpu".to_owned()]),
        ..SlurmNode::default()
    };
    let plan = decide(&rules, &[host], &[slurmd], 0);
    assert!(matches!(&plan.steps[..], [Step::Drain { .. }]), "{:?}", plan.steps);
}

#[test]
fn more_than_there_is_is_never_given_out() {
    let mut host = host("n1");
    let mut node = node_of(&host);
    host.outside_memory = 4 << 30;
    let anew = steps(&host, &node);
    let [Step::Delete { .. }, Step::Register(wanted)] = &anew[..] else { panic!("{anew:?}") };
    assert_eq!(wanted.memory_mib, 2_048_000 - 4096);
    node.allocated_cpus = 4;
    let busy = with(node, &["MIXED"], "");
    let drain = steps(&host, &busy);
    assert!(
        matches!(&drain[..], [Step::Drain { reason, .. }] if reason.contains("2043904 MiB")),
        "{drain:?}"
    );
}

#[test]
fn a_little_more_than_registered_changes_nothing() {
    let mut host = host("n1");
    let node = node_of(&host);
    let memory = |text: &str| ("memory".to_owned(), text.to_owned());
    host.allocatable.extend([memory("2050Gi")]);
    assert_eq!(steps(&host, &node), []);
    host.allocatable.extend([memory("2500Gi")]);
    assert_eq!(steps(&host, &node).len(), 2);
    let mut busy = with(node, &["MIXED"], "");
    busy.allocated_cpus = 4;
    assert_eq!(steps(&host, &busy), [], "it can wait");
}

#[test]
fn labels_become_features_in_place() {
    let mut host = host("n1");
    let node = node_of(&host);
    host.labels.insert("topology.kubernetes.io/zone".into(), "eu:1b".into());
    host.labels.insert("rack".into(), "r2".into());
    let steps = steps(&host, &node);
    let [Step::Change { change, .. }] = &steps[..] else { panic!("{steps:?}") };
    let features = change.features.as_ref().expect("features");
    assert_eq!(features, &["eu-1b", "gangway", "gangway-c1"]);
    assert_eq!(change.topology.as_deref(), Some("topo-tree:r2"));
    assert_eq!((change.weight, change.address.clone()), (None, None));
}

#[test]
fn a_nodes_own_word_on_the_network_goes_before_its_labels() {
    let mut host = host("n1");
    host.topology = Some("topo-block:b7,topo-tree:root:s1".into());
    let mut node = node_of(&host);
    assert_eq!(node.topology, "topo-block:b7,topo-tree:root:s1");
    // Slurm names topologies in an order of its own, which is no difference.
    node.topology = "topo-tree:root:s1,topo-block:b7".into();
    assert_eq!(steps(&host, &node), []);
    host.topology = None;
    let back = steps(&host, &node);
    let [Step::Change { change, .. }] = &back[..] else { panic!("{back:?}") };
    assert_eq!(change.topology.as_deref(), Some("topo-tree:r1"));
}

#[test]
fn a_node_that_leaves_its_pool_leaves_slurm() {
    let mut host = host("n1");
    let node = node_of(&host);
    host.labels.remove("pool");
    let plan = decide(&rules(), std::slice::from_ref(&host), std::slice::from_ref(&node), 0);
    assert_eq!(plan.steps, [Step::Delete { node: "n1".into() }]);
    assert_eq!(plan.news[0].told.condition.reason, "NoPool");
    // One that was never ours is not talked about, whether Slurm has it or not.
    let theirs = SlurmNode { features: BTreeSet::new(), ..node };
    assert_eq!(decide(&rules(), std::slice::from_ref(&host), &[theirs], 0), Plan::default());
    assert_eq!(decide(&rules(), &[host], &[], 0), Plan::default());
}

#[test]
fn a_shut_node_is_not_registered_before_it_opens() {
    let mut host = host("n1");
    let taint = Taint { key: "karpenter.sh/disrupted".into(), ..Taint::default() };
    host.taints.push(taint);
    let plan = decide(&rules(), std::slice::from_ref(&host), &[], 0);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    let told = &plan.news[0].told.condition;
    assert_eq!(told.reason, "NotRegistered");
    assert!(
        told.message.ends_with("about to go: taint karpenter.sh/disrupted"),
        "{}",
        told.message
    );
    // One that is on its way up is not talked about.
    host.taints.clear();
    host.unready_since = Some(0);
    assert_eq!(decide(&rules(), &[host], &[], 0).news, []);
}

#[test]
fn kubernetes_is_told_slurms_reason_and_who_gave_it() {
    let host = host("n1");
    let node = with(node_of(&host), &["IDLE", "DRAIN"], "bad NIC");
    let plan = decide(&rules(), std::slice::from_ref(&host), &[node], 0);
    let told = &plan.news[0].told.condition;
    assert_eq!(told.standing, Standing::False);
    let words = (told.reason.as_str(), told.message.as_str());
    assert_eq!(words, ("Drained", "drained in Slurm: bad NIC (root)"));
    assert!(plan.news[0].event, "somebody has done this");
    let ours = with(node_of(&host), &["IDLE", "DRAIN"], "gangway/c1: cordoned in Kubernetes");
    let plan = decide(&rules(), std::slice::from_ref(&host), &[ours], 0);
    assert!(!plan.news[0].event, "whoever cordons knows it");
    let shared = SlurmNode { tenants: "17 bob gres/gpu=2".into(), ..node_of(&host) };
    let plan = decide(&rules(), &[host], &[shared], 0);
    assert_eq!(plan.news[0].told.tenants, "17 bob gres/gpu=2");
    assert!(!plan.news[0].event, "it is well");
}

fn dra(name: &str, product: &str, numa: Option<u32>) -> Device {
    Device { name: name.into(), product: product.into(), profile: String::new(), numa }
}

fn line_of(host: &Host) -> (Wanted, String) {
    let plan = decide(&rules(), std::slice::from_ref(host), &[], 0);
    let [Step::Register(wanted)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    (wanted.clone(), registrations(std::slice::from_ref(wanted))[0].conf.clone())
}

/// A host of which nobody knows more than a DRA driver says.
fn plain(devices: Vec<Device>) -> Host {
    let mut host = host("n1");
    host.labels.retain(|key, _| key == "pool");
    host.allocatable.retain(|key, _| key == "cpu" || key == "memory");
    host.named_devices.insert("gpu".into(), devices);
    host
}

#[test]
fn devices_of_dra_keep_their_names() {
    let mut host = host("n1");
    host.allocatable.remove("nvidia.com/gpu");
    let both = vec![dra("gpu-10", "", None), dra("gpu-2", "", None)];
    host.named_devices.insert("gpu".into(), both);
    let (wanted, line) = line_of(&host);
    assert_eq!(wanted.gres(), "efa:32,gpu:h100:2");
    assert!(line.contains("file=gpu-2,file=gpu-10"), "{line}");
    // A plugin counts the same two.
    host.allocatable.insert("nvidia.com/gpu".into(), "2".into());
    assert_eq!(line_of(&host).1, line);
    // Where it counts another number, it is not known which are which.
    host.allocatable.insert("nvidia.com/gpu".into(), "1".into());
    assert!(line_of(&host).1.contains("file=gpu0"), "{}", line_of(&host).1);
}

#[test]
fn dra_drivers_say_what_their_devices_are_and_at_which_cores() {
    let h200 = "NVIDIA H200";
    let four = (0..4).map(|n| dra(&format!("gpu-{n}"), h200, Some(n / 2))).collect();
    let (wanted, line) = line_of(&plain(four));
    assert_eq!((wanted.gres().as_str(), wanted.sockets), ("gpu:h200:4", 2));
    let conf = "count=2,name=gpu,type=h200,file=gpu-0,file=gpu-1,cpus=0-94+count=2,name=gpu,type=h200,file=gpu-2,file=gpu-3,cpus=95-189";
    assert!(line.contains(conf), "{line}");
    let mut mixed = vec![dra("gpu-0", h200, None), dra("gpu-1", "NVIDIA A100-SXM4-80GB", None)];
    mixed.push(Device { profile: "1g.10GB".into(), ..dra("gpu-2-mig-0", h200, None) });
    let (wanted, _) = line_of(&plain(mixed));
    assert_eq!(
        (wanted.gres().as_str(), wanted.sockets),
        ("gpu:1g.10gb:1,gpu:a100:1,gpu:h200:1", 1)
    );
    // No host has so many.
    let (wanted, _) = line_of(&plain(vec![dra("gpu-0", h200, Some(u32::MAX))]));
    assert_eq!(wanted.sockets, 1);
}

#[test]
fn two_nodes_of_one_name_are_told_apart() {
    let (first, mut second) = (host("n1"), host("n2"));
    second.labels.insert(crate::names::SLURM_NODE_LABEL.into(), "n1".into());
    let plan = decide(&rules(), &[second, first], &[], 0);
    assert_eq!(plan.steps.len(), 1);
    let taken = plan.news.iter().find(|news| news.host == "n2").expect("told");
    assert_eq!(taken.told.condition.reason, "NameTaken");
}

#[test]
fn what_slurm_refuses_is_told() {
    let refused = Host { refusal: Some("Invalid node name".into()), ..host("n1") };
    let plan = decide(&rules(), &[refused], &[], 0);
    assert_eq!(plan.steps.len(), 1, "and asked again");
    let told = &plan.news[0].told.condition;
    assert_eq!((told.reason.as_str(), told.standing), ("Refused", Standing::Unknown));
    assert!(told.message.ends_with("Invalid node name"), "{}", told.message);
}
