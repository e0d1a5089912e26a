//! Every name other people see: labels, annotations, the scheduler, owner kinds.
//!
//! One place, so that code, documents and manifests cannot drift apart.

/// `spec.schedulerName` of the pods that are ours.
pub const SCHEDULER: &str = "gangway";
/// Prefix of everything we read or write on Kubernetes objects.
pub const PREFIX: &str = "gangway.dev/";
/// Prefix of the peer's annotations, read as aliases so that its users can move without editing.
pub const ALIAS_PREFIX: &str = "slurmjob.slinky.slurm.net/";

/// Written by us on the Binding: uid of the gang.
pub const GANG: &str = "gangway.dev/gang";
/// Written by us on the Binding: generation of the placeholder the pod was bound for.
pub const GENERATION: &str = "gangway.dev/generation";
/// Written by us on the Binding: the placeholder's Slurm job id.
pub const JOB_ID: &str = "gangway.dev/job-id";
/// Written by us on the Binding: Slurm's name of the node.
pub const NODE: &str = "gangway.dev/node";
/// Written by us on the Binding: the member's rank in its gang, from 0.
pub const RANK: &str = "gangway.dev/rank";
/// Written by us on a pod before it is asked for beside its gang: `<gang uid>/<rank>/<job>/<node>`, the member that
/// it stands in for, the gang's placeholder, and the node that was lost.
pub const STANDS_IN: &str = "gangway.dev/stands-in";
/// Written by admission on a pod, and on what pods are made of: the user who asked for it.
pub const REQUESTER: &str = "gangway.dev/requester";
/// Written by admission beside it: the groups of that user, separated by commas.
pub const REQUESTER_GROUPS: &str = "gangway.dev/requester-groups";
/// Label of a namespace whose pods are ours: admission looks at no other.
pub const MANAGED_LABEL: &str = "gangway.dev/managed";
/// Node annotation: where it is in Slurm's network, as Slurm writes it (`topo-block:b1,topo-tree:root:s1`).
pub const TOPOLOGY: &str = "gangway.dev/slurm-topology";
/// The peer's form of the same annotation.
pub const TOPOLOGY_ALIAS: &str = "topology.slinky.slurm.net/line";
/// Written by us on the Binding where there is something to tell: what the way the gang was asked for
/// costs.
pub const NOTE: &str = "gangway.dev/note";
/// Written by us on a pod that asked to be warned: until when it may stay, RFC 3339.
pub const LEAVE_BY: &str = "gangway.dev/leave-by";
/// Written by us beside it: why it has to leave.
pub const LEAVE_WHY: &str = "gangway.dev/leave-why";
/// Written by the pod, or for it when its hook has said so: it has checkpointed and may leave.
pub const CHECKPOINTED: &str = "gangway.dev/checkpointed";
/// Prefix of the index annotations written by us on the Binding: `gangway.dev/index.gpu: "0-3"`.
pub const INDEX_PREFIX: &str = "gangway.dev/index.";
/// Condition written by us on a pod that a stock kube-scheduler binds: where it stands in Slurm.
pub const CONDITION: &str = "gangway.dev/Slurm";
/// Written by us on a node: jobs of sbatch and srun that hold a part of it.
pub const TENANTS: &str = "gangway.dev/slurm-jobs";
/// Condition written by us on a node: whether Slurm gives it out, and if not, why.
pub const SLURM_READY: &str = "gangway.dev/SlurmReady";
/// Taint written by us, where the configuration says so, on every node that this bridge gives out.
pub const TAINT_MANAGED: &str = "gangway.dev/managed";
/// Taint written by us, where the configuration says so, on a node that Slurm does not give out.
pub const TAINT_UNAVAILABLE: &str = "gangway.dev/slurm-unavailable";
/// Label written by us on the Binding: the Slurm job id, so that `kubectl get pods -l` finds a job's pods.
pub const JOB_LABEL: &str = "gangway.dev/job";
/// Node label: Slurm's name of the node where it is not the Kubernetes name.
pub const SLURM_NODE_LABEL: &str = "gangway.dev/slurm-node";
/// The peer's form of the same label.
pub const SLURM_NODE_LABEL_ALIAS: &str = "slinky.slurm.net/slurm-nodename";
/// Written by us on a claim that waits for its first user, and taken away by a provisioner that failed:
/// Kubernetes' name of the node the volume is made for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Slurm's name of a Kubernetes node, where its labels give another than its own.
pub fn slurm_node(labels: &std::collections::BTreeMap<String, String>) -> Option<&str> {
    let name = labels.get(SLURM_NODE_LABEL).or_else(|| labels.get(SLURM_NODE_LABEL_ALIAS));
    name.map(String::as_str)
}
