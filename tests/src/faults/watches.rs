//! What a proxy does to watches of the API server: lets them all expire, or say nothing for a while.

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How watches are treated.
#[derive(Debug, Default)]
pub(super) struct Watches {
    /// Counts expiries: each ends all watches.
    expired: watch::Sender<usize>,
    /// They say nothing.
    stalls: watch::Sender<bool>,
}

type Said = BoxStream<'static, Result<Bytes, axum::Error>>;

impl Watches {
    pub(super) fn expire(&self) {
        self.expired.send_modify(|count| *count += 1);
    }

    pub(super) fn stall(&self, on: bool) {
        self.stalls.send_replace(on);
    }

    /// The same answer, told as watches are treated.
    pub(super) fn told(&self, answer: Response<Body>) -> Response<Body> {
        let (mut expired, stalls) = (self.expired.subscribe(), self.stalls.subscribe());
        let end = async move {
            // The sender lives as long as the proxy.
            let _ = expired.changed().await;
            let object = status(410, "Expired");
            Ok(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": object}))))
        };
        let (head, body) = answer.into_parts();
        let said = body.into_data_stream().then(move |word| {
            let mut stalls = stalls.clone();
            async move {
                let _ = stalls.wait_for(|on| !on).await;
                word
            }
        });
        let told = ends_with(said.boxed(), stream::once(end).boxed());
        Response::from_parts(head, Body::from_stream(told))
    }
}

/// What the API server says when it refuses.
pub(super) fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason}, says the proxy of a story"), "reason": reason, "code": code,
    })
}

/// What `said` says until `last` has something to say, which is the end.
fn ends_with(said: Said, last: Said) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    stream::unfold(Some((said, last)), async |both| {
        let (mut said, mut last) = both?;
        tokio::select! {
            word = said.next() => word.map(|word| (word, Some((said, last)))),
            word = last.next() => word.map(|word| (word, None)),
        }
    })
}
