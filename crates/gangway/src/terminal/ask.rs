//! The way to the desk, and its answers as values.

use gangway_api::v1;
use gangway_api::v1::desk_client::DeskClient;
use gangway_api::v1::usage_request;
use gangway_core::desk::{Explanation, NodeRow, Row};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Failure;
use super::flags::By;
use crate::chain::explain;
use crate::config::TerminalFlags;
use crate::door;
use crate::extender::MAX_MESSAGE;

/// Asks the desk of one scheduler.
pub(super) struct Desk {
    client: DeskClient<Channel>,
    url: String,
}

/// An answer, as of one moment.
pub(super) struct Answered<T> {
    pub(super) said: T,
    /// Of how long ago Slurm's word is, seconds.
    pub(super) age: i64,
    /// What the scheduler's clock says.
    pub(super) now: i64,
}

impl<T> Answered<T> {
    fn of(said: T, as_of: i64, now: i64) -> Self {
        // An older scheduler does not say.
        let age = if as_of > 0 { now - as_of } else { 0 };
        Self { said, age, now }
    }
}

/// Finds the way; nothing is asked yet.
pub(super) async fn desk(flags: &TerminalFlags) -> Result<Desk, Failure> {
    let settings = flags.door()?;
    let channel = door::outside(&settings).await.map_err(Failure::Other)?;
    let client = DeskClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    Ok(Desk { client, url: settings.url })
}

impl Desk {
    /// An answer's no. Who cannot be reached at all is told where it was tried.
    fn no(&self, status: Status) -> Failure {
        // What comes from the other side has no source here.
        let own = std::error::Error::source(&status).is_some();
        if own && matches!(status.code(), Code::Unavailable | Code::Unknown) {
            return Failure::Away { url: self.url.clone(), why: explain(&status) };
        }
        if status.code() == Code::Unimplemented {
            return Failure::Other(anyhow::anyhow!(
                "the scheduler at {} has no desk; it is older than this command",
                self.url
            ));
        }
        Failure::Answer(status)
    }

    pub(super) async fn queue(&mut self) -> Result<Answered<Vec<Row>>, Failure> {
        let answer = self.client.queue(v1::QueueRequest {}).await.map_err(|s| self.no(s))?;
        let v1::QueueResponse { rows, as_of, now } = answer.into_inner();
        let said = rows.into_iter().map(Into::into).collect();
        Ok(Answered::of(said, as_of, now))
    }

    pub(super) async fn why(
        &mut self,
        word: &str,
        namespace: Option<&str>,
    ) -> Result<Answered<Explanation>, Failure> {
        let (word, namespace) = (word.to_owned(), namespace.unwrap_or_default().to_owned());
        let answer = self.client.why(v1::WhyRequest { word, namespace }).await;
        let answer = answer.map_err(|s| self.no(s))?.into_inner();
        let (as_of, now) = (answer.as_of, answer.now);
        Ok(Answered::of(answer.explained(), as_of, now))
    }

    pub(super) async fn nodes(&mut self) -> Result<Answered<Vec<NodeRow>>, Failure> {
        let answer = self.client.nodes(v1::NodesRequest {}).await.map_err(|s| self.no(s))?;
        let v1::NodesResponse { rows, now, as_of } = answer.into_inner();
        let said = rows.into_iter().map(Into::into).collect();
        Ok(Answered::of(said, as_of, now))
    }

    pub(super) async fn what_if(
        &mut self,
        question: v1::WhatIfRequest,
    ) -> Result<v1::WhatIfResponse, Failure> {
        Ok(self.client.what_if(question).await.map_err(|s| self.no(s))?.into_inner())
    }

    pub(super) async fn cancel(
        &mut self,
        word: &str,
        namespace: Option<&str>,
    ) -> Result<Row, Failure> {
        let (word, namespace) = (word.to_owned(), namespace.unwrap_or_default().to_owned());
        let answer = self.client.cancel(v1::CancelRequest { word, namespace }).await;
        let answer = answer.map_err(|s| self.no(s))?.into_inner();
        Ok(answer.row.map(Into::into).unwrap_or_default())
    }

    pub(super) async fn usage(
        &mut self,
        (from, to): (i64, i64),
        by: By,
        efficiency: bool,
    ) -> Result<Vec<gangway_core::desk::Usage>, Failure> {
        let by = match by {
            By::User => usage_request::By::User,
            By::Account => usage_request::By::Account,
            By::Namespace => usage_request::By::Namespace,
            By::Job => usage_request::By::Job,
        };
        let request = v1::UsageRequest { from, to, by: by.into(), efficiency };
        let answer = self.client.usage(request).await.map_err(|s| self.no(s))?;
        Ok(answer.into_inner().rows.into_iter().map(Into::into).collect())
    }
}
