use proptest::prelude::*;

use super::*;
use crate::job::{
    Allocation, GresAllocation, GresRequest, Job, JobId, JobState, Moment, NodeAllocation,
};
use crate::outlook::{Node, devices};
use crate::policy::Grant;

fn job(id: u32, state: &str, partition: &str, priority: u32) -> Job {
    Job {
        id: JobId(id),
        state: JobState::parse(&[state]),
        partition: partition.to_owned(),
        user: "alice".to_owned(),
        priority: Some(priority),
        node_count: 2,
        gpus: 16,
        ..Job::default()
    }
}

fn partition(name: &str, tier: u32) -> Partition {
    Partition { name: name.to_owned(), tier, up: true }
}

fn host(name: &str, state: &[&str], gpus: u32, taken: &[u32]) -> Node {
    Node {
        name: name.to_owned(),
        state: state.iter().map(|one| (*one).to_owned()).collect(),
        partitions: vec!["gangway".to_owned()],
        cpus: (192, u32::try_from(taken.len()).expect("few")),
        gres: format!("gpu:h100:{gpus}(S:0-1),efa:4"),
        used: vec![gpus_used(taken)],
        ..Node::default()
    }
}

fn gpus_used(indexes: &[u32]) -> GresAllocation {
    let count = u32::try_from(indexes.len()).expect("few");
    let (name, kind) = ("gpu".to_owned(), "h100".to_owned());
    GresAllocation { name, kind, count, indexes: indexes.to_vec() }
}

fn gang(namespace: &str, name: &str, pods: &[&str]) -> Workload {
    Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind: "Job".to_owned(),
        gang: format!("uid-of-{namespace}-{name}"),
        pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
    }
}

#[test]
fn the_queue_is_in_slurms_order() {
    let jobs = [
        job(7, "PENDING", "gangway", 10),
        job(5, "PENDING", "gangway", 20),
        job(4, "PENDING", "gangway", 10),
        job(3, "PENDING", "urgent", 1),
        job(9, "RUNNING", "gangway", 1),
        job(2, "COMPLETED", "gangway", 99),
        job(8, "PENDING", "gangway,urgent", 1),
    ];
    let partitions = [partition("gangway", 1), partition("urgent", 5)];
    let rows = rows(&jobs, &partitions, |_| None);
    let seen: Vec<_> = rows.iter().map(|row| (row.job, row.position)).collect();
    // What runs has no place; a higher tier comes first whatever the priorities; what names two partitions waits in
    // both, and has the better place.
    assert_eq!(seen, [(9, 0), (3, 1), (8, 2), (5, 1), (4, 2), (7, 3)]);
}

#[test]
fn who_is_held_has_no_place_and_takes_none_from_others() {
    let held = Job { reason: "JobHeldUser".to_owned(), ..job(1, "PENDING", "gangway", 9) };
    let rows = rows(&[held, job(2, "PENDING", "gangway", 1)], &[], |_| None);
    let seen: Vec<_> = rows.iter().map(|row| (row.job, row.position)).collect();
    assert_eq!(seen, [(1, 0), (2, 1)]);
}

#[test]
fn an_estimate_is_no_end() {
    let mut waits = job(1, "PENDING", "gangway", 1);
    (waits.start_time, waits.end_time) = (100, 200);
    let rows = rows(&[waits], &[], |_| None);
    assert_eq!((rows[0].start, rows[0].end), (100, 0));
}

proptest! {
    #[test]
    fn every_live_job_is_listed_once_and_places_count_up(
        all in proptest::collection::vec((1_u32..50, 0_u32..4, 0_usize..3, 0_usize..3), 0..40)
    ) {
        let states = ["PENDING", "RUNNING", "CANCELLED"];
        let names = ["a", "b", "a,b"];
        let jobs: Vec<Job> = (1..)
            .zip(&all)
            .map(|(id, (_, priority, state, name))| job(id, states[*state], names[*name], *priority))
            .collect();
        let rows = rows(&jobs, &[partition("a", 1), partition("b", 2)], |_| None);
        let mut ids: Vec<u32> = rows.iter().map(|row| row.job).collect();
        ids.sort_unstable();
        let live = jobs.iter().filter(|job| job.state.base.name() != "CANCELLED");
        prop_assert_eq!(ids, live.map(|job| job.id.0).collect::<Vec<_>>());
        let first_waiting = rows.iter().position(Row::waits).unwrap_or(rows.len());
        prop_assert!(rows[first_waiting..].iter().all(Row::waits), "who runs comes first");
        for name in ["a", "b"] {
            let places = rows.iter().filter(|row| row.partition == name && row.waits());
            let places: Vec<u32> = places.map(|row| row.position).collect();
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", places);
        }
        prop_assert!(rows.iter().all(|row| (row.position > 0) == row.waits()));
    }
}

#[test]
fn a_word_means_one_job_or_says_which_it_may_mean() {
    let (mut a, mut b) = (Row { job: 1, ..Row::default() }, Row { job: 2, ..Row::default() });
    a.workload = Some(gang("team-a", "train", &["train-0", "train-1"]));
    b.workload = Some(gang("team-b", "train", &["train-x"]));
    let rows = [a, b, Row { job: 3, name: "sbatch".to_owned(), ..Row::default() }];
    let found = |word: &str, namespace: &str| {
        let ids = |rows: Vec<&Row>| rows.iter().map(|row| row.job).collect::<Vec<_>>();
        find(&rows, word, namespace).map(|row| row.job).map_err(ids)
    };
    assert_eq!(found("3", ""), Ok(3));
    assert_eq!(found("team-a/train", ""), Ok(1));
    assert_eq!(found("train", "team-b"), Ok(2));
    assert_eq!(found("pod/team-a/train-1", ""), Ok(1));
    assert_eq!(found("train-x", ""), Ok(2));
    assert_eq!(found("uid-of-team-a-train", ""), Ok(1));
    assert_eq!(found("train", ""), Err(vec![1, 2]));
    // Anybody may call a batch job anything: only its number means it.
    assert_eq!(found("sbatch", ""), Err(vec![]));
    assert_eq!(found("4", ""), Err(vec![]));
}

#[test]
fn a_gang_that_waits_anew_beside_its_end_is_the_one_that_is_meant() {
    let own = Some(gang("team", "train", &[]));
    let ends = Row { job: 5, state: "RUNNING".to_owned(), workload: own.clone(), ..Row::default() };
    let waits = Row { job: 9, state: "PENDING".to_owned(), workload: own, ..Row::default() };
    assert_eq!(find(&[ends, waits], "team/train", "").map(|row| row.job), Ok(9));
}

#[test]
fn who_waits_is_told_why_who_is_ahead_and_what_would_help() {
    let mut runs = job(1, "RUNNING", "gangway", 1);
    (runs.start_time, runs.end_time) = (500, 4600);
    let mut held = job(2, "PENDING", "gangway", 90);
    held.reason = "JobHeldUser".to_owned();
    let elsewhere = job(3, "PENDING", "other", 80);
    let mut first = job(4, "PENDING", "gangway", 50);
    first.reason = "Resources".to_owned();
    let mut own = job(5, "PENDING", "gangway", 10);
    own.reason = "Priority".to_owned();
    let asks = own.clone();
    let rows = rows(&[own, first, held, elsewhere, runs], &[], |_| None);
    let own = rows.iter().find(|row| row.job == 5).expect("it is there");
    let mut bad = host("n4", &["IDLE", "DRAIN"], 8, &[]);
    (bad.reason, bad.reason_user) = ("bad NIC".to_owned(), "admin".to_owned());
    let hosts = [
        host("n1", &["MIXED"], 8, &[0, 1]),
        host("n2", &["IDLE"], 8, &[]),
        host("n3", &["IDLE"], 4, &[]),
        bad,
    ];
    let up = [partition("gangway", 1)];
    let explained = explain(own, (&rows, Some(&asks)), (&hosts, &up), 1000);
    assert_eq!(explained.why, "Priority: jobs of higher priority wait for the same nodes");
    // Neither what is held nor what waits elsewhere is ahead of anybody.
    assert_eq!(explained.ahead.iter().map(|row| row.job).collect::<Vec<_>>(), [4]);
    assert_eq!(explained.ahead_count, 1);
    assert_eq!(
        explained.help,
        [
            "needs 2 nodes with 8 x gpu; of 3 such nodes 1 is free, 1 busy, 1 drained by admin 'bad NIC'",
            "those that hold its nodes end at the latest: job 1 of alice (2 nodes) in 1h00m",
            "a shorter time limit lets Slurm start it in a gap before those ahead need their nodes; fewer nodes or GPUs find a gap sooner",
        ]
    );
    let shut = Partition { up: false, ..partition("gangway", 1) };
    let explained = explain(own, (&rows, Some(&asks)), (&hosts, &[shut]), 1000);
    assert!(explained.help[1].contains("is not up"), "{:?}", explained.help);
    let runs = explain(&rows[0], (&rows, None), (&hosts, &[]), 1000);
    assert!(runs.why.starts_with("it does not wait: it runs on"), "{}", runs.why);
    assert!(runs.why.ends_with("since 8m; it ends in 1h00m at the latest"), "{}", runs.why);
}

fn gpus(node: &str, indexes: &[u32]) -> NodeAllocation {
    let count = u32::try_from(indexes.len()).expect("few");
    let gres = |name: &str, indexes: &[u32]| GresAllocation {
        name: name.to_owned(),
        kind: String::new(),
        count,
        indexes: indexes.to_vec(),
    };
    let gres = vec![gres("efa", &[9]), gres("gpu", indexes)];
    NodeAllocation { name: node.to_owned(), gres, ..NodeAllocation::default() }
}

#[test]
fn each_gpu_has_the_holder_that_slurm_gave_it_to() {
    let known = |nodes| Taken::Known(Allocation { nodes });
    let seat = |pod: &str, node: &str, gpus: &[u32]| Seated {
        pod: pod.to_owned(),
        node: node.to_owned(),
        gpus: gpus.to_vec(),
    };
    let held = [
        Held {
            job: 1,
            on: known(vec![gpus("n10", &[0, 1, 2]), gpus("n2", &[4])]),
            workload: Some(gang("team", "train", &["train-0"])),
            // One seat is empty still: what nobody sits on is the gang's.
            seats: vec![seat("train-0", "n10", &[0, 1])],
            ..Held::default()
        },
        Held {
            job: 2,
            user: "bob".to_owned(),
            on: known(vec![gpus("n10", &[5])]),
            ..Held::default()
        },
        Held { job: 3, on: Taken::Nodes("n[2,10]".to_owned()), ..Held::default() },
    ];
    let hosts =
        [host("n10", &["MIXED", "EXTERNAL"], 8, &[0, 1, 2, 5]), host("n2", &["MIXED"], 8, &[4])];
    let rows = nodes(&hosts, &held);
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            let holders = row.holders.iter();
            let holders = holders.map(|one| (one.job, one.pod.as_str(), one.gpus.clone()));
            (row.name.as_str(), row.state.as_str(), row.free.clone(), holders.collect::<Vec<_>>())
        })
        .collect();
    let none = Vec::new();
    assert_eq!(
        seen,
        [
            (
                "n2",
                "MIXED",
                vec![0, 1, 2, 3, 5, 6, 7],
                vec![(3, "", none.clone()), (1, "", vec![4])]
            ),
            (
                "n10",
                "MIXED",
                vec![3, 4, 6, 7],
                vec![(3, "", none), (1, "train-0", vec![0, 1]), (1, "", vec![2]), (2, "", vec![5])]
            ),
        ]
    );
}

#[test]
fn where_slurm_only_counts_nobody_says_which_are_free() {
    let used = vec![GresAllocation { count: 3, ..gpus_used(&[]) }];
    let counted = Node { used, ..host("n1", &["MIXED"], 8, &[]) };
    assert_eq!(nodes(&[counted], &[])[0].free, [0_u32; 0]);
}

#[test]
fn usage_counts_only_the_seconds_within_the_time() {
    let spent = |job: u32, user: &str, namespace: &str, start: i64, end: i64| Spent {
        job,
        user: user.to_owned(),
        account: "team1".to_owned(),
        namespace: namespace.to_owned(),
        gpus: 8,
        nodes: 1,
        start,
        end,
    };
    let all = [
        spent(1, "alice", "ml", 0, 500),
        spent(2, "alice", "ml", 900, 1100),
        // To accounting it runs until the end of the time that was asked about, which is yet to come.
        spent(3, "bob", "", 1500, 2500),
        // It runs still.
        spent(4, "bob", "", 1900, 0),
        // It never started in this time, or at all.
        spent(5, "bob", "", 2100, 2200),
        spent(6, "bob", "", 0, 0),
    ];
    let sums = |by| {
        let sums = usage(&all, by, (1000, 2000), 1950);
        sums.into_iter()
            .map(|sum| (sum.key, sum.jobs, sum.gpu_seconds, sum.node_seconds))
            .collect::<Vec<_>>()
    };
    let row = |key: &str, jobs: u32, seconds: u64| (key.to_owned(), jobs, 8 * seconds, seconds);
    assert_eq!(sums(By::User), [row("bob", 2, 500), row("alice", 1, 100)]);
    assert_eq!(sums(By::Account), [row("team1", 3, 600)]);
    assert_eq!(sums(By::Namespace), [row("-", 2, 500), row("ml", 1, 100)]);
    assert_eq!(sums(By::Job), [row("3", 1, 450), row("2", 1, 100), row("4", 1, 50)]);
}

#[test]
fn a_gres_is_read_as_slurm_users_write_it_and_nothing_else() {
    let gres = |name: &str, kind: Option<&str>, count| GresRequest {
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        count,
    };
    assert_eq!(read_gres(""), Ok(vec![]));
    assert_eq!(
        read_gres("gpu:h100:8,efa:32"),
        Ok(vec![gres("gpu", Some("h100"), 8), gres("efa", None, 32)])
    );
    assert_eq!(read_gres("gpu"), Ok(vec![gres("gpu", None, 1)]));
    assert_eq!(read_gres("gpu:h100"), Ok(vec![gres("gpu", Some("h100"), 1)]));
    for bad in [
        "gpu:0",
        "gpu:h100:",
        "gpu:h100:8:9",
        ":8",
        "gpu=8",
        "gpu:a b:1",
        "gpu:h100:99999999999",
        "gpu:70000",
    ] {
        assert!(read_gres(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_choice_is_names_and_nothing_else() {
    let ask = choice("a,b", "team1", "", Some(60)).expect("names");
    assert_eq!((ask.partition.as_deref(), ask.qos), (Some("a,b"), None));
    assert!(choice("a b", "", "", None).is_err());
    assert!(choice("", "--x=1 y", "", None).is_err());
}

#[test]
fn a_question_asks_as_granted_and_cannot_start() {
    let grant = Grant {
        user: "alice".to_owned(),
        group: "alice".to_owned(),
        account: Some("team1".to_owned()),
        partition: Some("gangway".to_owned()),
        qos: None,
        feature: Some("pods".to_owned()),
        terms: None,
    };
    let what = WhatIf { nodes: 8, gres: read_gres("gpu:8").expect("a GRES"), ..WhatIf::default() };
    let asked = trial(&what, &grant, "prod");
    assert_eq!((asked.user.as_str(), asked.partition.as_str()), ("alice", "gangway"));
    assert_eq!(asked.options.constraints.as_deref(), Some("pods"));
    let [one] = asked.components.as_slice() else { unreachable!("one component") };
    assert_eq!(
        (one.nodes, one.gres_per_node.len(), one.key.as_str()),
        (8, 1, "gangway-what-if/1 prod")
    );
    // It is nobody's placeholder: no sweep and no gang may take it for one.
    assert_eq!(Stamp::parse(&one.key), None);
    let (heavy, begin) = ballast(&asked);
    assert_eq!((heavy.nodes, heavy.key.as_str()), (1, "gangway-what-if/1 prod"));
    assert!(matches!(begin, Moment::In(seconds) if seconds > 3600));
}

#[test]
fn a_number_of_gpus_is_read_from_a_nodes_gres() {
    for (gres, gpus) in [
        ("gpu:h100:8,efa:32", 8),
        ("gpu:8", 8),
        ("gpu:a:4(S:0),gpu:b:2", 6),
        ("", 0),
        ("efa:32", 0),
    ] {
        assert_eq!(devices(gres, "gpu"), gpus, "{gres}");
    }
}

#[test]
fn a_placeholder_alone_tells_its_workload() {
    let stamp = Stamp::parse("gangway/1 prod the-uid 1 00000000000000aa").expect("a stamp");
    let known = Workload::named(&stamp, "ml/train");
    assert_eq!((known.path().as_str(), known.gang.as_str()), ("ml/train", "the-uid"));
    assert_eq!(Workload::named(&stamp, "my-job").path(), "my-job");
}

#[test]
fn spans_are_said_as_people_do() {
    let said: Vec<_> = [0, 59, 60, 3599, 3600, 86_399, 90_000, -5].map(lasting).into();
    assert_eq!(said, ["0s", "59s", "1m", "59m", "1h00m", "23h59m", "1d01h", "0s"]);
}
