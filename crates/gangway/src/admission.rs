//! `gangway admission`: answers the API server's questions about pods and what pods are made from.
//!
//! The answers are core's ([`gangway_core::admission`]); here are the port, its limits and its certificate. It never
//! writes anything and never holds Slurm's token, so any number of replicas answer beside each other.

pub(crate) mod manifests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gangway_core::admission::{House, Review, mutate, validate};
use gangway_core::policy::{Policy, Source};
use prometheus::{HistogramVec, IntCounterVec};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::apiserver::{self, Hand};
use crate::config::{AdmissionFlags, AdmissionSettings};
use crate::http::{self, Readiness};
use crate::metrics::Roll;
use crate::nursery::nursery;
use crate::policies;
use crate::tls::{HTTP_1, TlsListener};

/// Largest question that is read: an object and the one before it, as large as the API server takes them.
const MAX_BODY: usize = 8 << 20;
/// Questions that are read at once: the others wait, and the API server gives up on those that wait too long.
const QUESTIONS: usize = 64;
/// How long one question may take to come and be answered; the API server waits for less.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
struct Desk {
    house: Arc<House>,
    policy: watch::Receiver<Arc<Policy>>,
    questions: Arc<Semaphore>,
    answers: IntCounterVec,
    seconds: HistogramVec,
}

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &AdmissionFlags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    let settings = AdmissionSettings::load(flags)?;
    if flags.print_policies {
        use std::io::Write as _;
        std::io::stdout().write_all(manifests::policies(&settings.house).as_bytes())?;
        return Ok(());
    }
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let readiness = Arc::new(Readiness::default());
    // It asks nothing of Slurm.
    readiness.slurm.store(true, Ordering::Relaxed);
    let roll = Roll::new()?;
    let policy = watch::Sender::new(Arc::new(settings.policy.clone()));
    let desk = Desk::new(settings.house.clone(), policy.subscribe(), &roll)?;

    let webhook = http::open(settings.listen.webhook).await?;
    let metrics_port = http::open(settings.listen.metrics).await?;
    let health_port = http::open(settings.listen.health).await?;
    tracing::info!(webhook = %webhook.local_addr()?, health = %health_port.local_addr()?, "listening");
    let secured = TlsListener::new(webhook, settings.tls, HTTP_1)?;
    let serving =
        axum::serve(secured, app(desk)).with_graceful_shutdown(stop.clone().cancelled_owned());
    nursery.start("webhook", async move { Ok(serving.await?) });
    nursery.start("metrics", http::metrics(metrics_port, roll.clone(), stop.clone()));
    nursery.start("health", http::health(health_port, readiness.clone(), stop.clone()));

    let identity = flags.process.identity.as_deref().unwrap_or("admission");
    let client =
        apiserver::client(settings.kubeconfig.as_deref(), Hand::of(identity, None)?).await?;
    let known = policies::read(policy.subscribe());
    let (mode, stopped) = (settings.slurm_policies, stop.clone());
    nursery
        .start("SlurmPolicies", async move { policies::run(client, mode, policy, stopped).await });
    let stopped = stop.clone();
    nursery.start("readiness", async move {
        tokio::select! {
            () = known => {
                readiness.kubernetes.store(true, Ordering::Relaxed);
                readiness.synced.store(true, Ordering::Relaxed);
            }
            () = stopped.cancelled() => {}
        }
        Ok(())
    });
    parent.live(&stop).await
}

/// Everything that is measured here: answers, and their seconds.
pub(crate) fn figures(roll: &Roll) -> prometheus::Result<(IntCounterVec, HistogramVec)> {
    let answers = roll.counters(
        "gangway_admission_answers_total",
        "Answers to the API server by verb and kind: allowed, changed, refused, bad",
        &["verb", "answer"],
    )?;
    let seconds = roll.histograms(
        "gangway_admission_seconds",
        "Seconds per answer to the API server",
        &["verb"],
        &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0],
    )?;
    Ok((answers, seconds))
}

impl Desk {
    fn new(
        house: House,
        policy: watch::Receiver<Arc<Policy>>,
        roll: &Roll,
    ) -> prometheus::Result<Self> {
        let (answers, seconds) = figures(roll)?;
        let (house, questions) = (Arc::new(house), Arc::new(Semaphore::new(QUESTIONS)));
        Ok(Self { house, policy, questions, answers, seconds })
    }

    /// Reads a question and answers it: what `decide` makes of it, and what that is called.
    fn answer(
        &self,
        verb: &str,
        body: &Bytes,
        decide: impl FnOnce(&Review) -> (&'static str, Value),
    ) -> Response {
        let began = Instant::now();
        let (answer, response) = match Review::read(body) {
            Ok(review) => {
                let (answer, mut response) = decide(&review);
                response["uid"] = json!(review.uid);
                let body = json!({
                    "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                    "response": response,
                });
                let kind = [(CONTENT_TYPE, "application/json")];
                (answer, (kind, body.to_string()).into_response())
            }
            Err(problem) => {
                let problem = format!("this is no AdmissionReview of version 1: {problem}\n");
                ("bad", (StatusCode::BAD_REQUEST, problem).into_response())
            }
        };
        self.answers.with_label_values(&[verb, answer]).inc();
        self.seconds.with_label_values(&[verb]).observe(began.elapsed().as_secs_f64());
        response
    }
}

fn app(desk: Desk) -> Router {
    Router::new()
        .route("/mutate", post(mutating))
        .route("/validate", post(validating))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(patiently))
        .with_state(desk)
}

/// Whoever sends slowly keeps no place for ever.
async fn patiently(request: Request, next: Next) -> Response {
    match timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "too slow\n").into_response(),
    }
}

async fn mutating(State(desk): State<Desk>, body: Bytes) -> Response {
    // It is never closed.
    let _turn = desk.questions.acquire().await;
    desk.answer("mutate", &body, |review| {
        let patches = mutate(&desk.house, review);
        if patches.is_empty() {
            return ("allowed", json!({"allowed": true}));
        }
        let text = serde_json::to_vec(&patches).unwrap_or_default();
        let patch = STANDARD.encode(&text);
        ("changed", json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
    })
}

async fn validating(State(desk): State<Desk>, body: Bytes) -> Response {
    let _turn = desk.questions.acquire().await;
    let policy = desk.policy.borrow().clone();
    desk.answer("validate", &body, |review| match validate(&desk.house, &policy, review) {
        Ok(()) if policy.source == Source::Unread => {
            let warning =
                "gangway has not read its SlurmPolicies yet; what is asked is looked at later";
            ("allowed", json!({"allowed": true, "warnings": [warning]}))
        }
        Ok(()) => ("allowed", json!({"allowed": true})),
        Err(why) => {
            tracing::info!(
                user = review.user,
                namespace = review.namespace,
                resource = review.resource,
                why,
                "refused"
            );
            let status =
                json!({"code": 403, "reason": "Forbidden", "message": format!("gangway: {why}")});
            ("refused", json!({"allowed": false, "status": status}))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, want) in pairs {
            assert_eq!(STANDARD.encode(text), want);
        }
        assert_eq!(STANDARD.encode([0xfb, 0xff, 0xbf]), "+/+/");
    }
}
