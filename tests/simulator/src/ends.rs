//! The two ends of the bridge: a Kubernetes client and a Slurm client whose far sides are the network.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use gangway_slurm::{Answering, Broken, Config, Server, TokenSource};
use http_body::Frame;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::network::{Call, Network, Reply, Request};

/// A client of the simulated API server.
pub(crate) fn kubernetes(network: Network, life: u32) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let network = network.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            let what = Request::Kubernetes {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body,
            };
            let (status, body) = match network.ask(Call::new(life, what)).await {
                Reply::Json(status, body) => (status, Answered::Whole(Some(body))),
                Reply::Stream(lines) => (200, Answered::Lines(lines)),
                Reply::Slurm(_) | Reply::Broken { .. } => {
                    return Err(tower::BoxError::from("the connection broke"));
                }
            };
            let answer = http::Response::builder().status(status).body(body)?;
            Ok::<_, tower::BoxError>(answer)
        }
    });
    kube::Client::new(service, "team")
}

/// The body of an answer.
enum Answered {
    Whole(Option<Bytes>),
    /// A watch: it ends when nobody sends any more.
    Lines(UnboundedReceiver<Bytes>),
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Lines(lines) => lines.poll_recv(context).map(|line| Some(Ok(Frame::data(line?)))),
        }
    }
}

/// A client of the simulated slurmrestd.
pub(crate) fn slurm(
    network: Network,
    life: u32,
) -> Result<gangway_slurm::Client, gangway_slurm::Error> {
    let token = TokenSource::Fixed("token".to_owned());
    let mut config = Config::new("http://slurmrestd.invalid", token);
    config.server = Some(Arc::new(Far { network, life }));
    gangway_slurm::Client::new(config)
}

struct Far {
    network: Network,
    life: u32,
}

impl Server for Far {
    fn answer(&self, request: gangway_slurm::Request) -> Answering {
        let (network, life) = (self.network.clone(), self.life);
        Box::pin(async move {
            match network.ask(Call::new(life, Request::Slurm(request))).await {
                Reply::Slurm(response) => Ok(response),
                Reply::Broken { sent: false } => Err(Broken::Unreachable),
                _ => Err(Broken::Cut),
            }
        })
    }
}
