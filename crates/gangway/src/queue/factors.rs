//! What priorities are made of, asked of Slurm as seldom as it computes them: for people.
//!
//! It must never hold up or decide anything: whoever cannot be told is told less.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gangway_core::job::Job;
use gangway_core::priority::{Factors, Known, Rules};
use gangway_slurm::{Client, Error};
use tokio::time::Instant;

use crate::chain::explain;

/// How old rules and fairshare may become: Slurm computes priorities every five minutes, where nothing else is said.
const FRESH: Duration = Duration::from_secs(300);

/// What is known of this Slurm's priorities.
#[derive(Debug, Default)]
pub(crate) struct Priorities {
    rules: tokio::sync::Mutex<Option<(Instant, Option<Arc<Scheme>>)>>,
    /// Fairshare of a user in an account, and when it was asked for.
    shares: Mutex<HashMap<(String, String), Share>>,
}

type Share = (Instant, Option<f64>);

/// The rules, and each partition's factor, 0 to 1.
#[derive(Debug)]
struct Scheme {
    rules: Rules,
    partitions: HashMap<String, f64>,
}

/// Why a job has the priority that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its parts.
    Factors(Factors),
    /// It says nothing, and why.
    Nothing(&'static str),
}

impl Said {
    /// In words.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Factors(factors) => factors.told(),
            Self::Nothing(why) => (*why).to_owned(),
        }
    }

    /// In words, where there are parts.
    pub(crate) fn factors(&self) -> String {
        match self {
            Self::Factors(factors) => factors.told(),
            Self::Nothing(_) => String::new(),
        }
    }
}

impl Priorities {
    /// What a job's priority is made of; `None` where this Slurm does not say.
    pub(crate) async fn of(&self, slurm: &Client, job: &Job, now: i64) -> Option<Said> {
        let known = self.rules(slurm).await?;
        if let Some(why) = known.rules.silent() {
            return Some(Said::Nothing(why));
        }
        let fairshare = match known.rules.fairshare {
            0 => None,
            _ => self.share(slurm, &job.user, &job.account).await,
        };
        let factors = known.rules.factors(&Known {
            priority: job.priority.unwrap_or(0),
            waited: if job.accrue_time > 0 { now - job.accrue_time } else { 0 },
            fairshare,
            partition: known.partitions.get(&job.partition).copied(),
        });
        factors.map(Said::Factors)
    }

    async fn rules(&self, slurm: &Client) -> Option<Arc<Scheme>> {
        let mut kept = self.rules.lock().await;
        if let Some((asked, known)) = &*kept
            && asked.elapsed() < FRESH
        {
            return known.clone();
        }
        let known = read(slurm).await.unwrap_or_else(|error| {
            tracing::debug!(error = explain(&error), "how priorities are computed cannot be read");
            None
        });
        *kept = Some((Instant::now(), known.clone()));
        known
    }

    async fn share(&self, slurm: &Client, user: &str, account: &str) -> Option<f64> {
        let key = (user.to_owned(), account.to_owned());
        let shares = || self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = shares().get(&key).copied();
        if let Some((asked, share)) = kept
            && asked.elapsed() < FRESH
        {
            return share;
        }
        let share = slurm.fairshare(user, account).await.unwrap_or_else(|error| {
            tracing::debug!(error = explain(&error), user, account, "fairshare cannot be read");
            None
        });
        let mut shares = shares();
        shares.retain(|_, (asked, _)| asked.elapsed() < FRESH);
        shares.insert(key, (Instant::now(), share));
        share
    }
}

async fn read(slurm: &Client) -> Result<Option<Arc<Scheme>>, Error> {
    let Some(rules) = slurm.priority_rules().await? else { return Ok(None) };
    let partitions = slurm.partitions().await?;
    let most = partitions.iter().map(|one| one.priority_factor).max().unwrap_or(0);
    let factor = |own: u32| if most == 0 { 0.0 } else { f64::from(own) / f64::from(most) };
    let partitions =
        partitions.iter().map(|one| (one.name.clone(), factor(one.priority_factor))).collect();
    Ok(Some(Arc::new(Scheme { rules, partitions })))
}
