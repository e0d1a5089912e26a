//! Many that wait: what they cost the bridge, and whether they hold up anybody.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gangway_core::job::{JobId, PlaceholderRequest, Standing};
use gangway_core::placeholder::{JobIds, Stamp};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::by_hand::ask;
use crate::cluster::until;
use crate::note;
use crate::trial::{Session, Shape, gather, millis};

/// In front of the small gang: a thousand pods that want a whole node while none is whole.
const BLOCKED: Shape = Shape { name: "blocked", gangs: 1000, size: 1, gpus: 8, minutes: 60 };
/// The small gang: half of eight nodes, and short enough for backfill.
const SMALL: Shape = Shape { name: "small", gangs: 1, size: 8, gpus: 4, minutes: 5 };
/// Twenty thousand pods in gangs of a hundred.
const PENDING: Shape = Shape { name: "pending", gangs: 200, size: 100, gpus: 8, minutes: 60 };
/// How often the small gang and Slurm alone are tried, side by side.
const TURNS: u32 = 7;
/// How long another user's job is there.
const CHURN: Duration = Duration::from_millis(200);
/// A round of backfill over the blocked ones takes about so long.
const ROUND: Duration = Duration::from_secs(5);
/// How long the waiting is looked at.
const LOOK: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(120);
/// Minutes: longer than anything else, so that backfill can plan around it.
const BLOCKER_MINUTES: u32 = 120;

/// How long a small gang takes behind a thousand blocked ones, and how long Slurm alone takes for the
/// same ask.
pub(crate) async fn blocked(session: &Session<'_>) -> Result<Value> {
    let blocker = block(session, 1).await?;
    let namespace = session.cluster.namespace().await?;
    let measured = async {
        fill(session, &namespace, &BLOCKED).await?;
        let (mut alone, mut bridge, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=TURNS {
            // Each at another part of a round.
            tokio::time::sleep(ROUND * turn / TURNS).await;
            let over = Cell::new(false);
            let both = async {
                let both = tokio::try_join!(slurm_alone(session, turn), small(session));
                over.set(true);
                both
            };
            let ((own, ours), ()) = tokio::try_join!(both, churn(session, &over))?;
            note(&format!("turn {turn}: Slurm alone {own:.0} ms, the bridge {ours:.0} ms"));
            alone.push(own);
            bridge.push(ours);
            later.push(ours - own);
        }
        let mut line = look(session).await?;
        line["shape"] = BLOCKED.name.into();
        line["gangs"] = BLOCKED.gangs.into();
        line["alone_ms_p50"] = middle(&alone).into();
        line["alone_ms_max"] = largest(&alone).into();
        line["bridge_ms_p50"] = middle(&bridge).into();
        line["bridge_ms_max"] = largest(&bridge).into();
        line["later_ms"] = middle(&later).into();
        Ok(line)
    };
    let measured = measured.await;
    clear(session, &namespace, blocker).await?;
    measured
}

/// What twenty thousand waiting pods cost the bridge.
pub(crate) async fn pending(session: &Session<'_>) -> Result<Value> {
    let empty = look(session).await?;
    let blocker = block(session, 8).await?;
    let namespace = session.cluster.namespace().await?;
    let measured = async {
        let filled_s = fill(session, &namespace, &PENDING).await?;
        let mut line = look(session).await?;
        line["shape"] = PENDING.name.into();
        line["pods"] = PENDING.pods().into();
        line["gangs"] = PENDING.gangs.into();
        line["filled_s"] = filled_s.into();
        // The first pods of each gang are told more half a minute after their first word.
        line["cpu_percent_then"] = look(session).await?["cpu_percent"].clone();
        line["rss_mb_before"] = empty["rss_mb"].clone();
        line["cpu_percent_before"] = empty["cpu_percent"].clone();
        Ok(line)
    };
    let measured = measured.await;
    clear(session, &namespace, blocker).await?;
    measured
}

/// Others who come and go. Where nothing else happens it is a submit that begins a round of backfill, and whoever comes
/// a tenth of a second after it waits for a second one.
async fn churn(session: &Session<'_>, over: &Cell<bool>) -> Result<()> {
    while !over.get() {
        let one = ask("churn", 1, BLOCKED.gpus, BLOCKED.minutes);
        let id = submit(session, &one, None).await?;
        tokio::time::sleep(CHURN).await;
        session.world.slurm.cancel(id).await?;
    }
    Ok(())
}

/// Takes so many GPUs of every node out of the way, as another user of Slurm would.
async fn block(session: &Session<'_>, gpus: u32) -> Result<JobId> {
    let nodes = u32::try_from(session.nodes.len())?;
    let id = submit(session, &ask("blocker", nodes, gpus, BLOCKER_MINUTES), None).await?;
    runs(session, id).await.context("the blocker")?;
    Ok(id)
}

/// Creates a shape and waits until all of it stands in Slurm's queue and the bridge has said so.
/// Seconds until it was queued.
async fn fill(session: &Session<'_>, namespace: &str, shape: &Shape) -> Result<f64> {
    note(&format!("creating {} pods that will wait", shape.pods()));
    let before = session.world.live_jobs().await?.len();
    let begin = Instant::now();
    session.cluster.create(namespace, shape).await?;
    note(&format!("created after {:.0} s", begin.elapsed().as_secs_f64()));
    until("all of them in Slurm's queue", async || {
        Ok(session.world.live_jobs().await?.len() >= before + shape.gangs as usize)
    })
    .await?;
    let queued = begin.elapsed().as_secs_f64();
    note(&format!("queued after {queued:.0} s"));
    until("every pod knows why it waits", async || {
        Ok(session.cluster.told(namespace).await? == shape.pods() as usize)
    })
    .await?;
    note(&format!("told after {:.0} s", begin.elapsed().as_secs_f64()));
    Ok(queued.round())
}

/// From the first create until the last pod of a small gang is bound, milliseconds.
async fn small(session: &Session<'_>) -> Result<f64> {
    let namespace = session.cluster.namespace().await?;
    let before = session.world.live_jobs().await?.len();
    let (sender, mut bound) = unbounded_channel();
    let watching = session.cluster.watch_bound(&namespace, sender).await?;
    let begin = Instant::now();
    let created = session.cluster.create(&namespace, &SMALL).await?;
    let waited = timeout(LIMIT, gather(&mut bound, &created)).await;
    watching.abort();
    let Ok(gathered) = waited else {
        bail!("after {} s {}", LIMIT.as_secs(), session.cluster.complaints(&namespace).await?);
    };
    let (_, last) = gathered?;
    session.cluster.clear(&namespace).await?;
    until("the small gang's end", async || Ok(session.world.live_jobs().await?.len() <= before))
        .await?;
    Ok(millis(begin, last))
}

/// The same ask without a bridge: from the submit until the job runs, milliseconds. Among jobs of one priority Slurm
/// goes by their ids, so its id is one that a gang could have.
async fn slurm_alone(session: &Session<'_>, turn: u32) -> Result<f64> {
    let gang = format!("alone-{turn}-{}", std::process::id());
    let stamp = Stamp { cluster: "bench".to_owned(), gang, generation: 1, pods: 0, part: None };
    let own = JobIds::default().choose(&stamp, 0);
    let request = ask("alone", SMALL.size, SMALL.gpus, SMALL.minutes);
    let begin = Instant::now();
    let id = submit(session, &request, Some(own)).await?;
    runs(session, id).await.context("Slurm alone")?;
    let took = millis(begin, Instant::now());
    session.world.slurm.cancel(id).await?;
    until("its end", async || Ok(!session.world.live_jobs().await?.contains(&id.0))).await?;
    Ok(took)
}

async fn submit(
    session: &Session<'_>,
    request: &PlaceholderRequest,
    id: Option<JobId>,
) -> Result<JobId> {
    Ok(session.world.slurm.submit(request, id).await?.job_id)
}

async fn runs(session: &Session<'_>, id: JobId) -> Result<()> {
    until("a job that runs", async || {
        let states = session.world.slurm.job_states().await?;
        Ok(states.iter().any(|(job, state)| *job == id && state.standing() == Standing::Holding))
    })
    .await
}

/// What the bridge takes while nothing happens.
async fn look(session: &Session<'_>) -> Result<Value> {
    let (cpu, requests) = (session.world.cpu_s()?, total(session).await?);
    let begin = Instant::now();
    tokio::time::sleep(LOOK).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (session.world.cpu_s()? - cpu) / seconds * 100.0;
    let requests = (total(session).await? - requests) / seconds;
    let (rss, peak) = session.world.memory_mb()?;
    let two = |value: f64| (value * 100.0).round() / 100.0;
    Ok(json!({
        "nodes": session.nodes.len(), "rss_mb": two(rss), "peak_rss_mb": two(peak), "cpu_percent": two(cpu),
        "slurm_requests_per_s": two(requests),
    }))
}

async fn total(session: &Session<'_>) -> Result<f64> {
    Ok(session.world.slurm_requests().await?.values().sum())
}

async fn clear(session: &Session<'_>, namespace: &str, blocker: JobId) -> Result<()> {
    note("clearing up");
    session.cluster.clear(namespace).await?;
    session.world.slurm.cancel(blocker).await?;
    until("an empty queue", async || Ok(session.world.live_jobs().await?.is_empty())).await
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN).round()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max).round()
}
