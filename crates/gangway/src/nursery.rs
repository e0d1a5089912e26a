//! Every task has a parent: tasks are started here, and a task that panics or fails ends the process.
//!
//! A bridge whose watch has died silently is worse than one that has crashed: all truth is in Slurm
//! and in the API server, so a restart is clean. The only place that starts tasks.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How long running work may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

type Task = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Starts tasks; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Nursery {
    tasks: mpsc::UnboundedSender<(&'static str, Task)>,
}

/// The other end: runs them.
pub(crate) struct Parent {
    tasks: mpsc::UnboundedReceiver<(&'static str, Task)>,
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
}

/// A nursery and its parent.
pub(crate) fn nursery() -> (Nursery, Parent) {
    let (sender, tasks) = mpsc::unbounded_channel();
    (Nursery { tasks: sender }, Parent { tasks, running: JoinSet::new() })
}

impl Nursery {
    /// Starts a task that may end. What it logs is about the same as what whoever starts it does.
    pub(crate) fn start(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        // The parent is gone only when the process ends; then nothing needs to be started.
        let _ = self.tasks.send((name, Box::pin(task.in_current_span())));
    }
}

impl Parent {
    /// Runs all tasks until SIGTERM or SIGINT, or until one of them fails; then cancels `stop` and
    /// waits for what is under way.
    pub(crate) async fn live(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let lived = self.run(termination()?).await;
        tracing::info!("stopping");
        stop.cancel();
        match timeout(DRAIN, self.drain()).await {
            Ok(drained) => lived.and(drained),
            Err(_) => lived.and_then(|()| anyhow::bail!("some work did not end within {DRAIN:?}")),
        }
    }

    /// Runs all tasks until `stop`, or until one of them fails.
    pub(crate) async fn run(&mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                Some((name, task)) = self.tasks.recv() => {
                    self.running.spawn(async move { (name, task.await) });
                }
                Some(ended) = self.running.join_next() => Self::check(ended)?,
            }
        }
    }

    /// Waits until all tasks have ended.
    async fn drain(&mut self) -> anyhow::Result<()> {
        self.tasks.close();
        while let Some(ended) = self.running.join_next().await {
            Self::check(ended)?;
        }
        Ok(())
    }

    fn check(
        ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> anyhow::Result<()> {
        let (name, result) = ended.map_err(|e| anyhow::Error::new(e).context("a task panicked"))?;
        result.map_err(|e| e.context(format!("{name} failed")))
    }
}

fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
