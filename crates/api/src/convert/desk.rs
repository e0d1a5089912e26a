//! The desk's messages and core's values: the same fields under the same names.

use gangway_core::desk::{By, Efficiency, Explanation, Holder, NodeRow, Row, Usage, Workload};

use crate::v1;

/// Both ways between a value and its message: fields that are the same, one that may be absent, lists.
macro_rules! mirror {
    ($core:ty, $wire:ty { $($same:ident),* ; $($maybe:ident),* ; $($list:ident),* }) => {
        impl From<$core> for $wire {
            fn from(value: $core) -> Self {
                Self {
                    $($same: value.$same,)*
                    $($maybe: value.$maybe.map(Into::into),)*
                    $($list: value.$list.into_iter().map(Into::into).collect(),)*
                }
            }
        }

        impl From<$wire> for $core {
            fn from(value: $wire) -> Self {
                Self {
                    $($same: value.$same,)*
                    $($maybe: value.$maybe.map(Into::into),)*
                    $($list: value.$list.into_iter().map(Into::into).collect(),)*
                }
            }
        }
    };
}

mirror!(Workload, v1::Workload { namespace, kind, name, gang, pods ; ; });
mirror!(Row, v1::QueueRow {
    position, job, name, partition, user, account, state, reason, description, nodes, gpus, hosts, priority,
    submitted, start, end, eligible, restarts, planned ; workload ;
});
mirror!(NodeRow, v1::NodeRow { name, state, reason, partitions, cpus, cpus_taken, gpus, free ; ; holders });
mirror!(Holder, v1::Holder { job, user, name, pod, gpus ; workload ; });
mirror!(Usage, v1::UsageRow { key, jobs, gpu_seconds, node_seconds ; efficiency ; });
mirror!(Efficiency, v1::Efficiency { users, gpu_use, watts, efa_bytes_per_second, unmeasured, flagged, flags ; ; });

impl v1::WhyResponse {
    /// What was explained `now`, of Slurm's word of `as_of`.
    pub fn of(explained: Explanation, as_of: i64, now: i64) -> Self {
        let Explanation { row, why, ahead, ahead_count, help, priority } = explained;
        let ahead = ahead.into_iter().map(Into::into).collect();
        Self { row: Some(row.into()), why, ahead, ahead_count, help, now, as_of, priority }
    }

    /// The same for whoever asked.
    pub fn explained(self) -> Explanation {
        Explanation {
            row: self.row.map(Into::into).unwrap_or_default(),
            why: self.why,
            ahead: self.ahead.into_iter().map(Into::into).collect(),
            ahead_count: self.ahead_count,
            help: self.help,
            priority: self.priority,
        }
    }
}

impl From<v1::usage_request::By> for By {
    fn from(by: v1::usage_request::By) -> Self {
        match by {
            v1::usage_request::By::User => Self::User,
            v1::usage_request::By::Account => Self::Account,
            v1::usage_request::By::Namespace => Self::Namespace,
            v1::usage_request::By::Job => Self::Job,
        }
    }
}
