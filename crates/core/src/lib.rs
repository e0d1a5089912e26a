//! Every decision Gangway takes, as plain functions from facts to plans.
//!
//! This room turns what was seen (pods, owners, jobs, allocations) into what to do and why.
//! It must never wait, read a clock, touch a file, a socket or the environment, or start a task:
//! the shell in `crates/gangway` does that. `cargo xtask tidy` holds it to that by its dependencies.
//!
//! Read in this order: [`gang`], [`eligible`], [`policy`], [`translate`], [`placeholder`], [`topology`],
//! [`place`], [`follow`]; apart from them, for nodes: [`inventory`].

pub mod admission;
pub mod ask;
pub mod certificates;
pub mod desk;
pub mod eligible;
pub mod follow;
pub mod gang;
pub mod gangview;
pub mod hostlist;
pub mod inventory;
pub mod job;
pub mod lease;
pub mod life;
pub mod names;
pub mod offer;
pub mod order;
pub mod outlook;
pub mod place;
pub mod placeholder;
pub mod pod;
pub mod poison;
pub mod policy;
pub mod priority;
pub mod prolog;
pub mod quantity;
pub mod reason;
pub mod topology;
pub mod translate;
pub mod workload;
