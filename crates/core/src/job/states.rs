//! Every state and flag a Slurm job can have, and what each means for the pods of its gang (rule 5).
//!
//! The rows are those of slurmrestd's own specification; a fact of the conformance suite fails where a
//! release adds one. docs/reference/states.md shows them, and a test keeps it true.

use super::{JobState, Standing};

/// One base state, by slurmrestd's name.
pub(super) struct Base {
    pub(super) name: &'static str,
    pub(super) standing: Standing,
    /// What it says, for people.
    pub(super) says: &'static str,
}

/// One flag beside a base state.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    pub(super) says: &'static str,
}

/// What a flag changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: the base state stands.
    Nothing,
    /// What it holds may not be used yet.
    NotYet,
    /// What it holds is changing or going.
    Going,
    /// It has lost its nodes or will, and may wait again under the same id: no end, and nothing to use.
    Again,
    /// It will not start here, and nobody has said that it is over.
    Elsewhere,
}

impl Effect {
    pub(super) fn on(self, standing: Standing) -> Standing {
        match (self, standing) {
            (Self::NotYet, Standing::Holding) => Standing::Waiting,
            (Self::Going | Self::Again, Standing::Holding)
            | (Self::Again, Standing::Over)
            | (Self::Elsewhere, Standing::Holding | Standing::Waiting) => Standing::Unclear,
            (_, standing) => standing,
        }
    }
}

const fn base(name: &'static str, standing: Standing, says: &'static str) -> Base {
    Base { name, standing, says }
}

const fn flag(name: &'static str, effect: Effect, says: &'static str) -> Flag {
    Flag { name, effect, says }
}

/// `enum job_states` of slurm.h; what is not here is unknown, and waits.
pub(super) const BASES: &[Base] = &[
    base(
        "PENDING",
        Standing::Waiting,
        "in the queue; the reason says why, held and BadConstraints among them",
    ),
    base("RUNNING", Standing::Holding, "it holds its nodes"),
    base(
        "SUSPENDED",
        Standing::Unclear,
        "it has its nodes on record and may not use them; evicting for it would lose work, binding would book twice",
    ),
    base("COMPLETED", Standing::Over, "it ended well, which a placeholder does only by its owner"),
    base("CANCELLED", Standing::Over, "it was ended: by us when its pods are gone, or by a person"),
    base("FAILED", Standing::Over, "it ended with a failure"),
    base("TIMEOUT", Standing::Over, "its time limit"),
    base("NODE_FAIL", Standing::Over, "a node failed"),
    base("PREEMPTED", Standing::Over, "a job of higher priority has its nodes"),
    base("BOOT_FAIL", Standing::Over, "its nodes did not boot"),
    base("DEADLINE", Standing::Over, "its deadline passed"),
    base("OUT_OF_MEMORY", Standing::Over, "it ran out of memory"),
];

/// `JOB_STATE_FLAGS` of slurm.h.
pub(super) const FLAGS: &[Flag] = &[
    flag("LAUNCH_FAILED", Effect::Nothing, "its launch failed once"),
    flag("REQUEUED", Effect::Again, "it is going back to the queue"),
    flag("REQUEUE_HOLD", Effect::Again, "it is going back to the queue, held"),
    flag("REQUEUE_FED", Effect::Again, "it is going back to the queue of its federation"),
    flag("SPECIAL_EXIT", Effect::Again, "it is going back to the queue, held, for its exit code"),
    flag("EXPEDITING", Effect::Again, "it is going back to the queue, to be first"),
    flag("RESIZING", Effect::Going, "its nodes are changing"),
    flag(
        "CONFIGURING",
        Effect::NotYet,
        "its nodes are being made ready (PrologSlurmctld, a reboot)",
    ),
    flag("POWER_UP_NODE", Effect::NotYet, "its nodes are being powered up"),
    flag("RECONFIG_FAIL", Effect::Again, "its nodes could not be made ready"),
    flag("COMPLETING", Effect::Going, "it is on its way out, and its last state comes next"),
    flag("STOPPED", Effect::Nothing, "it was sent SIGSTOP and keeps its nodes"),
    flag("SIGNALING", Effect::Nothing, "a signal is on its way to it"),
    flag("STAGE_OUT", Effect::Nothing, "its data is being taken out, after its end"),
    flag("UPDATE_DB", Effect::Nothing, "accounting is being told"),
    flag("REVOKED", Effect::Elsewhere, "another cluster of its federation has started it"),
    flag("RESV_DEL_HOLD", Effect::Nothing, "held, because its reservation is gone"),
];

/// Every name there is a row for.
pub fn known_names() -> impl Iterator<Item = &'static str> {
    BASES.iter().map(|base| base.name).chain(FLAGS.iter().map(|flag| flag.name))
}

/// What a state and its flags say and what becomes of the pods, for people.
pub(super) fn explain(state: &JobState) -> String {
    let base = BASES.iter().find(|row| row.name == state.base.name()).map(|row| row.says);
    let flag = |name: &String| FLAGS.iter().find(|row| row.name == name).map(|row| row.says);
    let mut says = vec![base.unwrap_or("this version does not know it")];
    says.extend(state.flags.iter().filter_map(flag));
    format!("{}: {}", says.join("; "), state.standing().says())
}

impl Standing {
    fn says(self) -> &'static str {
        match self {
            Self::Waiting => "bind nobody; the pods say why",
            Self::Holding => "bind; bound pods run",
            Self::Over => "evict whoever is bound, with the reason",
            Self::Unclear => "wait for the next word; bind and evict nobody",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PAGE: &str = include_str!("../../../../docs/reference/states.md");

    fn changes(effect: Effect) -> &'static str {
        match effect {
            Effect::Nothing => "nothing",
            Effect::NotYet => "RUNNING: wait, bind nobody",
            Effect::Going => "RUNNING: wait for the next word, bind nobody",
            Effect::Again => "RUNNING or ended: wait for the next word; pods stay",
            Effect::Elsewhere => "PENDING or RUNNING: wait for the next word, bind nobody",
        }
    }

    #[test]
    fn a_state_is_explained_with_its_flags() {
        let said = explain(&JobState::parse(&["RUNNING", "RESIZING"]));
        assert_eq!(
            said,
            "it holds its nodes; its nodes are changing: wait for the next word; bind and evict nobody"
        );
        assert!(explain(&JobState::parse(&["TELEPORTED"])).starts_with("this version does not"));
    }

    #[test]
    fn the_page_shows_every_row_as_it_is() {
        let bases =
            BASES.iter().map(|b| format!("| {} | {} | {} |", b.name, b.says, b.standing.says()));
        let flags =
            FLAGS.iter().map(|f| format!("| {} | {} | {} |", f.name, f.says, changes(f.effect)));
        let rows: Vec<String> = bases.chain(flags).collect();
        let shown: Vec<&str> = PAGE
            .lines()
            .filter(|line| known_names().any(|n| line.starts_with(&format!("| {n} |"))))
            .collect();
        assert_eq!(shown, rows, "docs/reference/states.md should be:\n{}", rows.join("\n"));
    }

    #[test]
    fn a_name_has_one_row() {
        let names: BTreeSet<&str> = known_names().collect();
        assert_eq!(names.len(), BASES.len() + FLAGS.len());
    }

    #[test]
    fn a_flag_never_makes_a_job_hold_or_end() {
        for base in BASES {
            for flag in FLAGS {
                let with = JobState::parse(&[base.name, flag.name]).standing();
                let kept = with == base.standing;
                let more_careful = matches!(with, Standing::Waiting | Standing::Unclear);
                assert!(kept || more_careful, "{} {}: {with:?}", base.name, flag.name);
            }
        }
    }

    #[test]
    fn what_goes_back_to_the_queue_is_neither_held_nor_over() {
        for (names, want) in [
            (["RUNNING", "REQUEUED"], Standing::Unclear),
            (["NODE_FAIL", "REQUEUED"], Standing::Unclear),
            (["PENDING", "REQUEUED"], Standing::Waiting),
            (["RUNNING", "RESIZING"], Standing::Unclear),
            (["RUNNING", "POWER_UP_NODE"], Standing::Waiting),
            (["RUNNING", "SIGNALING"], Standing::Holding),
            (["RUNNING", "STOPPED"], Standing::Holding),
            (["COMPLETED", "STAGE_OUT"], Standing::Over),
            (["CANCELLED", "COMPLETING"], Standing::Over),
            (["PENDING", "REVOKED"], Standing::Unclear),
            (["PENDING", "RESV_DEL_HOLD"], Standing::Waiting),
        ] {
            assert_eq!(JobState::parse(&names).standing(), want, "{names:?}");
        }
    }
}
