//! A proxy before the API server that lets watches expire or fall behind, meets writes with conflicts, and
//! keeps bindings back.
//!
//! The bridge speaks plain HTTP to it, and it speaks to the API server with the bridge's own rights.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::World;

/// The proxy.
#[derive(Debug)]
pub struct ApiProxy {
    port: u16,
    mood: Arc<Mood>,
    serving: JoinHandle<()>,
    written: Mutex<Vec<PathBuf>>,
}

/// How it treats who asks.
#[derive(Debug, Default)]
struct Mood {
    /// Every odd write to one path is answered with a conflict.
    conflicts: AtomicBool,
    writes: Mutex<HashMap<String, usize>>,
    met: AtomicUsize,
    /// Counts expiries: each ends all watches, and as many new ones are answered with 410.
    expired: watch::Sender<usize>,
    gone: AtomicUsize,
    /// Bindings wait.
    holds: watch::Sender<bool>,
    held: AtomicUsize,
    /// Watches say nothing.
    stalls: watch::Sender<bool>,
}

#[derive(Clone)]
struct Server {
    client: kube::Client,
    mood: Arc<Mood>,
}

impl ApiProxy {
    /// A proxy that lets everything pass, until it is told otherwise.
    pub async fn before(world: &World) -> Self {
        let file = Kubeconfig::read_from(world.bridge_kubeconfig()).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.expect("the kubeconfig makes sense");
        // A watch may say nothing for long.
        config.read_timeout = None;
        let client = kube::Client::try_from(config).expect("a client");
        let mood: Arc<Mood> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = Server { client, mood: mood.clone() };
        let app = Router::new().fallback(pass).with_state(server);
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("the proxy serves");
        });
        Self { port, mood, serving, written: Mutex::default() }
    }

    /// A kubeconfig that leads to it, written into this directory.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let path = directory.join(format!("api-proxy-{}.kubeconfig", self.port));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n\
             clusters:\n- name: proxy\n  cluster:\n    server: http://127.0.0.1:{}\n\
             users:\n- name: anybody\n  user: {{}}\n\
             contexts:\n- name: proxy\n  context: {{cluster: proxy, user: anybody}}\n",
            self.port
        );
        fs::write(&path, text).expect("the directory can be written");
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        path
    }

    /// From now on, the first try of every write meets a conflict, or not.
    pub fn conflicts(&self, on: bool) {
        self.mood.conflicts.store(on, Ordering::SeqCst);
    }

    /// How many writes have met a conflict.
    pub fn met(&self) -> usize {
        self.mood.met.load(Ordering::SeqCst)
    }

    /// All watches expire now, and as many more attempts to go on with one are answered with 410.
    pub fn expire(&self, more: usize) {
        self.mood.gone.store(more, Ordering::SeqCst);
        self.mood.expired.send_modify(|count| *count += 1);
    }

    /// From now on bindings are kept back, or go on.
    pub fn hold(&self, on: bool) {
        self.mood.holds.send_replace(on);
    }

    /// How many bindings were kept back.
    pub fn held(&self) -> usize {
        self.mood.held.load(Ordering::SeqCst)
    }

    /// From now on watches say nothing, or go on where they were.
    pub fn stall(&self, on: bool) {
        self.mood.stalls.send_replace(on);
    }

    /// How many attempts to go on with a watch are still to be answered with 410.
    pub fn still_gone(&self) -> usize {
        self.mood.gone.load(Ordering::SeqCst)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.serving.abort();
        for file in self.written.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that is left is of no harm.
            let _ = fs::remove_file(file);
        }
    }
}

impl Mood {
    fn in_the_way(&self, request: &Request) -> bool {
        if request.method() == Method::GET || !self.conflicts.load(Ordering::SeqCst) {
            return false;
        }
        let key = format!("{} {}", request.method(), request.uri().path());
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = writes.entry(key).or_default();
        *count += 1;
        let odd = *count % 2 == 1;
        self.met.fetch_add(usize::from(odd), Ordering::SeqCst);
        odd
    }

    fn is_gone(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

fn status(code: StatusCode, reason: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason}, says the proxy of a story"), "reason": reason,
        "code": code.as_u16(),
    })
}

fn refuse(code: StatusCode, reason: &str) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (code, kind, status(code, reason).to_string()).into_response()
}

async fn pass(State(server): State<Server>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let watches = query.split('&').any(|word| word == "watch=true" || word == "watch=1");
    if server.mood.in_the_way(&request) {
        return refuse(StatusCode::CONFLICT, "Conflict");
    }
    if request.uri().path().ends_with("/binding") && *server.mood.holds.borrow() {
        server.mood.held.fetch_add(1, Ordering::SeqCst);
        // The sender lives as long as the server.
        let _ = server.mood.holds.subscribe().wait_for(|on| !on).await;
    }
    if watches && server.mood.is_gone() {
        return refuse(StatusCode::GONE, "Expired");
    }
    let mut expired = server.mood.expired.subscribe();
    let (mut head, body) = request.into_parts();
    for name in [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else {
        return refuse(StatusCode::BAD_REQUEST, "BadRequest");
    };
    let question = axum::http::Request::from_parts(head, kube::client::Body::from(body.to_vec()));
    let answer = match server.client.send(question).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (mut head, body) = answer.into_parts();
    head.headers.remove(header::TRANSFER_ENCODING);
    let said = Body::new(body).into_data_stream();
    if !watches {
        return Response::from_parts(head, Body::from_stream(said));
    }
    let end = async move {
        // The sender lives as long as the server.
        let _ = expired.changed().await;
        let object = status(StatusCode::GONE, "Expired");
        Ok(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": object}))))
    };
    let stalls = server.mood.stalls.subscribe();
    let said = said.then(move |word| {
        let mut stalls = stalls.clone();
        async move {
            let _ = stalls.wait_for(|on| !on).await;
            word
        }
    });
    let told = ends_with(said.boxed(), stream::once(end).boxed());
    Response::from_parts(head, Body::from_stream(told))
}

type Said = BoxStream<'static, Result<Bytes, axum::Error>>;

/// What `said` says until `last` has something to say, which is the end.
fn ends_with(said: Said, last: Said) -> impl futures::Stream<Item = Result<Bytes, axum::Error>> {
    stream::unfold(Some((said, last)), async |both| {
        let (mut said, mut last) = both?;
        tokio::select! {
            word = said.next() => word.map(|word| (word, Some((said, last)))),
            word = last.next() => word.map(|word| (word, None)),
        }
    })
}
