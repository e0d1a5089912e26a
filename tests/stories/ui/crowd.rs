//! The page of a large cluster: a thousand nodes, five thousand gangs that wait. `cargo xtask bench ui` measures here
//! with a release build, and takes the picture in docs.

use std::path::Path;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gangway_tests::{Browser, Crowd};
use serde_json::{Value, json};

use super::Ui;

const NODES: u32 = 1000;
const WAITING: u32 = 5000;
/// What is promised of a release build on a quiet machine: milliseconds and MB. A build with all checks is three times
/// as large before it does anything, and slow.
const PROMISED: (f64, f64) = (1000.0, 50.0);
const PATIENT: (f64, f64) = (10_000.0, 150.0);

/// So often the page is opened; the slowest counts.
const OPENED: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes_and_five_thousand_gangs_are_on_the_screen_at_once() {
    let Some(program) = Browser::program() else { return };
    let now = UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
    let crowd = Crowd::gather(NODES, WAITING, i64::try_from(now).expect("a time")).await;
    let directory = std::env::temp_dir().join(format!("gangway-ui-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
    let ui = Ui::start(&directory, "prod-east", &format!("http://{}", crowd.address)).await;
    let mut browser = Browser::start(&program, (1360, 850)).await;
    let (mut paint, mut filled): (f64, f64) = (0.0, 0.0);
    for _ in 0..OPENED {
        browser.open("about:blank").await;
        browser.open(&ui.url("/")).await;
        browser.until("it is filled", "performance.getEntriesByName('filled').length > 0").await;
        let at =
            |entry: &str| format!("performance.getEntriesByName('{entry}')[0]?.startTime ?? -1");
        let first = browser.eval(&at("first-contentful-paint")).await.as_f64().expect("a time");
        assert!(first > 0.0, "nothing has been painted");
        paint = paint.max(first);
        filled = filled.max(browser.eval(&at("filled")).await.as_f64().expect("a time"));
    }
    seen(&mut browser).await;
    let heap = browser.heap().await;
    let figures = json!({
        "bench": "ui", "nodes": NODES, "waiting": WAITING,
        "first_paint_ms": paint.round(), "filled_ms": filled.round(),
        "rss_mb": ui.memory("VmRSS"), "rss_most_mb": ui.memory("VmHWM"),
        "page_heap_mb": tenths(heap as f64 / 1e6), "whole_kb": ui.whole().await / 1000,
    });
    tell(&figures);
    if let Some(picture) = std::env::var_os("GANGWAY_UI_PICTURE") {
        photograph(&mut browser, Path::new(&picture)).await;
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
    let named = std::env::var_os("GANGWAY_BIN").is_some();
    let (ms, mb) = if named { PROMISED } else { PATIENT };
    assert!(paint <= ms && filled <= ms, "{figures}");
    assert!(ui.memory("VmHWM") <= mb, "{figures}");
    // What cannot be removed is in the temporary directory.
    let _ = std::fs::remove_dir_all(&directory);
}

/// Everything is there, few rows exist, and it goes on.
async fn seen(browser: &mut Browser) {
    let text = |id: &str| format!("document.getElementById('{id}').textContent");
    assert_eq!(browser.eval(&text("waiting")).await, "5,000");
    assert_eq!(browser.eval(&text("pool-count")).await, "1,000 nodes, 8,000 GPUs");
    let elements = browser.eval("document.querySelectorAll('*').length").await;
    assert!(elements.as_u64().is_some_and(|all| all < 1500), "{elements}");
    // The last row is a scroll away.
    browser.eval("const q = document.getElementById('queue'); q.scrollTop = q.scrollHeight").await;
    let last = "[...document.querySelectorAll('#jobs tbody tr[data-job]')].pop()?.getAttribute('aria-rowindex') === document.getElementById('jobs').getAttribute('aria-rowcount')";
    browser.until("the last row is there", last).await;
    browser.eval("document.getElementById('queue').scrollTop = 0").await;
    // Each look one leaves and another comes: the order here is the server's, whatever has moved.
    let fresh = "fetch('events').then(async (answer) => { const reader = answer.body.getReader(); let text = ''; while (!/event: whole[^]*\\n\\n/.test(text)) text += new TextDecoder().decode((await reader.read()).value); reader.cancel(); const data = JSON.parse(/event: whole\\nid: \\d+\\ndata: (.*)\\n/.exec(text)[1]); return data.jobs.map((job) => job.id).join() === window.gangway.jobs.rows.map((job) => job.id).join(); })";
    browser
        .until(
            "what changes has been taken up",
            "window.gangway.jobs.rows.some((job) => job.id >= 60002)",
        )
        .await;
    browser.until("the order is the server's", fresh).await;
    // Whose GPUs are under the mouse.
    let place = browser.eval("(() => { const box = document.getElementById('nodes').getBoundingClientRect(); return [box.left + 8, box.top + 8]; })()").await;
    let (x, y) = (place[0].as_f64().expect("a place"), place[1].as_f64().expect("a place"));
    browser.click(x, y).await;
    browser
        .until("the holder's life is shown", "document.querySelector('#life .moments li') !== null")
        .await;
    browser
        .until(
            "the node is told",
            "document.getElementById('node-told').textContent.startsWith('p5-0000, allocated')",
        )
        .await;
    browser.key("Escape").await;
}

/// The page as docs show it, with the life of a gang over the pool; and in the dark beside it.
async fn photograph(browser: &mut Browser, picture: &Path) {
    browser.eval("document.activeElement.blur(); location.hash = '#job=40003'").await;
    browser.until("the life is shown", "document.querySelector('#life .ahead tr') !== null").await;
    for (dark, path) in [(false, picture.to_owned()), (true, picture.with_extension("dark.png"))] {
        browser.dark(dark).await;
        // Drawn anew for the other colours.
        browser
            .eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            .await;
        let taken = browser.photograph().await;
        let picture = STANDARD.decode(taken).expect("base64");
        std::fs::write(&path, picture).expect("the picture can be written");
    }
}

fn tenths(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

#[expect(clippy::print_stdout, reason = "a test talks to a person")]
fn tell(figures: &Value) {
    // For whoever looks with --nocapture, and for the bench.
    println!("ui: {figures}");
}
