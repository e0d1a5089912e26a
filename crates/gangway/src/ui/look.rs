//! The one look: however many watch the page, the desk is asked once in two seconds; while nobody does, not at all.
//!
//! What is seen is one picture that all share. A browser gets what has changed since the picture it has: one that is
//! slow gets more at once and less often, and nothing is kept for it meanwhile but a list of rows most of which are
//! still shown to others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use gangway_api::v1;
use gangway_api::v1::desk_client::DeskClient;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::life::Lives;
use super::picture::{Head, Node, Picture, Queue};
use crate::extender::MAX_MESSAGE;
use crate::wall;

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// How long the desk may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Browsers that are told at once.
const WATCHERS: usize = 64;

/// What is seen, and who sees it; cheap to clone.
#[derive(Clone)]
pub(super) struct Gallery(Arc<Inner>);

struct Inner {
    desk: DeskClient<Channel>,
    url: String,
    picture: watch::Sender<Arc<Picture>>,
    came: Notify,
    seats: Arc<Semaphore>,
    frames: Mutex<Frames>,
    lives: Mutex<Lives>,
}

/// The frames made last: most browsers want the same ones.
#[derive(Default)]
struct Frames {
    whole: Option<(u64, Bytes)>,
    since: Option<((u64, u64), Bytes)>,
    made: u64,
}

impl Gallery {
    pub(super) fn new(channel: Channel, url: &str, cluster: &str) -> Self {
        let desk = DeskClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let head = Head { cluster: cluster.into(), ..Head::default() };
        let first = Picture { head, ..Picture::default() };
        Self(Arc::new(Inner {
            desk,
            url: url.to_owned(),
            picture: watch::Sender::new(Arc::new(first)),
            came: Notify::new(),
            seats: Arc::new(Semaphore::new(WATCHERS)),
            frames: Mutex::default(),
            lives: Mutex::default(),
        }))
    }

    /// Keeps looking for as long as somebody watches.
    pub(super) async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let looking = async {
            loop {
                let came = self.0.came.notified();
                if self.0.picture.receiver_count() == 0 {
                    came.await;
                    continue;
                }
                self.look().await;
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = looking => Ok(()),
            () = stop.cancelled() => Ok(()),
        }
    }

    async fn look(&self) {
        let old = self.0.picture.borrow().clone();
        let seen = match timeout(PATIENCE, self.ask(&old)).await {
            Ok(seen) => seen,
            Err(_) => Err(format!("the door at {} takes too long to answer", self.0.url)),
        };
        let now = wall::now().as_second();
        let next = match seen {
            Ok((queue, nodes)) => {
                let next = old.next(now, queue, nodes);
                self.lives().see(&old, &next, now);
                next
            }
            Err(problem) => {
                if old.head.problem.is_none() {
                    tracing::warn!(problem, "the desk does not answer");
                }
                old.stale(problem)
            }
        };
        self.0.picture.send_replace(Arc::new(next));
    }

    /// One answer is taken in before the other is asked for: both as they came would be most of what this process holds.
    async fn ask(&self, old: &Picture) -> Result<(Queue, Vec<Arc<Node>>), String> {
        let mut desk = self.0.desk.clone();
        let queue = desk.queue(v1::QueueRequest {}).await.map_err(|no| self.complaint(&no))?;
        let queue = old.queue(queue.into_inner());
        let nodes = desk.nodes(v1::NodesRequest {}).await.map_err(|no| self.complaint(&no))?;
        Ok((queue, old.pool(nodes.into_inner())))
    }

    /// Why there is no answer, as `gangway queue` would say it.
    fn complaint(&self, no: &Status) -> String {
        // What comes from the other side has no source here. The last cause says it; those before it say it again.
        let causes = std::iter::successors(std::error::Error::source(no), |cause| cause.source());
        if let Some(cause) = causes.last()
            && matches!(no.code(), Code::Unavailable | Code::Unknown)
        {
            return format!("the door at {} cannot be reached: {cause}", self.0.url);
        }
        if no.code() == Code::Unimplemented {
            return format!("the scheduler at {} has no desk; it is too old", self.0.url);
        }
        no.message().to_owned()
    }

    /// Why a job waits, who is ahead, what would help; asked now.
    pub(super) async fn why(&self, job: u32) -> Result<v1::WhyResponse, Status> {
        let seen = self.0.picture.borrow().jobs.iter().find(|one| one.id == job).cloned();
        let word = seen.map_or_else(|| job.to_string(), |seen| seen.word());
        let request = v1::WhyRequest { word, namespace: String::new() };
        let asked = timeout(PATIENCE, self.0.desk.clone().why(request)).await;
        let late = |_| Status::deadline_exceeded("the door takes too long to answer");
        Ok(asked.map_err(late)??.into_inner())
    }

    pub(super) fn lives(&self) -> std::sync::MutexGuard<'_, Lives> {
        self.0.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn now_seen(&self) -> Arc<Picture> {
        self.0.picture.borrow().clone()
    }

    /// How many watch.
    #[cfg(test)]
    fn watchers(&self) -> usize {
        self.0.picture.receiver_count()
    }

    /// What a browser is told from now on, until `stop`. `None`: too many watch already.
    pub(super) fn watch(
        &self,
        stop: CancellationToken,
    ) -> Option<impl Stream<Item = serde_json::Result<Bytes>> + Send + 'static> {
        let seat = self.0.seats.clone().try_acquire_owned().ok()?;
        let told = self.0.picture.subscribe();
        self.0.came.notify_one();
        let watcher =
            Watcher { gallery: self.clone(), told, has: None, greeted: false, stop, _seat: seat };
        Some(futures::stream::unfold(watcher, Watcher::next))
    }

    /// The frame that leads from one picture to another, made once for all who need it.
    fn frame(&self, has: Option<&Picture>, next: &Picture) -> serde_json::Result<Bytes> {
        let mut frames = self.0.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(has) = has else {
            if let Some((number, frame)) = &frames.whole
                && *number == next.number
            {
                return Ok(frame.clone());
            }
            let frame = Bytes::from(next.whole()?);
            frames.whole = Some((next.number, frame.clone()));
            frames.made += 1;
            return Ok(frame);
        };
        let key = (has.number, next.number);
        if let Some((known, frame)) = &frames.since
            && *known == key
        {
            return Ok(frame.clone());
        }
        let frame = Bytes::from(next.since(has)?);
        frames.since = Some((key, frame.clone()));
        // A whole one of an older picture is wanted by nobody any more.
        if frames.whole.as_ref().is_some_and(|(number, _)| *number != next.number) {
            frames.whole = None;
        }
        frames.made += 1;
        Ok(frame)
    }
}

/// One browser.
struct Watcher {
    gallery: Gallery,
    told: watch::Receiver<Arc<Picture>>,
    has: Option<Arc<Picture>>,
    greeted: bool,
    stop: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(mut self) -> Option<(serde_json::Result<Bytes>, Self)> {
        if self.stop.is_cancelled() {
            return None;
        }
        if !self.greeted {
            self.greeted = true;
            // How soon it shall come again when this connection is lost, and what time it is here.
            let now = wall::now().as_second();
            let greeting = format!("retry: 2000\nevent: clock\ndata: {now}\n\n");
            return Some((Ok(greeting.into()), self));
        }
        let first = self.has.is_none() && self.told.borrow().number > 0;
        if !first {
            let stop = self.stop.clone();
            tokio::select! {
                changed = self.told.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
        }
        let next = self.told.borrow_and_update().clone();
        let frame = self.gallery.frame(self.has.as_deref(), &next);
        self.has = Some(next);
        Some((frame, self))
    }
}

#[cfg(test)]
mod tests;
