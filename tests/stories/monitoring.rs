//! What is measured, as a real Prometheus reads it: the rules and alerts by promtool, and the devices of a job from
//! Slurm's grant to the recorded figure.

mod collector;
mod exporter;
mod scrape;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gangway_core::job::BaseState;
use gangway_tests::{Bridge, Pool, SOON, Story, http, manifest, wait};
use serde_json::{Value, json};

use collector::Collector;
use exporter::Exporter;

use crate::terminal;

fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name)
}

/// Where Prometheus and promtool are. Without them the tests are skipped.
fn programs() -> Option<PathBuf> {
    let found = std::env::var_os("GANGWAY_PROMETHEUS").map(PathBuf::from);
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_PROMETHEUS is not set");
    }
    found
}

/// A directory with the rules as Prometheus reads them; gone with it.
struct Rules(PathBuf);

impl Rules {
    /// As they are, or looked at every second.
    fn new(name: &str, quick: bool) -> Self {
        let directory = std::env::temp_dir().join(format!("gangway-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let rules = Self(directory);
        for name in ["rules.yaml", "alerts.yaml"] {
            let text = std::fs::read_to_string(manifests("monitoring").join(name)).expect(name);
            let mut object: Value = serde_saphyr::from_str(&text).expect("YAML");
            for group in object["spec"]["groups"].as_array_mut().expect("groups") {
                if quick {
                    group["interval"] = "1s".into();
                }
            }
            rules.write(name, &object["spec"].to_string());
        }
        rules
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("the directory can be written");
    }

    fn promtool(&self, programs: &Path, words: &[&str]) {
        let mut command = Command::new(programs.join("promtool"));
        let out = command.args(words).current_dir(&self.0).stdin(Stdio::null()).output();
        let out = out.expect("promtool can be started");
        let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(out.status.success(), "promtool {words:?}: {}", said.concat());
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // What cannot be removed is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every query of a panel, with its variables filled in, as Prometheus would get it.
fn panels(value: &Value, out: &mut Vec<String>) {
    if let Some(query) = value["expr"].as_str() {
        let ranges = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
        out.push(ranges.replace("$job_id", ".*").replace("$account", ".*"));
    }
    match value {
        Value::Array(all) => all.iter().for_each(|one| panels(one, out)),
        Value::Object(map) => map.values().for_each(|one| panels(one, out)),
        _ => {}
    }
}

#[test]
fn promtool_takes_rules_alerts_and_panels_and_they_tell_what_they_should() {
    let Some(programs) = programs() else { return };
    let rules = Rules::new("promtool", false);
    let tests = manifests("monitoring/tests.yaml");
    std::fs::copy(tests, rules.0.join("tests.yaml")).expect("the tests can be copied");
    let mut queries = Vec::new();
    for name in ["queue", "pool", "job", "bridge"] {
        let file = manifests("dashboards").join(format!("{name}.json"));
        let text = std::fs::read_to_string(file).expect(name);
        panels(&serde_json::from_str(&text).expect("JSON"), &mut queries);
    }
    assert!(queries.len() > 40, "{} panels", queries.len());
    let records = queries.iter().enumerate();
    let records: Vec<Value> =
        records.map(|(n, query)| json!({"record": format!("panel:{n}"), "expr": query})).collect();
    let panels = json!({"groups": [{"name": "panels", "rules": records}]});
    rules.write("panels.yaml", &panels.to_string());
    rules.promtool(&programs, &["check", "rules", "rules.yaml", "alerts.yaml", "panels.yaml"]);
    rules.promtool(&programs, &["test", "rules", "tests.yaml"]);
}

/// promtool takes a name of no alert for one that does not fire, and says nothing of alerts that are not tried.
#[test]
fn each_alert_is_seen_to_fire_and_not_to_fire() {
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(manifests("monitoring").join(name)).expect(name);
        serde_saphyr::from_str(&text).expect("YAML")
    };
    let (rules, tests) = (read("alerts.yaml"), read("tests.yaml"));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = list(&rules["spec"]["groups"]).into_iter().flat_map(|group| list(&group["rules"]));
    let wanted: BTreeSet<(String, bool)> = rules
        .flat_map(|rule| [false, true].map(|fires| (rule["alert"].to_string(), fires)))
        .collect();
    let cases = list(&tests["tests"]).into_iter().flat_map(|test| list(&test["alert_rule_test"]));
    let seen: BTreeSet<(String, bool)> = cases
        .map(|case| (case["alertname"].to_string(), !list(&case["exp_alerts"]).is_empty()))
        .collect();
    assert!(wanted.len() > 30, "{wanted:?}");
    let both = [&wanted - &seen, &seen - &wanted];
    assert_eq!(both, [BTreeSet::new(), BTreeSet::new()], "not tried, and not there");
}

/// A Prometheus of the story's own. It ends with it.
struct Prometheus {
    port: u16,
    child: Child,
}

impl Prometheus {
    /// Scrapes these (job, port, path) once a second.
    fn start(programs: &Path, rules: &Rules, port: u16, targets: &[(&str, u16, &str)]) -> Self {
        let scrape = |(job, port, path): &(&str, u16, &str)| {
            let targets = [format!("127.0.0.1:{port}")];
            json!({"job_name": job, "metrics_path": path, "static_configs": [{"targets": targets}]})
        };
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml", "alerts.yaml"],
            "scrape_configs": targets.iter().map(scrape).collect::<Vec<_>>(),
        });
        rules.write("prometheus.yml", &config.to_string());
        let log = std::fs::File::create(rules.0.join("prometheus.log")).expect("a log");
        let child = Command::new(programs.join("prometheus"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--enable-feature=exemplar-storage")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(&rules.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self { port, child: child.expect("prometheus can be started") }
    }

    /// The traces that stand beside the buckets of a histogram.
    async fn traces(&self, histogram: &str) -> BTreeSet<String> {
        let path =
            format!("/api/v1/query_exemplars?query={histogram}_bucket&start=0&end=9999999999");
        let Some((200, text)) = http::get(self.port, &path).await else { return BTreeSet::new() };
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let all = answer["data"].as_array().into_iter().flatten();
        let all = all.filter_map(|series| series["exemplars"].as_array()).flatten();
        all.filter_map(|one| Some(one["labels"]["trace_id"].as_str()?.to_owned())).collect()
    }

    /// What a query gives: the labels and the value of each series.
    async fn ask(&self, query: &str) -> Vec<(Value, f64)> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b':' || byte == b'_';
        let encode = |byte| {
            if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        };
        let query: String = query.bytes().map(encode).collect();
        let path = format!("/api/v1/query?query={query}");
        let Some((200, text)) = http::get(self.port, &path).await else {
            return Vec::new();
        };
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let all = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok());
        all.into_iter()
            .map(|one| (one["metric"].clone(), value(&one).unwrap_or(f64::NAN)))
            .collect()
    }

    /// Waits until a recorded figure of a job is what `fits` says, and gives the labels.
    async fn tells(&self, record: &str, job: u32, fits: impl Fn(f64) -> bool) -> Value {
        let id = job.to_string();
        wait(&format!("{record} of job {job}"), SOON, async || {
            let all = self.ask(record).await;
            let own = all.iter().find(|(labels, _)| labels["job_id"] == id.as_str());
            match own {
                Some((labels, value)) if fits(*value) => Ok(labels.clone()),
                _ => Err(format!("{all:?}")),
            }
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a page of metrics says of each: name, type, help and labels, as the reference has them.
fn shown(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            out.insert(format!("| `{name}` | {kind} | * | {help} |"));
        }
    }
    out
}

/// One gang and one batch job: their devices are found by a real Prometheus, their traces by a collector; and what is
/// logged changes while the bridge runs.
#[tokio::test]
async fn a_jobs_devices_are_seen_to_work_and_its_gang_is_traced() {
    let mut collector = Collector::listen().await;
    let flags = vec!["--traces".to_owned(), format!("http://127.0.0.1:{}", collector.port)];
    // Where Prometheus will be.
    let port = http::free_port();
    let differ = |setup: &mut gangway_tests::Setup| {
        (setup.flags, setup.log) = (flags, "info");
        setup.more = format!("desk: {{ prometheus: {{ url: 'http://127.0.0.1:{port}' }} }}\n");
    };
    let Some(mut story) = Story::prepare("watched", differ).await else { return };
    story.bridge.start().await;
    let mut pool = Pool::of(&story, "");
    pool.controllers.start().await;
    for node in ["watched-1", "watched-2", "watched-3"] {
        pool.add(node).await;
    }
    for node in ["watched-1", "watched-2", "watched-3"] {
        pool.in_slurm(node, "is idle", |node| node.is("IDLE")).await;
    }
    let words = ["-p", "hybrid", "-w", "h3", "--gres=gpu:2", "-n1", "-c1", "--mem=500"];
    let batch = story.slurm.sbatch("bob", &words);
    story.slurm.reaches(batch, BaseState::Running).await;
    let template = manifest::template(8, &[("gangway.dev/partition", "mixed")]);
    story.kube.create(&manifest::indexed_job("gang", 1, &template)).await;
    let pods = story.bound("gang-", 1).await;
    let job = story.seated(&pods).await;

    let root = collector.trace_of(job.id.0).await;
    assert_eq!(root["k8s.namespace.name"], story.kube.namespace.as_str());
    story.note(&format!("its trace: {:?}", collector.names()));
    for part in ["assemble", "ask", "submit", "seat", "bind"] {
        assert!(collector.names().iter().any(|name| name == part), "{part}");
    }
    changes_its_log(&story).await;
    // Who holds no more than that: a gang on two nodes, and a batch job that no exporter knows of.
    story.kube.create(&manifest::indexed_job("silent", 2, &template)).await;
    let silent = story.bound("silent-", 2).await;
    let (silent, nodes) = (story.seated(&silent).await, silent);
    let unseen = story
        .slurm
        .sbatch("bob", &["-p", "hybrid", "-w", "h4", "--gres=gpu:1", "-n1", "-c1", "--mem=500"]);
    story.slurm.reaches(unseen, BaseState::Running).await;
    let away = usage(&story).await;
    assert_eq!(away.code, Some(3), "{}", away.complaint);
    let url = format!("Prometheus at http://127.0.0.1:{port} cannot be asked");
    assert!(away.complaint.contains(&url), "{}", away.complaint);

    let devices = story.slurm.devices(batch, "gpu").await["h3"].clone();
    let Some(programs) = programs() else {
        pool.end().await;
        return story.end().await;
    };
    let own = pods[0].node.clone().expect("it is bound");
    let mut exported = vec![(own.as_str(), (0..8).collect(), 95, 2e6), ("h3", devices, 40, 2e6)];
    for pod in &nodes {
        exported.push((pod.node.as_deref().expect("it is bound"), (0..8).collect(), 95, 0.0));
    }
    let exporter = Exporter::listen(&exported).await;
    let rules = Rules::new("watched", true);
    let targets = [
        ("gangway-controllers", pool.controllers.metrics, "/metrics"),
        ("gangway-devices", pool.controllers.metrics, "/metrics/devices"),
        ("gangway-scheduler", story.bridge.metrics, "/metrics"),
        ("exporter", exporter.port, "/metrics"),
    ];
    let prometheus = Prometheus::start(&programs, &rules, port, &targets);
    let own =
        prometheus.tells("gangway_job:gpu_utilization:avg", job.id.0, |use_| use_ == 0.95).await;
    assert_eq!(
        (&own["account"], &own["holder"], &own["user"]),
        (&json!("team1"), &json!("pod"), &json!("alice"))
    );
    let theirs =
        prometheus.tells("gangway_job:gpu_utilization:avg", batch, |use_| use_ == 0.4).await;
    assert_eq!((&theirs["holder"], &theirs["user"]), (&json!("sbatch"), &json!("bob")));
    prometheus.tells("gangway_job:gpus:sum", batch, |gpus| gpus == 2.0).await;
    prometheus
        .tells("gangway_job:gpu_power_watts:sum", job.id.0, |watts| watts == 8.0 * 650.0)
        .await;
    // Two devices send 2 MB a second each; of the two minutes a rate looks at, few have passed.
    prometheus.tells("gangway_job:efa_transmit_bytes:rate2m", job.id.0, |rate| rate > 1e5).await;
    let held = prometheus.ask("gangway:devices:sum{resource=\"gpu\",holder=\"pod\"}").await;
    assert!(held.iter().any(|(_, gpus)| *gpus >= 8.0), "{held:?}");

    prometheus
        .tells("gangway_job:efa_transmit_bytes:rate2m", silent.id.0, |rate| rate == 0.0)
        .await;
    is_flagged(&story, [job.id.0, batch, silent.id.0, unseen]).await;

    // From a slow gang on a dashboard it is one step to its trace. Of each bucket the last gang is shown.
    collector.trace_of(silent.id.0).await;
    for histogram in ["bind", "queue", "own"].map(|part| format!("gangway_gang_{part}_seconds")) {
        wait(&format!("{histogram} has the trace"), SOON, async || {
            let traces = prometheus.traces(&histogram).await;
            let own = traces.contains(&collector.trace_id());
            if own { Ok(()) } else { Err(format!("{traces:?}, not {}", collector.trace_id())) }
        })
        .await;
    }

    let page =
        std::fs::read_to_string(manifests("../docs/reference/metrics.md")).expect("the page");
    let page: Vec<&str> = page.lines().collect();
    for (_, port, path) in &targets[..3] {
        let (_, text) = http::get(*port, path).await.expect("metrics are served");
        for row in shown(&text) {
            let (head, tail) = row.split_once('*').expect("a row");
            let known = |line: &&&str| line.starts_with(head) && line.ends_with(tail);
            assert!(
                page.iter().any(|line| known(&line)),
                "{row} is not in docs/reference/metrics.md"
            );
        }
    }

    // Once it has ended its devices are idle, and what it took is counted.
    story.slurm.scancel("bob", batch);
    story.slurm.scancel("bob", unseen);
    let id = batch.to_string();
    wait("its devices have no holder", SOON, async || {
        let left = prometheus.ask("gangway_job:gpus:sum").await;
        let own = left.iter().any(|(labels, _)| labels["job_id"] == id.as_str());
        if own { Err(format!("{left:?}")) } else { Ok(()) }
    })
    .await;
    let seconds = pool.controllers.metric("gangway_device_seconds_total").await;
    assert!(seconds > 8.0, "{seconds} seconds of devices");
    drop(prometheus);
    story.kube.delete_all().await;
    story.gone("gang-").await;
    story.gone("silent-").await;
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}

/// `gangway usage --efficiency` as somebody types it.
async fn usage(story: &Story) -> terminal::Said {
    let words = ["usage", "--efficiency", "--from", "1h", "-o", "json"];
    terminal::types(story, &Bridge::binary(), None, &words).await
}

/// Who uses its GPUs is not flagged, who does not is, as is a gang of two nodes without EFA traffic; what nobody has
/// measured is unknown.
async fn is_flagged(story: &Story, [well, idle, silent, unseen]: [u32; 4]) {
    let rows = wait("accounting knows the jobs", SOON, async || {
        let rows = usage(story).await.json();
        let rows: BTreeMap<String, Value> = rows
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                (row["key"].as_str().unwrap_or_default().to_owned(), row["efficiency"].clone())
            })
            .collect();
        let all =
            [well, idle, silent, unseen].iter().all(|job| rows.contains_key(&job.to_string()));
        if all { Ok(rows) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let of = |job: u32| rows[&job.to_string()].clone();
    let near =
        |value: &Value, to: f64| value.as_f64().is_some_and(|own| (own - to).abs() < 0.001 * to);
    assert!(near(&of(well)["gpu_use"], 0.95) && near(&of(well)["watts"], 5200.0), "{}", of(well));
    assert!(of(well)["efa_bytes_per_second"].as_f64() > Some(1e3), "{}", of(well));
    assert_eq!((&of(well)["flagged"], &of(well)["flags"]), (&0.into(), &json!([])));
    assert!(near(&of(idle)["gpu_use"], 0.4), "{}", of(idle));
    assert_eq!(of(idle)["flags"], json!(["GPU use 40 %, under 90 %"]), "{}", of(idle));
    let quiet = of(silent)["flags"][0].as_str().unwrap_or_default().to_owned();
    assert!(quiet.starts_with("no EFA traffic in ") && quiet.contains("OFI"), "{}", of(silent));
    assert_eq!(of(silent)["efa_bytes_per_second"], 0.0, "{}", of(silent));
    assert_eq!((&of(unseen)["gpu_use"], &of(unseen)["unmeasured"]), (&Value::Null, &1.into()));
    let words = ["usage", "--efficiency", "--from", "1h", "--by", "user"];
    let table = terminal::types(story, &Bridge::binary(), None, &words).await;
    assert!(table.out.contains("1 job under 90 % GPU use"), "{} {}", table.out, table.complaint);
    story.note(&format!("\n{}", table.out));
    let table = terminal::types(story, &Bridge::binary(), None, &words[..4]).await;
    assert!(table.out.contains("no data"), "{} {}", table.out, table.complaint);
    story.note(&format!("\n{}", table.out));
}

async fn changes_its_log(story: &Story) {
    let port = story.bridge.health;
    assert_eq!(http::get(port, "/log").await, Some((200, "info\n".to_owned())));
    let refused = http::put(port, "/log", "gangway=loud").await;
    assert_eq!(refused.map(|(status, _)| status), Some(400));
    let changed = http::put(port, "/log", "info,gangway_slurm=trace\n").await;
    assert_eq!(changed, Some((200, "info,gangway_slurm=trace\n".to_owned())));
    wait("requests are logged now", SOON, async || {
        let log = story.bridge.tail(5);
        if log.contains("slurmrestd endpoint=") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(http::put(port, "/log", "info").await.map(|(status, _)| status), Some(200));
    // Every line of a gang says which, and for which job.
    let log = story.bridge.tail(usize::MAX);
    let bound = log.lines().find(|line| line.contains(" bound ")).expect("a line for the binding");
    assert!(bound.contains("follower{gang=") && bound.contains(" job="), "{bound}");
}
