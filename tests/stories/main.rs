//! What Gangway promises, told on a real Slurm and a real Kubernetes; one module per story.
//!
//! `cargo xtask world up --kinds`, then `GANGWAY_WORLD_ENV=target/world/env cargo test -p
//! gangway-tests`; see `src/lib.rs` for the harness. `kubelet` wants a world with `--kubelets 2`, `prolog` one without.

mod answer_lost;
mod asking;
mod assembly;
mod attacks;
mod bad_input;
mod bare_metal;
mod blocks;
mod comeback;
mod crash_points;
mod door;
mod dra;
mod elastic;
mod election;
mod eligibility;
mod expiry;
mod fleet;
mod forgetful;
mod giving_back;
mod held;
mod interlock;
mod inventory;
mod jobset;
mod kinds;
mod kube_scheduler;
mod kubelet;
mod leaderworkerset;
mod leaving;
mod loss;
mod nemesis;
mod network;
mod no_room;
mod orphans;
mod partitions;
mod poison;
mod policies;
mod process;
mod prolog;
mod pytorchjob;
mod recovery;
mod resources;
mod restart;
mod rivals;
mod roles;
mod scancel;
mod sharing;
mod slurm_away;
mod slurmctld;
mod spot;
mod taints;
mod turnover;
mod two_leaders;
mod volumes;
mod wires;
