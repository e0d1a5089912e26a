//! The way to the door of another process.
//!
//! Its certificates are read for every connection that is made, so whoever rotates them restarts nobody.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config::{Door, DoorTls};
use crate::tls::{HTTP_2, client};

/// Another process's door is asked this often whether it lives, and given so long to say so.
const ALIVE: Duration = Duration::from_secs(5);

/// The way to it. Nothing is asked yet: it may come up later than we do.
pub(crate) async fn outside(door: &Door) -> anyhow::Result<Channel> {
    let endpoint = |url: String| -> anyhow::Result<Endpoint> {
        let endpoint = Endpoint::from_shared(url)
            .with_context(|| format!("door.url {} is not a URL", door.url))?;
        Ok(endpoint
            .connect_timeout(ALIVE)
            // One that has died silently would leave every gang waiting.
            .http2_keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(64 << 20))
    };
    let Some(tls) = &door.tls else { return Ok(endpoint(door.url.clone())?.connect_lazy()) };
    let tls = Arc::new(tls.clone());
    // What cannot be read at the start is told at the start.
    read(&tls).await.context("door certificates")?;
    // The connection that is made below is encrypted already; tonic need not do that again.
    let plain = door.url.replacen("https:", "http:", 1);
    let connect = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move { connect(&tls, &uri).await.map(TokioIo::new) }
    });
    Ok(endpoint(plain)?.connect_with_connector_lazy(connect))
}

async fn connect(tls: &DoorTls, uri: &Uri) -> io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let config = read(tls).await.map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    let name = tls.name.clone().unwrap_or(host);
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

async fn read(tls: &DoorTls) -> anyhow::Result<ClientConfig> {
    let read = async |path: &Path| {
        let text = tokio::fs::read(path).await;
        text.with_context(|| format!("cannot read {}", path.display()))
    };
    let [ca, certificate, key] =
        [read(&tls.ca).await?, read(&tls.certificate).await?, read(&tls.key).await?];
    client(&ca, &certificate, &key, HTTP_2)
}
