use gangway_core::job::JobId;

use super::*;

fn seat(node: &str) -> Standing {
    Standing::Seat { node: node.to_owned(), job: JobId(7) }
}

fn pods() -> [String; 2] {
    ["a".to_owned(), "b".to_owned()]
}

/// A table with short times, and the follower that is called.
fn table() -> (Offers, Arc<Notify>) {
    let times = Times {
        patience: Duration::from_millis(40),
        unnoticed: Duration::from_millis(60),
        barrier: Duration::from_millis(80),
    };
    let inner = Inner { times, ..Inner::default() };
    (Offers(Arc::new(inner)), Arc::new(Notify::new()))
}

fn to_wake(offers: &Offers) -> (Vec<Wake>, Option<Instant>) {
    offers.to_wake(Instant::now(), &pods())
}

#[tokio::test]
async fn a_first_word_that_comes_at_once_is_waited_for() {
    let (offers, follower) = table();
    offers.stand("a", Standing::Unheard, &follower);
    let word = async {
        tokio::task::yield_now().await;
        offers.stand("a", seat("n1"), &follower);
    };
    let (answer, ()) = tokio::join!(offers.ask("a", &["n1"]), word);
    assert_eq!(answer, Answer::Node("n1".to_owned()));
    // The same for a pod that nobody knew when kube-scheduler asked.
    let word = async {
        tokio::task::yield_now().await;
        offers.stand("b", seat("n2"), &follower);
    };
    let (answer, ()) = tokio::join!(offers.ask("b", &["n2"]), word);
    assert_eq!(answer, Answer::Node("n2".to_owned()));
}

#[tokio::test]
async fn a_late_first_word_is_waited_for_once_per_pod() {
    let (offers, follower) = table();
    offers.stand("a", Standing::Unheard, &follower);
    let began = Instant::now();
    assert!(matches!(offers.ask("a", &["n1"]).await, Answer::None(_)));
    assert!(began.elapsed() >= Duration::from_millis(40));
    let at_once = futures::FutureExt::now_or_never(offers.ask("a", &["n1"]));
    assert!(matches!(at_once, Some(Answer::None(_))), "its patience is used up");
    assert!(matches!(offers.ask("nobody", &["n1"]).await, Answer::None(_)));
}

#[tokio::test]
async fn kube_scheduler_is_woken_once_and_only_if_it_was_told_no_or_never_asked() {
    let (offers, follower) = table();
    for pod in pods() {
        offers.stand(&pod, Standing::Waiting("why".to_owned()), &follower);
    }
    assert_eq!(offers.ask("a", &["n1"]).await, Answer::None("why".to_owned()));
    offers.stand("a", seat("n1"), &follower);
    offers.stand("b", seat("n2"), &follower);
    let wake = |pod: &str, node: &str| Wake { pod: pod.to_owned(), node: node.to_owned() };
    let (now, later) = to_wake(&offers);
    assert_eq!(now, [wake("a", "n1")], "it was told no");
    tokio::time::sleep_until(later.expect("b was never asked about")).await;
    assert_eq!(to_wake(&offers), (vec![wake("b", "n2")], None));
    assert_eq!(to_wake(&offers), (Vec::new(), None), "once");
    offers.not_woken("b");
    assert_eq!(to_wake(&offers), (vec![wake("b", "n2")], None), "it failed");
    offers.stand("b", seat("n3"), &follower);
    assert!(matches!(offers.ask("b", &["n3"]).await, Answer::Node(_)));
    assert_eq!(to_wake(&offers), (Vec::new(), None), "it is on its way");
}

#[test]
fn while_kube_scheduler_asks_about_others_a_seat_has_more_time_but_not_for_ever() {
    let (offers, follower) = table();
    offers.stand("a", seat("n1"), &follower);
    let offered = offers.pods()["a"].offered;
    let ten_times = offers.0.times.unnoticed * 10;
    let mut at = offered;
    while at < offered + ten_times {
        // It asks about another.
        *offers.0.asked.lock().expect("nobody panics") = Some(at);
        let (now, later) = offers.to_wake(at, &pods());
        assert_eq!((now, later.is_some()), (Vec::new(), true), "it is looked at again");
        at += Duration::from_millis(20);
    }
    let woken = Wake { pod: "a".to_owned(), node: "n1".to_owned() };
    assert_eq!(offers.to_wake(at, &pods()), (vec![woken], None));
}

#[tokio::test]
async fn a_seat_that_kube_scheduler_turns_down_is_brought_to_its_notice_once() {
    let (offers, follower) = table();
    offers.stand("a", seat("n1"), &follower);
    assert!(matches!(offers.ask("a", &["n8", "n9"]).await, Answer::None(_)));
    follower.notified().await;
    assert_eq!(offers.taken("a"), Some(("n1".to_owned(), Taken::Rejected)));
    assert_eq!(to_wake(&offers).0.len(), 1, "n1 may only have been left out of a sample");
    assert!(matches!(offers.ask("a", &["n8", "n9"]).await, Answer::None(_)));
    assert_eq!(to_wake(&offers), (Vec::new(), None));
}

#[tokio::test]
async fn a_pod_waits_for_its_gang_and_hears_what_became_of_it() {
    let (offers, follower) = table();
    offers.stand("a", seat("n1"), &follower);
    offers.stand("b", seat("n2"), &follower);
    let seats = [("a", "n1"), ("b", "n2")];
    let shell = async {
        while !offers.all_here(seats) {
            follower.notified().await;
        }
        offers.bound("a", Ok(()));
        offers.bound("b", Err("why".to_owned()));
    };
    let both = async { tokio::join!(offers.bind("a", "n1"), offers.bind("b", "n2")) };
    let ((), both) = tokio::join!(shell, both);
    assert_eq!(both, (Ok(()), Err("why".to_owned())));
}

#[tokio::test]
async fn nobody_is_bound_alone_nor_to_another_node_nor_after_the_seat_is_gone() {
    let (offers, follower) = table();
    offers.stand("a", seat("n1"), &follower);
    offers.stand("b", seat("n2"), &follower);
    assert!(offers.bind("a", "n2").await.is_err_and(|why| why.contains("n1")));
    assert!(offers.bind("c", "n1").await.is_err());
    assert!(offers.bind("a", "n1").await.is_err_and(|why| why.contains("rest of its gang")));
    assert!(!offers.all_here([("a", "n1")]), "it has gone again");
    // The first bind has left its call behind.
    follower.notified().await;
    let moved = async {
        follower.notified().await;
        offers.stand("a", seat("n3"), &follower);
    };
    let (outcome, ()) = tokio::join!(offers.bind("a", "n1"), moved);
    assert!(outcome.is_err_and(|why| why.contains("any more")), "Slurm gives another node now");
    offers.forget("a");
    assert!(offers.bind("a", "n3").await.is_err());
}
