//! Every way that a few gangs, bridges and faults can go, searched without a gap by a model checker.
//!
//! The bridge is the real one as far as it is pure: `gangway_core::life::step` decides on the Kubernetes
//! side, `gangway_core::placeholder::next` on Slurm's, `gangway_core::place::place` seats. Around it stand
//! an API server and a Slurm that know only what the rules of the house speak of. Nothing is decided here
//! that the bridge decides; docs/model.md says what is left out.
//!
//! Read in this order: `kubernetes`, `slurm`, `bridge`, `world` (what can happen), `rules` (what must and
//! must not come of it), `recovery` (from anywhere to a good end), `searches` (the tests).
#![cfg(test)]

mod bridge;
mod idle;
mod kubernetes;
mod recovery;
mod rules;
mod searches;
mod slurm;
mod world;
