//! Asks Prometheus what the devices of jobs did.
//!
//! Apart from all that schedules: whoever wants to know waits, two at a time, for a bounded time and a bounded answer.
//! What is asked, and what it means, `core::desk` says.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use gangway_core::desk::{Measured, Sample, Series, measured};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;

use crate::config;

/// Whoever asks waits so long at most, for others too.
const PATIENCE: Duration = Duration::from_secs(15);
/// Prometheus gives up a little sooner, so that it does not work for nobody.
const THEIRS: &str = "12s";
/// Bytes of the answer for one series: 60,000 jobs or so.
const MOST: usize = 8 << 20;
/// Questions at once.
const AT_ONCE: usize = 2;

/// The way to Prometheus, where there is one.
pub(super) struct Prometheus {
    settings: Option<config::Prometheus>,
    turns: Semaphore,
}

impl Prometheus {
    pub(super) fn new(settings: Option<config::Prometheus>) -> Self {
        Self { settings, turns: Semaphore::new(AT_ONCE) }
    }

    /// What was measured of every job in this time.
    pub(super) async fn measured(&self, range: (i64, i64)) -> Result<Vec<Measured>, Status> {
        let settings = self.settings.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "no Prometheus is known that has measured it: set desk.prometheus.url in the scheduler's configuration (docs/reference/metrics.md)",
            )
        })?;
        let asked = async {
            let _turn = self.turns.acquire().await?;
            ask(settings, range).await
        };
        let away = |why: &str| {
            Status::unavailable(format!("Prometheus at {} cannot be asked: {why}", settings.url))
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(measured)) => Ok(measured),
            Ok(Err(error)) => Err(away(&format!("{error:#}"))),
            Err(_) => {
                Err(away(&format!("no answer in {} s; ask for less time", PATIENCE.as_secs())))
            }
        }
    }
}

async fn ask(
    settings: &config::Prometheus,
    (from, to): (i64, i64),
) -> anyhow::Result<Vec<Measured>> {
    let client = client(settings)?;
    let one = |series: Series| {
        let (client, seconds) = (client.clone(), to.saturating_sub(from));
        async move {
            let mut url = url(&settings.url)?;
            url.query_pairs_mut()
                .append_pair("query", &series.mean_of(seconds))
                .append_pair("time", &to.to_string())
                .append_pair("timeout", THEIRS);
            let mut request = client.get(url);
            if let Some(file) = &settings.token_file {
                // Read each time, for it is rotated.
                let token = tokio::fs::read_to_string(file).await;
                let token = token.with_context(|| format!("cannot read {}", file.display()))?;
                request = request.bearer_auth(token.trim());
            }
            let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
                ensure!(
                    body.len() + chunk.len() <= MOST,
                    "its answer is larger than {} MiB; ask for less time",
                    MOST >> 20
                );
                body.extend_from_slice(&chunk);
            }
            // Megabytes are not read where others are waiting for a thread.
            let samples =
                tokio::task::spawn_blocking(move || read(status.as_u16(), &body)).await??;
            anyhow::Ok((series, samples))
        }
    };
    let answers = futures::future::try_join_all(Series::ALL.map(one)).await?;
    Ok(measured(&answers))
}

fn url(base: &str) -> anyhow::Result<reqwest::Url> {
    let url = format!("{}/api/v1/query", base.trim_end_matches('/'));
    reqwest::Url::parse(&url).with_context(|| format!("desk.prometheus.url: {base}"))
}

fn client(settings: &config::Prometheus) -> anyhow::Result<reqwest::Client> {
    let tls = match &settings.ca {
        Some(ca) => {
            let pem = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
            crate::tls::believing(&pem)?
        }
        None => crate::tls::nobody()?,
    };
    // A redirect would carry the token elsewhere, a proxy from the environment too.
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    Ok(client.tls_backend_preconfigured(tls).build()?)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    metric: Labels,
    /// When, and what.
    value: (f64, String),
}

#[derive(Default, Deserialize)]
struct Labels {
    #[serde(default)]
    job_id: String,
    #[serde(default)]
    user: String,
}

/// What an answer says. Series that are of no job are left out.
fn read(status: u16, body: &[u8]) -> anyhow::Result<Vec<Sample>> {
    let answer: Answer = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) if status == 200 => {
            return Err(error).context("it answers something else than Prometheus would");
        }
        Err(_) => bail!("it answers {status}"),
    };
    let Some(data) = answer.data.filter(|_| status == 200) else {
        bail!("it answers {status}: {}", answer.error);
    };
    let sample = |one: One| {
        let job = one.metric.job_id.parse().ok()?;
        Some(Sample { job, user: one.metric.user, value: one.value.1.parse().ok()? })
    };
    Ok(data.result.into_iter().filter_map(sample).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_mean_for_each_job() {
        let body = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"job_id":"7","user":"alice"},"value":[1700000000.5,"0.41"]},
            {"metric":{"user":"alice"},"value":[1700000000.5,"1"]},
            {"metric":{},"value":[1700000000.5,"1"]},
            {"metric":{"job_id":"8"},"value":[1700000000,"NaN"]}]}}"#;
        let samples = read(200, body).expect("an answer");
        assert_eq!(samples.len(), 2, "{samples:?}");
        assert_eq!(samples[0], Sample { job: 7, user: "alice".to_owned(), value: 0.41 });
        assert!(samples[1].value.is_nan(), "what is no number core leaves out");
    }

    #[test]
    fn a_no_is_told_in_prometheus_own_words() {
        let no =
            |status, body: &str| format!("{:#}", read(status, body.as_bytes()).expect_err("a no"));
        let said = r#"{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}"#;
        assert_eq!(no(503, said), "it answers 503: query timed out in expression evaluation");
        assert_eq!(no(502, "<html>bad gateway"), "it answers 502");
        assert!(no(200, "<html>hello").starts_with("it answers something else"));
        assert!(no(200, "{}").starts_with("it answers 200"));
    }

    #[tokio::test]
    async fn without_a_prometheus_it_says_what_to_set() {
        let none = Prometheus::new(None).measured((0, 60)).await.expect_err("a no");
        assert_eq!(none.code(), tonic::Code::FailedPrecondition);
        assert!(none.message().contains("desk.prometheus.url"), "{none}");
        // Nothing listens on the port of tcpmux.
        let settings = config::Prometheus {
            url: "http://127.0.0.1:1/prom/".into(),
            ca: None,
            token_file: None,
        };
        let away = Prometheus::new(Some(settings)).measured((0, 60)).await.expect_err("a no");
        assert_eq!(away.code(), tonic::Code::Unavailable);
        assert!(
            away.message().starts_with("Prometheus at http://127.0.0.1:1/prom/ cannot be asked: "),
            "{away}"
        );
        assert_eq!(url("http://p:9090/prom/").expect("a URL").path(), "/prom/api/v1/query");
    }
}
