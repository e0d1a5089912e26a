use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ask::{Ask, Requester};
use crate::job::{Component, Options};
use crate::policy::{Category, Policy, Source, grant};

fn object(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn team(namespaces: &[&str]) -> Value {
    json!({
        "namespaces": namespaces, "user": "alice", "group": "ml",
        "accounts": ["team1", "team2"], "partitions": ["gpu", "spare"], "qos": ["normal", "high"],
        "maxPriority": 1000, "minNice": -10, "maxTimeLimit": "1-00:00:00", "maxNodes": 4,
        "licenses": {"matlab": 2}, "reservations": ["paper"],
    })
}

fn rule(name: &str, spec: &Value) -> Rule {
    Rule::read(&object(name, spec))
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        slurm_user: "slurm".into(),
        believes_requester: true,
        source: Source::Rules(rules),
        ..Policy::default()
    }
}

fn ask(pairs: &[(&str, &str)]) -> Ask {
    let mut ask = Ask::default();
    for (name, value) in pairs {
        ask.set(name, value).expect("well formed");
    }
    ask
}

/// What a gang of so many nodes would send.
fn request(ask: &Ask, nodes: u32) -> PlaceholderRequest {
    let component = Component {
        key: String::new(),
        nodes,
        tasks_per_node: 1,
        cpus_per_task: 1,
        memory_per_node_mib: 1,
        gres_per_node: Vec::new(),
        excluded_nodes: String::new(),
    };
    PlaceholderRequest {
        name: "train".into(),
        user: String::new(),
        group: String::new(),
        account: None,
        partition: String::new(),
        qos: None,
        time_limit_minutes: ask.time_limit_minutes,
        components: vec![component],
        options: ask.options.clone(),
    }
}

/// The whole way: granted, put into a request, and looked at once more.
fn get(
    policy: &Policy,
    namespace: &str,
    ask: &Ask,
    nodes: u32,
) -> Result<PlaceholderRequest, String> {
    let granted = grant(policy, namespace, ask).map_err(|refusal| {
        assert_eq!(refusal.category, Category::Policy);
        refusal.message
    })?;
    let asked = PlaceholderRequest {
        user: granted.user.clone(),
        group: granted.group.clone(),
        account: granted.account.clone(),
        partition: granted.partition.clone().unwrap_or_default(),
        qos: granted.qos.clone(),
        ..request(ask, nodes)
    };
    granted.hold(asked).map_err(|refusal| refusal.message)
}

#[test]
fn whoever_asks_for_nothing_gets_the_first_of_everything_and_the_whole_limit() {
    let policy = policy(vec![rule("a", &team(&["a"]))]);
    let got = get(&policy, "a", &Ask::default(), 1).expect("granted");
    assert_eq!((got.user.as_str(), got.group.as_str()), ("alice", "ml"));
    assert_eq!((got.account.as_deref(), got.partition.as_str()), (Some("team1"), "gpu"));
    assert_eq!((got.qos, got.time_limit_minutes), (None, Some(1440)));
}

#[test]
fn an_annotation_chooses_inside_the_policy_only() {
    let policy = policy(vec![rule("a", &team(&["a"]))]);
    for (name, fine, more) in [
        ("account", "team2", "team3"),
        ("partition", "spare,gpu", "gpu,secret"),
        ("qos", "high", "top"),
        ("priority", "1000", "1001"),
        ("nice", "-10", "-11"),
        ("time-limit", "24:00:00", "1441"),
        ("licenses", "matlab:2", "matlab:2,matlab:1"),
        ("licenses", "matlab", "ansys"),
        ("reservation", "paper", "paper,others"),
    ] {
        let granted = get(&policy, "a", &ask(&[(name, fine)]), 4);
        assert!(granted.is_ok(), "{name}={fine}: {granted:?}");
        let refused = get(&policy, "a", &ask(&[(name, more)]), 4).expect_err(more);
        assert!(refused.contains("SlurmPolicy a"), "{refused}");
    }
    let refused = get(&policy, "a", &Ask::default(), 5).expect_err("five nodes");
    assert!(refused.contains("5 nodes, and at most 4"), "{refused}");
}

#[test]
fn what_a_policy_does_not_open_is_shut() {
    let least = json!({
        "namespaces": ["a"], "user": "alice", "accounts": ["team1"], "partitions": ["gpu"],
    });
    let policy = policy(vec![rule("a", &least)]);
    for (name, value) in [
        ("priority", "1"),
        ("nice", "-1"),
        ("qos", "high"),
        ("licenses", "matlab"),
        ("reservation", "paper"),
    ] {
        assert!(get(&policy, "a", &ask(&[(name, value)]), 1).is_err(), "{name}");
    }
    assert!(
        get(&policy, "b", &Ask::default(), 1).expect_err("default deny").contains("namespace b")
    );
    assert!(get(&policy, "a", &ask(&[("nice", "5")]), 1000).is_ok());
}

#[test]
fn nodes_are_shared_as_the_policy_says() {
    let shared = |how: &str, exclusive: Option<&str>| {
        let mut spec = team(&["a"]);
        spec["sharing"] = json!(how);
        let asked = exclusive.map(|word| ask(&[("exclusive", word)])).unwrap_or_default();
        get(&policy(vec![rule("a", &spec)]), "a", &asked, 1).map(|got| got.options.exclusive)
    };
    assert_eq!(shared("Never", None), Ok(Some(Exclusive::Node)));
    assert_eq!(shared("Never", Some("user")), Ok(Some(Exclusive::Node)));
    assert_eq!(shared("Never", Some("topo")), Ok(Some(Exclusive::Topo)));
    assert_eq!(shared("Always", None), Ok(None));
    assert!(shared("Always", Some("true")).is_err());
    assert_eq!(shared("Allowed", Some("user")), Ok(Some(Exclusive::User)));
}

#[test]
fn the_closest_policy_counts_and_no_other_adds_to_it() {
    let mut researchers = team(&["a"]);
    researchers["groups"] = json!(["research"]);
    researchers["user"] = json!("carol");
    let mut all = team(&["*"]);
    all["user"] = json!("guest");
    let policy = policy(vec![
        rule("all", &all),
        rule("team", &team(&["a"])),
        rule("research", &researchers),
    ]);
    let user = |namespace: &str, groups: &str| {
        let annotations = BTreeMap::from([
            (crate::names::REQUESTER.to_owned(), "dora".to_owned()),
            (crate::names::REQUESTER_GROUPS.to_owned(), groups.to_owned()),
        ]);
        let requester = Requester::read(&annotations);
        get(&policy, namespace, &Ask { requester, ..Ask::default() }, 1).map(|got| got.user)
    };
    assert_eq!(user("a", "users,research").as_deref(), Ok("carol"));
    assert_eq!(user("a", "users").as_deref(), Ok("alice"));
    assert_eq!(user("b", "research").as_deref(), Ok("guest"));
}

#[test]
fn a_requester_is_believed_only_where_admission_guards_it() {
    let mut spec = team(&["a"]);
    spec["groups"] = json!(["research"]);
    let mut policy = policy(vec![rule("research", &spec)]);
    let requester = Requester { groups: ["research".to_owned()].into(), ..Requester::default() };
    let asked = Ask { requester: Some(requester), ..Ask::default() };
    assert!(get(&policy, "a", &asked, 1).is_ok());
    policy.believes_requester = false;
    assert!(get(&policy, "a", &asked, 1).is_err());
}

#[test]
fn a_policy_that_cannot_be_read_denies_and_lets_no_wider_one_in() {
    let with = |key: &str, value: Value| {
        let mut spec = team(&["a"]);
        spec[key] = value;
        rule("a", &spec)
    };
    let wide = || rule("z", &team(&["*"]));
    for (key, value) in [
        ("user", json!("root")),
        ("user", json!("0")),
        ("user", json!("1000")),
        ("user", json!("a b")),
        ("group", json!("0")),
        ("accounts", json!([])),
        ("partitions", json!([])),
        ("maxTimeLimit", json!("soon")),
        ("maxNodes", json!(-1)),
        ("maxGpus", json!(1)),
        ("sharing", json!("perhaps")),
    ] {
        let refused = get(&policy(vec![wide(), with(key, value.clone())]), "a", &Ask::default(), 1);
        let refused = refused.expect_err(key);
        assert!(refused.contains("cannot be used"), "{key}={value}: {refused}");
    }
    let slurm = policy(vec![with("user", json!("slurm"))]);
    assert!(
        get(&slurm, "a", &Ask::default(), 1).expect_err("SlurmUser").contains("nobody may run")
    );
    let mut everywhere = team(&["*"]);
    everywhere["groups"] = json!(["research"]);
    assert!(rule("g", &everywhere).terms.is_err(), "groups of namespaces that nobody guards");
}

fn some<T: Clone + std::fmt::Debug + 'static>(
    all: &[T],
) -> impl Strategy<Value = Option<T>> + use<T> {
    proptest::option::of(proptest::sample::select(all.to_vec()))
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let names = (
        some(&["team1", "team2", "team3"]),
        some(&["gpu", "spare", "gpu,spare", "gpu,secret", "secret"]),
        some(&["normal", "high", "top"]),
        some(&["paper", "others", "paper,others"]),
        some(&["matlab", "matlab:2", "matlab:3", "matlab:1,matlab:2", "ansys|matlab", "ansys"]),
        some(&["true", "user", "mcs", "topo"]),
    );
    let numbers = (
        proptest::option::of(1u32..3000),
        proptest::option::of(1u32..3000),
        proptest::option::of(0u32..2000),
        proptest::option::of(-30i32..30),
    );
    (names, numbers).prop_map(|(names, numbers)| {
        let mut ask = Ask::default();
        let texts = [
            ("account", names.0),
            ("partition", names.1),
            ("qos", names.2),
            ("reservation", names.3),
            ("licenses", names.4),
            ("exclusive", names.5),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                ask.set(name, value).expect("well formed");
            }
        }
        ask.time_limit_minutes = numbers.0;
        ask.options = Options {
            time_min_minutes: numbers.1,
            priority: numbers.2,
            nice: numbers.3,
            ..ask.options
        };
        ask
    })
}

fn any_spec() -> impl Strategy<Value = Value> {
    let lists = (
        proptest::sample::subsequence(vec!["team1", "team2"], 1..=2),
        proptest::sample::subsequence(vec!["gpu", "spare"], 1..=2),
        proptest::sample::subsequence(vec!["normal", "high"], 0..=2),
        proptest::sample::subsequence(vec!["paper", "others"], 0..=2),
        proptest::sample::select(vec!["Allowed", "Never", "Always"]),
    );
    let caps = (
        proptest::option::of(0u32..2000),
        -20i32..20,
        proptest::option::of(1u32..3000),
        proptest::option::of(1u32..8),
        proptest::option::of(0u32..4),
    );
    (lists, caps).prop_map(|(lists, caps)| {
        let mut spec = json!({
            "namespaces": ["a"], "user": "alice", "accounts": lists.0, "partitions": lists.1,
            "qos": lists.2, "reservations": lists.3, "sharing": lists.4, "minNice": caps.1,
        });
        if let Some(most) = caps.0 {
            spec["maxPriority"] = json!(most);
        }
        if let Some(most) = caps.2 {
            spec["maxTimeLimit"] = json!(most.to_string());
        }
        if let Some(most) = caps.3 {
            spec["maxNodes"] = json!(most);
        }
        if let Some(most) = caps.4 {
            spec["licenses"] = json!({"matlab": most});
        }
        spec
    })
}

proptest! {
    /// Judged by the specification itself, and not by what the code made of it.
    #[test]
    fn what_is_granted_never_exceeds_the_policy(
        spec in any_spec(), ask in any_ask(), nodes in 1u32..12,
    ) {
        let policy = policy(vec![rule("a", &spec)]);
        let Ok(got) = get(&policy, "a", &ask, nodes) else { return Ok(()) };
        let lists = |key: &str, one: &str| {
            spec[key].as_array().is_some_and(|all| all.iter().any(|own| own == one))
        };
        let most = |key: &str| spec[key].as_u64();
        prop_assert_eq!((got.user.as_str(), got.group.as_str()), ("alice", "alice"));
        prop_assert!(lists("accounts", got.account.as_deref().unwrap_or("")));
        prop_assert!(got.partition.split(',').all(|one| lists("partitions", one)));
        prop_assert!(got.qos.as_deref().is_none_or(|one| lists("qos", one)));
        let mut named = got.options.reservation.iter().flat_map(|all| all.split(','));
        prop_assert!(named.all(|one| lists("reservations", one)));
        prop_assert!(got.options.priority.is_none_or(|n| most("maxPriority").is_some_and(|m| u64::from(n) <= m)));
        let nice = i64::from(got.options.nice.unwrap_or(0));
        prop_assert!(nice >= spec["minNice"].as_i64().unwrap_or(0).min(0));
        prop_assert!(most("maxNodes").is_none_or(|m| u64::from(nodes) <= m));
        if let Some(limit) = spec["maxTimeLimit"].as_str().and_then(|m| m.parse::<u32>().ok()) {
            prop_assert!(got.time_limit_minutes.is_some_and(|n| n <= limit));
        }
        let held: u64 = got.options.licenses.iter().flat_map(|all| all.split([',', '|']))
            .map(|one| one.split_once(':').map_or(1, |(_, n)| n.parse().expect("a number"))).sum();
        prop_assert!(held == 0 || held <= spec["licenses"]["matlab"].as_u64().unwrap_or(0)
            && !got.options.licenses.as_deref().unwrap_or("").contains("ansys"));
        match spec["sharing"].as_str() {
            Some("Never") => prop_assert!(whole(got.options.exclusive)),
            Some("Always") => prop_assert_eq!(got.options.exclusive, None),
            _ => {}
        }
    }
}
