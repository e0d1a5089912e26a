//! People at a terminal: the queue of pods and sbatch jobs, why one waits, who has which GPU, what if, what was used;
//! and cancel, for those who may.

mod screen;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use gangway_core::desk::{WhatIf, ballast, guard, trial};
use gangway_core::job::{BaseState, JobId, Standing};
use gangway_core::place::parse_ranges;
use gangway_core::policy::Grant;
use gangway_tests::{Bridge, SOON, Story, manifest, wait};
use serde_json::Value;

use crate::door::Trust;

/// What a command came to.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) complaint: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.complaint);
        serde_json::from_str(&self.out).unwrap_or_else(|_| unreachable!("no JSON: {}", self.out))
    }
}

/// Types a command at the door of the story's bridge, with these certificates where there are any.
pub(crate) async fn types(
    story: &Story,
    program: &Path,
    config: Option<&Path>,
    words: &[&str],
) -> Said {
    let mut command = Command::new(program);
    command.args(words).env_remove("NO_COLOR").env("RUST_BACKTRACE", "0").env("HOME", "/nowhere");
    match config {
        Some(config) => {
            command.env("GANGWAY_TERMINAL_CONFIG", config).env_remove("GANGWAY_DOOR_URL")
        }
        None => command.env("GANGWAY_DOOR_URL", format!("http://127.0.0.1:{}", story.bridge.grpc)),
    };
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("it is joined");
    let ran = ran.expect("the command can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said { code: ran.status.code(), out: text(ran.stdout), complaint: text(ran.stderr) }
}

/// Ids of Slurm's live jobs in the partition `hybrid`, in the order in which squeue shows who waits.
fn squeue(story: &Story) -> Vec<u64> {
    let words = ["-h", "-p", "hybrid", "-t", "PD", "-S", "-p,i", "-o", "%A"];
    let said = story.world.run_as("root", "squeue", &words);
    said.lines().map(|line| line.trim().parse().expect("a job id")).collect()
}

#[tokio::test]
async fn everything_that_slurm_knows_is_seen_from_a_terminal() {
    let Some(story) = Story::begin("terminal").await else { return };
    let gangway = Bridge::binary();
    // Batch jobs have h2 to h4 and a part of h1, a pod has another; a gang and a batch job wait for the rest.
    let sbatch = |words: &[&str]| {
        let always = ["-p", "hybrid", "-n1", "-c1", "--mem=500", "--time=60"];
        story.slurm.sbatch("alice", &[&always, words].concat())
    };
    for node in ["h2", "h3", "h4"] {
        sbatch(&["--gres=gpu:8", &format!("--nodelist={node}")]);
    }
    let batch = sbatch(&["--gres=gpu:3", "--nodelist=h1"]);
    story.slurm.reaches(batch, BaseState::Running).await;
    let asks = [("gangway.dev/partition", "hybrid"), ("gangway.dev/time-limit", "60")];
    story.kube.create(&manifest::pod("holder", &manifest::template(4, &asks))).await;
    story.bound("holder", 1).await;
    let later = sbatch(&["--gres=gpu:8"]);
    story.kube.create(&manifest::indexed_job("train", 2, &manifest::template(8, &asks))).await;
    story.told("train", "Slurm job").await;
    let live = story.slurm.live().await;
    let placeholder = |of: &str| {
        let name = format!("{}/{of}", story.kube.namespace);
        let (_, job) = live.iter().find(|(_, job)| job.name == name).expect("a placeholder");
        u64::from(job.id.0)
    };
    let (holder, train) = (placeholder("holder"), placeholder("train"));
    story.slurm.reaches(later, BaseState::Pending).await;
    let ask = async |words: &[&str]| types(&story, &gangway, None, words).await;

    // In Slurm's order, both kinds in one list.
    wait("the list is of now", SOON, async || {
        let rows = ask(&["queue", "-p", "hybrid", "--waiting", "-o", "json"]).await.json();
        let ids = |rows: &Value| -> Vec<u64> {
            let rows = rows.as_array().expect("a list").iter();
            rows.map(|row| row["job"].as_u64().expect("an id")).collect()
        };
        let (seen, slurms) = (ids(&rows), squeue(&story));
        if seen == slurms && seen.contains(&train) && seen.contains(&u64::from(later)) {
            Ok(())
        } else {
            Err(format!("{seen:?}, squeue {slurms:?}"))
        }
    })
    .await;
    let rows = ask(&["queue", "-n", &story.kube.namespace, "-o", "json"]).await.json();
    let row = |id: u64| {
        let rows = rows.as_array().expect("a list").iter();
        rows.clone().find(|row| row["job"] == id).cloned().unwrap_or_default()
    };
    assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows}");
    assert_eq!(row(train)["workload"]["name"], "train");
    assert_eq!(row(train)["workload"]["kind"], "Job");
    assert_eq!((&row(train)["nodes"], &row(train)["gpus"]), (&2.into(), &16.into()), "{rows}");
    assert_eq!((&row(holder)["state"], &row(holder)["hosts"]), (&"RUNNING".into(), &"h1".into()));
    let table = ask(&["queue", "--user", "alice"]).await;
    assert!(table.out.contains(&format!("{}/train", story.kube.namespace)), "{}", table.out);
    assert!(!table.out.contains('\x1b'), "no terminal, no colours");
    story.note(&format!("\n{}", table.out));

    // Why, by the names of workload and pod, and by the job id; as a plugin of kubectl, found by kubectl.
    let why = ask(&["explain", "train", "-n", &story.kube.namespace, "-o", "json"]).await.json();
    assert_eq!(why["row"]["job"], train);
    let reason = story.slurm.job(u32::try_from(train).expect("an id")).await.reason;
    assert!(why["why"].as_str().is_some_and(|why| why.starts_with(&reason)), "{why} {reason}");
    let help = why["help"][0].as_str().expect("what it needs");
    assert!(
        help.starts_with("needs 2 nodes with 8 x gpu")
            && help.contains("of 4 such nodes none is free, 4 busy"),
        "{help}"
    );
    let pod = story.pods("train-").await[0].name.clone();
    let plugins = story.bridge.directory().join("plugins");
    std::fs::create_dir_all(&plugins).expect("the temporary directory can be written");
    symlink(&gangway, plugins.join("kubectl-gang")).expect("a link");
    let by_pod =
        kubectl(&story, &plugins, &["gang", "explain", &pod, "-n", &story.kube.namespace]).await;
    assert!(
        by_pod.out.contains(&format!("train (Slurm job {train})")),
        "{} {}",
        by_pod.out,
        by_pod.complaint
    );
    assert!(by_pod.out.contains("estimate:"), "{}", by_pod.out);
    wait("where Slurm plans it is told", SOON, async || {
        let said = ask(&["explain", "train", "-n", &story.kube.namespace]).await;
        if said.out.contains(", planned on h") { Ok(()) } else { Err(said.out) }
    })
    .await;
    story.note(&format!("\n{}", by_pod.out));
    let runs = ask(&["explain", &batch.to_string()]).await;
    assert!(runs.out.contains("it does not wait: it runs on h1"), "{}", runs.out);
    assert_eq!(ask(&["explain", "nobody"]).await.code, Some(4));

    // Whose GPUs, by index.
    let nodes = ask(&["nodes", "h1", "-o", "json"]).await.json();
    let holders = nodes[0]["holders"].as_array().expect("holders");
    let indexes = |of: &Value| -> Vec<u32> {
        let gpus = of["gpus"].as_array().expect("indexes").iter();
        gpus.map(|gpu| gpu.as_u64().and_then(|gpu| gpu.try_into().ok()).expect("an index"))
            .collect()
    };
    let of = |id: u64| holders.iter().find(|one| one["job"] == id).unwrap_or(&Value::Null);
    assert_eq!(indexes(of(batch.into())), story.slurm.devices(batch, "gpu").await["h1"], "{nodes}");
    let annotated = story.pods("holder").await[0].annotations["gangway.dev/index.gpu"].clone();
    assert_eq!(Some(indexes(of(holder))), parse_ranges(&annotated), "{nodes}");
    assert_eq!(of(holder)["pod"], "holder");
    assert_eq!(nodes[0]["free"].as_array().map(Vec::len), Some(1), "{nodes}");

    what_if(&story, &gangway).await;

    // Only who may: nobody, unless the configuration says so.
    let refused = ask(&["cancel", &later.to_string()]).await;
    assert_eq!(refused.code, Some(5), "{}", refused.complaint);
    assert!(refused.complaint.contains("desk.cancel"), "{}", refused.complaint);

    usage(&story, &gangway, (batch, 3), (u32::try_from(holder).expect("an id"), 4)).await;
    let away = types(&story, &gangway, None, &["queue", "--door-url", "http://127.0.0.1:1"]).await;
    assert_eq!(away.code, Some(3), "{}", away.complaint);
    assert!(away.complaint.contains("http://127.0.0.1:1"), "{}", away.complaint);
    story.end().await;
}

async fn kubectl(story: &Story, plugins: &Path, words: &[&str]) -> Said {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(story.world.binary("kubectl"));
    command
        .args(words)
        .env("PATH", format!("{}:{path}", plugins.display()))
        .env("GANGWAY_DOOR_URL", format!("http://127.0.0.1:{}", story.bridge.grpc));
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("it is joined");
    let ran = ran.expect("kubectl can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said { code: ran.status.code(), out: text(ran.stdout), complaint: text(ran.stderr) }
}

/// Slurm is asked when something would start: where there is room at once, where there is none later; and nothing of
/// the questions is left, nor has any of them held a node.
async fn what_if(story: &Story, gangway: &Path) {
    let ask = async |words: &[&str]| {
        let always = ["whatif", "-n", &story.kube.namespace, "-o", "json"];
        types(story, gangway, None, &[&always, words].concat()).await
    };
    let before = Instant::now();
    let later = ask(&["-N", "2", "--gres", "gpu:8", "-p", "hybrid", "-t", "10"]).await.json();
    let took = before.elapsed();
    // Those that run end within an hour, and those that wait come first.
    let seconds = later["seconds"].as_i64().expect("an estimate");
    assert!((3000..4 * 3600).contains(&seconds), "{later}");
    assert!(later["nodes"].as_str().is_some_and(|nodes| nodes.starts_with('h')), "{later}");
    assert_eq!((&later["user"], &later["account"]), (&"alice".into(), &"team1".into()));
    let now = ask(&["-N", "1", "--gres", "gpu:8", "-t", "10"]).await.json();
    assert!(now["seconds"].as_i64().is_some_and(|seconds| seconds < 60), "{now}");
    story.note(&format!("whatif took {took:?}: {later}, {now}"));
    let never = ask(&["-N", "1", "--gres", "gpu:9", "-p", "hybrid"]).await;
    assert_eq!(never.code, Some(6), "{} {}", never.out, never.complaint);

    let asked = story.slurm.client.jobs().await.expect("jobs can be listed").into_iter();
    let asked: Vec<_> = asked.filter(|job| job.admin_comment == guard(&story.cluster)).collect();
    assert!(asked.len() >= 2, "each question is on record: {asked:?}");
    for job in asked {
        assert_eq!(job.standing(), Standing::Over, "left behind: {job:?}");
        assert!(job.nodes.is_empty(), "it has held nodes: {job:?}");
    }
}

/// What accounting says of a batch job and of a pod's placeholder that run since a moment.
async fn usage(story: &Story, gangway: &Path, batch: (u32, u64), pod: (u32, u64)) {
    let sums = async |by: &str| -> Value {
        let words = ["usage", "--by", by, "--from", "1h", "-o", "json"];
        types(story, gangway, None, &words).await.json()
    };
    let of = |sums: &Value, key: &str| {
        let sums = sums.as_array().expect("a list").iter();
        sums.clone().find(|sum| sum["key"] == key).cloned().unwrap_or_default()
    };
    for (id, gpus) in [batch, pod] {
        let start = story.slurm.client.job(JobId(id)).await.expect("a job can be read");
        let start = start.expect("it runs").start_time;
        wait(&format!("accounting counts the GPU seconds of job {id}"), SOON, async || {
            let sum = of(&sums("job").await, &id.to_string());
            let runs = story.slurm.client.diag().await.expect("Slurm's clock").now - start;
            let counted = sum["gpu_seconds"].as_u64().unwrap_or(0);
            let expected = gpus * u64::try_from(runs).unwrap_or(0);
            // slurmctld's clock and ours are the same here, but a second may pass between two questions.
            if counted > 0 && counted.abs_diff(expected) <= 2 * gpus {
                Ok(())
            } else {
                Err(format!("{sum}, expected {expected}"))
            }
        })
        .await;
    }
    let namespace = of(&sums("namespace").await, &story.kube.namespace);
    assert_eq!(namespace["jobs"], 1, "{namespace}");
    let users: BTreeSet<String> = sums("user")
        .await
        .as_array()
        .expect("a list")
        .iter()
        .map(|sum| sum["key"].to_string())
        .collect();
    assert!(users.contains("\"alice\""), "{users:?}");
}

/// A question as a bridge of the story puts it to Slurm.
async fn question(story: &Story) -> u32 {
    let grant = Grant {
        user: "alice".to_owned(),
        group: "alice".to_owned(),
        account: Some("team1".to_owned()),
        partition: Some("gangway".to_owned()),
        qos: None,
        feature: None,
        terms: None,
    };
    let what = WhatIf { nodes: 1, cpus: 1, memory_mib: 1, ..WhatIf::default() };
    let asked = trial(&what, &grant, &story.cluster);
    let (heavy, begin) = ballast(&asked);
    let put = story.slurm.client.submit_held_back(&asked, &heavy, begin).await;
    let id = put.expect("Slurm takes it").job_id;
    story.slurm.adopt(id);
    id.0
}

#[tokio::test]
async fn who_may_cancel_ends_a_gangs_placeholder_and_nobody_else_does() {
    let trust = Trust::new();
    let (certificate, key) = trust.sign(&["localhost", "127.0.0.1"]);
    let files = std::env::temp_dir().join(format!("gangway-terminal-{}", std::process::id()));
    std::fs::create_dir_all(&files).expect("the temporary directory can be written");
    let file = |name: &str, text: &str| {
        let path = files.join(name);
        std::fs::write(&path, text).expect("the temporary directory can be written");
        path.display().to_string()
    };
    let story = Story::prepare("terminal-cancel", |setup| {
        setup.more = format!(
            "tls: {{ certificate: '{}', key: '{}', clientCA: '{}' }}\n\
             desk: {{ cancel: [ {{ client: ops, namespaces: ['*'] }} ] }}\n",
            file("tls.crt", &certificate),
            file("tls.key", &key),
            file("ca.crt", &trust.pem()),
        );
    });
    let Some(mut story) = story.await else { return };
    let left = question(&story).await;
    story.bridge.start().await;
    // A bridge that died in the middle of a question has left it: the next one takes it away.
    story.slurm.reaches(left, BaseState::Cancelled).await;
    let gangway = Bridge::binary();
    let config = |client: &str| -> PathBuf {
        let (certificate, key) = trust.sign(&[client]);
        // The port is at an address that is not the name in the door's certificate.
        let yaml = format!(
            "door: {{ url: 'https://127.0.0.1:{}', certificate: '{}', key: '{}', ca: '{}', serverName: localhost }}\n",
            story.bridge.grpc,
            file(&format!("{client}.crt"), &certificate),
            file(&format!("{client}.key"), &key),
            files.join("ca.crt").display(),
        );
        file(&format!("{client}.yaml"), &yaml).into()
    };
    let (ops, another) = (config("ops"), config("another"));
    story.kube.create(&manifest::pod("alone", &manifest::template(8, &[]))).await;
    let job = story.seated(&story.bound("alone", 1).await).await;
    let path = format!("{}/alone", story.kube.namespace);
    let batch = story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "--mem=100"]);

    // Everybody with a certificate may look, and only one may do more; not to batch jobs, which are not opened.
    let seen = types(&story, &gangway, Some(&another), &["explain", &path]).await;
    assert!(seen.out.contains("it does not wait"), "{} {}", seen.out, seen.complaint);
    for (config, what) in [(&another, path.as_str()), (&ops, &batch.to_string())] {
        let refused = types(&story, &gangway, Some(config), &["cancel", what]).await;
        assert_eq!(refused.code, Some(5), "{} {}", refused.out, refused.complaint);
    }
    assert_eq!(story.slurm.job(job.id.0).await.state.base, BaseState::Running);
    let done = types(&story, &gangway, Some(&ops), &["cancel", &path]).await;
    assert_eq!(done.code, Some(0), "{}", done.complaint);
    story.slurm.reaches(job.id.0, BaseState::Cancelled).await;
    // The pod is told and leaves, as after scancel.
    wait("the pod is gone", SOON, async || {
        let pods = story.pods("alone").await;
        if pods.is_empty() { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    assert!(story.slurm.job(batch).await.standing() != Standing::Over);
    story.end().await;
    std::fs::remove_dir_all(&files).expect("it is ours");
}
