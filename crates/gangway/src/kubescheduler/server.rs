//! The HTTP side: kube-scheduler's `filter`, `prioritize` and `bind`, and /healthz beside them.
//!
//! Whoever reaches it can make no pod go anywhere but where Slurm put it: a request only reads the
//! table, or says that a pod has come to the node it was given.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gangway_core::offer::Answer;
use prometheus::{HistogramVec, IntCounterVec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::offers::Offers;
use super::wire::{Args, BindingArgs, BindingResult, FilterResult, HostPriority};
use crate::cluster::World;
use crate::mandate::{Mandate, Standing};
use crate::metrics::Roll;

/// Largest body that is read: 5,000 nodes as whole objects.
const MAX_BODY: usize = 64 << 20;
/// Questions that are read and answered at once; kube-scheduler asks one after the other.
const QUESTIONS: usize = 16;
/// How long after the stop answers under way may take.
const DRAIN: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Desk {
    offers: Offers,
    world: World,
    mandate: Mandate,
    scheduler_name: Arc<str>,
    questions: Arc<Semaphore>,
    answers: IntCounterVec,
    seconds: HistogramVec,
}

impl Desk {
    pub(super) fn new(
        offers: Offers,
        world: World,
        mandate: Mandate,
        scheduler_name: &str,
        roll: &Roll,
    ) -> prometheus::Result<Self> {
        let answers = roll.counters(
            "gangway_extender_answers_total",
            "Answers to kube-scheduler by verb and kind: node, none, stranger, bound, refused, bad, standby",
            &["verb", "answer"],
        )?;
        let seconds = roll.histograms(
            "gangway_extender_seconds",
            "Seconds per answer to kube-scheduler",
            &["verb"],
            &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 20.0],
        )?;
        Ok(Self {
            offers,
            world,
            mandate,
            scheduler_name: scheduler_name.into(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            answers,
            seconds,
        })
    }

    fn count(&self, verb: &str, answer: &str, since: Instant) {
        self.answers.with_label_values(&[verb, answer]).inc();
        self.seconds.with_label_values(&[verb]).observe(since.elapsed().as_secs_f64());
    }

    /// What a question asks, or an answer that says why it cannot be read, or not here.
    fn read<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &Bytes,
        since: Instant,
    ) -> Result<T, Box<Response>> {
        if !self.mandate.holds() {
            self.count(verb, "standby", since);
            let why = match self.mandate.standing() {
                Standing::Waits(leader) => format!("this extender stands by; {leader:?} leads\n"),
                _ => "this extender does not lead any more and is ending\n".to_owned(),
            };
            // Behind one address with other replicas, the next connection may come to the leader.
            let close = [(CONNECTION, "close")];
            return Err(Box::new((StatusCode::SERVICE_UNAVAILABLE, close, why).into_response()));
        }
        serde_json::from_slice(body).map_err(|error| {
            self.count(verb, "bad", since);
            let problem = format!("this is not what kube-scheduler sends: {error}\n");
            Box::new((StatusCode::BAD_REQUEST, problem).into_response())
        })
    }

    /// The node of this pod among these, or why there is none. `None`: it is not ours.
    async fn answer(&self, args: &Args) -> Option<Answer> {
        if args.pod.spec.scheduler_name != *self.scheduler_name {
            return None;
        }
        let (pod, nodes) = (&args.pod.metadata, args.names());
        let answer = self.offers.ask(&pod.uid, &nodes).await;
        tracing::debug!(
            gang = self.gang_of(&pod.uid),
            job = self.offers.job_of(&pod.uid),
            pod = format!("{}/{}", pod.namespace, pod.name),
            nodes = nodes.len(),
            ?answer,
            "asked"
        );
        Some(answer)
    }
}

/// Serves the protocol until `stop`.
pub(super) async fn serve<L>(listener: L, desk: Desk, stop: CancellationToken) -> anyhow::Result<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let app = app(desk);
    let late = stop.clone();
    tokio::select! {
        served = async {
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
        } => Ok(served?),
        // kube-scheduler keeps its connections open.
        () = async { late.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

fn app(desk: Desk) -> Router {
    Router::new()
        .route("/filter", post(filter))
        .route("/prioritize", post(prioritize))
        .route("/bind", post(bind))
        .route("/healthz", get(async || "ok"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(desk)
}

fn write(answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn filter(State(desk): State<Desk>, body: Bytes) -> Response {
    let began = Instant::now();
    let Ok(_permit) = desk.questions.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let args: Args = match desk.read("filter", &body, began) {
        Ok(args) => args,
        Err(answer) => return *answer,
    };
    drop(body);
    let (kind, result): (_, FilterResult) = match desk.answer(&args).await {
        None => ("stranger", args.all()),
        Some(Answer::Node(node)) => ("node", args.only(&node)),
        Some(Answer::None(why)) => ("none", args.none(&why)),
    };
    desk.count("filter", kind, began);
    write(&result)
}

async fn prioritize(State(desk): State<Desk>, body: Bytes) -> Response {
    let began = Instant::now();
    let Ok(_permit) = desk.questions.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let args: Args = match desk.read("prioritize", &body, began) {
        Ok(args) => args,
        Err(answer) => return *answer,
    };
    let (kind, ours) = match desk.answer(&args).await {
        None => ("stranger", None),
        Some(Answer::Node(node)) => ("node", Some(node)),
        Some(Answer::None(_)) => ("none", None),
    };
    let names = args.names();
    let score = |host: &str| HostPriority {
        host: host.to_owned(),
        score: if ours.as_deref() == Some(host) { 10 } else { 0 },
    };
    let scores: Vec<HostPriority> = names.into_iter().map(score).collect();
    desk.count("prioritize", kind, began);
    write(&scores)
}

async fn bind(State(desk): State<Desk>, body: Bytes) -> Response {
    let began = Instant::now();
    let args: BindingArgs = match desk.read("bind", &body, began) {
        Ok(args) => args,
        Err(answer) => return *answer,
    };
    let outcome = match desk.is_bound(&args) {
        true => Ok(()),
        false => desk.offers.bind(&args.pod_uid, &args.node).await,
    };
    desk.count("bind", if outcome.is_ok() { "bound" } else { "refused" }, began);
    let pod = format!("{}/{}", args.pod_namespace, args.pod_name);
    let result = BindingResult {
        error: outcome
            .err()
            .map(|why| format!("pod {pod} is not bound to node {}: {why}", args.node))
            .unwrap_or_default(),
    };
    if !result.error.is_empty() {
        tracing::info!(
            gang = desk.gang_of(&args.pod_uid),
            job = desk.offers.job_of(&args.pod_uid),
            pod,
            node = args.node,
            why = result.error,
            "not bound"
        );
    }
    write(&result)
}

impl Desk {
    /// For the log.
    fn gang_of(&self, pod: &str) -> Option<String> {
        self.world.index().gang_of(pod)
    }

    /// kube-scheduler asks again for what was done: its first request may have run out of time.
    fn is_bound(&self, args: &BindingArgs) -> bool {
        let index = self.world.index();
        index.pod(&args.pod_uid).is_some_and(|pod| pod.node() == Some(args.node.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use gangway_core::job::JobId;
    use gangway_core::offer::Standing;
    use serde_json::{Value, json};
    use tokio::sync::Notify;
    use tower::ServiceExt as _;

    use super::*;

    /// A desk where pod `seated` has its seat on n2 and pod `waits` has none.
    fn desk() -> Desk {
        let (offers, follower) = (Offers::default(), Arc::new(Notify::new()));
        let seat = Standing::Seat { node: "n2".to_owned(), job: JobId(7) };
        offers.stand("seated", seat, &follower);
        offers.stand("waits", Standing::Waiting("in the queue".to_owned()), &follower);
        let (world, mandate) = (World::default(), Mandate::new());
        assert!(mandate.extend(i64::MAX), "it leads");
        Desk::new(offers, world, mandate, "ours", &Roll::new().expect("a roll"))
            .expect("metrics of its own")
    }

    /// What kube-scheduler posts for a pod and n1 to n3: as names where it keeps the nodes for us.
    fn question(uid: &str, scheduler: &str, node_cache_capable: bool) -> Value {
        let names = ["n1", "n2", "n3"];
        let items = names.map(|name| json!({"metadata": {"name": name}, "status": {"phase": ""}}));
        let nodes = json!({"metadata": {}, "items": items});
        json!({
            "Pod": {
                "metadata": {"uid": uid, "namespace": "team", "name": uid},
                "spec": {"schedulerName": scheduler, "containers": []},
            },
            "Nodes": if node_cache_capable { Value::Null } else { nodes },
            "NodeNames": if node_cache_capable { json!(names) } else { Value::Null },
        })
    }

    async fn post_to(desk: &Desk, path: &str, body: String) -> (StatusCode, Vec<u8>) {
        let request = Request::post(path).body(Body::from(body)).expect("a request");
        let answer = app(desk.clone()).oneshot(request).await.expect("an answer");
        let status = answer.status();
        (status, to_bytes(answer.into_body(), 1 << 20).await.expect("a body").to_vec())
    }

    /// Each node's score, in the order in which the nodes were asked about.
    async fn scores(desk: &Desk, question: &Value) -> Vec<(String, i64)> {
        let (status, body) = post_to(desk, "/prioritize", question.to_string()).await;
        assert_eq!(status, StatusCode::OK);
        let list: Vec<Value> = serde_json::from_slice(&body).expect("a HostPriorityList");
        let score = |entry: &Value| {
            let host = entry["Host"].as_str().expect("a host").to_owned();
            (host, entry["Score"].as_i64().expect("a score"))
        };
        list.iter().map(score).collect()
    }

    #[tokio::test]
    async fn the_node_of_the_seat_is_preferred_to_all_others() {
        let desk = desk();
        let given = |scores: [i64; 3]| {
            ["n1", "n2", "n3"].map(str::to_owned).into_iter().zip(scores).collect::<Vec<_>>()
        };
        for node_cache_capable in [true, false] {
            let ask = |uid, scheduler| question(uid, scheduler, node_cache_capable);
            assert_eq!(scores(&desk, &ask("seated", "ours")).await, given([0, 10, 0]));
            assert_eq!(scores(&desk, &ask("waits", "ours")).await, given([0, 0, 0]));
            // Another scheduler's pod is no business of ours, whatever its uid.
            assert_eq!(scores(&desk, &ask("seated", "theirs")).await, given([0, 0, 0]));
        }
        let counted = |answer| desk.answers.with_label_values(&["prioritize", answer]).get();
        assert_eq!(["node", "none", "stranger"].map(counted), [2, 2, 2]);
        let (status, said) = post_to(&desk, "/prioritize", "{\"Pod\":".to_owned()).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(said.contains("not what kube-scheduler sends"), "{said}");
        assert_eq!(counted("bad"), 1);
    }

    #[test]
    fn a_standby_answers_nothing_but_who_leads_and_hangs_up() {
        let (registry, mandate) = (Roll::new().expect("a roll"), Mandate::new());
        let (offers, world) = (Offers::default(), World::default());
        let desk = Desk::new(offers, world, mandate.clone(), "p", &registry).expect("metrics");
        mandate.waits_for("other_1");
        let ask = || desk.read::<Value>("filter", &Bytes::from("{}"), Instant::now());
        let answer = ask().expect_err("it stands by");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[CONNECTION], "close");
        assert!(mandate.extend(mandate.now() + 60_000));
        assert!(ask().is_ok(), "it leads");
        mandate.end();
        assert!(ask().is_err(), "it does not lead any more");
    }
}
