//! The protocol facts against the real slurmrestd.
//!
//! `GANGWAY_WORLD_ENV` names a shell file of `export K=V` lines with `SLURM_REST_URL` and
//! `SLURM_TOKEN_FILE`; `CONFORMANCE_{PARTITION,USER,GROUP,ACCOUNT}` in it override `gangway`, `alice`,
//! the user's name and `team1`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test: it panics to fail and prints what it skips"
)]

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;

use gangway_core::job::JobId;
use gangway_slurm::conformance::{self, World};
use gangway_slurm::{Client, Config, Error, TokenSource, Version};
use tokio::sync::Mutex;

/// Facts about free nodes hold for one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn slurmrestd_keeps_to_what_we_rely_on() {
    keeps_to(Version::V0_0_45).await;
}

/// Slurm 25.11 speaks nothing newer.
#[tokio::test]
async fn and_in_the_older_version_of_its_api() {
    keeps_to(Version::V0_0_44).await;
}

async fn keeps_to(version: Version) {
    let _turn = TURN.lock().await;
    let Some(mut world) = world().await else { return };
    world.config.newest = version;
    let spoken = Client::new(world.config.clone()).unwrap().version().await.unwrap();
    assert_eq!(spoken, version);
    // Without it some facts would hold for want of anything to ask.
    assert!(world.accounting, "the world's accounting database does not answer");
    let report = conformance::run(&world).await.unwrap();
    for fact in &report.held {
        println!("holds: {fact}");
    }
    let mut told = Vec::new();
    for broken in &report.broken {
        let mut line = format!("BROKEN: {broken}");
        let mut source = broken.source();
        while let Some(cause) = source {
            line += &format!(": {cause}");
            source = cause.source();
        }
        told.push(line);
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// The world the environment names; none is a failure on CI and a skip elsewhere.
async fn world() -> Option<World> {
    let Some(path) = std::env::var_os("GANGWAY_WORLD_ENV") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_WORLD_ENV is not set");
        println!("skipped: GANGWAY_WORLD_ENV is not set, there is no slurmrestd to ask");
        return None;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let values: HashMap<_, _> = text
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("export ").split_once('='))
        .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
        .collect();
    let or = |key, default: &str| values.get(key).map_or(default, |value| *value).to_owned();
    let user = or("CONFORMANCE_USER", "alice");
    let token = TokenSource::File(PathBuf::from(values["SLURM_TOKEN_FILE"]));
    let config = Config::new(values["SLURM_REST_URL"], token);
    let database = Client::new(config.clone()).unwrap().finished_job(JobId(1)).await;
    Some(World {
        partition: or("CONFORMANCE_PARTITION", "gangway"),
        group: or("CONFORMANCE_GROUP", &user),
        account: or("CONFORMANCE_ACCOUNT", "team1"),
        user,
        // Without a database slurmrestd either has no such URL or answers with an error.
        accounting: !matches!(database, Err(Error::NoSuchEndpoint { .. } | Error::Rejected { .. })),
        config,
    })
}
