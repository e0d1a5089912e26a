//! The fake keeps to the same protocol facts as the real slurmrestd, in virtual time.

use std::error::Error as _;
use std::sync::Arc;

use gangway_slurm::conformance::{self, World};
use gangway_slurm::fake::{Clocked, Fake, Partition, Setup};
use gangway_slurm::{Config, TokenSource};

const URL: &str = "http://fake.invalid";

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_to_what_we_rely_on() {
    let folder = std::env::temp_dir().join(format!("gangway-fake-{}", std::process::id()));
    std::fs::write(&folder, "token").unwrap();
    let fake = Fake::new(Setup {
        nodes: (1..=4).map(|n| format!("p5-{n}")).collect(),
        gpus: 8,
        partitions: vec![Partition { name: "gangway".into(), tier: 1 }],
        users: vec![("alice".into(), "team1".into())],
        token: "token".into(),
        now_ms: 1_800_000_000_000,
        job_age_ms: 300_000,
    });
    let mut config = Config::new(URL, TokenSource::File(folder.clone()));
    config.server = Some(Arc::new(Clocked::new(fake, URL)));
    let report = conformance::run(&World {
        config,
        partition: "gangway".into(),
        user: "alice".into(),
        group: "alice".into(),
        account: "team1".into(),
        accounting: true,
    })
    .await
    .unwrap();
    std::fs::remove_file(&folder).unwrap();
    let told: Vec<_> =
        report.broken.iter().map(|b| format!("{b}: {}", b.source().unwrap())).collect();
    let broken: Vec<_> = report.broken.iter().map(ToString::to_string).collect();
    assert_eq!(broken, [""; 0], "{told:?}");
    assert!(report.held.len() > 20, "{:?}", report.held);
}
