//! The harness of the stories: a real Slurm, a real Kubernetes, and a bridge of the story's own.
//!
//! `GANGWAY_WORLD_ENV` names the env file of a running world (`cargo xtask world up`). Start reading
//! at [`Story`]; the stories themselves are in `stories/`. Nothing here decides what is right, and
//! nothing waits by the clock alone: every wait looks at a state, with a deadline.

mod admission;
mod audit;
mod bridge;
mod browser;
mod chance;
mod chronicle;
mod crowd;
mod faults;
pub mod history;
pub mod http;
mod kube_scheduler;
mod kubernetes;
pub mod manifest;
mod nodes;
mod policies;
mod pool;
mod proxy;
mod requests;
pub mod rights;
mod secured;
mod slurm;
mod story;
mod wait;
mod world;

pub use admission::Admission;
pub use audit::Write;
pub use bridge::{Bridge, Setup};
pub use browser::Browser;
pub use chance::Chance;
pub use chronicle::Chronicle;
pub use crowd::Crowd;
pub use faults::{Fault, Faults, Question};
pub use kube_scheduler::{KubeScheduler, Terms};
pub use kubernetes::{Kubernetes, Note, Pod};
pub use nodes::Nodes;
pub use policies::Policies;
pub use pool::{POOL, Pool};
pub use proxy::{Mood, Proxy};
pub use requests::{Asked, audited};
pub use secured::{Seal, Secured};
pub use slurm::Slurm;
pub use story::Story;
pub use wait::{SOON, stays, wait, wait_calmly};
pub use world::World;
