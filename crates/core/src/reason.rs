//! Slurm's reasons and refusals in words a user of kubectl can act on.
//!
//! Matched by Slurm's own names and numbers, never by its texts.

mod limits;
pub mod table;

use crate::policy::{Category, Refusal};
pub use table::find;

/// A sentence for a pending placeholder: Slurm's reason, what it means, what helps, and Slurm's free text.
pub fn waiting(reason: &str, description: &str) -> String {
    let known = find(reason);
    let meaning = known.as_ref().map_or("waiting in Slurm", |known| known.says.as_str());
    let mut out =
        if reason.is_empty() { meaning.to_owned() } else { format!("{reason}: {meaning}") };
    if let Some(remedy) = known.map(|known| known.remedy).filter(|remedy| !remedy.is_empty()) {
        out.push_str("; ");
        out.push_str(&remedy);
    }
    if !description.is_empty() && description != reason {
        out.push_str(" (Slurm: ");
        out.extend(description.chars().take(200));
        out.push(')');
    }
    out
}

/// Our own reason for waiting: Slurm cannot be asked.
pub const UNREACHABLE: &str = "SlurmUnreachable";
/// Our own reason for waiting, and Slurm's: another job or workload comes first.
pub const DEPENDENCY: &str = "Dependency";
/// Our own reason for waiting: pods are bound for a job that Slurm does not know any more.
pub const LOST: &str = "Lost";

/// Whether a placeholder that waits for this reason waits in vain until somebody changes something:
/// its request, or a limit.
pub fn needs_a_person(reason: &str) -> bool {
    matches!(reason, UNREACHABLE | LOST) || find(reason).is_some_and(|known| known.stuck)
}

/// Whether a job that waits for this reason would not take free nodes: nobody overtakes it by taking
/// them. Slurm sees it the same way (tried live: an immediate ask beside held jobs and later begins).
pub fn stands_aside(reason: &str) -> bool {
    matches!(
        reason,
        "BeginTime" | "Dependency" | "DependencyNeverSatisfied" | "JobHeldAdmin" | "JobHeldUser"
    )
}

/// A refusal by Slurm's error number (slurm_errno.h), with what to do.
pub fn refused(
    code: u32,
    text: &str,
    partition: &str,
    account: Option<&str>,
    user: &str,
) -> Refusal {
    let account = account.unwrap_or("the default account");
    let (category, message) = match code {
        2000 => (
            Category::Partition,
            format!("Slurm knows no partition {partition}; correct the annotation gangway.dev/partition (sinfo lists them)"),
        ),
        2002 => (
            Category::Policy,
            format!("Slurm does not let user {user} use partition {partition}; ask its administrator"),
        ),
        2006 | 2015 => (
            Category::Resources,
            format!("partition {partition} does not have that many nodes; ask for fewer pods or another partition"),
        ),
        2178 => (
            Category::Resources,
            format!("partition {partition} cannot ever give nodes so placed; gangway.dev/segment must divide the number of nodes, or ask for fewer nodes"),
        ),
        2014 => (
            Category::Resources,
            format!("no nodes of partition {partition} can ever give what is asked: too many nodes, GPUs, CPUs or memory, or a GPU type it does not have"),
        ),
        2072 => (
            Category::Resources,
            "Slurm knows no such GPU type or GRES; correct gangway.dev/gpu-type (sinfo -o %G lists them)".to_owned(),
        ),
        2045 => (
            Category::Account,
            format!("Slurm has no association of user {user} with {account}; correct gangway.dev/account, or have it added with sacctmgr"),
        ),
        2051 => (
            Category::Partition,
            format!("the time limit is longer than partition {partition} allows, or does not end before gangway.dev/deadline; lower gangway.dev/time-limit"),
        ),
        code if let Some(refusal) = refused_option(code) => refusal,
        2050 => (
            Category::Policy,
            format!("a limit of {account} or its quality of service does not allow it; ask for less"),
        ),
        2066 => (Category::Policy, format!("Slurm knows no such quality of service for user {user}; correct gangway.dev/qos")),
        _ => (Category::Slurm, "Slurm refused it".to_owned()),
    };
    let mut message = message;
    if !text.is_empty() {
        message.push_str(" [Slurm ");
        message.push_str(&code.to_string());
        message.push_str(": ");
        message.extend(text.chars().take(200));
        message.push(']');
    }
    Refusal { category, message, slurm_code: code }
}

/// Refusals of what was asked beside resources, partition, account and QoS.
fn refused_option(code: u32) -> Option<(Category, String)> {
    let (category, message) = match code {
        2018 => (
            Category::Shape,
            "Slurm knows no such node; correct gangway.dev/exclude (sinfo -N lists them)",
        ),
        2029 => (
            Category::Resources,
            "Slurm knows no such features, or cannot read them; correct gangway.dev/constraints and gangway.dev/prefer (sinfo -o %f lists them)",
        ),
        2038 | 2071 => (
            Category::Shape,
            "the job it was to wait for is not known to Slurm any more, or the dependency makes no sense; correct gangway.dev/dependency",
        ),
        2040 | 2048 => (
            Category::Resources,
            "Slurm has no such licences, or not so many; correct gangway.dev/licenses (scontrol show licenses lists them)",
        ),
        2052 => (
            Category::Policy,
            "Slurm does not let its user or account use the reservation; ask its administrator",
        ),
        2053 | 2056 => (
            Category::Shape,
            "Slurm knows no such reservation, or it is over; correct gangway.dev/reservation (scontrol show reservation lists them)",
        ),
        2054 => (
            Category::Shape,
            "Slurm cannot use that time; correct gangway.dev/begin and gangway.dev/deadline",
        ),
        2057 => (
            Category::Policy,
            "Slurm knows no such wckey for its user; correct gangway.dev/wckey, or have it added with sacctmgr",
        ),
        2099 => (Category::Policy, "Slurm takes no such MCS label; correct gangway.dev/exclusive"),
        2123 => (Category::Shape, "Slurm takes no such nice value; correct gangway.dev/nice"),
        2124 => (
            Category::Shape,
            "gangway.dev/time-min is longer than the time limit of the job or its partition; lower it",
        ),
        2133 => (
            Category::Resources,
            "Slurm knows no such features; correct gangway.dev/prefer (sinfo -o %f lists them)",
        ),
        _ => return None,
    };
    Some((category, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_words_stay_in_the_message() {
        assert_eq!(
            waiting("Resources", ""),
            "Resources: waiting for enough free nodes; it is next in line"
        );
        assert!(waiting("Moonphase", "full moon").ends_with("(Slurm: full moon)"));
        assert!(waiting("AssocGrpGRESMinutes", "").contains("may use of GPUs"));
        assert!(waiting("JobHeldUser", "").ends_with("; release it with scontrol release"));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = refused(2000, "Invalid partition name specified", "nope", None, "alice");
        assert_eq!(refusal.category, Category::Partition);
        assert!(refusal.message.contains("no partition nope"));
        assert!(refusal.message.contains("[Slurm 2000: Invalid partition"));
        assert_eq!(refused(9999, "", "p", None, "u").category, Category::Slurm);
    }

    #[test]
    fn a_refused_option_names_its_annotation() {
        for (code, name) in [
            (2018, "exclude"),
            (2029, "constraints"),
            (2038, "dependency"),
            (2040, "licenses"),
            (2048, "licenses"),
            (2051, "deadline"),
            (2053, "reservation"),
            (2057, "wckey"),
            (2123, "nice"),
            (2124, "time-min"),
            (2133, "prefer"),
            (2178, "segment"),
        ] {
            let refusal = refused(code, "", "p", None, "u");
            assert!(
                refusal.message.contains(&format!("gangway.dev/{name}")),
                "{}",
                refusal.message
            );
            assert_ne!(refusal.category, Category::Slurm);
        }
    }
}
