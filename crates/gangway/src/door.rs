//! The gRPC door, both frames of it: the server for everyone, and the scheduler's own way in.
//!
//! The scheduler's pod watch uses the same service as a stranger would, over a connection in
//! memory. With certificates given, strangers must show one of the same CA.

mod outside;
mod pace;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use gangway_api::v1::extender_client::ExtenderClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::config::Tls;
use crate::desk;
use crate::extender::{MAX_MESSAGE, Room};
use crate::mandate::Mandate;
use crate::tls::{HTTP_2, TlsListener};

pub(crate) use outside::outside;
use pace::Pace;

/// The scheduler's own handle on the door.
pub(crate) type Door = ExtenderClient<Channel>;

/// One stream per gang, so there must be no small limit on streams.
const STREAMS: u32 = 1 << 20;
/// Calls that strangers may have under way at once, until each has begun to be answered.
const CALLS: usize = 1024;
/// How long who knocks at a standby is kept: whoever comes again may be let in to the leader.
const STANDBY: Duration = Duration::from_secs(1);

/// Serves the door on TCP, with gRPC health beside it and no reflection.
pub(crate) async fn serve(
    listener: TcpListener,
    (tls, calls_per_second): (Option<Tls>, NonZeroU32),
    (room, desk): (Room, desk::Room),
    mandate: Mandate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listener.into_std().context("gRPC listener")?;
    let again = || -> anyhow::Result<TcpListener> {
        let own = listener.try_clone().and_then(TcpListener::from_std);
        own.context("gRPC listener")
    };
    let pace = Pace::new(calls_per_second);
    match tls {
        None => {
            let [first, then] = [again()?, again()?].map(TcpListenerStream::new);
            serve_on(first, then, pace, (room, desk), mandate, stop).await
        }
        Some(tls) => {
            let open = |port| TlsListener::new(port, tls.clone(), HTTP_2).map(TlsListener::stream);
            serve_on(open(again()?)?, open(again()?)?, pace, (room, desk), mandate, stop).await
        }
    }
}

/// Behind one address with other replicas, a standby answers who leads and hangs up soon, so that a client that tries
/// again comes to the leader. It takes its connections from the first stream, a leader from the second.
async fn serve_on<I>(
    first: impl Stream<Item = io::Result<I>> + Send,
    then: impl Stream<Item = io::Result<I>> + Send,
    pace: Pace,
    (room, desk): (Room, desk::Room),
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
    let mut server = server.layer(pace).layer(GlobalConcurrencyLimitLayer::new(CALLS));
    let mut standby = server.clone().max_connection_age(STANDBY);
    let standby =
        standby.add_service(health.clone()).add_service(room.clone()).add_service(desk.clone());
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
            .add_service(desk)
            .serve_with_incoming(then) => served.context("gRPC server"),
        () = stop.cancelled() => Ok(()),
    }
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
