//! The whole bridge on a seeded API server and Slurm in memory, in virtual time.
//!
//! One seed is one history: gangs, faults, crashes of the bridge and everything that came of them. The
//! rules of design.md are held against it as it happens. See docs/simulator.md.

mod cast;
mod dice;
mod ends;
mod fate;
mod guard;
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
    play_and_tell(seed, bug, false)
}

/// The same; `calls`: its history has every call in it, and what went wrong with it.
pub fn play_and_tell(seed: u64, bug: Option<Bug>, calls: bool) -> anyhow::Result<Outcome> {
    gangway::planted::plant(bug);
    let dice = Dice(seed);
    let fate = Fate::of(dice);
    let cast = fate::cast(dice, &fate);
    stage(dice, fate, cast, calls)
}

/// Runs a world in a runtime of its own, whose time is virtual.
fn stage(dice: Dice, fate: Fate, cast: Cast, calls: bool) -> anyhow::Result<Outcome> {
    // What kube's backoff draws from.
    fastrand::seed(dice.0);
    let settings = format!(
        "{{cluster: sim, slurm: {{immediate: {}}}, policy: {{defaultPartition: normal, \
         identities: [{{namespace: '*', user: alice}}], slurmPolicies: off}}, gangs: {{show: false}}}}",
        fate.immediate
    );
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let (deaths, died) = mpsc::unbounded_channel();
        let network = Network::new(World::new(dice, fate, cast, deaths));
        network.inner().tells_all = calls;
        let lived = live(network.clone(), died, &settings);
        let lived = guard::in_time(dice.0, guard::LIMIT, lived).await;
        let world = &mut network.inner().world;
        match lived {
            Some(lived) => lived?,
            None => world.complain("it spins: virtual time stands still"),
        }
        Ok(Outcome {
            seed: dice.0,
            violations: world.rules.violations.clone(),
            history: world.history.clone(),
            digest: world.digest(),
            took_ms: world.now,
        })
    })
}

/// One life of the bridge after the other, until everything outside has come to its end.
async fn live(
    network: Network,
    mut died: mpsc::UnboundedReceiver<u64>,
    settings: &str,
) -> anyhow::Result<()> {
    let time = network.run();
    tokio::pin!(time);
    loop {
        let life = {
            let mut inner = network.inner();
            inner.world.born();
            inner.world.life
        };
        let kubernetes = ends::kubernetes(network.clone(), life);
        let slurm = ends::slurm(network.clone(), life)?;
        let settings = settings.to_owned();
        let bridge = tokio::spawn(async move {
            gangway::rehearsal::bridge(kubernetes, slurm, &settings, CancellationToken::new()).await
        });
        let stop = bridge.abort_handle();
        let dead_ms = tokio::select! {
            biased;
            () = &mut time => {
                stop.abort();
                return Ok(());
            }
            dead_ms = died.recv() => dead_ms.unwrap_or(1_000),
            ended = bridge => {
                network.inner().world.complain(&format!("the bridge ended by itself: {ended:?}"));
                1_000
            }
        };
        stop.abort();
        tokio::select! {
            biased;
            () = &mut time => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(dead_ms)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
