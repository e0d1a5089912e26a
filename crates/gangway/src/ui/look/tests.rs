//! Browsers without a browser: who is quick, who is slow, who comes late, and what each of them is told.

use std::pin::{Pin, pin};

use futures::StreamExt as _;
use serde_json::Value;

use super::super::picture::{Job, Node};
use super::*;

/// A gallery before a door that nobody opens.
fn gallery() -> Gallery {
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    Gallery::new(channel, "http://127.0.0.1:1", "test")
}

/// Shows a queue of these jobs on a pool of so many nodes.
fn show(gallery: &Gallery, jobs: &[(u32, &str)], nodes: u32) {
    let old = gallery.now_seen();
    let row = |(id, name): &(u32, &str)| v1::QueueRow {
        job: *id,
        name: (*name).to_owned(),
        state: "PENDING".to_owned(),
        reason: "Priority".to_owned(),
        ..v1::QueueRow::default()
    };
    let rows = jobs.iter().map(row).collect();
    let node = |n| v1::NodeRow { name: format!("n{n}"), gpus: 8, ..v1::NodeRow::default() };
    let queue = v1::QueueResponse { rows, as_of: 5, now: 6 };
    let pool = v1::NodesResponse { rows: (0..nodes).map(node).collect(), now: 6, as_of: 6 };
    gallery.0.picture.send_replace(Arc::new(old.next(100, old.queue(queue), old.pool(pool))));
}

/// The next event of a stream, by name, and what it says.
async fn told(
    stream: &mut Pin<&mut impl Stream<Item = serde_json::Result<Bytes>>>,
) -> (String, Value) {
    let frame = stream.next().await.expect("there is more").expect("it can be written");
    let text = std::str::from_utf8(&frame).expect("text");
    assert!(text.ends_with("\n\n"), "{text}");
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    (field("event: ").to_owned(), serde_json::from_str(field("data: ")).expect("JSON"))
}

#[tokio::test]
async fn a_browser_is_told_all_at_first_and_then_what_changes() {
    let gallery = gallery();
    show(&gallery, &[(1, "a"), (2, "b")], 3);
    let mut stream = pin!(gallery.watch(CancellationToken::new()).expect("there is room"));
    assert_eq!(told(&mut stream).await.0, "clock");
    let (event, whole) = told(&mut stream).await;
    assert_eq!((event.as_str(), whole["jobs"].as_array().map(Vec::len)), ("whole", Some(2)));
    assert_eq!(whole["nodes"][2]["name"], "n2");
    assert!(
        whole["words"]["Priority"]["said"].as_str().is_some_and(|word| word.len() > 10),
        "{whole}"
    );

    show(&gallery, &[(2, "b"), (3, "c")], 3);
    let (event, news) = told(&mut stream).await;
    assert_eq!((event.as_str(), &news["jobs"]["gone"]), ("news", &serde_json::json!([1])));
    assert_eq!((&news["jobs"]["put"][0]["id"], &news["nodes"]), (&3.into(), &Value::Null));

    // Nothing but that it was looked.
    show(&gallery, &[(2, "b"), (3, "c")], 3);
    let (_, news) = told(&mut stream).await;
    assert_eq!(
        (&news["jobs"], &news["words"], &news["looked"]),
        (&Value::Null, &Value::Null, &100.into())
    );

    // The door is gone: what was seen stays, with the reason.
    let stale = gallery.now_seen().stale("no door".to_owned());
    gallery.0.picture.send_replace(Arc::new(stale));
    let (_, news) = told(&mut stream).await;
    assert_eq!((&news["problem"], &news["jobs"]), (&"no door".into(), &Value::Null));
    assert_eq!(gallery.now_seen().jobs.len(), 2);
}

#[tokio::test]
async fn a_slow_browser_is_told_the_same_at_once_and_nothing_is_made_for_it_meanwhile() {
    let gallery = gallery();
    let name = "x".repeat(50);
    let jobs = |from: u32| -> Vec<(u32, &str)> {
        (from..from + 1000).map(|id| (id, name.as_str())).collect()
    };
    show(&gallery, &jobs(1), 100);
    let mut slow = pin!(gallery.watch(CancellationToken::new()).expect("there is room"));
    told(&mut slow).await;
    told(&mut slow).await;
    let kept: Vec<std::sync::Weak<Job>> =
        gallery.now_seen().jobs.iter().map(Arc::downgrade).collect();
    let made = gallery.0.frames.lock().expect("nobody has panicked").made;
    for step in 2..=501 {
        show(&gallery, &jobs(step), 100);
    }
    assert_eq!(gallery.0.frames.lock().expect("nobody has panicked").made, made);
    // Its own picture lives, whose rows are mostly those of the others too; none in between does.
    assert!(kept.iter().all(|row| row.strong_count() <= 2));
    let (event, news) = told(&mut slow).await;
    assert_eq!(event, "news");
    let count = |what: &str| news["jobs"][what].as_array().map(Vec::len);
    assert_eq!((count("gone"), count("put"), count("after")), (Some(500), Some(500), Some(500)));
    // And nothing is to come.
    let more = timeout(Duration::from_millis(20), slow.next()).await;
    assert!(more.is_err());
    assert!(kept[..500].iter().all(|row| row.strong_count() == 0), "nobody has them any more");
}

#[tokio::test]
async fn those_who_see_the_same_get_the_same_bytes() {
    let gallery = gallery();
    show(&gallery, &[(1, "a")], 1);
    let mut streams: Vec<_> = (0..10)
        .map(|_| Box::pin(gallery.watch(CancellationToken::new()).expect("there is room")))
        .collect();
    for step in 2..5 {
        for stream in &mut streams {
            while stream
                .as_mut()
                .next()
                .await
                .expect("more")
                .expect("written")
                .starts_with(b"retry")
            {}
        }
        show(&gallery, &[(step, "b")], 1);
    }
    assert_eq!(gallery.0.frames.lock().expect("nobody has panicked").made, 3);
}

#[tokio::test]
async fn whoever_watches_is_let_go_at_once_and_too_many_are_not_let_in() {
    let (gallery, stop) = (gallery(), CancellationToken::new());
    let all: Vec<_> = (0..WATCHERS).map(|_| gallery.watch(stop.clone()).expect("room")).collect();
    assert!(gallery.watch(stop.clone()).is_none());
    assert_eq!(gallery.watchers(), WATCHERS);
    let waits = tokio::spawn(futures::future::join_all(
        all.into_iter().map(|told| told.collect::<Vec<_>>()),
    ));
    tokio::task::yield_now().await;
    stop.cancel();
    for told in waits.await.expect("it has not panicked") {
        assert_eq!(told.len(), 1, "a greeting, for nothing has been seen");
    }
    assert!(gallery.watch(CancellationToken::new()).is_some(), "their seats are free again");
}

#[tokio::test]
async fn nobody_watches_nothing_is_asked_and_an_away_door_is_said() {
    let (gallery, stop) = (gallery(), CancellationToken::new());
    let looking = tokio::spawn(gallery.clone().keep(stop.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gallery.now_seen().number, 0);
    let mut stream = pin!(gallery.watch(stop.clone()).expect("there is room"));
    told(&mut stream).await;
    let (event, whole) = told(&mut stream).await;
    let problem = whole["problem"].as_str().expect("a problem");
    assert!(problem.starts_with("the door at http://127.0.0.1:1 cannot be reached"), "{problem}");
    assert_eq!((event.as_str(), &whole["looked"]), ("whole", &0.into()));
    stop.cancel();
    looking.await.expect("it has not panicked").expect("it ends well");
}

#[test]
fn a_row_says_no_more_than_it_must() {
    let node = serde_json::to_value(Node::default()).expect("JSON");
    assert!(node.get("reason").is_none(), "{node}");
    let job = serde_json::to_value(Job { id: 3, ..Job::default() }).expect("JSON");
    assert!(job.get("hosts").is_none() && job.get("start").is_none(), "{job}");
}
