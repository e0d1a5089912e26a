//! The connection to the Kubernetes API server: one, HTTP/2, for watches and writes alike.
//!
//! kube's own client speaks HTTP/1.1, where a gang of 128 opens some 48 TLS connections and finds
//! them dropped again the next time (docs/measured.md). With a proxy or another server name in the
//! kubeconfig, kube's own client is used: it knows how. Every request says whose it is, and with a mandate
//! none that changes something leaves while that does not hold.

use std::path::Path;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::header::{HeaderValue, USER_AGENT};
use axum::http::{Method, Request};
use futures::future::{Either, Ready, ready};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::mandate::Mandate;

/// A connection that has died silently would take watches and writes with it: asked after so long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Whose requests they are.
#[derive(Clone)]
pub(crate) struct Hand {
    agent: HeaderValue,
    /// Without one, they are always sent: for the Lease itself.
    mandate: Option<Mandate>,
}

impl Hand {
    /// Requests of the process of this identity.
    pub(crate) fn of(identity: &str, mandate: Option<Mandate>) -> anyhow::Result<Self> {
        let agent = format!("gangway/{} ({identity})", env!("CARGO_PKG_VERSION"));
        let agent = HeaderValue::from_str(&agent).context("identity")?;
        Ok(Self { agent, mandate })
    }
}

/// A client by this kubeconfig, or by what the environment offers.
pub(crate) async fn client(kubeconfig: Option<&Path>, hand: Hand) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            let options = kube::config::KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.context("kubeconfig")?
        }
        None => Config::infer().await.context(
            "no way to the Kubernetes API server: give --kubeconfig, set $KUBECONFIG, or run in a pod",
        )?,
    };
    let plain = config.cluster_url.scheme_str() != Some("https");
    if plain || config.proxy_url.is_some() || config.tls_server_name.is_some() {
        let builder = ClientBuilder::try_from(config).context("cannot make a Kubernetes client")?;
        return Ok(builder.with_layer(&hand).build());
    }
    multiplexed(&config, hand).context("cannot make a Kubernetes client")
}

/// A client that offers HTTP/2 and falls back to HTTP/1.1 where the server does not take it.
fn multiplexed(config: &Config, hand: Hand) -> anyhow::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_only()
        .enable_all_versions()
        .wrap_connector(tcp);
    let http = HyperClient::builder(TokioExecutor::new())
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .build(https);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(hand)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A request was held back.
#[derive(Debug, thiserror::Error)]
#[error("it is not sent: this process may not change anything any more")]
struct HeldBack;

/// What sends the requests of a [`Hand`].
#[derive(Clone)]
pub(crate) struct Signed<S> {
    inner: S,
    hand: Hand,
}

impl<S> Layer<S> for Hand {
    type Service = Signed<S>;

    fn layer(&self, inner: S) -> Signed<S> {
        Signed { inner, hand: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Signed<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shut = self.hand.mandate.as_ref().is_some_and(|mandate| !mandate.holds());
        if shut && request.method() != Method::GET {
            return Either::Right(ready(Err(HeldBack.into())));
        }
        request.headers_mut().insert(USER_AGENT, self.hand.agent.clone());
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn without_a_mandate_only_reading_goes_out_and_all_of_it_is_signed() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = sent.clone();
        let server = tower::service_fn(move |request: Request<()>| {
            let agent = request.headers()[USER_AGENT].to_str().map(str::to_owned);
            log.lock().expect("no panic").push((request.method().clone(), agent.expect("a text")));
            ready(Ok::<(), BoxError>(()))
        });
        let mandate = Mandate::new();
        let hand = Hand::of("one_1", Some(mandate.clone())).expect("a name");
        let mut signed = hand.layer(server);
        let mut ask = |method: Method| {
            let request = Request::builder().method(method).body(()).expect("a request");
            signed.call(request)
        };
        assert!(ask(Method::GET).await.is_ok());
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(ask(method).await.is_err(), "not granted yet");
        }
        mandate.extend(mandate.now() + 60_000);
        assert!(ask(Method::POST).await.is_ok());
        mandate.end();
        assert!(ask(Method::DELETE).await.is_err(), "over");
        let agent = format!("gangway/{} (one_1)", env!("CARGO_PKG_VERSION"));
        let expected = vec![(Method::GET, agent.clone()), (Method::POST, agent)];
        assert_eq!(*sent.lock().expect("no panic"), expected);
    }
}
