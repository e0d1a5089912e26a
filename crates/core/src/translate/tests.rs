use std::collections::BTreeMap;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::ask::Ask;
use crate::gang::{Later, Member};
use crate::job::{JobState, Part};

const GPU: &str = "nvidia.com/gpu";

proptest! {
    /// What Slurm is asked for holds every member, seat by seat: apart and levelled.
    #[test]
    fn never_less_is_asked_than_the_pods_need(
        demands in proptest::collection::vec((0u64..100_000, 0u64..1 << 40, 0u64..9), 1..20),
        per_node in proptest::option::of(1u32..9),
        roles in proptest::sample::select(vec![Roles::Apart, Roles::Levelled]),
    ) {
        let mut gang = gang(demands.iter().map(|(cpu, memory, gpus)| demand(*cpu, *memory, *gpus)));
        gang.ask.pods_per_node = per_node;
        let table = ResourceTable::default();
        let groups = groups(&gang, &table, roles).expect("fine");
        let request = placeholder(&gang, &grant(), &stamp(), &table, roles).expect("fine");
        prop_assert_eq!(groups.len(), request.components.len());
        let mut seated: Vec<usize> = Vec::new();
        for (group, request) in groups.iter().zip(&request.components) {
            let seats = u64::from(request.tasks_per_node);
            prop_assert!(u64::from(request.nodes) * seats >= group.places.len() as u64);
            prop_assert!(group.places.is_sorted());
            let asked_gpus: u64 = request.gres_per_node.iter().map(|g| u64::from(g.count)).sum();
            for place in &group.places {
                let (cpu, memory, gpus) = demands[place.rank as usize];
                prop_assert!(u64::from(request.cpus_per_task) * 1000 >= cpu);
                prop_assert!((request.memory_per_node_mib << 20) >= memory * seats);
                prop_assert!(asked_gpus >= gpus * seats);
            }
            prop_assert_eq!(request.excluded_nodes.as_str(), "");
            seated.extend(group.places.iter().filter_map(|p| p.member));
        }
        seated.sort_unstable();
        prop_assert_eq!(seated, (0..demands.len()).collect::<Vec<_>>());
    }

    /// Whoever is missing, the others find the component that was asked for them.
    #[test]
    fn members_find_their_component_while_others_are_missing(
        demands in proptest::collection::vec((1u64..4, 0u64..3), 1..12),
        there in proptest::collection::vec(proptest::bool::ANY, 12),
    ) {
        let whole = gang(demands.iter().map(|(cpu, gpus)| demand(cpu * 1000, 1 << 30, *gpus)));
        let table = ResourceTable::default();
        let job = job_of(&whole);
        let mut part = whole.clone();
        part.members.retain(|m| there[m.rank as usize]);
        let find = |gang: &Gang| {
            let held = held_by(gang, &table, &job).expect("fine").expect("every group has its job");
            let of = |(group, id): (Group, JobId)| {
                group.places.into_iter().map(move |p| (p.rank, id)).collect::<Vec<_>>()
            };
            held.into_iter().flat_map(of).collect::<BTreeMap<u32, JobId>>()
        };
        let (all, some) = (find(&whole), find(&part));
        prop_assert_eq!(all.len(), demands.len());
        prop_assert_eq!(some.len(), part.members.len());
        for (rank, id) in some {
            prop_assert_eq!(all[&rank], id);
        }
    }
}

#[test]
fn a_gang_becomes_one_request() {
    let mut gang = gang([demand(1500, (1 << 30) + 1, 4), demand(1500, (1 << 30) + 1, 4)]);
    gang.ask.gpu_type = Some("h100".to_owned());
    gang.ask.time_limit_minutes = Some(90);
    expect![[r#"
        PlaceholderRequest {
            name: "team/train",
            user: "alice",
            group: "users",
            account: Some(
                "ml",
            ),
            partition: "gpu",
            qos: Some(
                "high",
            ),
            time_limit_minutes: Some(
                90,
            ),
            options: Options {
                constraints: None,
                prefer: None,
                licenses: None,
                reservation: None,
                dependency: None,
                begin: None,
                deadline: None,
                time_min_minutes: None,
                nice: None,
                priority: None,
                wckey: None,
                comment: None,
                switches: None,
                segment: None,
                contiguous: false,
                spread: false,
                exclusive: None,
            },
            components: [
                Component {
                    key: "gangway/1 c g 3 0000000000000007",
                    nodes: 2,
                    tasks_per_node: 1,
                    cpus_per_task: 2,
                    memory_per_node_mib: 1025,
                    gres_per_node: [
                        GresRequest {
                            name: "gpu",
                            kind: Some(
                                "h100",
                            ),
                            count: 4,
                        },
                    ],
                    excluded_nodes: "",
                },
            ],
        }
    "#]]
    .assert_debug_eq(&ask(&gang).expect("fine"));
    assert_eq!(one(&gang).key, stamp().to_text());
}

#[test]
fn everything_is_rounded_up_and_never_nothing() {
    let smallest = one(&gang([demand(0, 1, 0)]));
    assert_eq!((smallest.cpus_per_task, smallest.memory_per_node_mib), (1, 1));
    let one_more = one(&gang([demand(2001, (1 << 20) + 1, 0)]));
    assert_eq!((one_more.cpus_per_task, one_more.memory_per_node_mib), (3, 2));
    let exact = one(&gang([demand(2000, 1 << 20, 0)]));
    assert_eq!((exact.cpus_per_task, exact.memory_per_node_mib), (2, 1));
}

#[test]
fn pods_that_share_a_node_share_its_request() {
    let shape = |members: usize, per_node: u32| {
        let mut gang = gang(vec![demand(1000, 1 << 20, 2); members]);
        gang.ask.pods_per_node = Some(per_node);
        let r = one(&gang);
        (r.nodes, r.tasks_per_node, r.memory_per_node_mib, r.gres_per_node[0].count)
    };
    assert_eq!(shape(8, 4), (2, 4, 4, 8));
    assert_eq!(shape(9, 4), (3, 4, 4, 8));
    // Fewer pods than fit on a node: their own seats only.
    assert_eq!(shape(2, 4), (1, 2, 2, 4));
}

#[test]
fn each_role_asks_for_what_its_own_members_need() {
    let leader = demand(4000, 64 << 30, 0);
    let worker = demand(96_000, 1 << 40, 8);
    let gang = gang([leader, worker.clone(), worker]);
    let request = ask(&gang).expect("fine");
    let asked: Vec<_> = request
        .components
        .iter()
        .map(|c| (c.nodes, c.cpus_per_task, c.memory_per_node_mib, tres(&c.gres_per_node)))
        .collect();
    let gpus = vec!["gres/gpu=8".to_owned()];
    assert_eq!(asked, [(1, 4, 64 << 10, vec![]), (2, 96, 1 << 20, gpus)]);
    let marks: Vec<_> =
        request.components.iter().map(|c| Stamp::parse(&c.key).expect("a stamp").part).collect();
    assert!(marks[0].is_some() && marks[0] != marks[1], "{marks:?}");
}

#[test]
fn where_slurm_is_too_old_all_ask_for_the_largest_in_everything() {
    let gang = gang([demand(4000, 1 << 20, 0), demand(1000, 1 << 30, 8)]);
    let table = ResourceTable::default();
    let request = placeholder(&gang, &grant(), &stamp(), &table, Roles::Levelled).expect("fine");
    let [all] = request.components.as_slice() else { panic!("one job: {request:?}") };
    assert_eq!((all.nodes, all.cpus_per_task, all.memory_per_node_mib), (2, 4, 1024));
    assert_eq!(tres(&all.gres_per_node), ["gres/gpu=8"]);
    expect![[r#"
        Some(
            "this Slurm gives all pods of a gang the same, so 2 of 2 pods hold more than they need (cpu=4,mem=1024M,gres/gpu=8); Slurm 26.05.3 or newer gives each role its own",
        )
    "#]]
    .assert_debug_eq(&cost_of_levelling(&gang, &table));
}

#[test]
fn levelling_costs_nothing_where_all_need_the_same() {
    let same = gang([demand(1000, 1 << 30, 8), demand(1000, 1 << 30, 8)]);
    assert_eq!(cost_of_levelling(&same, &ResourceTable::default()), None);
}

#[test]
fn a_pattern_names_the_type() {
    let table = ResourceTable::default();
    let mut mig = demand(1000, 1 << 20, 0);
    mig.other.insert("nvidia.com/mig-1g.5gb".to_owned(), 2);
    mig.other.insert("nvidia.com/mig-3g.20gb".to_owned(), 1);
    mig.other.insert("aws.amazon.com/neuron".to_owned(), 1);
    let asked = table.gres(&mig).expect("mapped");
    assert_eq!(tres(&asked), ["gres/gpu:1g.5gb=2", "gres/gpu:3g.20gb=1", "gres/neuron=1"]);
}

#[test]
fn the_exact_entry_goes_before_the_longest_pattern() {
    let pairs = [("x.io/*", "any"), ("x.io/big-*", "big:*"), ("x.io/big-1", "one:a")];
    let table = ResourceTable(pairs.map(own).into());
    let other = ["x.io/small", "x.io/big-2", "x.io/big-1"].map(|r| (r.to_owned(), 1)).into();
    let asked = table.gres(&Demand { other, ..Demand::default() }).expect("mapped");
    assert_eq!(tres(&asked), ["gres/any=1", "gres/big:2=1", "gres/one:a=1"]);
}

#[test]
fn a_group_that_was_never_asked_for_finds_nothing() {
    let asked = gang([demand(1000, 1 << 30, 0), demand(1000, 1 << 30, 8)]);
    let job = job_of(&asked);
    let changed = gang([demand(1000, 1 << 30, 0), demand(9000, 1 << 30, 8)]);
    assert_eq!(held_by(&changed, &ResourceTable::default(), &job), Ok(None));
}

#[test]
fn room_is_asked_for_members_that_are_still_to_come() {
    let mut gang = gang([demand(1000, 1 << 30, 0), demand(1000, 1 << 30, 8)]);
    // Rank 1 has come already.
    gang.later = vec![later(1, 4, demand(1000, 1 << 30, 8))];
    let request = ask(&gang).expect("fine");
    let nodes: Vec<u32> = request.components.iter().map(|c| c.nodes).collect();
    assert_eq!(nodes, [1, 4]);
    gang.members.truncate(1);
    assert_eq!(ask(&gang).expect("fine"), request, "the same for those who are there and not");
}

#[test]
fn a_member_that_comes_later_belongs_to_what_its_template_asked_for() {
    let mut gang = gang([demand(1000, 1 << 30, 0)]);
    let asked = demand(1000, 1 << 30, 8);
    gang.later = vec![later(1, 1, asked.clone())];
    let job = job_of(&gang);
    let table = ResourceTable::default();
    let come = |demand: Demand| {
        let mut grown = gang.clone();
        grown.members.push(Member { rank: 1, demand: demand.into(), ..gang.members[0].clone() });
        held_by(&grown, &table, &job).expect("mapped").is_some()
    };
    assert!(come(asked));
    // With a sidecar that a webhook has put into it; but not with a device that nobody asked for.
    assert!(come(demand(1500, 2 << 30, 8)));
    assert!(!come(demand(1000, 1 << 30, 9)));
}

#[test]
fn every_vendor_has_a_gres_by_default() {
    let mut all = demand(1000, 1 << 20, 2);
    let resources = [
        ("amd.com/gpu", 3),
        ("nvidia.com/mig-1g.5gb", 5),
        ("aws.amazon.com/neuron", 16),
        ("vpc.amazonaws.com/efa", 32),
    ];
    all.other.extend(resources.map(|(name, count)| (name.to_owned(), count)));
    let asked = ResourceTable::default().gres(&all).expect("mapped");
    assert_eq!(
        tres(&asked),
        ["gres/efa=32", "gres/gpu=5", "gres/gpu:1g.5gb=5", "gres/neuron=16"],
        "GPUs of two vendors are one GRES",
    );
    for (resource, _) in resources {
        let one = Demand { other: [(resource.to_owned(), 1)].into(), ..Demand::default() };
        assert_eq!(ResourceTable::default().gres(&one).expect("mapped").len(), 1, "{resource}");
    }
}

#[test]
fn a_resource_nobody_mapped_is_refused_by_name() {
    let mut unknown = demand(1000, 1 << 20, 1);
    unknown.other.insert("example.com/fpga".to_owned(), 1);
    let refusal = ask(&gang([unknown])).expect_err("nobody mapped it");
    assert_eq!(refusal.category, Category::Resources);
    assert!(refusal.message.starts_with("resource example.com/fpga is not mapped"));
    assert!(refusal.message.contains(GPU), "{}", refusal.message);
}

#[test]
fn what_slurm_has_no_word_for_is_left_to_the_kubelet() {
    let mut demand = demand(1000, 1 << 20, 0);
    for resource in ["ephemeral-storage", "hugepages-2Mi"] {
        demand.other.insert(resource.to_owned(), 1 << 30);
    }
    assert_eq!(one(&gang([demand])).gres_per_node, []);
}

#[test]
fn two_resources_of_one_gres_add_up() {
    let table = ResourceTable([("a/x", "gpu"), ("b/y", "gpu")].map(own).into());
    let other = [("a/x".to_owned(), 2), ("b/y".to_owned(), 3)].into();
    let demand = Demand { other, ..Demand::default() };
    assert_eq!(tres(&table.gres(&demand).expect("mapped")), ["gres/gpu=5"]);
}

#[test]
fn a_gpu_type_goes_to_gpus_only_and_not_without_them() {
    let mut both = demand(1000, 1 << 20, 1);
    both.other.insert("vpc.amazonaws.com/efa".to_owned(), 2);
    let mut gang = gang([both]);
    gang.ask.gpu_type = Some("h100".to_owned());
    assert_eq!(tres(&one(&gang).gres_per_node), ["gres/efa=2", "gres/gpu:h100=1"]);
    std::sync::Arc::make_mut(&mut gang.members[0].demand).other.remove(GPU);
    let refusal = ask(&gang).expect_err("no GPU");
    assert_eq!(refusal.category, Category::Shape);
    assert!(refusal.message.contains("no container asks for a GPU"));
}

#[test]
fn without_a_partition_it_is_left_to_slurms_default() {
    let none = Grant { partition: None, ..grant() };
    let table = ResourceTable::default();
    let request = placeholder(&gang([demand(1, 1, 0)]), &none, &stamp(), &table, Roles::Apart);
    assert_eq!(request.expect("asked for").partition, "");
}

#[test]
fn absurd_demands_are_refused_and_do_not_overflow() {
    for demand in [demand(u64::MAX, 1, 0), demand(1, 1, u64::MAX)] {
        let refusal = ask(&gang([demand])).expect_err("too much");
        assert_eq!(refusal.category, Category::Shape);
    }
    let mut much = gang(vec![demand(1, u64::MAX, 0); 2]);
    much.ask.pods_per_node = Some(2);
    assert_eq!(one(&much).memory_per_node_mib, 2 << 44);
}

#[test]
fn what_else_was_asked_goes_along() {
    let mut gang = gang([demand(1000, 1 << 20, 4)]);
    for (name, value) in [("exclude", "n1,n2"), ("gres", "gpu:h100:2,nvme:1"), ("wckey", "paper")] {
        gang.ask.set(name, value).expect("well formed");
    }
    let request = ask(&gang).expect("fine");
    let component = one(&gang);
    assert_eq!(component.excluded_nodes, "n[1-2]");
    assert_eq!(tres(&component.gres_per_node), ["gres/gpu:h100=4", "gres/nvme=1"]);
    assert_eq!(request.options, gang.ask.options);
    assert_eq!(request.options.wckey.as_deref(), Some("paper"));
}

#[test]
fn a_gres_asked_beside_goes_to_the_roles_that_have_it() {
    let mut gang = gang([demand(1000, 1 << 20, 0), demand(1000, 1 << 20, 4)]);
    gang.ask.set("gres", "gpu:h100:8,nvme:1").expect("well formed");
    let table = ResourceTable::default();
    let request = placeholder(&gang, &grant(), &stamp(), &table, Roles::Apart).expect("fine");
    let tres = |c: &Component| {
        c.gres_per_node.iter().map(GresRequest::to_tres).collect::<Vec<_>>().join(",")
    };
    let all: Vec<String> = request.components.iter().map(tres).collect();
    assert_eq!(all, ["gres/nvme=1", "gres/gpu:h100=8,gres/nvme=1"]);
}

#[test]
fn slurm_user_and_account_come_from_the_grant_alone() {
    let mut gang = gang([demand(1, 1, 0)]);
    gang.ask.account = Some("other".to_owned());
    gang.ask.partition = Some("other".to_owned());
    gang.ask.qos = Some("other".to_owned());
    let request = ask(&gang).expect("fine");
    assert_eq!(
        (request.account.as_deref(), request.partition.as_str(), request.qos.as_deref()),
        (Some("ml"), "gpu", Some("high"))
    );
}

/// The job that a gang's request becomes, with ids from 100.
fn job_of(gang: &Gang) -> Job {
    let request = ask(gang).expect("fine");
    let state = JobState::parse(&["RUNNING"]);
    let part = |(id, c): (u32, &Component)| Part {
        id: JobId(id),
        state: state.clone(),
        admin_comment: c.key.clone(),
        excluded_nodes: c.excluded_nodes.clone(),
        tres_per_node: tres(&c.gres_per_node).join(","),
        ..Part::default()
    };
    let parts: Vec<Part> = (100..).zip(&request.components).map(part).collect();
    let parts = if parts.len() > 1 { parts } else { Vec::new() };
    Job { parts, ..Job::sample(100, "RUNNING") }
}

fn tres(gres: &[GresRequest]) -> Vec<String> {
    gres.iter().map(GresRequest::to_tres).collect()
}

/// The one component of a gang whose members are alike.
fn one(gang: &Gang) -> Component {
    let request = ask(gang).expect("fine");
    let [component] = request.components.as_slice() else { panic!("{request:?}") };
    component.clone()
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

fn ask(gang: &Gang) -> Result<PlaceholderRequest, Refusal> {
    placeholder(gang, &grant(), &stamp(), &ResourceTable::default(), Roles::Apart)
}

fn stamp() -> Stamp {
    Stamp { cluster: "c".to_owned(), gang: "g".to_owned(), generation: 3, pods: 7, part: None }
}

fn grant() -> Grant {
    Grant {
        user: "alice".to_owned(),
        group: "users".to_owned(),
        account: Some("ml".to_owned()),
        partition: Some("gpu".to_owned()),
        qos: Some("high".to_owned()),
        feature: None,
        terms: None,
    }
}

#[test]
fn every_node_for_pods_has_their_feature_whatever_the_user_asks() {
    let asked = |constraints: Option<&str>| {
        let mut gang = gang([demand(1000, 1, 0)]);
        gang.ask.options.constraints = constraints.map(str::to_owned);
        let grant = Grant { feature: Some("pods".to_owned()), ..grant() };
        let table = ResourceTable::default();
        let request = placeholder(&gang, &grant, &stamp(), &table, Roles::Apart);
        request.map(|request| request.options.constraints.expect("one"))
    };
    for (constraints, joined) in [
        (None, "pods"),
        (Some("h100&ib"), "pods&h100&ib"),
        (Some("a|b"), "pods&(a|b)"),
        (Some("(a|b)&c"), "pods&(a|b)&c"),
        (Some("[rack1|rack2]"), "pods&[rack1|rack2]"),
    ] {
        assert_eq!(asked(constraints).as_deref(), Ok(joined));
    }
    // Slurm would take either side of it for enough.
    let refusal = asked(Some("(a&b)|c")).expect_err("no brackets within brackets");
    assert!(refusal.message.contains("a&(b|c)"), "{}", refusal.message);
}

fn demand(milli_cpu: u64, memory: u64, gpus: u64) -> Demand {
    let other = [(GPU.to_owned(), gpus)].into_iter().filter(|(_, n)| *n > 0).collect();
    Demand { milli_cpu, memory, other }
}

fn gang(demands: impl IntoIterator<Item = Demand>) -> Gang {
    let members: Vec<Member> = (0..)
        .zip(demands)
        .map(|(rank, demand)| Member {
            uid: format!("pod-{rank}"),
            name: format!("pod-{rank}"),
            role: String::new(),
            rank,
            demand: demand.into(),
            bound: None,
            finished: false,
            gated: false,
            notice: crate::gang::Notice::None,
            reach: 0,
        })
        .collect();
    Gang {
        uid: "g".to_owned(),
        namespace: "team".to_owned(),
        name: "train".to_owned(),
        kind: "PyTorchJob".to_owned(),
        expected: u32::try_from(members.len()).expect("few"),
        members,
        later: Vec::new(),
        ask: Ask::default(),
        excluded_nodes: Vec::new(),
    }
}

#[test]
fn room_is_asked_for_those_that_come_later_too() {
    let mut gang = gang([demand(4000, 1 << 30, 0)]);
    let worker = demand(8000, 1 << 30, 8);
    gang.later = vec![later(1, 3, worker.clone())];
    let nodes = |gang: &Gang| {
        let request = ask(gang).expect("fine");
        request.components.iter().map(|c| c.nodes).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&gang), [1, 3]);
    let first = gang.members[0].clone();
    gang.members.push(Member { rank: 2, uid: "w".to_owned(), demand: worker.into(), ..first });
    assert_eq!(nodes(&gang), [1, 3], "one that has come is not counted twice");
    let table = ResourceTable::default();
    let [_, workers] = groups(&gang, &table, Roles::Apart).expect("fine").try_into().expect("two");
    let places: Vec<_> = workers.places.iter().map(|p| (p.rank, p.member)).collect();
    assert_eq!(places, [(1, None), (2, Some(1)), (3, None)], "its seat is the one of its rank");
}

fn later(first: u32, count: u32, demand: Demand) -> Later {
    Later { role: "worker".to_owned(), first, count, demand, reach: 0 }
}

#[test]
fn room_for_those_to_come_is_asked_where_their_template_may_go() {
    let mut gang = gang([demand(1000, 1 << 30, 8)]);
    gang.later = vec![Later { reach: 1, ..later(1, 3, demand(1000, 1 << 30, 8)) }];
    gang.excluded_nodes = ["", "n[1-2]"].map(Into::into).to_vec();
    let shut = |gang: &Gang| {
        let request = ask(gang).expect("fine");
        request.components.iter().map(|c| (c.nodes, c.excluded_nodes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(shut(&gang), [(1, String::new()), (3, "n[1-2]".to_owned())]);
    let job = job_of(&gang);
    // They come, and by then a node has opened to them.
    let first = gang.members[0].clone();
    gang.members.push(Member { rank: 2, reach: 0, role: "worker".to_owned(), ..first });
    let held = held_by(&gang, &ResourceTable::default(), &job).expect("fine").expect("held");
    let ids: Vec<_> = held.iter().map(|(group, id)| (group.places.len(), id.0)).collect();
    assert_eq!(ids, [(1, 100), (3, 101)]);
    gang.excluded_nodes.clear();
    gang.members.truncate(1);
    gang.later[0].reach = 0;
    assert_eq!(shut(&gang), [(4, String::new())], "all may go anywhere");
}

#[test]
fn roles_that_may_not_go_to_the_same_nodes_are_asked_apart() {
    let mut gang = gang(vec![demand(1000, 1 << 30, 8); 3]);
    for (member, role) in gang.members.iter_mut().zip(["master", "worker", "worker"]) {
        member.role = role.to_owned();
    }
    gang.excluded_nodes = ["n[1-2]", "n3", "n4"].map(Into::into).to_vec();
    let shut = |gang: &Gang| {
        let request = ask(gang).expect("fine");
        request.components.iter().map(|c| (c.nodes, c.excluded_nodes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(shut(&gang), [(3, "n[1-2]".to_owned())], "all may go to the same nodes");
    (gang.members[1].reach, gang.members[2].reach) = (1, 2);
    assert_eq!(shut(&gang), [(1, "n[1-2]".to_owned()), (2, "n[3-4]".to_owned())]);

    // Nodes shut and open while it runs; its members find their components all the same.
    let job = job_of(&gang);
    for reaches in [[0, 1, 2], [0, 0, 0], [2, 0, 1]] {
        for (member, reach) in gang.members.iter_mut().zip(reaches) {
            member.reach = reach;
        }
        let held = held_by(&gang, &ResourceTable::default(), &job).expect("fine").expect("held");
        let ids: Vec<_> = held.iter().map(|(group, id)| (group.places.len(), id.0)).collect();
        assert_eq!(ids, [(1, 100), (2, 101)], "{reaches:?}");
    }
}
