use gangway_core::job::{BaseState, Standing};

use super::*;

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_job_is_read_and_what_is_missing_is_empty() {
    let wire: WireJobs = read(
        r#"{"jobs":[{"job_id":7,"name":"gang","job_state":["RUNNING","CONFIGURING"],
        "step_id":{"sluid":"sBXHM82PYXKD00","step_id":"entire"},"state_reason":"None",
        "start_time":{"set":true,"infinite":false,"number":1795387520},"end_time":null,
        "priority":{"set":false,"infinite":false,"number":0},"user_name":"alice",
        "flags":["USING_DEFAULT_QOS","EXTERNAL_JOB"],"nodes":"p5-[1-2]","hold":false,
        "job_resources":{"nodes":{"list":"p5-[1-2]"}}},{"name":"no id"}],
        "last_update":{"set":true,"infinite":false,"number":5}}"#,
    );
    assert_eq!(wire.last_update.seconds(), 5);
    let jobs: Vec<_> = wire.jobs.into_iter().filter_map(WireJob::into_job).collect();
    assert_eq!(jobs.len(), 1);
    let job = &jobs[0];
    assert_eq!((job.id, job.sluid.as_str()), (JobId(7), "sBXHM82PYXKD00"));
    assert_eq!(job.state.standing(), Standing::Waiting);
    assert_eq!((job.start_time, job.end_time, job.priority), (1_795_387_520, 0, None));
    assert!(job.external && job.reason.is_empty() && job.admin_comment.is_empty());
}

#[test]
fn what_ends_one_component_is_told_of_all() {
    let time = |number: i64| format!(r#"{{"set":true,"infinite":false,"number":{number}}}"#);
    let component = |id: u32, preempt: i64, end: i64, failed: &str| {
        format!(
            r#"{{"job_id":{id},"het_job_id":{},"het_job_offset":{{"set":true,"number":{}}},
            "job_state":["RUNNING"],"failed_node":"{failed}","preempt_time":{},"end_time":{}}}"#,
            time(17),
            id - 17,
            time(preempt),
            time(end)
        )
    };
    let parts =
        [component(17, 0, 900, ""), component(18, 100, 160, "p5-3"), component(19, 0, 900, "")];
    let jobs = read::<WireJobs>(&format!(r#"{{"jobs":[{}]}}"#, parts.join(","))).into_jobs();
    let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!((job.id, job.preempt_time, job.end_time), (JobId(17), 100, 160));
    assert_eq!((job.failed_nodes.as_str(), job.parts.len()), ("p5-3", 3));
}

#[test]
fn states_carry_ids_as_text_number_and_component() {
    let wire: WireStates = read(
        r#"{"jobs":[{"job_id":"1","state":["RUNNING"]},{"job_id":2,"state":["PENDING"]},
        {"job_id":"17+0","state":["PENDING"]},{"job_id":"18+1","state":["CANCELLED","COMPLETING"]},
        {"job_id":"5_1","state":["RUNNING"]},{"job_id":{"set":true,"number":9},"state":[]}]}"#,
    );
    let states: Vec<_> = wire.jobs.unwrap().into_iter().filter_map(WireState::into_state).collect();
    let ids: Vec<_> = states.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2, 17, 18, 9]);
    assert_eq!(states[3].1.base, BaseState::Cancelled);
    assert!(read::<WireStates>("{}").jobs.is_none());
}

#[test]
fn an_allocation_has_devices_by_index() {
    let wire: WireResources = read(
        r#"{"nodes":[{"node":"p5-1","sockets_per_node":2,"cores_per_socket":96,"mem_alloc":10000,
        "core_bitmap":"0x00000000000000000000003F00000000000000000000003F","channel":{"set":false},
        "gres":[{"name":"gpu","type":"h100","count":4,"index":"0-1,4-5"},
                {"name":"efa","type":"","count":2,"index":null}]}]}"#,
    );
    let allocation = wire.into_allocation().unwrap();
    let node = &allocation.nodes[0];
    assert_eq!((node.cpus, node.memory_mib), (12, 10_000));
    assert_eq!(node.gres[0].indexes, [0, 1, 4, 5]);
    assert_eq!((node.gres[1].count, node.gres[1].indexes.len()), (2, 0));
}

#[test]
fn a_job_in_detail_tells_what_it_was_granted() {
    let text = |detail: &str| {
        format!(
            r#"{{"jobs":[{{"job_id":7,"gres_detail":[{detail}],"job_resources":{{"nodes":{{
            "count":2,"list":"p5-[1-2]","allocation":[
            {{"index":0,"name":"p5-1","cpus":{{"count":12,"used":0}},
              "memory":{{"used":0,"allocated":10000}},"sockets":[{{"index":0,"cores":[]}}]}},
            {{"name":"p5-2","cpus":{{"count":12}},"memory":{{"allocated":10000}}}}]}}}}}}]}}"#
        )
    };
    let granted = |detail: &str| read::<WireJobs>(&text(detail)).granted(JobId(7));
    let nodes = granted(
        r#""efa:8(IDX:0-7),gpu:h100:3(IDX:0,4-5)","efa:8(IDX:24-31),gpu:h100:3(IDX:1-3),nic:1(CNT:1)""#,
    )
    .unwrap()
    .nodes;
    assert_eq!((nodes[0].name.as_str(), nodes[0].cpus, nodes[0].memory_mib), ("p5-1", 12, 10_000));
    let gpu = &nodes[0].gres[1];
    assert_eq!((gpu.name.as_str(), gpu.kind.as_str(), gpu.count), ("gpu", "h100", 3));
    assert_eq!(gpu.indexes, [0, 4, 5]);
    assert_eq!(
        (nodes[1].gres[0].kind.as_str(), &nodes[1].gres[0].indexes[..2]),
        ("", &[24, 25][..])
    );
    assert_eq!((nodes[1].gres[2].count, nodes[1].gres[2].indexes.len()), (1, 0));
    assert!(granted(r#""","""#).unwrap().nodes.iter().all(|node| node.gres.is_empty()));

    // What is not understood is asked for elsewhere, never guessed.
    for detail in [
        "",
        r#""gpu:1(IDX:0)""#,
        r#""gpu:1(IDX:)","gpu:1(IDX:0)""#,
        r#""gpu:1","gpu:1""#,
        r#""gpu:a:b:1(IDX:0)","gpu:1(IDX:0)""#,
        r#""gpu:1K(CNT:1024)","gpu:1(IDX:0)""#,
        r#""mps:100(IDX:0(100/100))","gpu:1(IDX:0)""#,
        r#""gpu:1(MASK:0x1)","gpu:1(IDX:0)""#,
    ] {
        assert_eq!(granted(detail), None, "{detail}");
    }
    assert_eq!(read::<WireJobs>(r#"{"jobs":[{"job_id":7}]}"#).granted(JobId(7)), None);
}

#[test]
fn an_index_that_cannot_be_read_is_an_error_not_a_guess() {
    for index in ["0-", "3-1", "a", "0-9999999", "0x3"] {
        let text = format!(
            r#"{{"nodes":[{{"node":"a","core_bitmap":"0x1","gres":[{{"name":"gpu","index":"{index}"}}]}}]}}"#
        );
        assert!(read::<WireResources>(&text).into_allocation().is_err(), "{index}");
    }
    assert_eq!(indexes("7,0-2,2"), Some(vec![0, 1, 2, 7]));
    assert_eq!(indexes(""), Some(vec![]));
}

#[test]
fn ranges_are_bounded_together_not_one_by_one() {
    assert_eq!(indexes("0-65535").map(|all| all.len()), Some(65_536));
    assert_eq!(indexes("0-65536"), None);
    let again = vec!["0-65535"; 100_000].join(",");
    assert_eq!(indexes(&again), None);
    let detail = vec!["gpu:1(IDX:0-65535)"; 100_000].join(",");
    assert_eq!(gres_detail(&detail), None);
}

#[test]
fn a_finished_job_tells_its_end() {
    let wire: WireFinished = read(
        r#"{"jobs":[{"job_id":7,"state":{"current":["TIMEOUT"],"reason":"None"},"nodes":"p5-1",
        "comment":{"administrator":"key","job":"","system":null},
        "time":{"submission":1,"start":2,"end":3,"limit":{"set":true,"number":1}}}]}"#,
    );
    let job = wire.jobs.into_iter().find_map(WireFinishedJob::into_finished).unwrap();
    assert_eq!((job.submit_time, job.start_time, job.end_time), (1, 2, 3));
    assert_eq!((job.state.standing(), job.admin_comment.as_str()), (Standing::Over, "key"));
}
