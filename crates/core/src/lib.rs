//! Every decision Gangway takes, as plain functions from facts to plans.
//!
//! This room turns what was seen (pods, owners, jobs, allocations) into what to do and why.
//! It must never wait, read a clock, touch a file, a socket or the environment, or start a task:
//! the shell in `crates/gangway` does that. `cargo xtask tidy` holds it to that by its dependencies.
//!
//! Read in this order: [`gang`], [`translate`], [`job`], [`place`], [`follow`].

pub mod hostlist;
pub mod job;
