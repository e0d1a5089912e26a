//! An exchange without a network: whoever stands in for slurmrestd is called directly.
//!
//! The deadline, the token and what a broken connection means stay those of the real transport.

use std::pin::Pin;

use super::{Answer, Question, Transport};
use crate::error::Error;

/// What a stand-in for slurmrestd is asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// `GET`, `POST`, `DELETE`.
    pub method: String,
    /// The configured base.
    pub base: String,
    /// From the root of the server: `/slurm/v0.0.45/ping/`, its query with it.
    pub path: String,
    /// JSON.
    pub body: Vec<u8>,
    /// `X-SLURM-USER-NAME`.
    pub user: String,
    /// `X-SLURM-USER-TOKEN`.
    pub token: String,
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Whether it says that it is JSON.
    pub is_json: bool,
    /// Body.
    pub body: Vec<u8>,
}

/// How it may fail to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Nothing was sent.
    #[error("nobody is there")]
    Unreachable,
    /// The connection broke after the request was sent.
    #[error("the connection broke")]
    Cut,
}

/// What it will answer.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response, Broken>> + Send>>;

/// Answers in place of a slurmrestd. One that never answers is timed out, as on the network.
pub trait Server: Send + Sync {
    /// Answers one request.
    fn answer(&self, request: Request) -> Answering;
}

pub(super) async fn exchange(
    server: &dyn Server,
    transport: &Transport,
    question: &Question<'_>,
    token: &str,
) -> Result<Answer, Error> {
    let endpoint = question.endpoint;
    let user = question.user.or_else(|| transport.user.to_str().ok()).unwrap_or_default();
    let request = Request {
        method: question.method.to_string(),
        base: transport.base.clone(),
        path: question.path.to_owned(),
        body: question.body.map(<[u8]>::to_vec).unwrap_or_default(),
        user: user.to_owned(),
        token: token.to_owned(),
    };
    match server.answer(request).await {
        Ok(Response { status, is_json, body }) => Ok(Answer { status, is_json, body }),
        Err(broken @ Broken::Unreachable) => {
            Err(Error::Unreachable { endpoint, source: Box::new(broken) })
        }
        Err(broken @ Broken::Cut) => Err(Error::Cut { endpoint, source: Box::new(broken) }),
    }
}
