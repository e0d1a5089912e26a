//! A typed client of slurmrestd that a stranger would use on its own: auth, versions, errors.
//!
//! It asks and answers; it must never decide, retry by its own judgement, cache an answer, or know
//! Kubernetes. The facts it returns are `gangway-core`'s types. Start reading at [`Client`], then
//! [`Error`]; the wire shapes are in `wire`, one exchange on the wire is in `transport`.
//!
//! ```no_run
//! # async fn example() -> Result<(), gangway_slurm::Error> {
//! use gangway_slurm::{Client, Config, TokenSource};
//!
//! let token = TokenSource::File("/run/secrets/slurm/token".into());
//! let client = Client::new(Config::new("http://127.0.0.1:6820", token))?;
//! for (id, state) in client.job_states().await? {
//!     println!("{id} {state}");
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod code;
#[cfg(feature = "testing")]
pub mod conformance;
mod error;
#[cfg(feature = "testing")]
pub mod fake;
mod mark;
mod observe;
mod placeholder;
#[cfg(feature = "testing")]
pub mod reading;
mod tls;
mod token;
mod transport;
mod wire;

pub use client::{
    Association, Cancelled, Client, Config, Diagnostics, FinishedJob, Jobs, Node, NodeUpdate,
    Partition, Ping, Submitted, Version,
};
pub use code::SlurmCode;
pub use error::Error;
pub use observe::{Exchange, Gate, Observer};
pub use tls::{ClientCertificate, Tls};
pub use token::TokenSource;
#[cfg(feature = "testing")]
pub use transport::memory::{Answering, Broken, Request, Response, Server};
