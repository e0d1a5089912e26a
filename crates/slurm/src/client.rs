//! The client: configuration, the version spoken, and what an answer means.
//!
//! It must never ask twice for what may have had an effect. The calls themselves are in
//! `client::{jobs, nodes, controller}`; the wire is in `transport`.

mod accounts;
mod controller;
mod jobs;
mod nodes;
mod priority;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gangway_core::job::JobId;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::SlurmCode;
use crate::error::Error;
use crate::observe::{Gate, Observer};
use crate::tls::Tls;
use crate::token::TokenSource;
use crate::transport::{Answer, Question, Transport};
use crate::wire::Envelope;

pub use accounts::Association;
pub use controller::{Diagnostics, Ping};
pub use jobs::{Cancelled, FinishedJob, Jobs, Submitted};
pub use nodes::{Node, NodeUpdate, Partition};

/// However many jobs there are, a list is not waited for so much longer than other answers.
const LONGEST: Duration = Duration::from_secs(120);

/// How to reach one slurmrestd.
#[derive(Clone)]
pub struct Config {
    /// Base URL: `http://host:port` or `https://host:port`, and a path where a proxy adds one.
    pub url: String,
    /// For `https`: whom to believe, and what we show.
    pub tls: Option<Tls>,
    /// Where the JWT is.
    pub token: TokenSource,
    /// The user we speak as (`X-SLURM-USER-NAME`): SlurmUser for what the bridge does.
    pub user: String,
    /// For a whole exchange: waiting for a free connection, connecting, the last byte.
    pub timeout: Duration,
    /// So much longer for each job, where all are listed: by what slurmctld was last seen to have. 10,000 jobs are 82 MB
    /// and took an idle slurmrestd 7 s.
    pub timeout_per_job: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
    /// Exchanges in flight at once; the others wait.
    pub max_connections: usize,
    /// Largest answer accepted, bytes. `jobs` is about 9 KB per job.
    pub max_body: u64,
    /// The newest version of the API to speak; older ones are tried after it.
    pub newest: Version,
    /// Told about every exchange.
    pub observer: Option<Arc<dyn Observer>>,
    /// Answers in place of the network, for tests.
    #[cfg(feature = "testing")]
    pub server: Option<Arc<dyn crate::transport::memory::Server>>,
    /// Asked before every request that changes something.
    pub gate: Option<Arc<dyn Gate>>,
}

impl Config {
    /// The usual: user `slurm`, 10 s for an exchange (and 5 ms for each job that is listed), 3 s to connect, 8 connections, 256 MiB.
    pub fn new(url: impl Into<String>, token: TokenSource) -> Self {
        Self {
            url: url.into(),
            tls: None,
            token,
            user: "slurm".to_owned(),
            timeout: Duration::from_secs(10),
            timeout_per_job: Duration::from_millis(5),
            connect_timeout: Duration::from_secs(3),
            max_connections: 8,
            max_body: 256 << 20,
            newest: Version::PREFERRED[0],
            observer: None,
            #[cfg(feature = "testing")]
            server: None,
            gate: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url)
            .field("tls", &self.tls)
            .field("token", &self.token)
            .field("user", &self.user)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_connections", &self.max_connections)
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

/// A version of slurmrestd's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Version {
    /// v0.0.44: Slurm 25.11 and later.
    V0_0_44,
    /// v0.0.45: Slurm 26.05 and later.
    V0_0_45,
}

impl Version {
    /// Newest first: the order in which they are tried.
    const PREFERRED: [Self; 2] = [Self::V0_0_45, Self::V0_0_44];

    /// As in a URL: `v0.0.45`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_0_44 => "v0.0.44",
            Self::V0_0_45 => "v0.0.45",
        }
    }
}

/// A client of one slurmrestd; clones share connections, token and version.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    newest: Version,
    /// What the server was last seen to speak; `None` before the first answer and after doubt.
    version: Mutex<Option<Version>>,
    /// See [`Config::timeout_per_job`].
    timeout_per_job: Duration,
    /// How many jobs slurmctld was last seen to have.
    jobs: AtomicUsize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Which of slurmrestd's plugins serves a call.
#[derive(Clone, Copy)]
enum Plugin {
    /// `/slurm/…`: slurmctld.
    Slurm,
    /// `/slurmdb/…`: the accounting database.
    Slurmdb,
}

/// One call, before the version is known.
struct Call<'a> {
    endpoint: &'static str,
    method: Method,
    plugin: Plugin,
    /// Behind the version, without a leading slash.
    path: String,
    body: Option<Vec<u8>>,
    user: Option<&'a str>,
    /// So much longer than other answers this one may take.
    longer: Duration,
}

/// An answer and the path it answers.
pub(crate) struct Reply {
    endpoint: &'static str,
    path: String,
    answer: Answer,
}

impl Client {
    /// A client; nothing is asked yet. The newest version the server offers is found on first use.
    pub fn new(config: Config) -> Result<Self, Error> {
        let (newest, timeout_per_job) = (config.newest, config.timeout_per_job);
        let transport = Transport::new(config)?;
        let (version, jobs) = (Mutex::new(None), AtomicUsize::new(0));
        let inner = Inner { transport, newest, version, timeout_per_job, jobs };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The newest version both sides speak. Asked once; again when a URL of that version is gone or
    /// the server was away, for it may have been replaced.
    pub async fn version(&self) -> Result<Version, Error> {
        if let Some(version) = self.known_version() {
            return Ok(version);
        }
        let mut last = String::new();
        let spoken = Version::PREFERRED.into_iter().filter(|version| *version <= self.inner.newest);
        for version in spoken {
            // slurmrestd answers a ping itself, without a valid token, and with JSON whatever the
            // state of slurmctld: only a text 404 means that it does not serve this version.
            let call = Call::get("ping", "ping/".to_owned());
            let reply = self.once(version, &call).await?;
            if !reply.is_no_such_endpoint() {
                if reply.answer.is_json && reply.answer.status < 500 {
                    reply.envelope()?;
                    self.remember(Some(version));
                    return Ok(version);
                }
                return Err(reply.error());
            }
            last = reply.path;
        }
        Err(Error::NoSuchEndpoint { path: last })
    }

    fn known_version(&self) -> Option<Version> {
        *self.inner.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, version: Option<Version>) {
        *self.inner.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Asks in the version known, and once more where that version turns out to be gone: a URL that
    /// is not served had no effect.
    async fn call(&self, call: &Call<'_>) -> Result<Reply, Error> {
        let version = self.version().await?;
        let reply = self.once(version, call).await?;
        if !reply.is_no_such_endpoint() {
            return Ok(reply);
        }
        self.remember(None);
        let now = self.version().await?;
        if now == version { Ok(reply) } else { self.once(now, call).await }
    }

    async fn once(&self, version: Version, call: &Call<'_>) -> Result<Reply, Error> {
        let plugin = match call.plugin {
            Plugin::Slurm => "slurm",
            Plugin::Slurmdb => "slurmdb",
        };
        let path = format!("/{plugin}/{}/{}", version.as_str(), call.path);
        let endpoint = call.endpoint;
        let question = Question {
            endpoint,
            method: call.method.clone(),
            path: &path,
            body: call.body.as_deref(),
            user: call.user,
            longer: call.longer,
        };
        match self.inner.transport.ask(&question).await {
            Ok(answer) => {
                let reply = Reply { endpoint, path, answer };
                if let Some(observer) =
                    self.inner.transport.observer().filter(|_| !reply.is_success())
                {
                    observer.refused(endpoint, reply.error().code());
                }
                Ok(reply)
            }
            Err(error) => {
                if matches!(error, Error::Unreachable { .. }) {
                    self.remember(None);
                }
                Err(error)
            }
        }
    }

    /// How many jobs there are, for lists to come.
    fn count(&self, jobs: usize) {
        self.inner.jobs.store(jobs, Ordering::Relaxed);
    }

    /// How much longer than others a list of all jobs may take.
    fn longer(&self) -> Duration {
        let jobs = u32::try_from(self.inner.jobs.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        self.inner.timeout_per_job.saturating_mul(jobs).min(LONGEST)
    }

    /// Asks and reads the answer, which must be a yes.
    async fn read<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Error> {
        self.call(call).await?.accepted()?.read()
    }

    /// Asks for something to be done; the answer must be a yes.
    async fn order(&self, call: &Call<'_>) -> Result<(), Error> {
        self.call(call).await?.accepted().map(drop)
    }
}

impl<'a> Call<'a> {
    fn get(endpoint: &'static str, path: String) -> Self {
        let (method, plugin) = (Method::GET, Plugin::Slurm);
        Self { endpoint, method, plugin, path, body: None, user: None, longer: Duration::ZERO }
    }

    fn delete(endpoint: &'static str, path: String) -> Self {
        Self { method: Method::DELETE, ..Self::get(endpoint, path) }
    }

    fn post(endpoint: &'static str, path: String, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|source| Error::Config {
            what: format!("{endpoint} cannot be written as JSON"),
            source: Some(Box::new(source)),
        })?;
        Ok(Self { method: Method::POST, body: Some(body), ..Self::get(endpoint, path) })
    }

    fn on_behalf_of(self, user: &'a str) -> Self {
        Self { user: Some(user), ..self }
    }
}

impl Reply {
    /// To nothing in particular.
    #[cfg(feature = "testing")]
    pub(crate) fn of(answer: Answer) -> Self {
        Self { endpoint: "test", path: "/test".to_owned(), answer }
    }

    /// slurmrestd's own "no such URL" is plain text; a 404 in JSON is slurmctld's.
    fn is_no_such_endpoint(&self) -> bool {
        self.answer.status == 404 && !self.answer.is_json
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.answer.status)
    }

    /// The answer where it is a yes: a 2xx in JSON that complains of nothing.
    pub(crate) fn accepted(self) -> Result<Self, Error> {
        if self.is_success() && self.answer.is_json && self.envelope()?.errors.is_empty() {
            return Ok(self);
        }
        Err(self.error())
    }

    /// The fields every answer may carry.
    fn envelope(&self) -> Result<Envelope, Error> {
        self.read()
    }

    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // serde would also read a list as a struct, field by field.
        if self.answer.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(self.malformed("not a JSON object"));
        }
        serde_json::from_slice(&self.answer.body).map_err(|source| Error::Malformed {
            path: self.path.clone(),
            what: "not the JSON we expect".to_owned(),
            source: Some(source),
        })
    }

    pub(crate) fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), what: what.into(), source: None }
    }

    /// What this answer, which is not a yes, means.
    fn error(&self) -> Error {
        let (endpoint, status) = (self.endpoint, self.answer.status);
        let envelope = match self.envelope() {
            Ok(envelope) if self.answer.is_json => envelope,
            Err(malformed) if self.is_success() && self.answer.is_json => return malformed,
            _ if self.is_success() => return self.malformed("not JSON"),
            _ if self.is_no_such_endpoint() => {
                return Error::NoSuchEndpoint { path: self.path.clone() };
            }
            _ if matches!(status, 401 | 511) => {
                return Error::Unauthorized { endpoint, status, code: None };
            }
            _ => return Error::Status { endpoint, status },
        };
        let number = |complaint: &crate::wire::Complaint| complaint.error_number.count();
        // The first complaint that has a number; slurmrestd adds its own words without one.
        let worst = envelope
            .errors
            .iter()
            .find(|complaint| number(complaint).is_some_and(|code: i32| code != 0))
            .or_else(|| envelope.errors.first());
        let code = SlurmCode(worst.and_then(number).unwrap_or(0));
        if matches!(status, 401 | 511) || code == SlurmCode::AUTHENTICATION {
            return Error::Unauthorized { endpoint, status, code: Some(code) };
        }
        if worst.is_none() && !self.is_success() {
            return Error::Status { endpoint, status };
        }
        let message = worst.map(crate::wire::Complaint::message).unwrap_or_default();
        Error::Rejected { endpoint, status, code, message }
    }
}

/// Turns error 2017 into [`Error::NoSuchJob`].
fn about_job(job: JobId) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Rejected { code: SlurmCode::INVALID_JOB_ID, .. } => Error::NoSuchJob { job },
        other => other,
    }
}

/// One segment of a path: everything but letters, digits and `-._~` as `%XX`.
fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes everything");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, is_json: bool, body: &str) -> Reply {
        let answer = Answer { status, is_json, body: body.as_bytes().to_vec() };
        Reply { endpoint: "job", path: "/slurm/v0.0.45/job/1".into(), answer }
    }

    #[test]
    fn a_no_is_told_by_status_type_and_number_only() {
        let refused = r#"{"errors":[{"description":"x","error_number":2014,"error":"y"}]}"#;
        let cases = [
            (200, true, r#"{"errors":[]}"#, "ok"),
            (200, true, "{}", "ok"),
            (200, true, refused, "rejected"),
            (200, true, "<html>", "malformed"),
            (200, true, "[]", "malformed"),
            (200, false, "{}", "malformed"),
            (404, false, "Unable to find", "no_such_endpoint"),
            (404, true, refused, "rejected"),
            (401, false, "Authentication failure", "unauthorized"),
            (511, true, r#"{"errors":[{"error_number":1007}]}"#, "unauthorized"),
            (500, true, r#"{"errors":[{"error_number":1007}]}"#, "unauthorized"),
            (502, false, "Bad Gateway", "status"),
            (503, true, "{}", "status"),
            (400, true, "oops", "status"),
        ];
        for (status, is_json, body, expected) in cases {
            let got = match reply(status, is_json, body).accepted() {
                Ok(_) => "ok",
                Err(error) => error.category(),
            };
            assert_eq!(got, expected, "{status} {body}");
        }
    }

    #[test]
    fn doubt_and_retry_follow_from_who_said_no() {
        let of = |status, code| {
            reply(status, true, &format!(r#"{{"errors":[{{"error_number":{code}}}]}}"#)).error()
        };
        // slurmctld decided.
        for code in [2000, 2011, 2014, 2045, 2072] {
            assert!(!of(422, code).is_doubtful() && !of(422, code).is_retryable(), "{code}");
            assert_eq!(of(422, code).code(), Some(SlurmCode(code)));
        }
        // slurmctld could not be asked, or did not answer.
        for (status, code) in [(500, -1), (502, 1800), (504, 5004), (403, 1)] {
            assert!(of(status, code).is_doubtful() && of(status, code).is_retryable(), "{code}");
        }
        // slurmrestd could not read the request: nothing happened, nothing will.
        assert!(!of(500, 9202).is_doubtful() && !of(500, 9202).is_retryable());
    }

    #[test]
    fn a_path_segment_cannot_leave_its_place() {
        assert_eq!(segment("p5-1.pool"), "p5-1.pool");
        assert_eq!(segment("../job/1?x#y"), "..%2Fjob%2F1%3Fx%23y");
    }
}
