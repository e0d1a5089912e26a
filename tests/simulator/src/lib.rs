//! The whole bridge on a seeded API server and Slurm in memory, in virtual time.
//!
//! One seed is one history: gangs, faults, crashes of the bridge and everything that came of them. The
//! rules of design.md are held against it as it happens. See docs/simulator.md.

mod cast;
mod dice;
mod ends;
mod fate;
mod kubernetes;
mod many;
mod network;
mod rules;
mod world;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use gangway::planted::Bug;
pub use many::{Report, play_all};

use cast::Cast;
use dice::Dice;
use fate::Fate;
use network::Network;
use world::World;

/// What became of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was broken; empty where all is well.
    pub violations: Vec<String>,
    /// Everything that was written and happened, a line each.
    pub history: Vec<String>,
    /// The history in a number.
    pub digest: u64,
    /// Virtual milliseconds it took.
    pub took_ms: u64,
}

/// Plays one seed from its beginning to its end, with a bug in the bridge or as it is.
pub fn play(seed: u64, bug: Option<Bug>) -> anyhow::Result<Outcome> {
    gangway::planted::plant(bug);
    let dice = Dice(seed);
    let fate = Fate::of(dice);
    let cast = fate::cast(dice, &fate);
    stage(dice, fate, cast)
}

/// Runs a world in a runtime of its own, whose time is virtual.
fn stage(dice: Dice, fate: Fate, cast: Cast) -> anyhow::Result<Outcome> {
    // What kube's backoff draws from.
    fastrand::seed(dice.0);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(live(dice, fate, cast))
}

async fn live(dice: Dice, fate: Fate, cast: Cast) -> anyhow::Result<Outcome> {
    let settings = format!(
        "{{cluster: sim, slurm: {{immediate: {}}}, policy: {{defaultPartition: normal}}}}",
        fate.immediate
    );
    let (deaths, mut died) = mpsc::unbounded_channel();
    let network = Network::new(World::new(dice, fate, cast, deaths));
    let time = network.run();
    tokio::pin!(time);
    'lives: loop {
        let life = {
            let mut inner = network.inner();
            inner.world.born();
            inner.world.life
        };
        let kubernetes = ends::kubernetes(network.clone(), life);
        let slurm = ends::slurm(network.clone(), life)?;
        let settings = settings.clone();
        let bridge = tokio::spawn(async move {
            gangway::rehearsal::bridge(kubernetes, slurm, &settings, CancellationToken::new()).await
        });
        let stop = bridge.abort_handle();
        let dead_ms = tokio::select! {
            biased;
            () = &mut time => {
                stop.abort();
                break 'lives;
            }
            dead_ms = died.recv() => dead_ms.unwrap_or(1_000),
            ended = bridge => {
                let mut inner = network.inner();
                let what = format!("the bridge ended by itself: {ended:?}");
                inner.world.rules.violations.push(what.clone());
                inner.world.note(&what);
                1_000
            }
        };
        stop.abort();
        tokio::select! {
            biased;
            () = &mut time => break 'lives,
            () = tokio::time::sleep(Duration::from_millis(dead_ms)) => {}
        }
    }
    let world = &network.inner().world;
    Ok(Outcome {
        seed: dice.0,
        violations: world.rules.violations.clone(),
        history: world.history.clone(),
        digest: world.digest(),
        took_ms: world.now,
    })
}

#[cfg(test)]
mod tests;
