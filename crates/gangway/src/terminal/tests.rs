use std::ffi::OsStr;

use gangway_core::desk::{Explanation, Holder, NodeRow, Row, Workload};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

use super::top::View;
use super::*;

const NOW: i64 = 1_800_000_000;

fn train() -> Workload {
    let [namespace, kind, name] = ["ml", "PyTorchJob", "train"].map(str::to_owned);
    Workload { namespace, kind, name, ..Workload::default() }
}

fn waiting() -> Row {
    Row {
        position: 1,
        job: 40_000_001,
        name: "ml/train".to_owned(),
        workload: Some(train()),
        partition: "gangway".to_owned(),
        user: "alice".to_owned(),
        account: "team1".to_owned(),
        state: "PENDING".to_owned(),
        reason: "Resources".to_owned(),
        nodes: 4,
        gpus: 32,
        priority: 90,
        submitted: NOW - 600,
        start: NOW + 7500,
        ..Row::default()
    }
}

fn running() -> Row {
    Row {
        job: 7,
        name: "fold".to_owned(),
        partition: "hybrid".to_owned(),
        user: "bob".to_owned(),
        state: "RUNNING".to_owned(),
        nodes: 1,
        gpus: 8,
        hosts: "h1".to_owned(),
        start: NOW - 90_000,
        end: NOW + 60,
        ..Row::default()
    }
}

fn node() -> NodeRow {
    let holder = |pod: &str, workload, job, user: &str, gpus: &[u32]| Holder {
        job,
        user: user.to_owned(),
        name: "fold".to_owned(),
        workload,
        pod: pod.to_owned(),
        gpus: gpus.to_vec(),
    };
    NodeRow {
        name: "h1".to_owned(),
        state: "MIXED+DRAIN".to_owned(),
        reason: "bad NIC".to_owned(),
        partitions: vec!["hybrid".to_owned()],
        cpus: 192,
        cpus_taken: 9,
        gpus: 8,
        free: vec![6, 7],
        holders: vec![
            holder("train-0", Some(train()), 40_000_001, "alice", &[0, 1, 2]),
            holder("", None, 7, "bob", &[3, 4, 5]),
        ],
    }
}

#[test]
fn the_queue_is_a_table_of_both_kinds_of_jobs() {
    let drawn = show::queue(&[running(), waiting()], NOW, false).paint(false);
    assert_eq!(
        drawn,
        "\
POS       JOB  GANG|NAME  PARTITION  USER   ACCOUNT  STATE    NODES  GPUS  REASON     START
  -         7  fold       hybrid     bob    -        RUNNING      1     8  -          1d01h ago
  1  40000001  ml/train   gangway    alice  team1    PENDING      4    32  Resources  in 2h05m
"
    );
    let wide = show::queue(&[running(), waiting()], NOW, true).paint(false);
    let last =
        |i: usize| wide.lines().nth(i).and_then(|line| line.split("  ").last().map(str::trim));
    assert_eq!((last(0), last(1), last(2)), (Some("HOSTS"), Some("h1"), Some("-")));
    assert!(wide.contains("PyTorchJob") && wide.contains("sbatch"), "{wide}");
}

#[test]
fn colours_change_nothing_but_the_colour() {
    let drawn = show::queue(&[running(), waiting()], NOW, true);
    let (plain, coloured) = (drawn.paint(false), drawn.paint(true));
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[32mRUNNING\x1b[0m"));
    let mut bare = String::new();
    let mut inside = false;
    for c in coloured.chars() {
        match (inside, c) {
            (false, '\x1b') => inside = true,
            (true, 'm') => inside = false,
            (false, c) => bare.push(c),
            (true, _) => {}
        }
    }
    assert_eq!(bare, plain);
}

#[test]
fn names_of_others_cannot_write_on_the_screen() {
    let evil = Row { name: "\x1b[2J\nroot".to_owned(), ..running() };
    let drawn = show::queue(&[evil], NOW, false).paint(true);
    assert!(drawn.contains("?[2J?root"), "{drawn:?}");
    assert_eq!(drawn.lines().count(), 2);
}

#[test]
fn who_waits_is_told_everything_in_a_few_lines() {
    let explained = Explanation {
        row: waiting(),
        why: "Resources: waiting for enough free nodes; it is next in line".to_owned(),
        ahead: vec![],
        ahead_count: 0,
        help: vec![
            "needs 4 nodes with 8 GPUs each in gangway: 2 could take it now".to_owned(),
            "fewer nodes would start sooner".to_owned(),
        ],
        priority: "70 for its age, 20 for fairshare".to_owned(),
    };
    assert_eq!(
        show::explanation(&explained, NOW).paint(false),
        "\
ml/train (Slurm job 40000001) PENDING
  user alice, account team1, partition gangway, priority 90
why:       Resources: waiting for enough free nodes; it is next in line
needs:     4 nodes with 8 GPUs each in gangway: 2 could take it now
           fewer nodes would start sooner
priority:  90: 70 for its age, 20 for fairshare
estimate:  starts in 2h05m (2027-01-15T10:05:00Z)
ahead:     nobody; it is next in its partition
"
    );
}

#[test]
fn each_holder_of_a_node_has_a_line() {
    assert_eq!(
        show::nodes(&[node()], true).paint(false),
        "\
NODE  STATE        GPUS  FREE  HELD  HOLDER          JOB       USER   CPUS   PARTITIONS  REASON
h1    MIXED+DRAIN     8  6-7   0-2   pod ml/train-0  40000001  alice  9/192  hybrid      bad NIC
                               3-5   sbatch fold            7  bob
"
        .replace("JOB       USER", "     JOB  USER")
    );
}

#[test]
fn hours_are_sums_of_seconds() {
    let row = |key: &str, gpu_seconds| gangway_core::desk::Usage {
        key: key.to_owned(),
        jobs: 2,
        gpu_seconds,
        node_seconds: 60,
        efficiency: None,
    };
    let drawn =
        usage::usage(&[row("ml", 5400), row("-", 36)], flags::By::Namespace, false).paint(false);
    assert_eq!(
        drawn,
        "\
NAMESPACE  JOBS  GPU-HOURS  NODE-HOURS
ml            2       1.50        0.01
-             2       0.01        0.01
all           4       1.51        0.03
"
    );
}

#[test]
fn times_are_read_as_people_type_them() {
    for (text, at) in [
        ("now", Some(NOW)),
        ("7d", Some(NOW - 7 * 86_400)),
        ("90m", Some(NOW - 5400)),
        ("2027-01-15", Some(1_799_971_200)),
        ("2027-01-15T08:00:00Z", Some(NOW)),
        ("7x", None),
        ("", None),
        ("yesterday", None),
        ("99999999999d", None),
    ] {
        assert_eq!(time::read(text, NOW), at, "{text}");
    }
}

#[test]
fn the_plugin_is_known_by_its_name_alone() {
    for (program, is) in [
        ("kubectl-gang", true),
        ("/usr/local/bin/kubectl-gang", true),
        ("gangway", false),
        ("/kubectl-gang/gangway", false),
        ("kubectl-gangs", false),
    ] {
        assert_eq!(is_plugin(OsStr::new(program)), is, "{program}");
    }
}

#[test]
fn both_names_answer_to_the_same_verbs_and_complete_them() {
    let verbs = |command: &Command| -> Vec<String> {
        command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
    };
    let (all, own) = (whole(), Plugin::command());
    all.clone().debug_assert();
    own.clone().debug_assert();
    let all = verbs(&all);
    assert!(verbs(&own).iter().all(|verb| all.contains(verb)));
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
    {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Plugin::command(), PLUGIN, &mut script);
        let script = String::from_utf8(script).expect("text");
        assert!(script.contains("whatif") && script.contains("kubectl"), "{shell}");
    }
}

#[test]
fn exit_codes_are_those_of_the_reference() {
    let answer = |code| Failure::Answer(tonic::Status::new(code, "no")).code();
    let told = [
        (Failure::Usage(String::new()).code(), 2),
        (Failure::Away { url: String::new(), why: String::new() }.code(), 3),
        (answer(Code::Unavailable), 3),
        (answer(Code::NotFound), 4),
        (answer(Code::PermissionDenied), 5),
        (answer(Code::FailedPrecondition), 6),
        (answer(Code::Internal), 1),
    ];
    let reference = include_str!("../../../../docs/reference/terminal.md");
    for (code, expected) in told {
        assert_eq!(code, expected);
        assert!(
            reference.contains(&format!("| {code} |")),
            "exit code {code} is not in the reference"
        );
    }
}

fn screen(view: &View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(118, 8)).expect("a screen in memory");
    terminal.draw(|frame| top::draw(frame, view)).expect("it is drawn");
    terminal.backend().to_string()
}

#[test]
fn top_shows_the_queue_then_the_nodes_and_leaves_on_q() {
    let mut view =
        View { jobs: vec![running(), waiting()], nodes: vec![node()], now: NOW, ..View::default() };
    let seen = screen(&view);
    assert!(seen.contains("1 running, 1 waiting · 1 nodes, 2 of 8 GPUs free"), "{seen}");
    assert!(
        seen.contains("ml/train") && seen.contains("fold") && seen.contains("in 2h05m"),
        "{seen}"
    );
    let press =
        |view: &mut View, code| view.take(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    assert!(!press(&mut view, KeyCode::Down));
    let seen = screen(&view);
    assert!(seen.contains("ml/train") && !seen.contains("fold"), "one line further: {seen}");
    press(&mut view, KeyCode::Down);
    assert!(screen(&view).contains("ml/train"), "the last line stays");
    press(&mut view, KeyCode::Tab);
    let seen = screen(&view);
    assert!(seen.contains("pod ml/train-0") && seen.contains("sbatch fold"), "{seen}");
    view.problem = "cannot reach the door".to_owned();
    let seen = screen(&view);
    assert!(seen.contains("cannot reach the door") && seen.contains("sbatch fold"), "{seen}");
    assert!(press(&mut view, KeyCode::Char('q')));
}
