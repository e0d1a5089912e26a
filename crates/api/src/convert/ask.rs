//! What a gang asks for, between the wire and core: read by the parser of the annotations.

use std::collections::BTreeMap;

use gangway_core::ask::{Ask, Other, Outcome, Requester};
use gangway_core::placeholder::is_word;

use super::{BadMessage, WORD, bad};
use crate::v1;

/// Reads each choice as its annotation is read, so that nothing enters by the door that an
/// annotation could not say.
pub(super) fn read(ask: v1::Ask) -> Result<Ask, BadMessage> {
    let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
    let flag = |yes: bool| if yes { "true".to_owned() } else { String::new() };
    let nice = if ask.nice == 0 { String::new() } else { ask.nice.to_string() };
    let choices = [
        ("partition", ask.partition),
        ("account", ask.account),
        ("qos", ask.qos),
        ("job-name", ask.job_name),
        ("time-limit", number(ask.time_limit_minutes)),
        ("time-min", number(ask.time_min_minutes)),
        ("gpu-type", ask.gpu_type),
        ("gres", ask.gres),
        ("pods-per-node", number(ask.pods_per_node)),
        ("constraints", ask.constraints),
        ("prefer", ask.prefer),
        ("exclude", ask.exclude),
        ("licenses", ask.licenses),
        ("reservation", ask.reservation),
        ("dependency", ask.dependency),
        ("begin", ask.begin),
        ("deadline", ask.deadline),
        ("nice", nice),
        ("priority", number(ask.priority)),
        ("wckey", ask.wckey),
        ("comment", ask.comment),
        ("switches", ask.switches),
        ("segment", number(ask.segment)),
        ("contiguous", flag(ask.contiguous)),
        ("spread", flag(ask.spread)),
        ("exclusive", ask.exclusive),
        ("checkpoint-grace", ask.checkpoint_grace),
        ("checkpoint-hook", ask.checkpoint_hook),
        ("on-member-failure", ask.on_member_failure),
    ];
    let requester = ask.requester.map(|who| Requester {
        users: who.users.into_iter().collect(),
        groups: who.groups.into_iter().collect(),
    });
    let mut out = Ask { others: others(ask.others)?, requester, ..Ask::default() };
    for (name, value) in choices.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.set(name, &value).map_err(|problem| bad("gang.ask", format!("{name}: {problem}")))?;
    }
    Ok(out)
}

fn others(others: Vec<v1::Other>) -> Result<BTreeMap<String, Other>, BadMessage> {
    let mut out = BTreeMap::new();
    for other in others {
        if !is_word(&other.uid) {
            return Err(bad("gang.ask.others.uid", WORD));
        }
        let outcome = match v1::other::Outcome::try_from(other.outcome) {
            Ok(v1::other::Outcome::Succeeded) => Some(Outcome::Succeeded),
            Ok(v1::other::Outcome::Failed) => Some(Outcome::Failed),
            Ok(v1::other::Outcome::Unspecified) => None,
            Err(_) => return Err(bad("gang.ask.others.outcome", "is not known")),
        };
        out.insert(other.path, Other { uid: other.uid, outcome });
    }
    Ok(out)
}

impl v1::Ask {
    pub(super) fn of(ask: &Ask) -> Self {
        let text = |name: &str| ask.text(name).unwrap_or_default();
        let options = &ask.options;
        Self {
            partition: text("partition"),
            account: text("account"),
            qos: text("qos"),
            job_name: text("job-name"),
            time_limit_minutes: ask.time_limit_minutes.unwrap_or_default(),
            gpu_type: text("gpu-type"),
            pods_per_node: ask.pods_per_node.unwrap_or_default(),
            constraints: text("constraints"),
            prefer: text("prefer"),
            gres: text("gres"),
            licenses: text("licenses"),
            reservation: text("reservation"),
            dependency: text("dependency"),
            others: ask.others.iter().map(v1::Other::of).collect(),
            begin: text("begin"),
            deadline: text("deadline"),
            time_min_minutes: options.time_min_minutes.unwrap_or_default(),
            nice: options.nice.unwrap_or_default(),
            priority: options.priority.unwrap_or_default(),
            wckey: text("wckey"),
            comment: text("comment"),
            exclude: text("exclude"),
            switches: text("switches"),
            segment: options.segment.unwrap_or_default().into(),
            contiguous: options.contiguous,
            spread: options.spread,
            exclusive: text("exclusive"),
            checkpoint_grace: text("checkpoint-grace"),
            checkpoint_hook: text("checkpoint-hook"),
            on_member_failure: text("on-member-failure"),
            requester: ask.requester.as_ref().map(|who| v1::Requester {
                users: who.users.iter().cloned().collect(),
                groups: who.groups.iter().cloned().collect(),
            }),
        }
    }
}

impl v1::Other {
    fn of((path, other): (&String, &Other)) -> Self {
        let outcome = match other.outcome {
            None => v1::other::Outcome::Unspecified,
            Some(Outcome::Succeeded) => v1::other::Outcome::Succeeded,
            Some(Outcome::Failed) => v1::other::Outcome::Failed,
        };
        Self { path: path.clone(), uid: other.uid.clone(), outcome: outcome.into() }
    }
}

#[cfg(test)]
mod tests {
    use gangway_core::ask::TABLE;
    use gangway_core::gang::Gang;

    use super::*;

    fn gang() -> v1::Gang {
        let member = v1::Member { uid: "a".into(), ..v1::Member::default() };
        v1::Gang {
            cluster: "c".into(),
            uid: "g".into(),
            members: vec![member],
            ..v1::Gang::default()
        }
    }

    #[test]
    fn whatever_is_asked_survives_the_wire() {
        let samples = [
            ("partition", "gpu,cpu"),
            ("account", "team1"),
            ("qos", "high"),
            ("job-name", "train-7b"),
            ("time-limit", "90"),
            ("time-min", "30"),
            ("gpu-type", "h100"),
            ("gres", "nvme:1,gpu:h100:8"),
            ("pods-per-node", "2"),
            ("constraints", "h100&[rack1|rack2]"),
            ("prefer", "ib"),
            ("exclude", "n[1-3]"),
            ("licenses", "matlab:2"),
            ("reservation", "monday"),
            ("dependency", "afterok:pod/first"),
            ("begin", "2026-11-23T22:00Z"),
            ("deadline", "now+2hours"),
            ("nice", "-5"),
            ("priority", "4294967293"),
            ("wckey", "paper"),
            ("comment", "for the paper"),
            ("switches", "1@10:00"),
            ("segment", "4"),
            ("contiguous", "true"),
            ("spread", "true"),
            ("exclusive", "user"),
            ("checkpoint-grace", "2:30"),
            ("checkpoint-hook", "http://:8080/"),
            ("on-member-failure", "restart"),
        ];
        assert_eq!(samples.len(), TABLE.len(), "a sample for each annotation");
        let mut all = Gang::try_from(gang()).expect("fine");
        for (name, value) in samples {
            let mut one = Gang::try_from(gang()).expect("fine");
            for gang in [&mut one, &mut all] {
                gang.ask.set(name, value).expect("well formed");
            }
            assert_eq!(Gang::try_from(v1::Gang::of("c", &one)), Ok(one), "{name}");
        }
        for outcome in [None, Some(Outcome::Succeeded), Some(Outcome::Failed)] {
            all.ask.requester = Some(Requester {
                users: ["dora".to_owned()].into(),
                groups: ["research".to_owned()].into(),
            });
            all.ask.others =
                BTreeMap::from([("pod/first".to_owned(), Other { uid: "u".into(), outcome })]);
            assert_eq!(Gang::try_from(v1::Gang::of("c", &all)), Ok(all.clone()));
        }
    }

    #[test]
    fn what_no_annotation_could_say_does_not_enter_by_the_door() {
        for break_it in [
            |a: &mut v1::Ask| a.partition = "a b".into(),
            |a: &mut v1::Ask| a.comment = "line\nbreak".into(),
            |a: &mut v1::Ask| a.constraints = "x;y".into(),
            |a: &mut v1::Ask| a.priority = u32::MAX,
            |a: &mut v1::Ask| a.segment = 70_000,
            |a: &mut v1::Ask| {
                a.others = vec![v1::Other { uid: "a b".into(), ..v1::Other::default() }];
            },
            |a: &mut v1::Ask| {
                a.others = vec![v1::Other { uid: "u".into(), outcome: 9, ..v1::Other::default() }];
            },
        ] {
            let mut ask = v1::Ask::default();
            break_it(&mut ask);
            let gang = v1::Gang { ask: Some(ask), ..gang() };
            assert!(Gang::try_from(gang.clone()).is_err(), "{:?}", gang.ask);
        }
    }
}
