use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use serde_json::json;

use super::nodes::Node;
use super::taint::Taint;
use super::*;

mod naive;

#[test]
fn requirements_are_read_as_kubernetes_reads_them() {
    // Operator, values, and which of these nodes is selected by label `n`.
    let nodes = ["absent", "", "2", "10", "x", "-3"];
    for (operator, values, want) in [
        ("In", json!(["2", "x"]), "2 x"),
        ("In", json!([""]), ""),
        ("NotIn", json!(["2", "x"]), "absent  10 -3"),
        ("Exists", json!(null), " 2 10 x -3"),
        ("DoesNotExist", json!([]), "absent"),
        ("Gt", json!(["2"]), "10"),
        ("Lt", json!(["2"]), "-3"),
        ("Gt", json!(["-4"]), "2 10 -3"),
        ("Lt", json!(["9223372036854775807"]), "2 10 -3"),
    ] {
        let selector = selector(&json!([{"matchExpressions": [
            {"key": "n", "operator": operator, "values": values}
        ]}]));
        let selector = selector.unwrap_or_else(|why| unreachable!("{operator} {values}: {why}"));
        let selected = nodes.iter().filter(|value| {
            let labels: &[(&str, &str)] = if **value == "absent" { &[] } else { &[("n", value)] };
            selector.selects(&facts(&node("a", labels)))
        });
        let selected: Vec<&str> = selected.copied().collect();
        assert_eq!(selected.join(" "), want, "{operator} {values}");
    }
}

#[test]
fn a_term_that_cannot_be_read_selects_nothing_and_is_told_only_where_it_is_the_last_hope() {
    for (key, operator, values, words) in [
        ("n", "Gt", json!(["1.5"]), "n: operator Gt needs a whole number"),
        ("n", "Gt", json!([]), "n: operator Gt needs exactly one value"),
        ("n", "Lt", json!(["1", "2"]), "needs exactly one value"),
        ("n", "Gt", json!(["9223372036854775808"]), "needs a whole number"),
        ("n", "In", json!([]), "needs values"),
        ("n", "NotIn", json!(["a b"]), "which no label can be"),
        ("n", "Exists", json!(["x"]), "takes no values"),
        ("n", "Near", json!(["x"]), "is not one of In, NotIn"),
    ] {
        let bad =
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let why = selector(&json!([bad])).expect_err("cannot be read");
        assert!(why.contains(words), "{why}");
        let good = json!({"matchExpressions": [{"key": "n", "operator": "Exists"}]});
        let both = selector(&json!([bad, good])).expect("another term can be read");
        assert!(both.selects(&facts(&node("a", &[("n", "x")]))));
        assert!(!both.selects(&facts(&node("a", &[]))));
    }
    for (operator, values) in [("Exists", json!([])), ("In", json!(["a", "b"])), ("In", json!([]))]
    {
        let bad = json!({"matchFields": [
            {"key": "metadata.name", "operator": operator, "values": values}
        ]});
        selector(&json!([bad])).expect_err("cannot be read");
    }
    let other = json!({"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]});
    assert!(selector(&json!([other])).expect_err("no such field").contains("metadata.name"));
}

#[test]
fn no_terms_and_empty_terms_select_nothing_but_no_affinity_lets_a_pod_go_anywhere() {
    let anywhere = node("a", &[]);
    for terms in [json!([]), json!(null), json!([{}]), json!([{"matchExpressions": []}])] {
        let pod = json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }}});
        assert!(!open(&pod, &anywhere), "{pod}");
    }
    for pod in [
        json!({}),
        json!({"affinity": {}}),
        json!({"affinity": {"nodeAffinity": {}}}),
        json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]
        }}}),
        json!({"nodeSelector": {}}),
    ] {
        assert!(open(&pod, &anywhere), "{pod}");
    }
}

#[test]
fn a_node_is_chosen_by_its_name() {
    let is = |operator: &str| {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": operator, "values": ["a"]}
            ]}]}
        }}})
    };
    assert!(open(&is("In"), &node("a", &[])) && !open(&is("In"), &node("b", &[])));
    assert!(!open(&is("NotIn"), &node("a", &[])) && open(&is("NotIn"), &node("b", &[])));
}

#[test]
fn tolerations_make_up_for_taints_as_in_kubernetes() {
    let taint = |key: &str, value: &str, effect: &str| Taint {
        key: key.into(),
        value: value.into(),
        effect: effect.into(),
    };
    for (toleration, value, want) in [
        (json!({"key": "k", "operator": "Exists"}), "v", true),
        (json!({"operator": "Exists"}), "v", true),
        (json!({"key": "k", "value": "v"}), "v", true),
        (json!({"key": "k", "operator": "Equal", "value": "w"}), "v", false),
        (json!({"key": "j", "operator": "Exists"}), "v", false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), "v", true),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), "v", false),
        (json!({"key": "k", "operator": "Exists", "tolerationSeconds": 0}), "v", true),
        (json!({"key": "k", "operator": "Gt", "value": "750"}), "950", true),
        (json!({"key": "k", "operator": "Gt", "value": "950"}), "950", false),
        (json!({"key": "k", "operator": "Lt", "value": "-50"}), "-100", true),
        (json!({"key": "k", "operator": "Gt", "value": "1"}), "high", false),
        (json!({"key": "k", "operator": "Gt", "value": "01"}), "5", false),
        (json!({"key": "k", "operator": "Gt", "value": "1"}), "+5", false),
        (json!({"key": "k", "operator": "Near", "value": "v"}), "v", false),
    ] {
        let mut tainted = node("a", &[]);
        tainted.taints = vec![taint("k", value, "NoSchedule")];
        assert_eq!(open(&json!({"tolerations": [toleration]}), &tainted), want, "{toleration}");
    }
    let mut preferred = node("a", &[]);
    preferred.taints = vec![taint("k", "v", "PreferNoSchedule"), taint("k", "v", "Odd")];
    assert!(open(&json!({}), &preferred), "only NoSchedule and NoExecute shut a node");
    preferred.taints.push(taint("k", "v", "NoExecute"));
    assert!(!open(&json!({}), &preferred));
}

#[test]
fn a_cordoned_node_is_open_to_who_tolerates_that() {
    let mut cordoned = node("a", &[]);
    cordoned.unschedulable = true;
    assert!(!open(&json!({}), &cordoned));
    let key = "node.kubernetes.io/unschedulable";
    for toleration in [
        json!({"key": key, "operator": "Exists", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
    ] {
        assert!(open(&json!({"tolerations": [toleration]}), &cordoned));
    }
    let other = json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoExecute"}]});
    assert!(!open(&other, &cordoned));
}

#[test]
fn a_node_must_have_what_slurm_does_not_count_however_empty_it_is() {
    let has = |pairs: &[(&str, &str)]| {
        let all = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Node { room: nodes::room(&all), ..node("a", &[]) }
    };
    let pod = json!({
        "containers": [
            {"name": "a", "resources": {"limits": {"hugepages-2Mi": "64Mi", "cpu": "500"}}},
            {"name": "b", "resources": {"requests": {"ephemeral-storage": "3Gi", "memory": "9Ti"}}},
        ],
        "initContainers": [
            {"name": "i", "resources": {"requests": {"ephemeral-storage": "10Gi"}}},
        ],
    });
    let cpu = ("cpu", "1");
    let why = |pairs: &[(&str, &str)]| constraints(&pod).shut(&facts(&has(pairs)));
    // CPUs, memory and devices are Slurm's to count.
    assert_eq!(why(&[("hugepages-2Mi", "64Mi"), ("ephemeral-storage", "10Gi"), cpu]), None);
    assert_eq!(
        why(&[("hugepages-2Mi", "64Mi"), ("ephemeral-storage", "9Gi")]).as_deref(),
        Some("has less ephemeral-storage in all than the 10Gi it needs")
    );
    assert_eq!(
        why(&[("hugepages-1Gi", "64Gi"), ("ephemeral-storage", "1Ti")]).as_deref(),
        Some("has less hugepages-2Mi in all than the 64Mi it needs")
    );
    let mut nodes = Nodes::default();
    let small = has(&[("hugepages-2Mi", "64Mi"), ("ephemeral-storage", "9Gi")]);
    assert!(nodes.put(&small) && !nodes.put(&small), "news, and no news");
    nodes.put(&Node { name: "b".to_owned(), ..has(&[]) });
    let kind = nodes.intern(constraints(&pod));
    nodes.settle();
    assert_eq!(
        nodes.too_few(&kind, 1, "train-0", 1).as_deref(),
        Some(
            "0 of 2 nodes may take pod train-0: \
             2 have less ephemeral-storage in all than the 10Gi it needs"
        )
    );
    // A disk was added.
    assert!(nodes.put(&has(&[("hugepages-2Mi", "64Mi"), ("ephemeral-storage", "10Gi")])));
    nodes.settle();
    assert_eq!((nodes.excluded(&kind).as_ref(), nodes.open(&kind)), ("b", 1));
}

#[test]
fn the_message_counts_what_shuts_the_nodes() {
    let mut nodes = Nodes::default();
    for i in 0..12 {
        nodes.put(&node(&format!("a-{i}"), &[("gpu", "h100")]));
    }
    for i in 0..4 {
        let mut tainted = node(&format!("b-{i}"), &[("gpu", "h200")]);
        let (key, effect) = ("team".to_owned(), "NoSchedule".to_owned());
        tainted.taints = vec![Taint { key, value: "other".to_owned(), effect }];
        nodes.put(&tainted);
    }
    let kind = nodes.intern(constraints(&json!({"nodeSelector": {"gpu": "h200"}})));
    nodes.settle();
    assert_eq!(
        nodes.too_few(&kind, 1, "train-0", 1).as_deref(),
        Some(
            "0 of 16 nodes may take pod train-0: 12 do not match nodeSelector gpu=h200, \
             4 have taint team=other:NoSchedule that the pod does not tolerate"
        )
    );
    nodes.put(&node("b-0", &[("gpu", "h200")]));
    nodes.settle();
    assert_eq!(nodes.too_few(&kind, 1, "train-0", 1), None);
    let short = nodes.too_few(&kind, 2, "train-0", 4).expect("one node is not two");
    assert!(short.starts_with("only 1 of 16 nodes may take pod train-0 and the like"), "{short}");
    // The same node, seen again: no change.
    assert!(!nodes.put(&node("b-0", &[("gpu", "h200")])));
    let bad = nodes.intern(constraints(&json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "cpus", "operator": "Gt", "values": ["many"]}
        ]}]}
    }}})));
    nodes.settle();
    assert_eq!(
        nodes.too_few(&bad, 0, "p", 1).as_deref(),
        Some(
            "pod p: its required node affinity cannot be read: cpus: operator Gt needs a whole number"
        )
    );
}

#[test]
fn slurms_names_are_what_is_excluded_and_one_name_has_one_node() {
    let mut nodes = Nodes::default();
    let named = |name: &str, slurm: &str, zone: &str| {
        node(name, &[(crate::names::SLURM_NODE_LABEL, slurm), ("zone", zone)])
    };
    nodes.put(&named("k1", "s1", "a"));
    nodes.put(&named("k2", "s2", "b"));
    nodes.put(&named("k3", "s3", "b"));
    let kind = nodes.intern(constraints(&json!({"nodeSelector": {"zone": "a"}})));
    assert_eq!(nodes.settle().len(), 1);
    assert_eq!(nodes.excluded(&kind).as_ref(), "s[2-3]");
    // A new node takes over the name of a shut one, and later gives it back.
    nodes.put(&named("k4", "s3", "a"));
    assert_eq!(nodes.settle().len(), 1);
    assert_eq!((nodes.excluded(&kind).as_ref(), nodes.open(&kind)), ("s2", 2));
    assert_eq!(nodes.of_slurm("s3").map(|n| n.name.as_str()), Some("k4"));
    nodes.put(&named("k4", "s4", "a"));
    nodes.settle();
    assert_eq!((nodes.excluded(&kind).as_ref(), nodes.open(&kind)), ("s2", 2));
    // A change that shuts and opens nothing is no news.
    nodes.put(&named("k1", "s1", "a"));
    let mut other = named("k2", "s2", "b");
    other.labels.insert("x".into(), "y".into());
    assert!(nodes.put(&other));
    assert!(nodes.settle().is_empty());
    nodes.keep(&HashSet::from(["k1".to_owned()]));
    nodes.settle();
    assert_eq!((nodes.excluded(&kind).as_ref(), nodes.count()), ("", 1));
    // A new node in the place of one that is gone.
    nodes.put(&named("k9", "s9", "c"));
    nodes.settle();
    assert_eq!(nodes.excluded(&kind).as_ref(), "s9");
}

#[test]
fn kinds_nobody_has_any_more_are_dropped_and_the_others_stay_right() {
    let mut nodes = Nodes::default();
    for (name, zone) in [("n1", "a"), ("n2", "b")] {
        nodes.put(&node(name, &[("zone", zone)]));
    }
    let zone = |zone: &str| constraints(&json!({"nodeSelector": {"zone": zone}}));
    let mut kept = Vec::new();
    for i in 0..300 {
        nodes.intern(zone(&format!("z{i}")));
        if i == 150 {
            kept.push((nodes.intern(zone("a")), "n2"));
        }
        nodes.settle();
    }
    kept.push((nodes.intern(zone("b")), "n1"));
    assert!(nodes.kinds() < 200, "{} kinds", nodes.kinds());
    nodes.settle();
    assert!(kept.iter().all(|(kind, shut)| nodes.excluded(kind).as_ref() == *shut));
    nodes.put(&node("n1", &[("zone", "b")]));
    nodes.put(&node("n2", &[("zone", "a")]));
    nodes.settle();
    assert_eq!(nodes.excluded(&kept[0].0).as_ref(), "n1");
    assert_eq!(nodes.excluded(&kept[1].0).as_ref(), "n2");
}

#[test]
fn hostlists_are_joined_in_order_and_without_repeats() {
    assert_eq!(union::<&str>(&[]), "");
    assert_eq!(union(&["", "a[1-2]"]), "a[1-2]");
    assert_eq!(union(&["a[9-10],b", "a[1-9]", "a[1-9]", "]"]), "a[1-10],b");
    assert_eq!(hostlist(vec!["b".into(), "bad name]".into(), "a".into()]), "a,b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The kept table says after any changes what reading every node anew says.
    #[test]
    fn the_table_agrees_with_a_plain_reading(
        pods in proptest::collection::vec(naive::any_pod(), 1..4),
        steps in proptest::collection::vec(naive::any_step(), 1..24),
        settle_at in proptest::collection::vec(any::<bool>(), 24),
    ) {
        let mut nodes = Nodes::default();
        let mut plain: BTreeMap<String, Node> = BTreeMap::new();
        // Some pods come when the nodes have been there for a while.
        let early = nodes.intern(constraints(&pods[0]));
        for (step, settle) in steps.into_iter().zip(settle_at) {
            match step {
                naive::Step::Put(node) => {
                    let news = plain.insert(node.name.clone(), node.clone()).as_ref() != Some(&node);
                    prop_assert_eq!(nodes.put(&node), news);
                }
                naive::Step::Drop(name) => {
                    prop_assert_eq!(nodes.drop(&name), plain.remove(&name).is_some());
                }
            }
            if settle {
                nodes.settle();
            }
        }
        nodes.settle();
        let late = pods[1..].iter().map(|pod| nodes.intern(constraints(pod)));
        let kinds: Vec<_> = std::iter::once(early).chain(late).collect();
        nodes.settle();
        for (pod, kind) in pods.iter().zip(&kinds) {
            let shut: Vec<&str> = plain
                .values()
                .filter(|node| !naive::may_go(pod, node))
                .map(|node| node.name.as_str())
                .collect();
            let text = nodes.excluded(kind);
            let said = Hostlist::parse(&text).expect("a hostlist").names();
            let (mut said, mut shut) = (said, shut);
            said.sort();
            shut.sort_unstable();
            prop_assert_eq!(&said, &shut);
            prop_assert_eq!(nodes.open(kind), plain.len() - shut.len());
            for node in plain.values() {
                let own = nodes.of_slurm(&node.name).and_then(|facts| kind.shut(facts));
                prop_assert_eq!(own.is_none(), naive::may_go(pod, node), "{:?}", own);
            }
        }
    }
}

pub(super) fn constraints(spec: &serde_json::Value) -> Constraints {
    Constraints::of(&serde_json::from_value(spec.clone()).expect("a pod's spec"))
}

fn selector(terms: &serde_json::Value) -> Result<Selector, String> {
    let written = serde_json::from_value(json!({"nodeSelectorTerms": terms})).expect("a selector");
    Selector::parse(&written)
}

fn node(name: &str, labels: &[(&str, &str)]) -> Node {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Node { name: name.to_owned(), labels, ..Node::default() }
}

fn facts(node: &Node) -> NodeFacts {
    let mut nodes = Nodes::default();
    nodes.put(node);
    let slurm = node.labels.get(crate::names::SLURM_NODE_LABEL).unwrap_or(&node.name);
    nodes.of_slurm(slurm).cloned().expect("it was put there")
}

fn open(spec: &serde_json::Value, node: &Node) -> bool {
    constraints(spec).shut(&facts(node)).is_none()
}
