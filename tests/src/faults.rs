//! A proxy that does wrong, question by question, before slurmrestd or before the API server.
//!
//! A script looks at each question and says what is to go wrong with it; without a fault everything
//! passes, watches too. For whole moods (refused connections, silence) there is [`crate::Proxy`].

mod lie;
mod watches;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use futures::{StreamExt as _, stream};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::free_port;
use lie::Memory;
use watches::{Watches, status};

/// What goes wrong with one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It never arrives: the connection is cut before it is passed on.
    Cut,
    /// It is carried out, and the answer is lost with the connection.
    Lose,
    /// It is carried out, and the answer breaks off in its middle. A watch breaks off at once.
    Break,
    /// It is held up for so many milliseconds.
    Delay(u64),
    /// It is not passed on; an answer of this status, as a gateway would give.
    Status(u16),
    /// It is carried out, and the answer is one of this status all the same.
    After(u16),
    /// It is kept back until it is let go.
    Hold,
    /// It is not passed on; the API server's own 409.
    Conflict,
    /// It is not passed on; the API server's own 410.
    Expired,
    /// A text 404, as of a proxy that has lost its way.
    NotFound,
    /// A 200 whose lists are all empty.
    Empty,
    /// A 200 of `application/json` that is none.
    Garbage,
    /// The true answer with its types exchanged.
    WrongTypes,
    /// The oldest true answer to the same question of the last three seconds.
    Stale,
}

impl Fault {
    /// Its name without its number.
    pub fn name(self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap_or_default().to_lowercase()
    }

    /// Whether Slurm or the API server has carried the question out.
    fn passes_on(self) -> bool {
        let refused = matches!(self, Self::Conflict | Self::Expired | Self::Status(_));
        !refused && !matches!(self, Self::Cut | Self::NotFound | Self::Garbage)
    }
}

/// A question, as a script sees it.
#[derive(Debug)]
pub struct Question<'a> {
    /// `GET` and so on.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// What is sent along.
    pub body: &'a [u8],
}

impl Question<'_> {
    /// Nothing is changed by it.
    pub fn reads(&self) -> bool {
        self.method == "GET"
    }

    /// A watch of the API server.
    pub fn watches(&self) -> bool {
        self.path.contains("watch=")
    }

    /// What is to be written. Objects that are created have the same path, so their names are told too:
    /// several that are written at once are not taken for tries of one.
    fn target(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let body = serde_json::from_slice::<serde_json::Value>(self.body).unwrap_or_default();
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {path} {name}", self.method)
    }
}

type Script = Arc<dyn Fn(&Question<'_>) -> Option<Fault> + Send + Sync>;

/// The proxy.
pub struct Faults {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    written: Mutex<Vec<PathBuf>>,
}

struct Shared {
    way: Way,
    script: Mutex<Script>,
    done: Mutex<BTreeMap<String, usize>>,
    memory: Memory,
    watches: Watches,
    /// Whether what is held is held still.
    holds: watch::Sender<bool>,
    /// How many attempts to go on with a watch are still to be answered with 410.
    gone: AtomicUsize,
}

/// Where questions are passed on to.
enum Way {
    /// slurmrestd: a connection for each question, as it closes them at every error.
    Slurm(reqwest::Client, String),
    /// The API server, as whoever the client is.
    Kubernetes(kube::Client),
}

impl Faults {
    /// Before slurmrestd.
    pub async fn before_slurm(url: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.tls_backend_preconfigured(crate::secured::nobody()).build();
        let client = client.expect("an HTTP client");
        Self::before(Way::Slurm(client, url.trim_end_matches('/').to_owned())).await
    }

    /// Before the API server, as the user of this kubeconfig.
    pub async fn before_kubernetes(kubeconfig: &std::path::Path) -> Self {
        let kube = crate::Kubernetes::reach(kubeconfig, "default").await;
        Self::before(Way::Kubernetes(kube.client)).await
    }

    async fn before(way: Way) -> Self {
        let port = free_port();
        let shared = Arc::new(Shared {
            way,
            script: Mutex::new(Arc::new(|_: &Question<'_>| None)),
            done: Mutex::default(),
            memory: Memory::default(),
            watches: Watches::default(),
            holds: watch::Sender::new(true),
            gone: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { port, shared, serving, written: Mutex::default() }
    }

    /// Where a client should go.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Writes a kubeconfig that leads here.
    pub fn write_kubeconfig(&self, path: &std::path::Path) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: faults\n\
             clusters: [{{name: faults, cluster: {{server: '{}'}}}}]\n\
             users: [{{name: nobody, user: {{}}}}]\n\
             contexts: [{{name: faults, context: {{cluster: faults, user: nobody}}}}]\n",
            self.url()
        );
        std::fs::write(path, text).expect("the kubeconfig can be written");
    }

    /// A kubeconfig that leads here, for as long as the proxy is there.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gangway-faults-{}.yaml", self.port));
        self.write_kubeconfig(&path);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        path
    }

    /// From now on, the first try of every write meets a conflict.
    pub fn conflicts(&self) {
        let tried: Mutex<BTreeMap<String, usize>> = Mutex::default();
        self.follow(move |asked| {
            if asked.reads() {
                return None;
            }
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            let count = tried.entry(asked.target()).or_default();
            *count += 1;
            (*count % 2 == 1).then_some(Fault::Conflict)
        });
    }

    /// All watches expire now, and as many more attempts to go on with one are answered with 410.
    pub fn expire(&self, more: usize) {
        self.shared.gone.store(more, Ordering::SeqCst);
        let shared = Arc::downgrade(&self.shared);
        self.follow(move |asked| {
            let gone = &shared.upgrade()?.gone;
            let less = |left: usize| left.checked_sub(1).filter(|_| asked.watches());
            let one = gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            one.is_ok().then_some(Fault::Expired)
        });
        self.shared.watches.expire();
    }

    /// How many attempts to go on with a watch are still to be answered with 410.
    pub fn still_gone(&self) -> usize {
        self.shared.gone.load(Ordering::SeqCst)
    }

    /// From now on bindings are kept back, or go on.
    pub fn hold(&self, on: bool) {
        self.shared.holds.send_replace(on);
        self.follow(move |asked| {
            (on && asked.path.split('?').next()?.ends_with("/binding")).then_some(Fault::Hold)
        });
    }

    /// From now on watches say nothing, or go on where they were.
    pub fn stall(&self, on: bool) {
        self.shared.watches.stall(on);
    }

    /// How often a fault was done.
    pub fn count(&self, fault: Fault) -> usize {
        self.done().get(&fault.name()).copied().unwrap_or_default()
    }

    /// What goes wrong from now on.
    pub fn follow(&self, script: impl Fn(&Question<'_>) -> Option<Fault> + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Nothing goes wrong from now on.
    pub fn rest(&self) {
        self.follow(|_| None);
    }

    /// How often each fault was done.
    pub fn done(&self) -> BTreeMap<String, usize> {
        self.shared.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.serving.abort();
        for file in self.written.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that is left is of no harm.
            let _ = std::fs::remove_file(file);
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the proxy.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let service = tower::service_fn(move |request| treat(shared.clone(), request));
            let service = TowerToHyperService::new(service);
            // A connection that was cut on purpose ends with an error.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one question. An error cuts the connection.
async fn treat(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = to_bytes(Body::new(body), usize::MAX).await.map_err(std::io::Error::other)?;
    let asked = Question { method: head.method.as_str(), path: &path, body: &body };
    let watches = asked.watches();
    let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fault = script(&asked);
    if let Some(fault) = fault {
        let mut done = shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done.entry(fault.name()).or_default() += 1;
    }
    match fault {
        Some(Fault::Hold) => {
            // The sender lives as long as the proxy.
            let _ = shared.holds.subscribe().wait_for(|on| !on).await;
        }
        Some(Fault::Delay(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(fault) if !fault.passes_on() => return made_up(fault),
        _ => {}
    }
    let answer = shared.way.ask(&head.method, &path, &head.headers, body).await?;
    if watches {
        return match fault {
            Some(Fault::Break | Fault::Lose) => Ok(broken(answer.status(), Bytes::new())),
            Some(Fault::After(status)) => made_up(Fault::Status(status)),
            _ => Ok(shared.watches.told(answer)),
        };
    }
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(std::io::Error::other)?;
    let truth = (head.status, head.headers.get(header::CONTENT_TYPE).cloned(), body);
    shared.memory.keep(&path, &truth);
    let (status, kind, body) = match fault {
        Some(Fault::Lose) => return Err(std::io::Error::other("the answer is lost")),
        Some(Fault::Break) => return Ok(broken(truth.0, truth.2.slice(..truth.2.len() / 2))),
        Some(Fault::After(status)) => return made_up(Fault::Status(status)),
        Some(Fault::Empty) => (StatusCode::OK, truth.1, lie::emptied(&truth.2)),
        Some(Fault::WrongTypes) => (truth.0, truth.1, lie::exchanged(&truth.2)),
        Some(Fault::Stale) => shared.memory.oldest(&path).unwrap_or(truth),
        _ => truth,
    };
    let mut answer = Response::builder().status(status);
    if let Some(kind) = kind {
        answer = answer.header(header::CONTENT_TYPE, kind);
    }
    if !status.is_success() {
        // As slurmrestd does.
        answer = answer.header(header::CONNECTION, "close");
    }
    answer.body(Body::from(body)).map_err(std::io::Error::other)
}

/// An answer that nobody behind the proxy has given.
fn made_up(fault: Fault) -> Result<Response<Body>, std::io::Error> {
    let (json, told) = ("application/json", |code, reason| status(code, reason).to_string());
    let (status, kind, body) = match fault {
        Fault::Status(status) => (status, "text/html", "<html>the gateway is unwell</html>".into()),
        Fault::NotFound => (404, "text/plain", "Unable to find requested URL endpoint".into()),
        Fault::Garbage => (200, json, "{\"jobs\": [{\"job_id\": 1".into()),
        Fault::Conflict => (409, json, told(409, "Conflict")),
        Fault::Expired => (410, json, told(410, "Expired")),
        _ => return Err(std::io::Error::other("cut on purpose")),
    };
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    answer.body(Body::from(body)).map_err(std::io::Error::other)
}

/// An answer that begins so and then breaks off.
fn broken(status: StatusCode, part: Bytes) -> Response<Body> {
    let rest = Err(std::io::Error::other("broken off on purpose"));
    let mut answer = Response::new(Body::from_stream(stream::iter([Ok(part), rest])));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

impl Way {
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, std::io::Error> {
        let passed = headers.iter().filter(|(name, _)| {
            let own = [header::HOST, header::AUTHORIZATION, header::CONNECTION];
            let length =
                [header::CONTENT_LENGTH, header::ACCEPT_ENCODING, header::TRANSFER_ENCODING];
            !own.contains(name) && !length.contains(name)
        });
        match self {
            Self::Slurm(client, url) => {
                let mut request = client.request(method.clone(), format!("{url}{path}")).body(body);
                for (name, value) in passed {
                    request = request.header(name, value);
                }
                let answer = request.send().await.map_err(std::io::Error::other)?;
                let (status, kind) =
                    (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
                let body = answer.bytes().await.map_err(std::io::Error::other)?;
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
                Ok(response)
            }
            Self::Kubernetes(client) => {
                let mut request = Request::builder().method(method.clone()).uri(path);
                for (name, value) in passed {
                    request = request.header(name, value);
                }
                let request = request.body(kube::client::Body::from(body));
                let answer = client.send(request.map_err(std::io::Error::other)?).await;
                let answer = answer.map_err(std::io::Error::other)?;
                let (mut head, body) = answer.into_parts();
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.remove(header::TRANSFER_ENCODING);
                let body = Body::new(body).into_data_stream();
                let body = body.map(|part| part.map_err(std::io::Error::other));
                Ok(Response::from_parts(head, Body::from_stream(body)))
            }
        }
    }
}
