//! The page over HTTP: its few files, what changes as server-sent events, and one job's explanation.
//!
//! Only GET and HEAD are answered, and nothing that is answered can be asked for by another site: the browser is told
//! to take nothing from elsewhere, and a page that is served for this host alone is not served under another name.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, HeaderName, IF_NONE_MATCH,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use gangway_core::desk::Explanation;
use prometheus::{IntCounterVec, IntGauge};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::life::Life;
use super::look::Gallery;
use crate::config::UiSettings;
use crate::metrics::Roll;

/// Explanations that are asked for at once.
const QUESTIONS: usize = 8;

/// What a browser may do with the page: run what comes from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The page's files: no build makes them, they are served as they are written.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("page/page.html")),
    ("/page.css", CSS, include_str!("page/page.css")),
    ("/page.js", JS, include_str!("page/page.js")),
    ("/store.js", JS, include_str!("page/store.js")),
    ("/queue.js", JS, include_str!("page/queue.js")),
    ("/pool.js", JS, include_str!("page/pool.js")),
    ("/life.js", JS, include_str!("page/life.js")),
    ("/icon.svg", SVG, include_str!("page/icon.svg")),
];

/// What is measured.
#[derive(Clone)]
pub(crate) struct Figures {
    watchers: IntGauge,
    answers: IntCounterVec,
}

impl Figures {
    pub(super) fn new(roll: &Roll) -> prometheus::Result<Self> {
        let watchers = roll.gauge("gangway_ui_watchers", "Browsers that are told what changes")?;
        let answers = roll.counters(
            "gangway_ui_answers_total",
            "Answers of the page's server by what was asked for and kind: ok, busy, away",
            &["what", "answer"],
        )?;
        Ok(Self { watchers, answers })
    }

    fn count(&self, what: &str, answer: &str) {
        self.answers.with_label_values(&[what, answer]).inc();
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Page {
    gallery: Gallery,
    figures: Figures,
    questions: Arc<Semaphore>,
    names: Arc<Names>,
    stop: CancellationToken,
}

impl Page {
    pub(super) fn new(
        gallery: Gallery,
        figures: Figures,
        settings: &UiSettings,
        stop: CancellationToken,
    ) -> Self {
        let questions = Arc::new(Semaphore::new(QUESTIONS));
        let names = Arc::new(Names::of(&settings.hosts, settings.listen.http));
        Self { gallery, figures, questions, names, stop }
    }
}

/// Serves it until the stop; whoever watches then is let go at once.
pub(super) async fn serve<L>(listener: L, page: Page) -> anyhow::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let stop = page.stop.clone();
    axum::serve(listener, app(page)).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

pub(super) fn app(page: Page) -> Router {
    let mut app = Router::new().route("/events", get(events)).route("/api/jobs/{id}", get(job));
    for (path, kind, text) in FILES {
        let tag = format!("\"{:016x}\"", fingerprint(text));
        app = app.route(path, get(move |headers: HeaderMap| file(headers, kind, text, tag)));
    }
    app.layer(from_fn_with_state(page.clone(), guard)).with_state(page)
}

/// Lets in who asks under a right name, and says with every answer what a browser may do with it.
async fn guard(State(page): State<Page>, request: Request, next: Next) -> Response {
    let asked = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let mut response = if page.names.has(asked.unwrap_or_default()) {
        next.run(request).await
    } else {
        let why = "the page is not served under this name; see `hosts` in docs/reference/ui.md\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    let own = HeaderName::from_static;
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (own("cross-origin-resource-policy"), "same-origin"),
        (own("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn file(headers: HeaderMap, kind: &'static str, text: &'static str, tag: String) -> Response {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache"), (ETAG, tag.as_str())];
    if known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, text).into_response()
}

async fn events(State(page): State<Page>) -> Response {
    let Some(told) = page.gallery.watch(page.stop.clone()) else {
        page.figures.count("events", "busy");
        let why = "too many browsers watch already\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], why).into_response();
    };
    page.figures.count("events", "ok");
    let counted = Counted::new(page.figures.watchers);
    let told = futures::StreamExt::inspect(told, move |_| counted.here());
    // Proxies that gather answers before they hand them on would hand on nothing.
    let about =
        [(CONTENT_TYPE, "text/event-stream"), (HeaderName::from_static("x-accel-buffering"), "no")];
    (about, Body::from_stream(told)).into_response()
}

/// One watcher more for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(watchers: IntGauge) -> Self {
        watchers.inc();
        Self(watchers)
    }

    /// Keeps it where it is called from.
    fn here(&self) {}
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Everything about one job.
#[derive(Serialize)]
struct Told {
    /// What the desk says of it now; absent for one that has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explanation>,
    /// What this page has seen of it.
    life: Life,
}

async fn job(State(page): State<Page>, Path(id): Path<u32>) -> Response {
    let Ok(_turn) = page.questions.try_acquire() else {
        page.figures.count("job", "busy");
        let why = "too many questions at once\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response();
    };
    let asked = page.gallery.why(id).await;
    let life = page.gallery.lives().of(id);
    let explained = match asked {
        Ok(answer) => Some(answer.explained()),
        Err(no) if no.code() == Code::NotFound => None,
        Err(no) => {
            page.figures.count("job", "away");
            return (StatusCode::BAD_GATEWAY, format!("{}\n", no.message())).into_response();
        }
    };
    page.figures.count("job", "ok");
    match serde_json::to_vec(&Told { explained, life }) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The names under which the page may be asked for. A site elsewhere may have its own name lead to this host, and its
/// scripts would then be of the same origin.
struct Names(Option<Vec<String>>);

impl Names {
    fn of(hosts: &[String], listens: SocketAddr) -> Self {
        if !hosts.is_empty() {
            return Self(Some(hosts.to_vec()));
        }
        let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
        Self(listens.ip().is_loopback().then_some(own))
    }

    fn has(&self, asked: &str) -> bool {
        let Some(names) = &self.0 else { return true };
        let name = match asked.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => asked,
        };
        names.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

/// FNV-1a: a file that has changed is asked for again.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_this_host_is_not_served_under_another_name() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let here = Names::of(&[], address("127.0.0.1:8080"));
        for well in ["localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"] {
            assert!(here.has(well), "{well}");
        }
        for other in ["", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io:8080"] {
            assert!(!here.has(other), "{other}");
        }
        assert!(Names::of(&[], address("0.0.0.0:8080")).has("anything"));
        let named = Names::of(&["q.example".to_owned()], address("0.0.0.0:8080"));
        assert!(named.has("q.example:443") && !named.has("localhost"));
    }
}
