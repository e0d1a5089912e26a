//! Slurm hostlists.
