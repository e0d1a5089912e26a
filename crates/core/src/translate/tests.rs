use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::ask::Ask;
use crate::gang::Member;

const GPU: &str = "nvidia.com/gpu";

proptest! {
    /// What Slurm is asked for holds every member, seat by seat.
    #[test]
    fn never_less_is_asked_than_the_pods_need(
        demands in proptest::collection::vec((0u64..100_000, 0u64..1 << 40, 0u64..9), 1..20),
        per_node in proptest::option::of(1u32..9),
    ) {
        let mut gang = gang(demands.iter().map(|(cpu, memory, gpus)| demand(*cpu, *memory, *gpus)));
        gang.ask.pods_per_node = per_node;
        let request = ask(&gang).expect("fine");
        let seats = u64::from(request.tasks_per_node);
        prop_assert!(u64::from(request.nodes) * seats >= demands.len() as u64);
        let asked_gpus: u64 = request.gres_per_node.iter().map(|g| u64::from(g.count)).sum();
        for (cpu, memory, gpus) in demands {
            prop_assert!(u64::from(request.cpus_per_task) * 1000 >= cpu);
            prop_assert!((request.memory_per_node_mib << 20) >= memory * seats);
            prop_assert!(asked_gpus >= gpus * seats);
        }
        prop_assert_eq!(request.excluded_nodes, "");
    }
}

#[test]
fn a_gang_becomes_one_request() {
    let mut gang = gang([demand(1500, (1 << 30) + 1, 4), demand(1500, (1 << 30) + 1, 4)]);
    gang.ask.gpu_type = Some("h100".to_owned());
    gang.ask.time_limit_minutes = Some(90);
    expect![[r#"
        PlaceholderRequest {
            key: "gangway/1 c g 3 0000000000000007",
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
            time_limit_minutes: Some(
                90,
            ),
            excluded_nodes: "",
        }
    "#]]
    .assert_debug_eq(&ask(&gang).expect("fine"));
    assert_eq!(ask(&gang).expect("fine").key, stamp().to_text());
}

#[test]
fn everything_is_rounded_up_and_never_nothing() {
    let smallest = ask(&gang([demand(0, 1, 0)])).expect("fine");
    assert_eq!((smallest.cpus_per_task, smallest.memory_per_node_mib), (1, 1));
    let one_more = ask(&gang([demand(2001, (1 << 20) + 1, 0)])).expect("fine");
    assert_eq!((one_more.cpus_per_task, one_more.memory_per_node_mib), (3, 2));
    let exact = ask(&gang([demand(2000, 1 << 20, 0)])).expect("fine");
    assert_eq!((exact.cpus_per_task, exact.memory_per_node_mib), (2, 1));
}

#[test]
fn pods_that_share_a_node_share_its_request() {
    let shape = |members: usize, per_node: u32| {
        let mut gang = gang(vec![demand(1000, 1 << 20, 2); members]);
        gang.ask.pods_per_node = Some(per_node);
        let r = ask(&gang).expect("fine");
        (r.nodes, r.tasks_per_node, r.memory_per_node_mib, r.gres_per_node[0].count)
    };
    assert_eq!(shape(8, 4), (2, 4, 4, 8));
    assert_eq!(shape(9, 4), (3, 4, 4, 8));
    // Fewer pods than fit on a node: their own seats only.
    assert_eq!(shape(2, 4), (1, 2, 2, 4));
}

#[test]
fn members_that_differ_ask_for_the_largest_in_everything() {
    let gang = gang([demand(4000, 1 << 20, 0), demand(1000, 1 << 30, 8)]);
    let request = ask(&gang).expect("fine");
    assert_eq!((request.cpus_per_task, request.memory_per_node_mib), (4, 1024));
    assert_eq!(request.gres_per_node[0].to_tres(), "gres/gpu=8");
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
    assert_eq!(ask(&gang([demand])).expect("fine").gres_per_node, []);
}

#[test]
fn two_resources_of_one_gres_add_up() {
    let table = ResourceTable([("a/x", "gpu"), ("b/y", "gpu")].map(own).into());
    let other = [("a/x".to_owned(), 2), ("b/y".to_owned(), 3)].into();
    let demand = Demand { other, ..Demand::default() };
    assert_eq!(table.gres(&demand), Ok([("gpu".to_owned(), 5)].into()));
}

#[test]
fn a_gpu_type_goes_to_gpus_only_and_not_without_them() {
    let mut both = demand(1000, 1 << 20, 1);
    both.other.insert("vpc.amazonaws.com/efa".to_owned(), 2);
    let mut gang = gang([both]);
    gang.ask.gpu_type = Some("h100".to_owned());
    let tres: Vec<String> =
        ask(&gang).expect("fine").gres_per_node.iter().map(GresRequest::to_tres).collect();
    assert_eq!(tres, ["gres/efa=2", "gres/gpu:h100=1"]);
    gang.members[0].demand.other.remove(GPU);
    let refusal = ask(&gang).expect_err("no GPU");
    assert_eq!(refusal.category, Category::Shape);
    assert!(refusal.message.contains("no container asks for a GPU"));
}

#[test]
fn without_a_partition_it_is_left_to_slurms_default() {
    let none = Grant { partition: None, ..grant() };
    let table = ResourceTable::default();
    let request = placeholder(&gang([demand(1, 1, 0)]), &none, &stamp(), &table);
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
    assert_eq!(ask(&much).expect("fits").memory_per_node_mib, 2 << 44);
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

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

fn ask(gang: &Gang) -> Result<PlaceholderRequest, Refusal> {
    placeholder(gang, &grant(), &stamp(), &ResourceTable::default())
}

fn stamp() -> Stamp {
    Stamp { cluster: "c".to_owned(), gang: "g".to_owned(), generation: 3, pods: 7 }
}

fn grant() -> Grant {
    Grant {
        user: "alice".to_owned(),
        group: "users".to_owned(),
        account: Some("ml".to_owned()),
        partition: Some("gpu".to_owned()),
        qos: Some("high".to_owned()),
    }
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
            demand,
            bound: None,
            finished: false,
            gated: false,
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
        ask: Ask::default(),
        excluded_nodes: Vec::new(),
    }
}
