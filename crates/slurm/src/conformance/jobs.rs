//! Facts about placeholders that run.
//!
//! It must never take more than two nodes.

use std::sync::atomic::{AtomicU32, Ordering};

use gangway_core::job::{
    Allocation, BaseState, Component, GresAllocation, GresRequest, Job, JobId, Moment,
    PlaceholderRequest, Standing,
};

use super::{Outcome, Report, Stage, answered, eventually, hold};
use crate::{Cancelled, Error, FinishedJob, SlurmCode, Version};

pub(super) async fn run(stage: &Stage<'_>, report: &mut Report) {
    report.add("a queued placeholder gets what it asks, until cancelled", queued(stage).await);
    report.add("a chosen job id that is taken is 2011", chosen_id(stage).await);
    report.add("components get what each asks, and end with their leader", components(stage).await);
    report.add("what is held back gets an estimate and never starts", held_back(stage).await);
    report.add("an immediate placeholder runs on return", immediate(stage).await);
    report.add("what has come is counted at once", counted(stage).await);
    report.add("an immediate placeholder on a busy node is refused", busy(stage).await);
    report.add("a waiting placeholder is let go elsewhere", let_go(stage).await);
    report.add("the job list tells unchanged from empty", unchanged(stage).await);
}

/// Two nodes, two tasks on each, and everything that can be asked about them.
async fn queued(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    let mut request = stage.request("queued");
    request.components[0] = Component {
        nodes: 2,
        tasks_per_node: 2,
        cpus_per_task: 3,
        memory_per_node_mib: 2000,
        gres_per_node: vec![devices("gpu", 2), devices("efa", 8)],
        ..request.components[0].clone()
    };
    let id = stage.submit(&request, None).await?.job_id;
    let job = running(stage, id).await?;
    let right = job.admin_comment == request.components[0].key
        && job.name == request.name
        && job.user == request.user
        && job.partition == request.partition
        && job.external
        && !job.sluid.is_empty()
        && !job.nodes.is_empty()
        && job.start_time > 0
        && (job.node_count, job.gpus) == (2, 4)
        && (!stage.world.accounting || Some(&job.account) == request.account.as_ref());
    hold(right, &job)?;
    let sluid = job.sluid.clone();
    let allocation = client.resources(id).await?;
    hold(grants(&allocation, &request.components[0]), &allocation)?;
    let detailed = client.job_in_detail(id).await?.and_then(|(_, granted)| granted);
    hold(detailed.as_ref() == Some(&allocation), &detailed)?;

    client.set_admin_comment(id, "another").await?;
    let jobs = client.jobs().await?;
    let listed = jobs.iter().find(|one| one.id == id);
    hold(listed.is_some_and(|one| one.admin_comment == "another"), listed)?;
    let states = client.job_states().await?;
    hold(states.iter().any(|(one, state)| *one == id && state.base == BaseState::Running), states)?;

    // The unique id is a fence: with another one, no job is meant.
    let stranger = Job { sluid: "s9G9M82HTSFT00".to_owned(), ..job.clone() };
    let missed = client.cancel_submission(&stranger).await?;
    hold(missed == Cancelled::Unknown, missed)?;
    let used = client.node(&allocation.nodes[0].name).await?.map(|node| node.gres_used);
    let mine = &allocation.nodes[0].gres[0];
    let in_use = |used: &Vec<GresAllocation>| {
        let same = used.iter().find(|one| one.name == mine.name);
        same.is_some_and(|one| mine.indexes.iter().all(|index| one.indexes.contains(index)))
    };
    hold(used.as_ref().is_some_and(in_use), used)?;

    let first = client.cancel_submission(&job).await?;
    hold(first == Cancelled::Ending, first)?;
    let job = over(stage, id).await?;
    hold(job.state.base == BaseState::Cancelled, job)?;
    let second = client.cancel(id).await?;
    hold(second == Cancelled::AlreadyOver, second)?;
    answered(client.resources(id).await, SlurmCode::JOB_NOT_RUNNING)?;
    remembered(stage, &sluid, id).await
}

fn devices(name: &str, count: u32) -> GresRequest {
    GresRequest { name: name.into(), kind: None, count }
}

/// A leader without devices and two workers with them, each asked for what it needs, as one job.
async fn components(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    if !client.ping().await?.heterogeneous_external() {
        return Ok(());
    }
    let mut request = stage.request("components");
    let worker = Component {
        key: "worker".into(),
        nodes: 2,
        gres_per_node: vec![devices("gpu", 2)],
        ..request.components[0].clone()
    };
    request.components[0].gres_per_node.clear();
    request.components.push(worker);
    // Above every id Slurm hands out by itself, and apart from the other fact's.
    let id = JobId(50_000_000 + 2 * fresh());
    let submitted = stage.submit(&request, Some(id)).await?;
    hold(submitted.job_id == id, submitted)?;
    answered(stage.submit(&request, Some(id)).await, SlurmCode::DUPLICATE_JOB_ID)?;
    let job = running(stage, id).await?;
    let ids: Vec<JobId> = job.parts.iter().map(|part| part.id).collect();
    let keys: Vec<&str> = job.parts.iter().map(|part| part.admin_comment.as_str()).collect();
    let expected = [request.components[0].key.as_str(), "worker"];
    hold(ids == [id, JobId(id.0 + 1)] && keys == expected && job.external, &job)?;
    for (part, asked) in ids.iter().zip(&request.components) {
        let allocation = client.resources(*part).await?;
        hold(grants(&allocation, asked), &allocation)?;
    }
    let listed = client.jobs().await?.into_iter().find(|one| one.id == id);
    hold(listed.as_ref() == Some(&job), &listed)?;
    let states = client.job_states().await?;
    let runs = |id: &JobId| states.contains(&(*id, job.state.clone()));
    hold(ids.iter().all(runs), &states)?;
    client.cancel(id).await?;
    let job = over(stage, id).await?;
    hold(job.ending() == &BaseState::Cancelled && !job.broken(), job)
}

/// There is room, and Slurm says that it could start; it does not, for a part of it may not begin.
async fn held_back(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    if !client.ping().await?.heterogeneous_external() {
        return Ok(());
    }
    let request = stage.request("held-back");
    let ballast = Component { gres_per_node: Vec::new(), ..request.components[0].clone() };
    let submitted = client.submit_held_back(&request, &ballast, Moment::In(86_400)).await?;
    let id = submitted.job_id;
    stage.remember(id);
    let waits = eventually("Slurm's estimate", async || {
        Ok(client.job(id).await?.filter(|job| job.start_time > 0))
    })
    .await?;
    let soon = waits.start_time < client.diag().await?.now + 600;
    let waiting = waits.standing() == Standing::Waiting && waits.parts.len() == 2;
    hold(waiting && soon && waits.nodes.is_empty(), &waits)?;
    client.cancel(id).await?;
    let job = over(stage, id).await?;
    hold(job.nodes.is_empty() && job.ending() == &BaseState::Cancelled, job)
}

/// Whether every node gives exactly what was asked of it, devices by index.
fn grants(allocation: &Allocation, request: &Component) -> bool {
    allocation.nodes.len() == request.nodes as usize
        && allocation.nodes.iter().all(|node| {
            node.cpus == request.tasks_per_node * request.cpus_per_task
                && node.memory_mib == request.memory_per_node_mib
                && node.gres.len() == request.gres_per_node.len()
                && request.gres_per_node.iter().all(|asked| {
                    node.gres.iter().any(|gres| {
                        gres.name == asked.name
                            && gres.count == asked.count
                            && gres.indexes.len() == asked.count as usize
                    })
                })
        })
}

/// The accounting database knows the end of a job, and which submission it was.
async fn remembered(stage: &Stage<'_>, sluid: &str, id: JobId) -> Outcome {
    if !stage.world.accounting {
        return Ok(());
    }
    let job = eventually("the job's end in the accounting database", async || {
        let found = stage.client.finished_job(id).await?;
        Ok(found.into_iter().find(|job| job.state.standing() == Standing::Over))
    })
    .await?;
    // The older version does not tell which submission a record is of.
    let told = job.sluid == sluid;
    let older = job.sluid.is_empty() && stage.client.version().await? < Version::V0_0_45;
    let right = job.state.base == BaseState::Cancelled
        && (told || older)
        && job.start_time > 0
        && job.end_time > 0;
    hold(right, &job)?;
    spent(stage, &job).await
}

/// Whoever asks what ran in a time hears of it with its owner and what it held; in another time, not.
async fn spent(stage: &Stage<'_>, job: &FinishedJob) -> Outcome {
    let of = async |from, to| -> Result<Vec<FinishedJob>, Error> {
        let mut all = stage.client.finished_jobs(from, to).await?;
        all.retain(|one| one.id == job.id && one.submit_time == job.submit_time);
        Ok(all)
    };
    let then = of(job.start_time - 10, job.end_time + 10).await?;
    let [one] = then.as_slice() else { return Err(format!("{then:?}").into()) };
    let right = one.user == stage.world.user
        && one.account == stage.world.account
        && (one.node_count, one.gpus) == (2, 4)
        && (one.start_time, one.end_time) == (job.start_time, job.end_time)
        && one.name == format!("{}-queued", stage.tag)
        && one.partition == stage.world.partition;
    hold(right, one)?;
    let before = of(job.start_time - 7200, job.start_time - 3600).await?;
    hold(before.is_empty(), before)
}

/// A number below 4 million that no other run of the suite has lately had: Slurm remembers ids for a while.
fn fresh() -> u32 {
    static RUN: AtomicU32 = AtomicU32::new(0);
    (std::process::id() * 8 + RUN.fetch_add(1, Ordering::Relaxed)) % 4_000_000
}

async fn chosen_id(stage: &Stage<'_>) -> Outcome {
    // Above every id Slurm hands out by itself, below its limit.
    let id = JobId(60_000_000 + fresh());
    let request = stage.request("chosen");
    let first = stage.submit(&request, Some(id)).await?;
    hold(first.job_id == id, first)?;
    answered(stage.submit(&request, Some(id)).await, SlurmCode::DUPLICATE_JOB_ID)?;
    stage.client.cancel(id).await?;
    over(stage, id).await?;
    answered(stage.submit(&request, Some(id)).await, SlurmCode::DUPLICATE_JOB_ID)
}

async fn immediate(stage: &Stage<'_>) -> Outcome {
    let request = stage.request("immediate");
    // Somebody else's pending job may be in the way for a while.
    let id = eventually("an immediate allocation", async || match stage.allocate(&request).await {
        Ok(id) => Ok(Some(id)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    })
    .await?;
    let job = stage.client.job(id).await?.ok_or("the job is gone")?;
    let right = job.standing() == Standing::Holding
        && job.user == request.user
        && job.comment == request.components[0].key
        && job.external;
    hold(right, &job)?;
    stage.client.set_admin_comment(id, &request.components[0].key).await?;
    let job = stage.client.job(id).await?.ok_or("the job is gone")?;
    hold(job.admin_comment == request.components[0].key, &job)?;
    hold(grants(&stage.client.resources(id).await?, &request.components[0]), "other resources")?;
    stage.client.cancel(id).await?;
    over(stage, id).await.map(drop)
}

/// Asked at once or queued, with an id of its choice or without: there is no job that is not counted. A
/// count of those that live is some seconds old.
async fn counted(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    let says = async || client.diag().await;
    let request = stage.request("counted");
    let none = says().await?;
    let chosen = stage.submit(&request, Some(JobId(40_000_000 + fresh()))).await?.job_id;
    let one = says().await?;
    hold(one.jobs_submitted > none.jobs_submitted, (none, one))?;
    client.cancel(chosen).await?;
    over(stage, chosen).await?;
    let before = says().await?;
    // Where it is refused, its record is counted, too.
    let at_once = stage.allocate(&request).await;
    let after = says().await?;
    hold(after.jobs_submitted > before.jobs_submitted, (before, after))?;
    if let Ok(id) = at_once {
        client.cancel(id).await?;
        over(stage, id).await?;
    }
    hold(after.counted > 0 && after.counted <= after.now, after)
}

/// All GPUs of one node are taken; whoever may go nowhere else waits, until it may.
async fn let_go(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    let (first, request) = alone_on_a_node(stage).await?;
    let second = stage.submit(&request, None).await?.job_id;
    let job = client.job(second).await?.ok_or("the job is gone")?;
    hold(job.state.standing() == Standing::Waiting && !job.excluded_nodes.is_empty(), &job)?;
    let unknown = client.set_excluded_nodes(second, "no-such-node").await;
    answered(unknown, SlurmCode::INVALID_NODE_NAME)?;
    hold(job.tres_per_node == "gres/gpu=8", &job)?;
    let asked = &request.components[0];
    hold(job.cpus == asked.tasks_per_node * asked.cpus_per_task.max(1) * job.node_count, &job)?;
    hold(job.memory_mib == asked.memory_per_node_mib.max(1), &job)?;
    client.set_tres_per_node(second, "gres/gpu=7").await?;
    client.set_excluded_nodes(second, "").await?;
    let now = running(stage, second).await?;
    hold(now.tres_per_node == "gres/gpu=7", &now)?;
    let same = now.submit_time == job.submit_time && now.excluded_nodes.is_empty();
    hold(same && now.nodes != first.nodes, &now)?;
    client.cancel(second).await?;
    client.cancel(first.id).await?;
    over(stage, second).await.map(drop)
}

/// All GPUs of one node, twice.
async fn busy(stage: &Stage<'_>) -> Outcome {
    let (first, request) = alone_on_a_node(stage).await?;
    let second = stage.allocate(&request).await;
    stage.client.cancel(first.id).await?;
    super::refused(second, "refused")
}

/// A placeholder with all GPUs of one node, and the request that may go to no other.
async fn alone_on_a_node(
    stage: &Stage<'_>,
) -> Result<(Job, PlaceholderRequest), Box<dyn std::error::Error + Send + Sync>> {
    let everywhere = stage.client.nodes().await?;
    for node in stage.idle_nodes().await? {
        let others = everywhere.iter().filter(|other| {
            other.name != node.name && other.partitions.contains(&stage.world.partition)
        });
        let others: Vec<_> = others.map(|other| other.name.as_str()).collect();
        let mut request = stage.request("busy");
        request.components[0].gres_per_node = vec![devices("gpu", 8)];
        request.components[0].excluded_nodes = others.join(",");
        let id = match stage.allocate(&request).await {
            Ok(id) => id,
            // Another's job came first: try the next node.
            Err(Error::Refused { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let job = stage.client.job(id).await?.ok_or("the job is gone")?;
        hold(job.nodes == node.name, &job)?;
        return Ok((job, request));
    }
    Err("no node was idle".into())
}

async fn unchanged(stage: &Stage<'_>) -> Outcome {
    let ahead = stage.client.diag().await?.now + 1000;
    let none = stage.client.jobs_since(ahead).await?;
    hold(none.is_none(), none)?;
    let all = stage.client.jobs_since(1).await?.ok_or("unchanged since 1970")?;
    hold(all.last_update > 0 && !all.jobs.is_empty(), all.last_update)
}

async fn running(
    stage: &Stage<'_>,
    id: JobId,
) -> Result<Job, Box<dyn std::error::Error + Send + Sync>> {
    standing(stage, id, Standing::Holding).await
}

async fn over(
    stage: &Stage<'_>,
    id: JobId,
) -> Result<Job, Box<dyn std::error::Error + Send + Sync>> {
    standing(stage, id, Standing::Over).await
}

async fn standing(
    stage: &Stage<'_>,
    id: JobId,
    standing: Standing,
) -> Result<Job, Box<dyn std::error::Error + Send + Sync>> {
    eventually(&format!("job {id} is {standing:?}"), async || {
        Ok(stage.client.job(id).await?.filter(|job| job.standing() == standing))
    })
    .await
}
