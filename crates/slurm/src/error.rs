//! What can go wrong between us and Slurm, and what it means for the asker.
//!
//! It must never match on the text of an answer: HTTP status, content type and Slurm's own number
//! decide. Display says what this layer knows and never repeats its source.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use gangway_core::job::JobId;

use crate::code::SlurmCode;

/// Why Slurm did not answer the question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work: URL or header value.
    #[error("slurmrestd client is misconfigured: {what}")]
    Config {
        /// What is wrong with it.
        what: String,
        /// The parser's own complaint, where there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The token file cannot be read.
    #[error("cannot read the Slurm token file {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the certificates cannot be used.
    #[error("cannot use {} for TLS with slurmrestd", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The [gate](crate::Gate) is shut: nothing was sent.
    #[error("{endpoint} is not sent: we may not change anything any more")]
    Shut {
        /// What was asked.
        endpoint: &'static str,
    },
    /// No connection: nothing was sent.
    #[error("cannot reach slurmrestd for {endpoint}")]
    Unreachable {
        /// What was asked.
        endpoint: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke after the request may have been sent.
    #[error("connection to slurmrestd broke during {endpoint}")]
    Cut {
        /// What was asked.
        endpoint: &'static str,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No whole answer in time.
    #[error("slurmrestd did not answer {endpoint} within {after:?}")]
    TimedOut {
        /// What was asked.
        endpoint: &'static str,
        /// How long we waited.
        after: Duration,
        /// Whether the request may have been sent: false while it waited for a free connection.
        sent: bool,
    },
    /// The answer is larger than we accept.
    #[error("slurmrestd answered {endpoint} with more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        endpoint: &'static str,
        /// The most we accept.
        limit: u64,
    },
    /// The token is missing, expired or signed with another key.
    #[error("slurmrestd refuses our token for {endpoint} (HTTP {status})")]
    Unauthorized {
        /// What was asked.
        endpoint: &'static str,
        /// 401 from slurmrestd, 511 from slurmctld.
        status: u16,
        /// Slurm's number, where slurmctld refused it.
        code: Option<SlurmCode>,
    },
    /// slurmctld does not know this job (error 2017 in JSON): it never was, or is purged.
    #[error("Slurm has no job {job}")]
    NoSuchJob {
        /// The job.
        job: JobId,
    },
    /// slurmrestd has no such URL: wrong base URL, a version or a plugin it does not serve.
    #[error("slurmrestd serves no {path}")]
    NoSuchEndpoint {
        /// Path that was asked.
        path: String,
    },
    /// An immediate allocation is not possible now; the queue may take the same request.
    #[error("Slurm cannot allocate at once: error {code}: {message}")]
    Refused {
        /// Slurm's number.
        code: SlurmCode,
        /// Slurm's own words.
        message: String,
    },
    /// Slurm says no.
    #[error("Slurm answers {endpoint} with error {code}: {message}")]
    Rejected {
        /// What was asked.
        endpoint: &'static str,
        /// HTTP status, which may be 200.
        status: u16,
        /// Slurm's number; 0 where it gave none.
        code: SlurmCode,
        /// Slurm's own words.
        message: String,
    },
    /// An HTTP status without a word from Slurm: a proxy, or slurmrestd's own text.
    #[error("{endpoint} was answered with HTTP {status} and no word from Slurm")]
    Status {
        /// What was asked.
        endpoint: &'static str,
        /// HTTP status.
        status: u16,
    },
    /// The answer is not what slurmrestd sends.
    #[error("slurmrestd's answer to {path} makes no sense: {what}")]
    Malformed {
        /// What was asked.
        path: String,
        /// Which part of it.
        what: String,
        /// The parser's own complaint, where there is one.
        #[source]
        source: Option<serde_json::Error>,
    },
}

impl Error {
    /// Whether the same request may succeed later with nothing changed by the asker.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } | Self::TimedOut { .. } => true,
            Self::Refused { .. } => true,
            Self::Rejected { status, code, .. } => is_trouble(*status, *code),
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            // A file being replaced is unreadable for a moment.
            Self::Token { .. } | Self::Certificate { .. } => true,
            // It may open again; that is its owner's affair.
            Self::Shut { .. } => true,
            Self::Config { .. }
            | Self::TooLarge { .. }
            | Self::Unauthorized { .. }
            | Self::NoSuchJob { .. }
            | Self::NoSuchEndpoint { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// Whether the request may have taken effect all the same: look up by key before asking again.
    pub fn is_doubtful(&self) -> bool {
        match self {
            Self::Cut { .. } | Self::TooLarge { .. } | Self::Malformed { .. } => true,
            Self::TimedOut { sent, .. } => *sent,
            Self::Rejected { status, code, .. } => is_trouble(*status, *code),
            Self::Status { status, .. } => *status >= 500,
            Self::Config { .. }
            | Self::Token { .. }
            | Self::Certificate { .. }
            | Self::Shut { .. }
            | Self::Unreachable { .. }
            | Self::Unauthorized { .. }
            | Self::NoSuchJob { .. }
            | Self::NoSuchEndpoint { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Slurm's number, where Slurm spoke.
    pub fn code(&self) -> Option<SlurmCode> {
        match self {
            Self::Rejected { code, .. } | Self::Refused { code, .. } => Some(*code),
            Self::NoSuchJob { .. } => Some(SlurmCode::INVALID_JOB_ID),
            Self::Unauthorized { code, .. } => *code,
            Self::Config { .. }
            | Self::Token { .. }
            | Self::Certificate { .. }
            | Self::Shut { .. }
            | Self::Unreachable { .. }
            | Self::Cut { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::NoSuchEndpoint { .. }
            | Self::Status { .. }
            | Self::Malformed { .. } => None,
        }
    }

    /// One of a dozen fixed words, for metrics and events.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Token { .. } => "token",
            Self::Certificate { .. } => "certificate",
            Self::Shut { .. } => "shut",
            Self::Unreachable { .. } => "unreachable",
            Self::Cut { .. } => "cut",
            Self::TimedOut { .. } => "timed_out",
            Self::TooLarge { .. } => "too_large",
            Self::Unauthorized { .. } => "unauthorized",
            Self::NoSuchJob { .. } => "no_such_job",
            Self::NoSuchEndpoint { .. } => "no_such_endpoint",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Status { .. } => "status",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// Whether an error answer tells of trouble on Slurm's side rather than of a decision.
fn is_trouble(status: u16, code: SlurmCode) -> bool {
    code.is_communication() || (status >= 500 && !code.is_before_slurmctld())
}
