//! What a scrape takes of a bridge that runs, in both forms.

use std::time::Instant;

use gangway_tests::{SOON, Story, http, manifest, wait};

const RUNS: &str = "gangway_gangs{phase=\"running\",reason=\"\"}";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";
/// As docs/reference/metrics.md has it.
const SERIES: usize = 2_000;
/// Scrapes of each form; an odd number has a median.
const SCRAPES: usize = 9;

#[tokio::test]
async fn a_scrape_in_either_form_is_small() {
    let Some(story) = Story::begin("scraped").await else { return };
    story.kube.create(&manifest::indexed_job("train", 2, &manifest::template(8, &[]))).await;
    story.seated(&story.bound("train-", 2).await).await;
    wait("the gang is counted", SOON, async || {
        let running = story.bridge.metric(RUNS).await;
        if running >= 1.0 { Ok(()) } else { Err(format!("{running} run")) }
    })
    .await;
    for (kind, ends) in [("text/plain", false), (OPEN_METRICS, true)] {
        let (mut took, mut series) = (Vec::new(), 0);
        for _ in 0..SCRAPES {
            let began = Instant::now();
            let answer = http::get_as(story.bridge.metrics, "/metrics", kind).await;
            took.push(began.elapsed());
            let (status, text) = answer.expect("/metrics answers");
            assert_eq!((status, text.ends_with("# EOF\n")), (200, ends), "{kind}: {text}");
            assert!(text.contains(&format!("\n{RUNS} 1")), "{kind}: {text}");
            series = text.lines().filter(|line| !line.starts_with('#')).count();
            assert!((50..=SERIES).contains(&series), "{kind}: {series} series");
        }
        took.sort_unstable();
        let (median, most) = (took[SCRAPES / 2], took[SCRAPES - 1]);
        // How quick it is is measured by `cargo xtask bench sights`, in release and with every label.
        story.note(&format!("{kind}: {series} series, median {median:?}, longest {most:?}"));
    }
    story.end().await;
}
