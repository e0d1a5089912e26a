//! docs/reference/metrics.md lists exactly what the registries have, and all of it stays small in a large cluster.

use std::path::PathBuf;

use prometheus::TextEncoder;

use super::roll::Entry;
use super::{Link, Metrics, Placeholders, Process, Roll};
use crate::{admission, controllers, kubescheduler, ui};

/// What each process registers, by the heading of its table.
pub(super) fn processes() -> Vec<(&'static str, Roll)> {
    let process = || Process::new().expect("metrics of its own").roll;
    let (scheduler, extender, controllers) = (process(), process(), process());
    let [admission, page] = [(); 2].map(|()| Roll::new().expect("a roll"));
    Metrics::new(&scheduler).expect("no name twice");
    Link::new(&scheduler).expect("no name twice");
    Placeholders::new(&scheduler).expect("no name twice");
    Metrics::new(&extender).expect("no name twice");
    kubescheduler::figures(&extender).expect("no name twice");
    Link::new(&controllers).expect("no name twice");
    controllers::figures(&controllers).expect("no name twice");
    admission::figures(&admission).expect("no name twice");
    ui::figures(&page).expect("no name twice");
    vec![
        ("gangway scheduler", scheduler),
        ("gangway controllers", controllers),
        ("gangway extender", extender),
        ("gangway admission", admission),
        ("gangway ui", page),
    ]
}

/// That of /metrics/devices.
pub(super) fn holder() -> Entry {
    let (name, help, labels) = controllers::HOLDER;
    let labels = labels.map(str::to_owned).to_vec();
    Entry { name: name.to_owned(), kind: "gauge", labels, help: help.to_owned() }
}

fn table(entries: &[Entry]) -> String {
    let row = |entry: &Entry| {
        let labels: Vec<String> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |\n", entry.name, entry.kind, labels.join(" "), entry.help)
    };
    let rows: String = entries.iter().map(row).collect();
    format!("| metric | type | labels | what it is |\n|---|---|---|---|\n{rows}")
}

/// The part of a page between a heading and the next, with its table replaced.
fn with_table(page: &str, heading: &str, table: &str) -> String {
    let begin = page.find(&format!("\n{heading}\n")).expect("the page has the heading");
    let from = begin + page[begin..].find("| metric |").expect("the heading has a table");
    let end = page[from..].find("\n\n").map_or(page.len(), |end| from + end + 1);
    format!("{}{table}{}", &page[..from], &page[end..])
}

/// With `UPDATE_EXPECT` set it writes the tables instead.
#[test]
fn the_page_lists_what_there_is() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let mut wanted = page.clone();
    for (process, roll) in processes() {
        wanted = with_table(&wanted, &format!("## `{process}`"), &table(&roll.entries()));
    }
    wanted = with_table(&wanted, "## /metrics/devices", &table(&[holder()]));
    if page != wanted && std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &wanted).expect("the page can be written");
        return;
    }
    let differs = wanted.lines().find(|line| !page.contains(line));
    assert!(
        page == wanted,
        "run with UPDATE_EXPECT=1; the first line that is missing: {differs:?}"
    );
}

/// Every value that a label can have, where they come from us; as many as are let in, where they come from Slurm.
fn fill(roll: &Roll) {
    let many = |prefix: &str, n: usize| -> Vec<String> {
        (0..n).map(|i| format!("{prefix}{i}")).collect()
    };
    let metrics = Metrics::new(roll).expect("no name twice");
    for phase in gangway_core::life::Phase::ALL {
        metrics.moved(None, Some(&metrics.place(phase.name(), "")));
    }
    for reason in many("Reason", 400) {
        metrics.moved(None, Some(&metrics.place("queued", &reason)));
        metrics.moved(None, Some(&metrics.place("refused", "policy")));
    }
    for cause in gangway_core::follow::Cause::ALL {
        for outcome in ["over", "evicted", "gone", "conflict", "budget", "error"] {
            metrics.evictions.with_label_values(&[cause.name(), outcome]).inc();
        }
    }
    let link = Link::new(roll).expect("no name twice");
    // crates/slurm names as many.
    for endpoint in many("endpoint/", 24) {
        link.seconds.with_label_values(&[&endpoint]).observe(0.1);
        for outcome in ["2xx", "4xx", "5xx", "unreachable", "cut", "timed_out"] {
            link.requests.with_label_values(&[&endpoint, outcome]).inc();
        }
        for code in many("", 300) {
            link.errors.with_label_values(&[&endpoint, link.codes.of(&code)]).inc();
        }
    }
    Placeholders::new(roll).expect("no name twice");
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// Best of some: a busy machine makes it no slower than it is.
fn gathered(roll: &Roll) -> (String, std::time::Duration) {
    let one = || {
        let began = tokio::time::Instant::now();
        let text = TextEncoder::new().encode_to_string(&roll.registry().gather()).expect("text");
        (text, began.elapsed())
    };
    (0..20).map(|_| one()).min_by_key(|(_, took)| *took).expect("some")
}

fn tell(process: &str, text: &str, took: std::time::Duration) {
    let (series, ms) = (series(text), took.as_secs_f64() * 1000.0);
    println!(
        "metrics: {{\"sight\":\"metrics {process}\",\"series\":{series},\"gather_ms\":{ms:.2}}}"
    );
}

#[test]
fn it_stays_small_and_quick_whatever_slurm_says() {
    let scheduler = Process::new().expect("metrics of its own").roll;
    fill(&scheduler);
    let (text, took) = gathered(&scheduler);
    tell("scheduler", &text, took);
    assert!((1_000..=2_000).contains(&series(&text)), "{} series", series(&text));
    // 10 ms are promised of what people get, which is built with optimisation.
    assert!(took.as_millis() < 10, "{took:?}");

    let controllers = Process::new().expect("metrics of its own").roll;
    let devices = controllers::with_a_thousand_nodes(&controllers);
    let (text, took) = gathered(&controllers);
    tell("controllers", &text, took);
    assert!((200..=2_000).contains(&series(&text)), "{} series", series(&text));
    assert!(took.as_millis() < 10, "{took:?}");
    assert_eq!(series(&devices), 40_000, "a line for each device, where one asks for that");
}
