//! Every task has a parent: tasks are started here, and a task that panics or fails ends the process.
//!
//! A bridge whose watch has died silently is worse than one that has crashed: all truth is in Slurm
//! and in the API server, so a restart is clean. The only place that starts tasks.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

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
    /// Starts a task that may end.
    pub(crate) fn start(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        // The parent is gone only when the process ends; then nothing needs to be started.
        let _ = self.tasks.send((name, Box::pin(task)));
    }
}

impl Parent {
    /// Runs all tasks until `stop`, or until one of them fails.
    pub(crate) async fn run(&mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some((name, task)) = self.tasks.recv() => {
                    self.running.spawn(async move { (name, task.await) });
                }
                Some(ended) = self.running.join_next() => Self::check(ended)?,
            }
        }
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
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
