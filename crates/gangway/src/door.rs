//! The gRPC door, both frames of it: the server for everyone, and the scheduler's own way in.
//!
//! The scheduler's pod watch uses the same service as a stranger would, over a connection in
//! memory. With certificates given, strangers must show one of the same CA.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use gangway_api::v1::extender_client::ExtenderClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, Uri};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::config::{self, Tls};
use crate::extender::{MAX_MESSAGE, Room};
use crate::mandate::Mandate;
use crate::tls::{HTTP_2, TlsListener};

/// The scheduler's own handle on the door.
pub(crate) type Door = ExtenderClient<Channel>;

/// One stream per gang, so there must be no small limit on streams.
const STREAMS: u32 = 1 << 20;
/// Calls that strangers may have under way at once, until each has begun to be answered.
const CALLS: usize = 1024;
/// How long who knocks at a standby is kept: whoever comes again may be let in to the leader.
const STANDBY: Duration = Duration::from_secs(1);
/// Another process's door is asked this often whether it lives, and given so long to say so.
const ALIVE: Duration = Duration::from_secs(5);

/// Serves the door on TCP, with gRPC health beside it and no reflection.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    room: Room,
    mandate: Mandate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listener.into_std().context("gRPC listener")?;
    let again = || -> anyhow::Result<TcpListener> {
        let own = listener.try_clone().and_then(TcpListener::from_std);
        own.context("gRPC listener")
    };
    match tls {
        None => {
            let [first, then] = [again()?, again()?].map(TcpListenerStream::new);
            serve_on(first, then, room, mandate, stop).await
        }
        Some(tls) => {
            let open = |port| TlsListener::new(port, tls.clone(), HTTP_2).map(TlsListener::stream);
            serve_on(open(again()?)?, open(again()?)?, room, mandate, stop).await
        }
    }
}

/// Behind one address with other replicas, a standby answers who leads and hangs up soon, so that a client that tries
/// again comes to the leader. It takes its connections from the first stream, a leader from the second.
async fn serve_on<I>(
    first: impl Stream<Item = io::Result<I>> + Send,
    then: impl Stream<Item = io::Result<I>> + Send,
    room: Room,
    mandate: Mandate,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_not_serving::<Room>().await;
    let server = Server::builder().max_concurrent_streams(STREAMS);
    // Shared by all connections: whoever knocks while so many are being answered waits.
    let mut server = server.layer(GlobalConcurrencyLimitLayer::new(CALLS));
    let mut standby = server.clone().max_connection_age(STANDBY);
    let standby = standby.add_service(health.clone()).add_service(room.clone());
    tokio::select! {
        served = standby.serve_with_incoming(first) => return served.context("gRPC server"),
        () = mandate.granted() => {}
        () = stop.cancelled() => return Ok(()),
    }
    reporter.set_serving::<Room>().await;
    // Streams of living gangs never end by themselves, so the server does not wait for them.
    tokio::select! {
        biased;
        served = server
            .add_service(health)
            .add_service(room)
            .serve_with_incoming(then) => served.context("gRPC server"),
        () = stop.cancelled() => Ok(()),
    }
}

async fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))
}

/// The way to the door of another process. Nothing is asked yet: it may come up later than we do.
pub(crate) async fn outside(door: &config::Door) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(door.url.clone())
        .with_context(|| format!("door.url {} is not a URL", door.url))?
        .connect_timeout(ALIVE)
        // One that has died silently would leave every gang waiting.
        .http2_keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(64 << 20);
    if let Some(tls) = &door.tls {
        let ca = Certificate::from_pem(read(&tls.ca).await?);
        let own = Identity::from_pem(read(&tls.certificate).await?, read(&tls.key).await?);
        let tls = ClientTlsConfig::new().ca_certificate(ca).identity(own);
        endpoint = endpoint.tls_config(tls).context("door certificates")?;
    }
    Ok(endpoint.connect_lazy())
}

/// A handle on the door at the other end of a channel.
pub(crate) fn client(channel: Channel) -> Door {
    ExtenderClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Serves the door on a pipe in memory until `stop`, and gives the client end of it.
pub(crate) fn inside(
    room: Room,
    stop: CancellationToken,
) -> (Door, impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let serving = async move {
        let incoming = tokio_stream::once(Ok::<_, io::Error>(far));
        tokio::select! {
            biased;
            served = Server::builder()
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(64 << 20)
                .add_service(room)
                .serve_with_incoming(futures::StreamExt::chain(incoming, futures::stream::pending())) => {
                    served.context("in-memory gRPC server")
                }
            () = stop.cancelled() => Ok(()),
        }
    };
    let mut near = Some(near);
    let connector = tower::service_fn(move |_: Uri| {
        let near = near.take();
        async move {
            near.map(hyper_util::rt::TokioIo::new)
                .ok_or_else(|| io::Error::other("the in-memory connection is used up"))
        }
    });
    let channel = Endpoint::from_static("http://gangway.invalid")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .connect_with_connector_lazy(connector);
    (client(channel), serving)
}
