use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response};
use gangway_core::gang::assemble;
use gangway_core::pod::Pod;
use gangway_slurm::fake::{Fake, Partition, Setup};
use gangway_slurm::{Answering, Client, Config, Server, TokenSource};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error_span;

use super::*;
use crate::anteroom::Anteroom;
use crate::cluster::{Cluster, View, World};
use crate::config::Settings;
use crate::follow::Follower;
use crate::gangs::Gangs;
use crate::http::Readiness;
use crate::index::Group;
use crate::mandate::Mandate;
use crate::metrics::{Metrics, Placeholders, Process};
use crate::nursery::nursery;
use crate::queue::Queue;
use crate::scheduler::start_queue;
use crate::trace::Traces;
use crate::{door, extender};

const NOW_MS: i64 = 1_800_000_000_000;
const GANG: &str = "uid-of-the-gang";

/// What was logged.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    /// Keeps what is logged on this thread until the guard is dropped.
    fn keep(&self, filter: &str) -> tracing::subscriber::DefaultGuard {
        let page = self.clone();
        tracing::subscriber::set_default(
            lines(EnvFilter::new(filter), move || page.clone()).finish(),
        )
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).expect("UTF-8")
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

#[test]
fn a_line_has_the_fields_of_its_span_and_each_of_them_once() {
    let page = Page::default();
    let kept = page.keep("info");
    let span = error_span!("placeholder", gang = "u", job = 7);
    span.in_scope(|| tracing::info!(why = "a \"word\"", "released"));
    span.in_scope(|| tracing::info!(job = 8, none = None::<u32>, "another"));
    tracing::warn!(gang = "v", "alone");
    drop(kept);
    let text = page.text();
    assert!(text.starts_with("{\"timestamp\":\"") && text.ends_with("}\n"), "{text}");
    assert_eq!(text.matches("\"job\"").count(), 2, "{text}");
    let mut lines = page.lines();
    for line in &mut lines {
        assert!(line.as_object_mut().expect("an object").remove("timestamp").is_some());
        assert_eq!(line["target"].take(), "gangway::log::tests");
    }
    let said = |level: &str, message: &str, gang: &str| json!({"level": level, "message": message, "gang": gang, "target": null});
    let with = |mut line: Value, beside: Value| {
        let beside = beside.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(beside);
        line
    };
    let released = json!({"span": "placeholder", "job": 7, "why": "a \"word\""});
    let another = json!({"span": "placeholder", "job": 8});
    assert_eq!(lines[0], with(said("INFO", "released", "u"), released));
    assert_eq!(lines[1], with(said("INFO", "another", "u"), another));
    assert_eq!(lines[2], said("WARN", "alone", "v"));
}

/// A Slurm in memory whose time stands still.
struct Still(Mutex<Fake>);

impl Server for Still {
    fn answer(&self, request: gangway_slurm::Request) -> Answering {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).answer(NOW_MS, &request);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

fn slurm() -> Client {
    let fake = Fake::new(Setup {
        nodes: vec!["p5-1".into()],
        gpus: 8,
        partitions: vec![Partition { name: "normal".into(), tier: 1 }],
        users: vec![("alice".into(), "team1".into())],
        token: "token".into(),
        now_ms: NOW_MS,
        job_age_ms: 300_000,
    });
    let mut config = Config::new("http://fake.invalid", TokenSource::Fixed("token".into()));
    config.server = Some(Arc::new(Still(Mutex::new(fake))));
    Client::new(config).expect("a client")
}

/// An API server that knows of nothing.
fn kubernetes() -> kube::Client {
    let nothing = tower::service_fn(|_: Request<Body>| async {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": "NotFound", "message": "there is nothing", "code": 404,
        });
        let answer =
            Response::builder().status(404).body(Body::from(status.to_string().into_bytes()));
        Ok::<_, io::Error>(answer.expect("an answer"))
    });
    kube::Client::new(nothing, "default")
}

/// Both halves of a bridge, until `stop`; the Kubernetes one watches nothing.
async fn bridge(stop: &CancellationToken) -> Cluster {
    let settings = "{cluster: east, policy: {defaultPartition: normal, slurmPolicies: off, \
                    identities: [{namespace: '*', user: alice}]}}";
    let settings = Settings::rehearsed(settings).expect("settings");
    let (nursery, mut parent) = nursery();
    let roll = Process::new().expect("metrics").roll;
    let told = (Placeholders::new(&roll).expect("metrics"), Traces::default());
    let queue = Queue::new(slurm(), &settings, nursery.clone(), told, stop.clone());
    start_queue(&nursery, &queue, &Arc::new(Readiness::default()), stop);
    let mandate = Mandate::new();
    nursery.start("mandate", mandate.clone().without_election(stop.clone()));
    let (door, serving) =
        door::inside(extender::service(queue.clone(), mandate.clone()), stop.clone());
    nursery.start("own door", serving);
    let until = stop.clone();
    tokio::spawn(async move { parent.run(until.cancelled_owned()).await });
    mandate.granted().await;
    Cluster {
        client: kubernetes(),
        door,
        id: settings.cluster.clone(),
        scheduler_name: settings.scheduler_name.clone(),
        terms: None,
        world: World::drawn_in(queue.atlas().clone()),
        nursery,
        metrics: Metrics::new(&roll).expect("metrics"),
        traces: Traces::default(),
        writes: Arc::new(Semaphore::new(1)),
        caller: None,
        sweep: Arc::new(Notify::new()),
        gangs: Arc::new(Gangs::new(false)),
        sights: Arc::default(),
        anteroom: Anteroom::default(),
        started: Instant::now(),
        stop: stop.clone(),
    }
}

/// One that is a gang of its own.
fn pod() -> Pod {
    let requests = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
    let spec = json!({"containers": [{"name": "c", "resources": requests}]});
    let spec = serde_json::from_value(spec).expect("a spec");
    Pod { uid: GANG.into(), name: "p".into(), namespace: "team".into(), spec, ..Pod::default() }
}

/// Waits for a line with this message.
async fn said(page: &Page, message: &str) -> Value {
    for _ in 0..1000 {
        if let Some(line) = page.lines().into_iter().find(|line| line["message"] == message) {
            return line;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody said {message}:\n{}", page.text());
}

#[tokio::test]
async fn every_line_of_a_gang_has_its_uid_and_once_there_is_one_its_job() {
    let (page, stop) = (Page::default(), CancellationToken::new());
    let _kept = page.keep("info,gangway=debug");
    let assembled = assemble(None, &[&pod()]).remove(0);
    let view = View { assembled, group: Group::Alone(GANG.into()), ready: 0 };
    let (views, seen) = watch::channel(view);
    let cluster = bridge(&stop).await;
    let follower = tokio::spawn(Follower::new(cluster, seen).run());
    let job = said(&page, "allocated").await["job"].take();
    assert!(job.as_u64().is_some_and(|job| job > 0), "{job}");
    // Its node is not there, which it is told in a report.
    said(&page, "report").await;
    views.send_modify(|view| {
        view.assembled.gang.members.clear();
        view.assembled.over = true;
    });
    follower.await.expect("it has ended");
    said(&page, "ended").await;
    stop.cancel();

    let lines = page.lines();
    for (task, messages) in [
        ("follower", ["asking for room", "report", "released"]),
        ("placeholder", ["allocated", "releasing placeholder", "ended"]),
    ] {
        let own: Vec<&Value> = lines.iter().filter(|line| line["span"] == task).collect();
        let all_there = messages.iter().all(|said| own.iter().any(|line| line["message"] == *said));
        assert!(all_there && own.iter().all(|line| line["gang"] == GANG), "{}", page.text());
        // Whoever asks does not know it yet.
        let mut later = own.iter().filter(|line| line["message"] != "asking for room");
        assert!(later.all(|line| line["job"] == job), "{}", page.text());
    }
}

/// The macros that log, or make a span, in a file: where each begins, and what is in its brackets but for texts.
fn logged(source: &str) -> Vec<(usize, String)> {
    let names = ["trace!(", "debug!(", "info!(", "warn!(", "error!(", "_span!("];
    let begins = |(at, _): &(usize, char)| names.iter().any(|name| source[..*at].ends_with(name));
    let mut found = Vec::new();
    for (at, _) in source.char_indices().filter(begins) {
        let (mut depth, mut quoted, mut escaped, mut fields) = (1, false, false, String::new());
        for c in source[at..].chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => {}
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if !quoted && !c.is_whitespace() {
                fields.push(c);
            }
        }
        found.push((source[..at].lines().count(), fields));
    }
    found
}

/// What these fields say under another name, or as another type, than all others.
fn strays(fields: &str) -> Option<&'static str> {
    let pieces = || fields.split(',');
    let named = |name: &str| pieces().any(|piece| piece.split('=').next() == Some(name));
    if ["uid", "%uid", "?uid", "gang_uid", "gang_id"].into_iter().any(named) {
        return Some("a gang's uid is `gang`, a pod's `pod_uid`");
    }
    if ["%gang", "?gang"].into_iter().any(named) || fields.contains("gang=%") {
        return Some("`gang` is a text");
    }
    if ["%job", "?job", "job_id", "id"].into_iter().any(named)
        || fields.contains("job=%")
        || fields.contains("job=?")
    {
        return Some("`job` is a number");
    }
    None
}

#[test]
fn gang_and_job_have_one_name_and_one_type_in_every_line() {
    assert_eq!(logged("a();\nwarn!(uid, \"b (c\"); d(x)"), [(2, "uid,\"".to_owned())]);
    for bad in ["uid,", "gang=a.uid,%job,", "job=%job.id", "why,%uid"] {
        assert!(strays(bad).is_some(), "{bad}");
    }
    assert_eq!(strays("gang=gang.uid,job=job.0,pod_uid=uid"), None);
    let (mut seen, mut bad) = (0, Vec::new());
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("our own sources");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if !path.ends_with("log/tests.rs") {
            let source = std::fs::read_to_string(&path).expect("a source");
            for (line, fields) in logged(&source) {
                seen += 1;
                bad.extend(strays(&fields).map(|why| format!("{}:{line}: {why}", path.display())));
            }
        }
    }
    assert!(seen > 150, "only {seen} of the lines were found");
    assert!(bad.is_empty(), "{bad:#?}");
}
