//! The web page before a real scheduler's door: what it is told, what it shows in a real browser, and that nothing can
//! be written through it.

mod crowd;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use gangway_core::job::BaseState;
use gangway_tests::{Bridge, Browser, SOON, Story, http, manifest, wait};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

/// What a user may call a job to see whether the page believes it.
const EVIL: &str = "<img src=x onerror=window.owned=1><script>window.owned=1</script>";
/// How soon a change is seen: a look every 2 s, and the desk's own list is at most that old.
const SEEN: Duration = Duration::from_secs(10);

/// One `gangway ui`.
struct Ui {
    child: Child,
    port: u16,
    health: u16,
    client: Client,
}

impl Ui {
    async fn start(directory: &Path, cluster: &str, door: &str) -> Self {
        let [port, metrics, health] = [(); 3].map(|()| http::free_port());
        let config = directory.join("ui.yaml");
        let yaml = format!(
            "cluster: {cluster}\ndoor: {{ url: '{door}' }}\n\
             listen: {{ http: '127.0.0.1:{port}', metrics: '127.0.0.1:{metrics}', health: '127.0.0.1:{health}' }}\n"
        );
        std::fs::write(&config, yaml).expect("the temporary directory can be written");
        let mut command = Bridge::command("ui", &config);
        command.env_remove("GANGWAY_DOOR_URL").stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("gangway can be started");
        // Whoever else has installed it has installed the same.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let ui = Self { child, port, health, client: Client::new() };
        wait("the page is served", SOON, async || match http::get(ui.health, "/readyz").await {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        ui
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn ask(&self, method: Method, path: &str) -> Response {
        let asked = self.client.request(method, self.url(path)).send().await;
        asked.expect("the page's server answers")
    }

    /// What the process has in memory, in MB: now (`VmRSS`), or at most so far (`VmHWM`).
    fn memory(&self, which: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("a figure");
        let kib = line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").parse::<f64>();
        (kib.expect("a number") * 1.024 / 100.0).round() / 10.0
    }

    /// Bytes of the first whole event.
    async fn whole(&self) -> usize {
        let mut watch = self.watch().await;
        while watch.next().await.as_deref() != Some("whole") {}
        watch.size
    }

    async fn watch(&self) -> Watch {
        let response = self.ask(Method::GET, "/events").await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Watch {
            response,
            unread: String::new(),
            jobs: BTreeMap::new(),
            nodes: Vec::new(),
            head: Value::Null,
            size: 0,
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser's side of the events, without a browser.
struct Watch {
    response: Response,
    unread: String,
    jobs: BTreeMap<u64, Value>,
    nodes: Vec<Value>,
    head: Value,
    /// Bytes of the last event.
    size: usize,
}

impl Watch {
    /// Takes up the next event; its name. `None`: the server has ended it.
    async fn next(&mut self) -> Option<String> {
        while !self.unread.contains("\n\n") {
            let chunk = self.response.chunk().await.ok()??;
            self.unread.push_str(std::str::from_utf8(&chunk).expect("whole events of text"));
        }
        let (event, rest) = self.unread.split_once("\n\n").expect("it was looked for");
        let field = |name: &str| {
            let found = event.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| unreachable!("no {name} in {event}")).to_owned()
        };
        let (name, data) = (field("event: "), field("data: "));
        self.size = event.len();
        self.unread = rest.to_owned();
        let data: Value = serde_json::from_str(&data).expect("JSON");
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let rows = match name.as_str() {
            "clock" => return Some(name),
            "whole" => {
                self.nodes = list(&data["nodes"]);
                list(&data["jobs"])
            }
            _ => {
                for gone in list(&data["jobs"]["gone"]) {
                    self.jobs.remove(&gone.as_u64().expect("an id"));
                }
                list(&data["jobs"]["put"])
            }
        };
        self.jobs.extend(rows.into_iter().map(|row| (row["id"].as_u64().expect("an id"), row)));
        self.head = data;
        Some(name)
    }

    /// Reads on until something is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !so(self) {
            let next = tokio::time::timeout(SOON, self.next()).await;
            let next =
                next.unwrap_or_else(|_| unreachable!("not in time: {what}: {:?}", self.jobs));
            assert!(next.is_some(), "the stream has ended before {what}");
        }
        began.elapsed()
    }
}

#[tokio::test]
async fn the_queue_and_the_pool_are_seen_live_and_nothing_can_be_written() {
    let Some(mut story) = Story::begin("ui").await else { return };
    let asks = [("gangway.dev/partition", "hybrid"), ("gangway.dev/time-limit", "60")];
    story.kube.create(&manifest::pod("holder", &manifest::template(4, &asks))).await;
    story.bound("holder", 1).await;
    let batch = |name: &str, words: &[&str]| {
        let name = format!("--job-name={name}");
        let always = ["-p", "hybrid", "-n1", "-c1", "--mem=500", "--time=60", &name];
        story.slurm.sbatch("alice", &[&always, words].concat())
    };
    let evil = batch(EVIL, &["--gres=gpu:2"]);
    story.slurm.reaches(evil, BaseState::Running).await;
    // It can never start: somebody is always waiting.
    let waits = batch("waits", &["--gres=gpu:8", "--begin=now+1hour"]);
    let holder = story.slurm.live().await.iter().map(|(_, job)| u64::from(job.id.0)).next();
    let holder = holder.expect("a placeholder");

    let door = format!("http://127.0.0.1:{}", story.bridge.grpc);
    let mut ui = Ui::start(story.bridge.directory(), &story.cluster, &door).await;
    nothing_is_written(&ui).await;

    // All of it at first.
    let mut watch = ui.watch().await;
    assert_eq!(watch.next().await.as_deref(), Some("clock"));
    assert_eq!(watch.next().await.as_deref(), Some("whole"));
    let all = [holder, evil.into(), waits.into()];
    let waited =
        watch.until("all jobs", |watch| all.iter().all(|id| watch.jobs.contains_key(id))).await;
    let path = format!("{}/holder", story.kube.namespace);
    let gang = &watch.jobs[&holder];
    assert_eq!(
        (&gang["kind"], &gang["name"], &gang["gpus"]),
        (&"gang".into(), &path.into(), &4.into())
    );
    assert_eq!(
        (&watch.jobs[&evil.into()]["kind"], &watch.jobs[&evil.into()]["name"]),
        (&"batch".into(), &EVIL.into())
    );
    assert_eq!(watch.jobs[&waits.into()]["reason"], "BeginTime");

    // Then what changes, soon.
    let late = batch("late", &["--gres=gpu:8", "--begin=now+1hour"]);
    let came = watch.until("a new job", |watch| watch.jobs.contains_key(&late.into())).await;
    story.slurm.scancel("alice", late);
    let left = watch.until("that it is gone", |watch| !watch.jobs.contains_key(&late.into())).await;
    story.note(&format!(
        "all after {waited:?}, a new job seen after {came:?}, its end after {left:?}"
    ));
    assert!(came < SEEN && left < SEEN, "{came:?} {left:?}");

    // One job's life: Slurm's record, its explanation, and what was seen.
    let told: Value =
        ui.ask(Method::GET, &format!("/api/jobs/{waits}")).await.json().await.expect("JSON");
    assert!(
        told["explained"]["why"].as_str().is_some_and(|why| why.starts_with("BeginTime")),
        "{told}"
    );
    let told: Value =
        ui.ask(Method::GET, &format!("/api/jobs/{late}")).await.json().await.expect("JSON");
    let seen: Vec<&Value> = told["life"]["moments"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["what"])
        .collect();
    assert!(
        seen.first() == Some(&&json!("came")) && seen.last() == Some(&&json!("left")),
        "{told}"
    );
    assert_eq!(told["life"]["last"]["name"], "late");

    // A gang that Slurm has no job for is there, too, and says why.
    let nowhere = manifest::template(4, &[("gangway.dev/partition", "nowhere")]);
    let astray = manifest::indexed_job("astray", 2, &nowhere);
    story.kube.create(&astray).await;
    let path = format!("{}/astray", story.kube.namespace);
    let own = |watch: &Watch| watch.jobs.values().find(|job| job["name"] == path.as_str()).cloned();
    watch.until("a gang that is refused", |watch| own(watch).is_some()).await;
    let row = own(&watch).expect("it was seen");
    assert_eq!((&row["state"], &row["kind"]), (&"REFUSED".into(), &"gang".into()), "{row}");
    let told: Value =
        ui.ask(Method::GET, &format!("/api/jobs/{}", row["id"])).await.json().await.expect("JSON");
    assert!(
        told["explained"]["why"].as_str().is_some_and(|why| why.contains("partition nowhere")),
        "{told}"
    );

    match Browser::program() {
        Some(program) => in_a_browser(&story, &ui, &program, (holder, evil, waits)).await,
        None => story.note("no browser: GANGWAY_CHROMIUM is not set"),
    }

    // The door goes away and comes back: what was seen stays, with the reason.
    story.bridge.kill();
    watch.until("that the door is away", |watch| watch.head["problem"].is_string()).await;
    assert!(watch.jobs.contains_key(&holder));
    assert_eq!(http::get(ui.health, "/readyz").await.map(|(status, _)| status), Some(200));
    story.bridge.start().await;
    watch.until("that it is back", |watch| watch.head["problem"].is_null()).await;
    assert!(watch.jobs.contains_key(&holder) && watch.jobs.contains_key(&evil.into()));

    // Asked to stop, it does not wait for those who watch.
    let began = Instant::now();
    let pid = ui.child.id().to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.is_ok_and(|status| status.success()));
    while watch.next().await.is_some() {}
    let ended = wait("it has ended", SOON, async || match ui.child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert!(ended.await.success());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    story.end().await;
}

/// No verb but those that only ask, no other name, and a policy that lets nothing in from elsewhere.
async fn nothing_is_written(ui: &Ui) {
    for path in ["/", "/page.js", "/events", "/api/jobs/1"] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = ui.ask(method.clone(), path).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    let page = ui.ask(Method::GET, "/").await;
    let header = |name: &str| page.headers()[name].to_str().expect("text").to_owned();
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("x-frame-options"), "DENY");
    let again = ui.client.get(ui.url("/")).header("if-none-match", header("etag")).send().await;
    assert_eq!(again.expect("an answer").status(), StatusCode::NOT_MODIFIED);
    assert_eq!(ui.ask(Method::HEAD, "/").await.status(), StatusCode::OK);
    assert_eq!(ui.ask(Method::GET, "/api/jobs/one").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(ui.ask(Method::GET, "/nothing").await.status(), StatusCode::NOT_FOUND);
    // A name that somebody elsewhere has lead here.
    let rebound = ui.client.get(ui.url("/events")).header("host", "evil.example").send().await;
    assert_eq!(rebound.expect("an answer").status(), StatusCode::MISDIRECTED_REQUEST);
}

/// What a person sees.
async fn in_a_browser(story: &Story, ui: &Ui, program: &Path, jobs: (u64, u32, u32)) {
    let (holder, evil, waits) = jobs;
    let mut browser = Browser::start(program, (1280, 800)).await;
    browser.open(&ui.url("/")).await;
    browser.until("the page is filled", "performance.getEntriesByName('filled').length > 0").await;
    for id in [holder, evil.into(), waits.into()] {
        let row = format!("document.getElementById('job-{id}') !== null");
        browser.until("a job has a row", &row).await;
    }

    // A name is text, whatever it looks like.
    let name = browser.eval(&format!("document.querySelector('#job-{evil} b').textContent")).await;
    assert_eq!(name, EVIL);
    let title =
        browser.eval(&format!("document.querySelector('#job-{evil} td:nth-child(2)').title")).await;
    assert_eq!(title, EVIL);

    // A click on a row shows its life; the pool knows it too.
    browser.eval(&format!("document.querySelector('#job-{evil} td').click()")).await;
    browser
        .until("its life is shown", "document.querySelector('#life .moments li') !== null")
        .await;
    let life = browser.eval("document.getElementById('life-title').textContent").await;
    assert_eq!(life, EVIL);
    browser.key("Escape").await;
    browser.until("it is closed", "document.getElementById('life').hidden").await;
    let held = browser.eval("document.getElementById('gpus').textContent").await;
    assert!(held.as_str().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 6), "{held}");
    let nodes = browser.eval("document.getElementById('pool-count').textContent").await;
    assert!(nodes.as_str().is_some_and(|said| !said.starts_with('0')), "{nodes}");

    // By keys alone: filter, choose, open.
    browser.key("/").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "filter");
    browser.eval("const f = document.getElementById('filter'); f.value = 'waits'; f.dispatchEvent(new Event('input')); document.getElementById('queue').focus()").await;
    browser.key("ArrowDown").await;
    browser.key("Enter").await;
    browser
        .until(
            "the life of the one that waits",
            "document.getElementById('life-title').textContent === 'waits'",
        )
        .await;
    browser
        .until(
            "it says why",
            "document.querySelector('#life .said')?.textContent.startsWith('BeginTime') === true",
        )
        .await;

    // Live: what changes in Slurm changes here.
    story.slurm.scancel("alice", waits);
    browser
        .until("its row is gone", &format!("document.getElementById('job-{waits}') === null"))
        .await;

    assert_eq!(browser.eval("typeof window.owned").await, "undefined");
    assert_eq!(browser.complaints, Vec::<String>::new());
    let own = ui.url("/");
    let strangers: Vec<&String> =
        browser.requests.iter().filter(|url| !url.starts_with(&own)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}
