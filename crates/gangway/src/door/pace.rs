//! How many calls a second each client of the door is given, so that one that has lost its mind keeps nobody else out.
//!
//! It knows clients by the name in their certificate, or without certificates by their address. Calls that go on, such
//! as the stream of a gang, are counted once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Extensions, Request, Response};
use futures::future::{Either, Ready, ready};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tonic::Status;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use crate::tls::name_of;

/// A client that comes back after a restart may ask for all of its gangs at once: so many seconds' worth.
const BURST: u32 = 10;
/// Clients that are remembered before those that were silent for a while are forgotten.
const CLIENTS: usize = 1024;

/// Puts the limit before a service.
#[derive(Clone)]
pub(super) struct Pace {
    limiter: Arc<DefaultKeyedRateLimiter<String>>,
    most: NonZeroU32,
}

impl Pace {
    /// So many calls a second of each client.
    pub(super) fn new(most: NonZeroU32) -> Self {
        let burst = most.saturating_mul(NonZeroU32::MIN.saturating_add(BURST - 1));
        let quota = Quota::per_second(most).allow_burst(burst);
        Self { limiter: Arc::new(RateLimiter::keyed(quota)), most }
    }

    fn takes(&self, client: &str) -> Result<(), Status> {
        if self.limiter.len() > CLIENTS {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&client.to_owned()).map_err(|_| {
            tracing::warn!(client, "asks too often");
            Status::resource_exhausted(format!(
                "{client} asks more than {} times a second; ask less often, or have limits.callsPerSecond of gangway scheduler raised",
                self.most
            ))
        })
    }
}

impl<S> Layer<S> for Pace {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: self.clone() }
    }
}

/// A service with the limit before it.
#[derive(Clone)]
pub(super) struct Paced<S> {
    inner: S,
    pace: Pace,
}

impl<S, A, B: Default> Service<Request<A>> for Paced<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<B>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        match self.pace.takes(&client(request.extensions())) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

fn client(extensions: &Extensions) -> String {
    let certificate = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    if let Some(shown) = certificate.and_then(TlsConnectInfo::peer_certs) {
        return shown.first().and_then(name_of).unwrap_or_else(|| "a client".to_owned());
    }
    let address = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    address.map_or_else(|| "a client".to_owned(), |address| address.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_is_told_and_nobody_else() {
        let pace = Pace::new(NonZeroU32::new(2).expect("two"));
        let taken = (0..100).filter(|_| pace.takes("one").is_ok()).count();
        assert!((20..40).contains(&taken), "{taken}");
        let status = pace.takes("one").expect_err("too often");
        assert!(status.message().contains("limits.callsPerSecond"), "{status}");
        assert!(pace.takes("other").is_ok());
    }
}
