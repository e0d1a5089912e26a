//! The world as its env file names it, and what its bridge costs: memory, CPU, requests to Slurm.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use gangway_slurm::{Client as Slurm, Config, TokenSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests to slurmrestd by endpoint.
pub(crate) type Requests = BTreeMap<String, f64>;

/// A world with a bridge in it.
pub(crate) struct World {
    pub(crate) slurm: Arc<Slurm>,
    pub(crate) audit: PathBuf,
    pid: u32,
    metrics: String,
}

impl World {
    pub(crate) fn of_environment() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("{name} is not set; source the env file of a world with its bridge up")
            })
        };
        let token = TokenSource::File(variable("SLURM_TOKEN_FILE")?.into());
        let slurm = Slurm::new(Config::new(variable("SLURM_REST_URL")?, token))?;
        let file = variable("GANGWAY_CONFIG")?;
        let config = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let metrics = config
            .split_once("metrics: \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .with_context(|| format!("{file} says no listen.metrics"))?;
        Ok(Self {
            slurm: Arc::new(slurm),
            audit: PathBuf::from(variable("GANGWAY_WORLD_DIR")?).join("audit.log"),
            pid: variable("GANGWAY_PID")?.trim().parse().context("GANGWAY_PID is not a number")?,
            metrics: metrics.0.to_owned(),
        })
    }

    /// Resident memory of the bridge in MB, now and at its highest.
    pub(crate) fn memory_mb(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .context("the bridge has ended")?;
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kb.unwrap_or(0.0) / 1024.0
        };
        Ok((of("VmRSS:"), of("VmHWM:")))
    }

    /// Seconds of CPU the bridge has used: what the scheduler counted for its threads, which is far
    /// finer than the ticks in `stat`.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.pid)).context("the bridge has ended")?;
        let spent = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        Ok(spent.sum::<f64>() / 1e9)
    }

    /// Requests the bridge has made to slurmrestd since it started.
    pub(crate) async fn slurm_requests(&self) -> Result<Requests> {
        let mut out = Requests::new();
        for line in self.scrape().await?.lines() {
            let Some(rest) = line.strip_prefix("gangway_slurm_requests_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let endpoint =
                labels.split_once("endpoint=\"").and_then(|(_, rest)| rest.split_once('"'));
            let (endpoint, _) = endpoint.context("a request without an endpoint")?;
            *out.entry(endpoint.to_owned()).or_default() += value.trim().parse::<f64>()?;
        }
        Ok(out)
    }

    async fn scrape(&self) -> Result<String> {
        let mut stream =
            TcpStream::connect(&self.metrics).await.context("the bridge's metrics port")?;
        let ask =
            format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.metrics);
        stream.write_all(ask.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Jobs that are not over, by id.
    pub(crate) async fn live_jobs(&self) -> Result<Vec<u32>> {
        use gangway_core::job::Standing;
        let states = self.slurm.job_states().await?;
        let live = states.into_iter().filter(|(_, state)| state.standing() != Standing::Over);
        Ok(live.map(|(id, _)| id.0).collect())
    }
}
