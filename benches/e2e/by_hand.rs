//! The same without a bridge: a loop that makes the pods, asks Slurm for a placeholder of each and
//! binds it. Nothing is watched, decided or remembered: what this machine allows a bridge that costs
//! nothing.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use gangway_core::job::{Component, GresRequest, JobId, Options, PlaceholderRequest};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::cluster::{CREATORS, Created, until};
use crate::trial::{LIMIT, Session, Shape, gather, millis};

/// Placeholders being asked for at once; more would make each answer wait for all the questions.
const TURNS: usize = 7;

/// From the first create sent to the last binding seen, milliseconds. For single pods.
pub(crate) async fn run(session: &Session<'_>, shape: &Shape, at_once: usize) -> Result<f64> {
    ensure!(!shape.grouped(), "by hand there are only single pods");
    let namespace = session.cluster.namespace().await?;
    let measured = measure(session, shape, &namespace, at_once).await;
    session.cluster.clear(&namespace).await?;
    let (took, jobs) = measured?;
    let ends = jobs.iter().map(|job| session.world.slurm.cancel(*job));
    let _: Vec<_> = futures::stream::iter(ends).buffer_unordered(8).try_collect().await?;
    until("the end of what was asked by hand", async || {
        let live = session.world.live_jobs().await?;
        Ok(jobs.iter().all(|job| !live.contains(&job.0)))
    })
    .await?;
    Ok(took)
}

async fn measure(
    session: &Session<'_>,
    shape: &Shape,
    namespace: &str,
    at_once: usize,
) -> Result<(f64, Vec<JobId>)> {
    let (sender, mut bound) = unbounded_channel();
    let watching = session.cluster.watch_bound(namespace, sender).await?;
    let (creators, binders) = (Semaphore::new(CREATORS), Semaphore::new(at_once));
    let turns = Semaphore::new(TURNS);
    let slurm = &session.world.slurm;
    let one = async |number: u32| -> Result<((String, Instant), JobId)> {
        let name = format!("g00-{number:03}");
        let turn = creators.acquire().await?;
        let sent = Instant::now();
        session.cluster.create_one(namespace, &name, shape.gpus).await?;
        drop(turn);
        let turn = turns.acquire().await?;
        let job = slurm.allocate(&ask(&name, 1, shape.gpus, 60)).await?;
        let (_, granted) = slurm.job_in_detail(job).await?.context("a job that was accepted")?;
        drop(turn);
        let node = granted.and_then(|granted| granted.nodes.into_iter().next());
        let node = node.context("an allocation without a node")?.name;
        let _turn = binders.acquire().await?;
        session.cluster.bind(namespace, &name, &node).await?;
        Ok(((name, sent), job))
    };
    let begin = Instant::now();
    let all =
        futures::stream::iter((0..shape.pods()).map(one)).buffer_unordered(shape.pods() as usize);
    let done: Vec<_> = timeout(LIMIT, all.try_collect()).await.context("by hand")??;
    let (created, jobs): (Created, Vec<JobId>) = done.into_iter().unzip();
    let (_, last) = timeout(LIMIT, gather(&mut bound, &created)).await.context("by hand")??;
    watching.abort();
    Ok((millis(begin, last), jobs))
}

/// A placeholder of nodes with so many GPUs each, and their share of the rest.
pub(crate) fn ask(name: &str, nodes: u32, gpus: u32, minutes: u32) -> PlaceholderRequest {
    PlaceholderRequest {
        name: format!("bench-{name}"),
        user: "alice".to_owned(),
        group: "alice".to_owned(),
        account: Some("team1".to_owned()),
        partition: "gangway".to_owned(),
        qos: None,
        time_limit_minutes: Some(minutes),
        components: vec![Component {
            key: format!("bench {name}"),
            nodes,
            tasks_per_node: 1,
            cpus_per_task: 12 * gpus,
            memory_per_node_mib: u64::from(gpus) * (64 << 10),
            gres_per_node: vec![GresRequest { name: "gpu".to_owned(), kind: None, count: gpus }],
            excluded_nodes: String::new(),
        }],
        options: Options::default(),
    }
}
