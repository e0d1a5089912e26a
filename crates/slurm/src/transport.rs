//! One exchange with slurmrestd: a connection, a token, a deadline, a bounded body.
//!
//! It knows HTTP and nothing of jobs. It must never repeat a request that may have had an effect,
//! and never use a connection again that carried an error: slurmrestd writes a second answer behind
//! every error and closes.

#[cfg(feature = "testing")]
pub(crate) mod memory;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

use crate::client::Config;
use crate::error::Error;
use crate::observe::{Exchange, Gate, Observer};
use crate::tls::{Certificates, nobody};
use crate::token::Token;

/// slurmrestd closes idle connections by itself; ours go first, so that a request never meets a
/// connection that is just being closed.
const IDLE: Duration = Duration::from_secs(5);

/// What to ask.
pub(crate) struct Question<'a> {
    /// Its name in errors and metrics, without ids.
    pub(crate) endpoint: &'static str,
    pub(crate) method: Method,
    /// From the root of the server: `/slurm/v0.0.45/ping/`.
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a [u8]>,
    /// On whose behalf, if not the configured user's.
    pub(crate) user: Option<&'a str>,
    /// So much longer than other answers this one may take.
    pub(crate) longer: Duration,
}

/// What came back: any status, any body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) is_json: bool,
    pub(crate) body: Vec<u8>,
}

/// The connections to one slurmrestd.
pub(crate) struct Transport {
    /// Connections at rest. Each is an HTTP client of its own that keeps one connection, because
    /// that is how a connection can be thrown away for certain: by not putting it back.
    resting: Mutex<Vec<Connection>>,
    certificates: Option<Certificates>,
    connect_timeout: Duration,
    base: String,
    user: HeaderValue,
    token: Token,
    timeout: Duration,
    max_body: u64,
    permits: Semaphore,
    observer: Option<Arc<dyn Observer>>,
    /// Answers in place of the network.
    #[cfg(feature = "testing")]
    server: Option<Arc<dyn memory::Server>>,
    gate: Option<Arc<dyn Gate>>,
}

struct Connection {
    client: reqwest::Client,
    /// Which of the certificates it was made with.
    turn: u64,
}

impl Transport {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let base = config.url.trim_end_matches('/').to_owned();
        reqwest::Url::parse(&base)
            .map_err(|source| misconfigured(format!("url {base:?}"), source))?;
        if base.starts_with("https:") && config.tls.is_none() {
            let what = format!("url {base:?} needs a CA (tls)");
            return Err(Error::Config { what, source: None });
        }
        Ok(Self {
            resting: Mutex::new(Vec::new()),
            certificates: config.tls.map(Certificates::new),
            connect_timeout: config.connect_timeout.min(config.timeout),
            base,
            user: header("user", &config.user)?,
            token: Token::new(config.token),
            timeout: config.timeout,
            max_body: config.max_body,
            permits: Semaphore::new(config.max_connections.max(1)),
            observer: config.observer,
            #[cfg(feature = "testing")]
            server: config.server,
            gate: config.gate,
        })
    }

    /// Whoever wants to be told.
    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    /// Asks once; a second time only where the token was refused and the file now holds another
    /// one, for a refused token had no effect.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<Answer, Error> {
        let token = self.token.current()?;
        let answer = self.observed(question, &token).await?;
        if !matches!(answer.status, 401 | 511) {
            return Ok(answer);
        }
        match self.token.newer_than(&token)? {
            Some(token) => self.observed(question, &token).await,
            None => Ok(answer),
        }
    }

    async fn observed(&self, question: &Question<'_>, token: &str) -> Result<Answer, Error> {
        let began = Instant::now();
        let result = self.timed(question, token).await;
        let (status, outcome, bytes) = match &result {
            Ok(answer) => (Some(answer.status), "answered", answer.body.len() as u64),
            Err(error) => (None, error.category(), 0),
        };
        let elapsed = began.elapsed();
        let endpoint = question.endpoint;
        tracing::trace!(endpoint, ?status, outcome, ?elapsed, bytes, "slurmrestd");
        if elapsed > self.timeout && result.is_ok() {
            tracing::info!(endpoint, ?elapsed, bytes, "slurmrestd took long for a large answer");
        }
        if let Some(observer) = &self.observer {
            observer.request(&Exchange { endpoint, status, outcome, elapsed, bytes });
        }
        result
    }

    /// The deadline covers everything: waiting for a free connection, connecting, the last byte.
    async fn timed(&self, question: &Question<'_>, token: &str) -> Result<Answer, Error> {
        let endpoint = question.endpoint;
        let after = self.timeout + question.longer;
        let deadline = Instant::now() + after;
        let late = |sent| Error::TimedOut { endpoint, after, sent };
        let permit = tokio::time::timeout_at(deadline, self.permits.acquire())
            .await
            .map_err(|_elapsed| late(false))?;
        // Those before us may have given up at this very moment.
        if Instant::now() >= deadline {
            return Err(late(false));
        }
        // Last of all, so that nothing lies between the question and the sending.
        let shut = self.gate.as_ref().is_some_and(|gate| !gate.is_open());
        if shut && question.method != Method::GET {
            return Err(Error::Shut { endpoint });
        }
        #[cfg(feature = "testing")]
        if let Some(server) = &self.server {
            let exchange = memory::exchange(server.as_ref(), self, question, token);
            return tokio::time::timeout_at(deadline, exchange)
                .await
                .map_err(|_elapsed| late(true))?;
        }
        let connection = self.take()?;
        let exchange = self.exchange(&connection.client, question, token);
        let answer =
            tokio::time::timeout_at(deadline, exchange).await.map_err(|_elapsed| late(true))??;
        // Only a whole answer that is no error leaves a connection fit for the next question.
        if (200..300).contains(&answer.status) {
            self.put_back(connection);
        }
        drop(permit);
        Ok(answer)
    }

    /// The connection used last, or a new one; none that was made with certificates of before.
    fn take(&self) -> Result<Connection, Error> {
        let current = self.certificates.as_ref().map(Certificates::current).transpose()?;
        let turn = current.as_ref().map_or(0, |current| current.turn);
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|connection| connection.turn == turn);
        if let Some(connection) = resting.pop() {
            return Ok(connection);
        }
        drop(resting);
        let config = current.map(|current| ClientConfig::clone(&current.config));
        Ok(Connection { client: self.connect(config)?, turn })
    }

    fn put_back(&self, connection: Connection) {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn connect(&self, tls: Option<ClientConfig>) -> Result<reqwest::Client, Error> {
        let builder = reqwest::Client::builder()
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .http1_only()
            // A redirect would carry the token elsewhere, a proxy from the environment too.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // One request, one question: what to repeat is the asker's decision.
            .retry(reqwest::retry::never());
        // Without certificates there is no https: nobody is believed, and the system's own CAs are not looked for.
        let tls = tls.map_or_else(|| nobody().cloned(), Ok)?;
        builder
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|source| misconfigured("HTTP client".to_owned(), source))
    }

    async fn exchange(
        &self,
        connection: &reqwest::Client,
        question: &Question<'_>,
        token: &str,
    ) -> Result<Answer, Error> {
        let endpoint = question.endpoint;
        let broke = |source: reqwest::Error| {
            let unreachable = source.is_connect();
            let source = Box::new(source.without_url());
            if unreachable {
                Error::Unreachable { endpoint, source }
            } else {
                Error::Cut { endpoint, source }
            }
        };
        let mut secret = header("token", token)?;
        secret.set_sensitive(true);
        let user = match question.user {
            Some(user) => header("user", user)?,
            None => self.user.clone(),
        };
        let url = format!("{}{}", self.base, question.path);
        let mut request = connection
            .request(question.method.clone(), url)
            .header("X-SLURM-USER-TOKEN", secret)
            .header("X-SLURM-USER-NAME", user);
        if let Some(body) = question.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_vec());
        }
        let mut response = request.send().await.map_err(broke)?;
        let status = response.status().as_u16();
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let too_large = Error::TooLarge { endpoint, limit: self.max_body };
        let announced = response.content_length().unwrap_or(0);
        if announced > self.max_body {
            return Err(too_large);
        }
        let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(broke)? {
            if (body.len() + chunk.len()) as u64 > self.max_body {
                return Err(too_large);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, is_json, body })
    }
}

fn header(what: &'static str, value: &str) -> Result<HeaderValue, Error> {
    // The value may be the token: the message names it without showing it.
    HeaderValue::from_str(value)
        .map_err(|source| misconfigured(format!("{what} is not a header value"), source))
}

fn misconfigured(what: String, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Config { what, source: Some(Box::new(source)) }
}
