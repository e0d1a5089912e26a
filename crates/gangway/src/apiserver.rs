//! The connection to the Kubernetes API server: one, HTTP/2, for watches and writes alike.
//!
//! kube's own client speaks HTTP/1.1, where a gang of 128 opens some 48 TLS connections and finds
//! them dropped again the next time (docs/measured.md). With a proxy or another server name in the
//! kubeconfig, kube's own client is used: it knows how.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt as _;
use kube::core::response::reason::{CONFLICT, NOT_FOUND};
use kube::{Client, Config};

/// A connection that has died silently would take watches and writes with it: asked after so long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A client by this kubeconfig, or by what the environment offers.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
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
        return Client::try_from(config).context("cannot make a Kubernetes client");
    }
    multiplexed(&config).context("cannot make a Kubernetes client")
}

/// Whether the API server has said that an object is gone, or that another one has its name by now. The
/// same number from anybody else, such as a proxy that has lost its way, says nothing of the object.
pub(crate) fn says_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.reason.as_str(), NOT_FOUND | CONFLICT))
}

/// A client that offers HTTP/2 and falls back to HTTP/1.1 where the server does not take it.
fn multiplexed(config: &Config) -> anyhow::Result<Client> {
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
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn error(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure("", reason).with_code(code).boxed())
    }

    #[test]
    fn only_the_api_server_can_say_that_a_pod_is_gone() {
        assert!(says_gone(&error(404, "NotFound")));
        assert!(says_gone(&error(409, "Conflict")));
        // What kube makes of a text 404, as of a proxy.
        assert!(!says_gone(&error(404, "Failed to parse error data")));
        assert!(!says_gone(&error(409, "")));
        assert!(!says_gone(&error(500, "InternalError")));
    }
}
