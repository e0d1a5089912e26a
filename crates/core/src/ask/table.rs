//! Every annotation a user may write, once: name, alias, meaning, reader, writer.
//!
//! Parsing, the list in error messages, the wire and `docs/reference/annotations.md` come from here;
//! a test compares the document.

use super::words::{
    exclusive, features, flag, grace, gres, hook, licenses, loss, minutes, moment, nodes, number,
    switches, text, word, words,
};
use super::{Ask, Dependency};
use crate::job::GresRequest;

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name below `gangway.dev/`.
    pub name: &'static str,
    /// The peer's name for it below `slurmjob.slinky.slurm.net/`.
    pub alias: Option<&'static str>,
    /// What it asks and which values it takes, for the document.
    pub meaning: &'static str,
    /// Reads a trimmed value.
    pub(super) read: fn(&mut Ask, &str) -> Result<(), String>,
    /// Writes the value so that `read` gives it back; `None` where nothing is asked.
    pub(super) show: fn(&Ask) -> Option<String>,
}

/// Largest nice and its opposite (man sbatch, --nice).
const NICE: i32 = 2_147_483_645;
/// Largest priority (NO_VAL - 1, slurm.h); 0 would hold the job.
const PRIORITY: u32 = 0xffff_fffd;
/// Largest segment (NO_VAL16 - 1, slurm.h).
const SEGMENT: u16 = 0xfffd;

/// Reads into a field and says that it worked.
macro_rules! set {
    ($field:ident $(. $more:ident)* = $read:expr) => {
        |ask, value| {
            ask.$field $(. $more)* = Some($read(value)?);
            Ok(())
        }
    };
}

/// Shows a field that can be printed.
macro_rules! show {
    ($field:ident $(. $more:ident)*) => {
        |ask| ask.$field $(. $more)* .as_ref().map(ToString::to_string)
    };
}

/// All of them, in the order of the document.
pub const TABLE: &[Row] = &[
    Row {
        name: "partition",
        alias: Some("partition"),
        meaning: "partition, or several separated by commas, of which Slurm takes the one that starts first",
        read: set!(partition = |value| words(value).map(|all| all.join(","))),
        show: show!(partition),
    },
    Row {
        name: "account",
        alias: Some("account"),
        meaning: "account, inside what policy opens to the namespace",
        read: set!(account = word),
        show: show!(account),
    },
    Row {
        name: "qos",
        alias: Some("qos"),
        meaning: "quality of service, likewise",
        read: set!(qos = word),
        show: show!(qos),
    },
    Row {
        name: "job-name",
        alias: Some("job-name"),
        meaning: "name shown by squeue; default `namespace/name`",
        read: set!(job_name = word),
        show: show!(job_name),
    },
    Row {
        name: "time-limit",
        alias: Some("timelimit"),
        meaning: "minutes, `HH:MM:SS` or `D-HH:MM:SS`; default `activeDeadlineSeconds` of pod or workload",
        read: set!(time_limit_minutes = minutes),
        show: show!(time_limit_minutes),
    },
    Row {
        name: "time-min",
        alias: None,
        meaning: "Slurm may shorten the time limit down to this to start earlier; as `time-limit`",
        read: set!(options.time_min_minutes = minutes),
        show: show!(options.time_min_minutes),
    },
    Row {
        name: "gpu-type",
        alias: None,
        meaning: "GPU type as Slurm names it, such as `h100`",
        read: set!(gpu_type = word),
        show: show!(gpu_type),
    },
    Row {
        name: "gres",
        alias: Some("gres"),
        meaning: "`name[:type][:count],…` each node must give, beside what the pods' resources say; of both the larger, and only of the roles that need that GRES where any does",
        read: |ask, value| gres(value).map(|gres| ask.gres = gres),
        show: |ask| Some(gres_text(&ask.gres)).filter(|text| !text.is_empty()),
    },
    Row {
        name: "pods-per-node",
        alias: None,
        meaning: "how many members share a node; default 1",
        read: set!(pods_per_node = |value| number(value, 1, 1024)),
        show: show!(pods_per_node),
    },
    Row {
        name: "constraints",
        alias: Some("constraints"),
        meaning: "features a node must have, as `sbatch --constraint`: `h100&ib`, `[rack1|rack2]`",
        read: set!(options.constraints = features),
        show: show!(options.constraints),
    },
    Row {
        name: "prefer",
        alias: None,
        meaning: "features a node should have, likewise",
        read: set!(options.prefer = features),
        show: show!(options.prefer),
    },
    Row {
        name: "exclude",
        alias: None,
        meaning: "nodes not to use, as a Slurm hostlist: `node[1-4,9]`",
        read: set!(exclude = nodes),
        show: show!(exclude),
    },
    Row {
        name: "licenses",
        alias: Some("licenses"),
        meaning: "`name[:count],…`, or with `|` any one of them",
        read: set!(options.licenses = licenses),
        show: show!(options.licenses),
    },
    Row {
        name: "reservation",
        alias: Some("reservation"),
        meaning: "reservation, or several separated by commas",
        read: set!(options.reservation = |value| words(value).map(|all| all.join(","))),
        show: show!(options.reservation),
    },
    Row {
        name: "dependency",
        alias: None,
        meaning: "`after`, `afterany`, `afterok` or `afternotok` with `:JOB` or `:KIND/NAME` (a workload of the same namespace), `singleton`; `,` all, `?` any one",
        read: set!(dependency = Dependency::parse),
        show: show!(dependency),
    },
    Row {
        name: "begin",
        alias: None,
        meaning: "not before `2027-01-31T18:00:00Z`, an offset such as `+01:00`, seconds since the epoch, or `now+2hours` (from its submit)",
        read: set!(options.begin = moment),
        show: show!(options.begin),
    },
    Row {
        name: "deadline",
        alias: None,
        meaning: "ended by then or not run at all; as `begin`",
        read: set!(options.deadline = moment),
        show: show!(options.deadline),
    },
    Row {
        name: "nice",
        alias: None,
        meaning: "taken off the priority; below 0 only where policy allows `priority`",
        read: set!(options.nice = |value| number(value, -NICE, NICE)),
        show: show!(options.nice),
    },
    Row {
        name: "priority",
        alias: Some("priority"),
        meaning: "priority in place of Slurm's own; only where policy allows it",
        read: set!(options.priority = |value| number(value, 1, PRIORITY)),
        show: show!(options.priority),
    },
    Row {
        name: "wckey",
        alias: Some("wckey"),
        meaning: "workload characterization key",
        read: set!(options.wckey = word),
        show: show!(options.wckey),
    },
    Row {
        name: "comment",
        alias: None,
        meaning: "free text of one line, kept with the job",
        read: set!(options.comment = text),
        show: show!(options.comment),
    },
    Row {
        name: "switches",
        alias: None,
        meaning: "`COUNT[@TIME]`: at most so many leaf switches, for at most so long (minutes or `HH:MM:SS`)",
        read: set!(options.switches = switches),
        show: show!(options.switches),
    },
    Row {
        name: "segment",
        alias: None,
        meaning: "nodes per segment of a block topology",
        read: set!(options.segment = |value| number(value, 1, SEGMENT)),
        show: show!(options.segment),
    },
    Row {
        name: "contiguous",
        alias: None,
        meaning: "`true`: only nodes that follow each other",
        read: |ask, value| flag(value).map(|yes| ask.options.contiguous = yes),
        show: |ask| ask.options.contiguous.then(|| "true".to_owned()),
    },
    Row {
        name: "spread",
        alias: None,
        meaning: "`true`: over as many nodes as can be",
        read: |ask, value| flag(value).map(|yes| ask.options.spread = yes),
        show: |ask| ask.options.spread.then(|| "true".to_owned()),
    },
    Row {
        name: "exclusive",
        alias: Some("exclusive"),
        meaning: "`true`: whole nodes; `user`, `mcs`, `topo`: shared only so far; default `false`",
        read: |ask, value| exclusive(value).map(|found| ask.options.exclusive = found),
        show: |ask| ask.options.exclusive.map(|e| e.word().to_owned()),
    },
    Row {
        name: "checkpoint-grace",
        alias: None,
        meaning: "warned so long before its pods have to leave: minutes, `MM:SS` or `HH:MM:SS`, inside what policy allows",
        read: set!(grace_seconds = grace),
        show: |ask| ask.grace_seconds.map(|s| format!("{}:{:02}", s / 60, s % 60)),
    },
    Row {
        name: "checkpoint-hook",
        alias: None,
        meaning: "`http://:PORT/PATH`, posted to on every pod when it is warned; 200 means that it has checkpointed, any other 2xx that it will say so itself",
        read: set!(hook = hook),
        show: show!(hook),
    },
    Row {
        name: "on-member-failure",
        alias: None,
        meaning: "`restart`: when a member is lost, all others leave and start anew together; `replace`: only its successor starts, at its rank, on another node where Kubernetes has lost the node; the default is in [kinds](kinds.md)",
        read: set!(on_loss = loss),
        show: |ask| ask.on_loss.map(|l| l.word().to_owned()),
    },
];

fn gres_text(gres: &[GresRequest]) -> String {
    let one = |g: &GresRequest| match &g.kind {
        Some(kind) => format!("{}:{kind}:{}", g.name, g.count),
        None => format!("{}:{}", g.name, g.count),
    };
    gres.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::{ALIAS_PREFIX, PREFIX};

    /// A value of each row that is not its default.
    pub(in crate::ask) const SAMPLES: &[(&str, &str)] = &[
        ("partition", "gpu,cpu"),
        ("account", "team1"),
        ("qos", "high"),
        ("job-name", "train-7b"),
        ("time-limit", "90"),
        ("time-min", "30"),
        ("gpu-type", "h100"),
        ("gres", "nvme:1,gpu:h100:8"),
        ("pods-per-node", "2"),
        ("constraints", "h100&[rack1|rack2]"),
        ("prefer", "ib"),
        ("exclude", "n[1-3]"),
        ("licenses", "matlab:2"),
        ("reservation", "monday"),
        ("dependency", "afterok:123,afterany:pod/first"),
        ("begin", "1795467600"),
        ("deadline", "now+7200"),
        ("nice", "-5"),
        ("priority", "4294967293"),
        ("wckey", "paper"),
        ("comment", "for the paper"),
        ("switches", "1@10:00"),
        ("segment", "4"),
        ("contiguous", "true"),
        ("spread", "true"),
        ("exclusive", "user"),
        ("checkpoint-grace", "5:00"),
        ("checkpoint-hook", "http://:8080/checkpoint"),
        ("on-member-failure", "replace"),
    ];

    #[test]
    fn every_row_reads_what_it_writes() {
        assert_eq!(SAMPLES.len(), TABLE.len(), "a sample for each row");
        let mut all = Ask::default();
        for (name, value) in SAMPLES {
            let mut ask = Ask::default();
            assert_eq!(ask.text(name), None, "{name} is asked by default");
            ask.set(name, value).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            assert_ne!(ask, Ask::default(), "{name} sets nothing");
            assert_eq!(ask.text(name).as_deref(), Some(*value), "{name}");
            let others = TABLE.iter().filter(|row| row.name != *name);
            for row in others {
                assert_eq!(ask.text(row.name), None, "{name} sets {}", row.name);
            }
            all.set(name, value).expect("fine above");
        }
        assert!(TABLE.iter().all(|row| all.text(row.name).is_some()));
    }

    proptest! {
        /// Whatever is read is written so that it is read again as the same, and goes into Slurm
        /// without a character that could end its field.
        #[test]
        fn any_text_is_refused_or_survives(
            row in 0..TABLE.len(),
            value in prop_oneof![
                "\\PC{0,30}",
                "[0-9a-zA-Z,:|&*@+?/.()_\\[\\]T -]{0,30}",
                "(now\\+)?[0-9]{1,12}(s|minutes|hours|-|:)?[0-9:]{0,6}",
                "(after(any|ok|notok)?:[0-9a-z/]{1,6}[,?:]?){1,3}",
                "http://:[0-9]{1,6}/[a-z/?=&%]{0,10}",
                "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})",
            ],
        ) {
            let name = TABLE[row].name;
            let mut ask = Ask::default();
            if ask.set(name, &value).is_ok() && ask != Ask::default() {
                let text = ask.text(name).expect("it is asked");
                prop_assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
                let mut again = Ask::default();
                prop_assert_eq!(again.set(name, &text), Ok(()), "{}", text);
                prop_assert_eq!(again, ask);
            }
        }
    }

    #[test]
    fn the_document_lists_exactly_these() {
        let document = include_str!("../../../../docs/reference/annotations.md");
        let lines = document.lines().skip_while(|line| !line.starts_with("| annotation | meaning"));
        let written: Vec<&str> = lines.skip(2).take_while(|line| line.starts_with('|')).collect();
        let rows = TABLE.iter().enumerate().map(|(i, row)| {
            let prefix = if i == 0 { ALIAS_PREFIX } else { "…/" };
            let alias = row.alias.map_or(String::new(), |alias| format!("`{prefix}{alias}` "));
            let meaning = row.meaning.replace('|', "\\|");
            format!("| `{PREFIX}{}` | {meaning} | {alias}|", row.name)
        });
        let rows: Vec<String> = rows.collect();
        assert_eq!(written, rows, "write into docs/reference/annotations.md:\n{}", rows.join("\n"));
    }
}
