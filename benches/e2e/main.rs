//! The bridge on a real stack, from the first create to the last bind: `cargo xtask bench e2e`.
//!
//! Needs a world that is up with the bridge in it, and its env file sourced. One line of JSON per
//! shape on standard output; what it does is told on standard error. It must never judge: limits
//! are for whoever reads the lines.

mod audit;
mod by_hand;
mod cluster;
mod figures;
mod scale;
mod trial;
mod world;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::figures::Ideal;
use crate::trial::{Shape, Trial};
use crate::world::World;

/// What is measured, in this order; a shape of one pod is a pod without a group.
const SHAPES: [Shape; 5] = [
    Shape::of("1", 1, 1, 8),
    Shape::of("1x8", 1, 8, 8),
    Shape::of("1x128", 1, 128, 8),
    Shape::of("16x8", 16, 8, 8),
    Shape::of("1000x1", 1000, 1, 1),
];
/// Trials of a shape unless asked: many of the small ones, fewer of the big ones.
const FEW_PODS: u32 = 8;
const REPEATS: (usize, usize) = (5, 3);
/// Writes that the bridge has under way at once; the ideal loop gets the same.
const BRIDGE_WRITES: usize = 48;
/// Between two trials, so that no one pays for what another left behind.
const REST: Duration = Duration::from_secs(1);

const HELP: &str = "\
Usage: e2e [--repeats N] [--shape NAME]... [--at-once N]
       e2e queued [--repeats N]
       e2e blocked | pending

Shapes: 1, 1x8, 1x128, 16x8 (whole nodes), 1000x1 (1000 pods of one GPU), and ideal (bindings alone, without a bridge). All unless named.
queued: the shapes of whole nodes once more, for a bridge that only takes the way through Slurm's queue.
blocked: a thousand gangs that cannot start stand in front of a small one. pending: twenty thousand pods wait.
1000x1 is also done by hand, without a bridge, to see what the machine allows.
--at-once N is for ideal and by hand: bindings under way at once (48, as many as the bridge's own).
Needs the env file of a world with the bridge up (`cargo xtask world up --bridge`), sourced.
";

#[tokio::main]
async fn main() -> Result<()> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        return Ok(write!(std::io::stdout(), "{HELP}")?);
    };
    let world = World::of_environment()?;
    let cluster = Cluster::connect().await?;
    let session = trial::Session::new(&world, &cluster).await?;
    let measured = match options.scene.as_deref() {
        Some("blocked") => scale::blocked(&session).await.and_then(|line| emit(&line)),
        Some("queued") => queued(&options, &session).await,
        Some(_) => scale::pending(&session).await.and_then(|line| emit(&line)),
        None => measure(&options, &session).await,
    };
    // Whatever happened, nothing is left behind.
    let cleaned = cluster.remove_namespaces().await;
    measured.and(cleaned)
}

struct Options {
    repeats: Option<usize>,
    shapes: Vec<String>,
    at_once: usize,
    /// `queued`, `blocked` or `pending` instead of shapes.
    scene: Option<String>,
}

impl Options {
    /// `None` for a person who asks for help.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options =
            Self { repeats: None, shapes: Vec::new(), at_once: BRIDGE_WRITES, scene: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--repeats" => options.repeats = Some(number(words.next())?),
                "--at-once" => options.at_once = number(words.next())?,
                "--shape" => {
                    let name = words.next().context("--shape takes a name")?;
                    if name != "ideal" && SHAPES.iter().all(|shape| shape.name != name) {
                        bail!("there is no shape {name}; see --help");
                    }
                    options.shapes.push(name);
                }
                "queued" | "blocked" | "pending" => options.scene = Some(word),
                "--help" | "-h" => return Ok(None),
                other => bail!("{other} is not an option; see --help"),
            }
        }
        Ok(Some(options))
    }

    fn wants(&self, name: &str) -> bool {
        self.shapes.is_empty() || self.shapes.iter().any(|shape| shape == name)
    }

    fn repeats(&self, pods: u32) -> usize {
        self.repeats.unwrap_or(if pods <= FEW_PODS { REPEATS.0 } else { REPEATS.1 })
    }
}

fn number(word: Option<String>) -> Result<usize> {
    let number = word.as_deref().and_then(|word| word.parse().ok()).filter(|number| *number > 0);
    number.with_context(|| format!("{} is not a number above 0", word.unwrap_or_default()))
}

async fn measure(options: &Options, session: &trial::Session<'_>) -> Result<()> {
    note("one pod that does not count");
    session.run(&SHAPES[0]).await.context("the bridge bound nothing")?;
    let mut ideal = Ideal::default();
    for pods in trial::IDEAL_PODS.into_iter().filter(|_| options.wants("ideal")) {
        let mut runs = Vec::new();
        for i in 0..options.repeats(pods) {
            note(&format!("ideal, {pods} pods, run {}", i + 1));
            runs.push(session.ideal(pods, options.at_once).await?);
            tokio::time::sleep(REST).await;
        }
        let (line, typical) = figures::ideal(session, pods, options.at_once, &runs);
        emit(&line)?;
        ideal.binds.insert(pods, typical);
    }
    let singles = SHAPES.iter().filter(|shape| shape.pods() > FEW_PODS && !shape.grouped());
    for shape in singles.filter(|shape| options.wants(shape.name)) {
        let mut runs = Vec::new();
        for i in 0..options.repeats(shape.pods()) {
            note(&format!("{} by hand, run {}", shape.name, i + 1));
            runs.push(by_hand::run(session, shape, options.at_once).await?);
            tokio::time::sleep(REST).await;
        }
        let (line, typical) = figures::by_hand(session, shape, &runs);
        emit(&line)?;
        ideal.whole.insert(shape.pods(), typical);
    }
    for shape in SHAPES.iter().filter(|shape| options.wants(shape.name)) {
        emit(&figures::shape(session, shape, &trials(options, session, shape).await?, &ideal))?;
    }
    Ok(())
}

/// The shapes of whole nodes, for a bridge that does not ask at once.
async fn queued(options: &Options, session: &trial::Session<'_>) -> Result<()> {
    for shape in SHAPES.iter().filter(|shape| shape.size > 1 || shape.gangs == 1) {
        let trials = trials(options, session, shape).await?;
        let mut line = figures::shape(session, shape, &trials, &Ideal::default());
        line["shape"] = format!("{} queued", shape.name).into();
        emit(&line)?;
    }
    Ok(())
}

async fn trials(
    options: &Options,
    session: &trial::Session<'_>,
    shape: &Shape,
) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for i in 0..options.repeats(shape.pods()) {
        tokio::time::sleep(REST).await;
        let trial = session.run(shape).await?;
        let last = trial.last_bound_ms();
        note(&format!("{}, trial {}: last bound after {last:.0} ms", shape.name, i + 1));
        trials.push(trial);
    }
    Ok(trials)
}

fn emit(line: &Value) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

pub(crate) fn note(text: &str) {
    // Nobody listening is fine.
    let _ = writeln!(std::io::stderr(), "e2e: {text}");
}
