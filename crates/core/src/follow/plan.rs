//! What a decision about a gang is made from, and what it is: facts and a plan, both values.
//!
//! Holds no decision itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::ask::Other;
use crate::eligible::Reach;
use crate::eligible::volume::ToSelect;
use crate::gang::Assembled;
use crate::gang::standin::StandsIn;
use crate::job::{BaseState, JobId};
use crate::place::Seat;
use crate::policy::Refusal;

/// The latest word on the gang's placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It cannot run as asked.
    Refused(Refusal),
    /// It waits.
    Queued {
        /// Its job, once Slurm has one.
        job: Option<JobId>,
        /// Slurm's reason.
        reason: String,
        /// For the user.
        message: String,
        /// Slurm's estimate, seconds since the epoch; 0 when it has none.
        expected_start: i64,
    },
    /// It has its nodes.
    Allocated {
        /// The placeholder.
        job: JobId,
        /// Its generation.
        generation: u32,
        /// One seat per member by pod uid.
        seats: BTreeMap<String, Seat>,
        /// For the user: what the way it was asked for costs; empty for nothing.
        note: String,
        /// When it will end, where Slurm has said so and the gang asked for a warning.
        ends: Option<Ends>,
        /// Its pods are not the ones it was submitted for: some have successors.
        renewed: bool,
    },
    /// It is over, on Slurm's own word.
    Ended {
        /// The placeholder.
        job: JobId,
        /// Its generation.
        generation: u32,
        /// How it ended.
        state: BaseState,
        /// For the user.
        message: String,
    },
}

/// When an allocation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Milliseconds from when it was said.
    pub in_ms: i64,
    /// By its time limit, rather than because another job takes its nodes.
    pub by_time_limit: bool,
}

/// What has been done so far; kept in [`crate::life::Life`], lost with it, and rebuilt from what is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The pods for which room was asked, and when (ms).
    pub asked: Option<Asked>,
    /// When the first bind of this round was sent (ms).
    pub first_bind: Option<i64>,
    /// This bridge has begun to bind the gang as a whole: whoever is not bound yet will be.
    pub began: bool,
    /// Every member of this round has been bound once.
    pub all_bound: bool,
    /// The placeholder has been given back.
    pub released: bool,
    /// Since when every member has been finished (ms).
    pub finished_since: Option<i64>,
    /// What the last question said of the workloads that its dependency names.
    pub others: BTreeMap<String, Other>,
    /// Since when the seats wait for volumes (ms).
    pub volumes_since: Option<i64>,
    /// Since when the seat of a successor is lost to Kubernetes (ms).
    pub lost_since: Option<i64>,
    /// Claims that were told their node, by uid: how often, and when last (ms).
    pub claims: BTreeMap<String, (u32, i64)>,
    /// When its allocation will end (ms), and whether by its time limit.
    pub ends: Option<(i64, bool)>,
    /// Until when its members were told that they may stay (ms); `None`: they were told nothing.
    pub leave_by: Option<i64>,
    /// The same as a bridge before this one has told them (ms), by what the pods carry.
    pub recalled: Option<i64>,
    /// The placeholders that members were bound for, as far as whoever gave the latest word knew.
    pub weighed: BTreeSet<JobId>,
    /// Who was seen bound at each rank.
    pub held: BTreeMap<u32, String>,
    /// The latest attempt that there was in Slurm (0: none), as it was found out since nobody is left.
    pub latest: Option<u32>,
}

/// An open question to Slurm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// For these pods.
    pub pods: BTreeSet<String>,
    /// The placeholders that members were bound for then.
    pub bound_for: BTreeSet<JobId>,
    /// Since (ms).
    pub at: i64,
    /// Where they might not go then.
    pub reach: Reach,
    /// How many of them were bound then.
    pub bound: usize,
    /// [`Assembled::policies`] of then.
    pub policies: u64,
}

/// Where a seat really is, as Kubernetes sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// This node; its devices are free.
    Free(String),
    /// A pod still holds a device of it (rule 4).
    Taken {
        /// `namespace/name` of the holder.
        by: String,
    },
    /// Kubernetes has no node for Slurm's name.
    NoNode,
    /// The pod may not go to this node any more.
    Shut {
        /// Kubernetes' name of the node.
        node: String,
        /// Why, as in `is cordoned`.
        why: String,
        /// The node is lost to Kubernetes: its kubelet is not heard of.
        lost: bool,
    },
    /// The seat is free, but volumes of the pod are still to be made there.
    Volumes {
        /// Kubernetes' name of the node.
        node: String,
        /// Claims that wait for their first user.
        claims: Vec<ToSelect>,
        /// For the user.
        message: String,
    },
}

impl Spot {
    /// Whether Kubernetes has lost the node.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::NoNode | Self::Shut { lost: true, .. })
    }
}

/// Everything a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The gang as its pods are now.
    pub assembled: &'a Assembled,
    /// The latest word; `None` before the first.
    pub verdict: Option<&'a Verdict>,
    /// What has been done.
    pub progress: &'a Progress,
    /// For each seat of an allocation, by pod uid, where it is.
    pub spots: &'a BTreeMap<String, Spot>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open (or re-open) the question to Slurm for the gang as it is now.
    Ask,
    /// Put a member on a node: the one write of this pod.
    Bind {
        /// Pod uid.
        pod: String,
        /// Its seat.
        seat: Seat,
        /// Kubernetes' name of the seat's node.
        node: String,
        /// The placeholder.
        job: JobId,
        /// Its generation.
        generation: u32,
    },
    /// Take a pod off its node through the Eviction API.
    Evict {
        /// Pod uid.
        pod: String,
        /// What it is counted under.
        cause: Cause,
        /// For its owner.
        why: String,
    },
    /// Tell a pod that it has to leave, or that it need not after all.
    Warn {
        /// Pod uid.
        pod: String,
        /// Until when it may stay, in milliseconds from now, and why; `None`: it may stay.
        leave: Option<(i64, String)>,
    },
    /// Let a successor whose seat is lost start beside its gang, by writing on it for whom it stands in.
    StandIn {
        /// Pod uid.
        pod: String,
        /// For whom.
        stands_in: StandsIn,
    },
    /// Find out which attempts of the gang there are in Slurm.
    Inquire,
    /// Give the placeholder back to Slurm.
    Release {
        /// Why.
        why: String,
        /// The latest attempt that this is about: one that another bridge begins later is for other pods.
        generation: u32,
    },
    /// Give the placeholder back and ask anew for the same pods, none of which is bound.
    GiveBack {
        /// Why.
        why: String,
        /// As in `Release`.
        generation: u32,
    },
    /// Tell a claim that waits for its first user which node its volume is for.
    SelectNode {
        /// Pod uid.
        pod: String,
        /// The claim.
        claim: String,
        /// Its uid.
        uid: String,
        /// Kubernetes' name of the node.
        node: String,
    },
    /// Begin anew with the pods there are: the old round is over and done with.
    NewRound,
    /// Nothing is left of the gang: drop it.
    Forget,
}

/// Why pods are evicted, as metrics count it: each has few words, where the sentence for the owner has many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A job of higher priority takes the nodes.
    Preempted,
    /// The time limit or the deadline has come.
    TimeLimit,
    /// The placeholder was cancelled.
    Cancelled,
    /// A node failed, or did not boot.
    NodeFailed,
    /// The placeholder has ended in another way.
    Ended,
    /// Bound for another start than the present one.
    EarlierStart,
    /// Not all of the gang could be bound in time.
    NotInTime,
    /// A member was lost, and all start anew together.
    MemberLost,
    /// It stood in for a member of a gang that does not go on.
    StoodIn,
    /// kube-scheduler did not take the seats.
    NotTaken,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::Preempted,
        Self::TimeLimit,
        Self::Cancelled,
        Self::NodeFailed,
        Self::Ended,
        Self::EarlierStart,
        Self::NotInTime,
        Self::MemberLost,
        Self::StoodIn,
        Self::NotTaken,
    ];

    /// That of a placeholder which has ended so.
    pub fn of(state: &BaseState) -> Self {
        match state {
            BaseState::Preempted => Self::Preempted,
            BaseState::Timeout | BaseState::Deadline => Self::TimeLimit,
            BaseState::Cancelled => Self::Cancelled,
            BaseState::NodeFail | BaseState::BootFail => Self::NodeFailed,
            _ => Self::Ended,
        }
    }

    /// Its name, as metrics and documents have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preempted => "preempted",
            Self::TimeLimit => "time_limit",
            Self::Cancelled => "cancelled",
            Self::NodeFailed => "node_failed",
            Self::Ended => "ended",
            Self::EarlierStart => "earlier_start",
            Self::NotInTime => "not_in_time",
            Self::MemberLost => "member_lost",
            Self::StoodIn => "stood_in",
            Self::NotTaken => "not_taken",
        }
    }
}

/// What the user should read on the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// CamelCase word for condition and event: `Queued`, `Refused`, `GangIncomplete` …
    pub reason: &'static str,
    /// What it is about, so that news can be told from new wording: Slurm's reason, or empty.
    pub topic: String,
    /// The sentence.
    pub message: String,
    /// Something the user must mend: written at once and as a warning event.
    pub problem: bool,
}

/// What to do now, what to say, and when to look again if nothing else happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// For the pods that are not bound.
    pub report: Option<Report>,
    /// Look again at this time (ms).
    pub wake: Option<i64>,
}

impl Plan {
    pub(super) fn act(action: Action) -> Self {
        Self { actions: vec![action], ..Self::default() }
    }

    /// Look again at this time at the latest.
    pub fn wake_by(&mut self, at: i64) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub(super) fn say(reason: &'static str, message: String, problem: bool) -> Self {
        let topic = String::new();
        Self { report: Some(Report { reason, topic, message, problem }), ..Self::default() }
    }
}
