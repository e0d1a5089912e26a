//! Facts about the ways to be told no, and about what follows.
//!
//! It must never make a job that could run.

use std::time::Duration;

use gangway_core::job::{GresRequest, JobId};

use tokio::time::Instant;

use super::{Outcome, Report, Stage, answered, hold, refused};
use crate::{Cancelled, SlurmCode, TokenSource};

/// An id that no cluster has reached.
const NOBODY: JobId = JobId(0x03FF_FFF0);

pub(super) async fn run(stage: &Stage<'_>, report: &mut Report) {
    report.add("the newest version is found and slurmctld answers", negotiation(stage).await);
    report.add("diag tells slurmctld's boot time", diag(stage).await);
    report.add("a wrong token is unauthorized, at once", wrong_token(stage).await);
    report.add("a rotated token file is read again", rotation(stage).await);
    report.add("a wrong base path is no such endpoint", wrong_path(stage).await);
    report.add("a closed port is unreachable", closed_port(stage).await);
    report.add("a job that never was is None, never an error", unknown_job(stage).await);
    report.add("what follows an error is answered, 50 at once", after_errors(stage).await);
    report.add("an unknown partition is 2000", unknown_partition(stage).await);
    report.add("an unknown generic resource is 2072", unknown_gres(stage).await);
    report.add("a GPU type nobody has is 2014", unknown_gpu(stage).await);
    report.add("an unknown account is 2045", unknown_account(stage).await);
    report.add("an unknown user is 2166", unknown_user(stage).await);
    report.add("accounting tells who may charge what", associations(stage).await);
    report.add("more nodes than the partition has is told", too_many_nodes(stage).await);
}

async fn associations(stage: &Stage<'_>) -> Outcome {
    if !stage.world.accounting {
        return Ok(());
    }
    let own = stage.client.associations(&stage.world.user).await?;
    let cluster = stage.client.ping().await?.cluster;
    let charges =
        own.iter().any(|one| one.account == stage.world.account && one.cluster == cluster);
    hold(charges && own.iter().all(|one| one.user == stage.world.user), &own)?;
    let none = stage.client.associations(&format!("{}-nobody", stage.tag)).await?;
    hold(none.is_empty(), none)
}

async fn negotiation(stage: &Stage<'_>) -> Outcome {
    stage.client.version().await?;
    let ping = stage.client.ping().await?;
    hold(ping.responding && !ping.release.is_empty() && !ping.cluster.is_empty(), ping)
}

async fn diag(stage: &Stage<'_>) -> Outcome {
    let (first, second) = (stage.client.diag().await?, stage.client.diag().await?);
    let sane = first.boot_time <= first.now && first.boot_time == second.boot_time;
    hold(sane, (first, second))
}

async fn wrong_token(stage: &Stage<'_>) -> Outcome {
    let began = Instant::now();
    // Nothing like a token; and one that is well-formed, signed by nobody.
    let unsigned = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MSwic3VuIj\
                    oic2x1cm0ifQ.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for token in ["wrong", unsigned] {
        let token = TokenSource::Fixed(token.to_owned());
        let client = stage.other(|config| config.token = token)?;
        refused(client.job_states().await, "unauthorized")?;
        refused(client.submit(&stage.request("forged"), None).await, "unauthorized")?;
    }
    hold(began.elapsed() < Duration::from_secs(5), began.elapsed())
}

async fn rotation(stage: &Stage<'_>) -> Outcome {
    let TokenSource::File(real) = &stage.world.config.token else {
        return Err("the world's token is not in a file".into());
    };
    let good = std::fs::read_to_string(real)?;
    let path = std::env::temp_dir().join(format!("{}-token", stage.tag));
    std::fs::write(&path, &good)?;
    let source = TokenSource::File(path.clone());
    let client = stage.other(|config| config.token = source)?;
    let outcome = async {
        client.job_states().await?;
        std::fs::write(&path, "expired")?;
        refused(client.job_states().await, "unauthorized")?;
        std::fs::write(&path, &good)?;
        client.job_states().await?;
        Ok(())
    }
    .await;
    std::fs::remove_file(&path)?;
    outcome
}

async fn wrong_path(stage: &Stage<'_>) -> Outcome {
    let client = stage.other(|config| config.url.push_str("/elsewhere"))?;
    refused(client.job_states().await, "no_such_endpoint")?;
    // A path that is wrong only behind the version: asked again, and still a no.
    refused(stage.client.delete_node("").await, "no_such_endpoint")
}

async fn closed_port(stage: &Stage<'_>) -> Outcome {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    drop(listener);
    let client = stage.other(|config| config.url = url)?;
    refused(client.job_states().await, "unreachable")
}

async fn unknown_job(stage: &Stage<'_>) -> Outcome {
    let client = &stage.client;
    hold(client.job(NOBODY).await?.is_none(), "a job")?;
    refused(client.resources(NOBODY).await, "no_such_job")?;
    refused(client.set_admin_comment(NOBODY, "x").await, "no_such_job")?;
    let cancelled = client.cancel(NOBODY).await?;
    hold(cancelled == Cancelled::Unknown, cancelled)
}

async fn after_errors(stage: &Stage<'_>) -> Outcome {
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = stage.client.clone();
        asked.spawn(async move {
            let missing = client.job(NOBODY).await?;
            client.job_states().await?;
            Ok::<_, crate::Error>(missing)
        });
    }
    while let Some(one) = asked.join_next().await {
        hold(one??.is_none(), "a job")?;
    }
    Ok(())
}

async fn unknown_partition(stage: &Stage<'_>) -> Outcome {
    let mut request = stage.request("partition");
    request.partition = format!("{}-nowhere", stage.tag);
    answered(stage.submit(&request, None).await, SlurmCode::INVALID_PARTITION)?;
    answered(stage.allocate(&request).await, SlurmCode::INVALID_PARTITION)
}

async fn unknown_gres(stage: &Stage<'_>) -> Outcome {
    let mut request = stage.request("gres");
    request.components[0].gres_per_node =
        vec![GresRequest { name: "philosopherstone".into(), kind: None, count: 1 }];
    answered(stage.submit(&request, None).await, SlurmCode::INVALID_GRES)
}

async fn unknown_gpu(stage: &Stage<'_>) -> Outcome {
    let mut request = stage.request("gpu");
    request.components[0].gres_per_node =
        vec![GresRequest { name: "gpu".into(), kind: Some("abacus".into()), count: 1 }];
    answered(stage.submit(&request, None).await, SlurmCode::NODE_CONFIG_UNAVAILABLE)
}

async fn unknown_account(stage: &Stage<'_>) -> Outcome {
    if !stage.world.accounting {
        return Ok(());
    }
    let mut request = stage.request("account");
    request.account = Some(format!("{}-nobody", stage.tag));
    answered(stage.submit(&request, None).await, SlurmCode::INVALID_ACCOUNT)
}

async fn unknown_user(stage: &Stage<'_>) -> Outcome {
    let mut request = stage.request("user");
    request.user = format!("{}-nobody", stage.tag);
    answered(stage.submit(&request, None).await, SlurmCode::UNKNOWN_USER)
}

/// Depending on `EnforcePartLimits` the queue refuses it, or takes it and warns; the immediate way
/// always refuses it.
async fn too_many_nodes(stage: &Stage<'_>) -> Outcome {
    let mut request = stage.request("nodes");
    request.components[0].nodes = 60_000;
    match stage.submit(&request, None).await {
        Ok(submitted) => {
            stage.client.cancel(submitted.job_id).await?;
            hold(!submitted.warnings.is_empty(), submitted)?;
        }
        other => refused(other, "rejected")?,
    }
    refused(stage.allocate(&request).await, "rejected")
}
