//! A hostile user of the cluster gains nothing: behind the webhook, and behind the policies without it.
//!
//! Mallory may do everything in her namespace that RBAC can give. Each attack is refused at once, or told on her pod
//! and without effect; the API server's audit log has every refusal.

use std::time::Instant;

use gangway_core::job::{BaseState, JobId};
use gangway_core::names;
use gangway_core::placeholder::Stamp;
use gangway_tests::{Admission, Pod, Policies, SOON, Story, manifest, wait};
use serde_json::{Value, json};

use crate::door::Trust;

const MALLORY: (&str, &str) = ("mallory", "students");
const DORA: (&str, &str) = ("dora", "research");
/// In a world the controller manager is its administrator.
const MAKERS: &str = "makers: [admin]\n";

/// What becomes of an attack.
#[derive(Clone, Copy)]
enum Fate {
    /// The API server refuses it in these words.
    Refused(&'static str),
    /// Its pods say these words, and run nowhere.
    Told(&'static str),
}
use Fate::{Refused, Told};

/// How she tries it.
enum Way {
    /// `kubectl create` of this.
    Create(Vec<Value>),
    /// `kubectl patch` of a pod with this, or of one of its subresources.
    Patch(&'static str, &'static str, Value),
    /// POST of a Binding of a pod.
    Bind(&'static str, Value),
}

struct Attack {
    name: &'static str,
    way: Way,
    /// Behind the webhook, and behind the policies alone.
    fates: [Fate; 2],
}

fn annotated(name: &str, key: &str, value: &str) -> Value {
    manifest::pod(name, &manifest::template(1, &[(key, value)]))
}

fn on_pod(key: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

/// An annotation of hers on a new pod: behind policies alone the scheduler says no.
fn asks(name: &'static str, key: &str, value: &str, words: &'static str) -> Attack {
    let way = Way::Create(vec![annotated(name, key, value)]);
    Attack { name, way, fates: [Refused(words), Told(words)] }
}

/// Something that only the bridge writes.
fn forges(name: &'static str, way: Way, what: &'static str) -> Attack {
    Attack { name, way, fates: [Refused(what), Refused("that only gangway writes")] }
}

fn attacks(victim: &Pod) -> Vec<Attack> {
    let job = victim.job().to_string();
    let node = victim.node.clone().unwrap_or_default();
    let pod = |name: &str, differ: &dyn Fn(&mut Value)| {
        let mut pod = manifest::pod(name, &manifest::template(1, &[]));
        differ(&mut pod);
        Way::Create(vec![pod])
    };
    let elsewhere = |pod: &mut Value| pod["spec"]["schedulerName"] = json!("another");
    let binding = |annotations: Value| {
        json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": "waiting", "annotations": annotations},
            "target": {"kind": "Node", "name": node},
        })
    };
    let mut template_of_another = manifest::indexed_job("by-job", 1, &manifest::template(1, &[]));
    template_of_another["metadata"]["annotations"] = json!({"gangway.dev/account": "team1"});
    let mut group = manifest::pod_group("by-group", 1);
    group["metadata"]["annotations"] = json!({"gangway.dev/account": "team1"});
    let of_group = manifest::pod_of_group("by-group", "by-group", &manifest::template(1, &[]));
    vec![
        forges(
            "another's job id, at create",
            Way::Create(vec![annotated("job-id", names::JOB_ID, &job)]),
            "gangway.dev/job-id",
        ),
        forges(
            "another's job id, while gated",
            Way::Patch("gated", "", on_pod(names::JOB_ID, &job)),
            "gangway.dev/job-id",
        ),
        forges(
            "another's node, while gated",
            Way::Patch("gated", "", on_pod(names::NODE, &node)),
            "gangway.dev/node",
        ),
        forges(
            "another's gang, while pending",
            Way::Patch("waiting", "", on_pod(names::GANG, "x")),
            "gangway.dev/gang",
        ),
        forges(
            "another's devices, through the status",
            Way::Patch("waiting", "status", on_pod("gangway.dev/index.gpu", "0-7")),
            "gangway.dev/index.gpu",
        ),
        // Of several policies that refuse it, the API server names whichever comes first.
        Attack {
            name: "a binding that says it is ours",
            way: Way::Bind("waiting", binding(json!({ names::JOB_ID: job }))),
            fates: [Refused("gangway.dev/job-id"), Refused("denied request: gangway: ")],
        },
        Attack {
            name: "a binding",
            way: Way::Bind("waiting", binding(json!({}))),
            fates: [
                Refused("Slurm decides where they run"),
                Refused("Slurm decides where pods run"),
            ],
        },
        forges(
            "devices held by a pod of another scheduler",
            pod("squats", &|pod| {
                elsewhere(pod);
                pod["metadata"]["labels"] = json!({ names::JOB_LABEL: "1" });
            }),
            "label gangway.dev/job",
        ),
        asks("root", "gangway.dev/user-id", "0", "user-id: unknown"),
        asks("account", "gangway.dev/account", "team1", "account team1"),
        asks("qos", "gangway.dev/qos", "normal", "qos normal"),
        asks("priority", "gangway.dev/priority", "4294967293", "gangway.dev/priority is not open"),
        asks("bomb", "gangway.dev/exclude", "n[0-9999999][0-9999999]", "gangway.dev/exclude"),
        asks("injects", "gangway.dev/job-name", "a\nadmin_comment=x", "gangway.dev/job-name"),
        Attack {
            name: "an account, while gated",
            way: Way::Patch("gated", "", on_pod("gangway.dev/account", "team1")),
            fates: [Refused("account team1"), Told("waiting for the scheduling gates")],
        },
        Attack {
            name: "an account on the Job",
            way: Way::Create(vec![template_of_another]),
            fates: [Refused("account team1"), Told("account team1")],
        },
        Attack {
            name: "an account on the PodGroup",
            way: Way::Create(vec![group, of_group]),
            fates: [Told("account team1"); 2],
        },
        Attack {
            name: "ten megabytes",
            way: Way::Create(vec![annotated("huge", "gangway.dev/comment", &"x".repeat(10 << 20))]),
            fates: [Refused(""); 2],
        },
        Attack {
            name: "the toleration without the scheduler",
            way: pod("tolerates", &|pod| {
                elsewhere(pod);
                pod["spec"]["tolerations"] =
                    json!([{"key": names::TAINT_MANAGED, "operator": "Exists"}]);
            }),
            fates: [Refused("is not scheduled by gangway"); 2],
        },
        Attack {
            name: "a node of her choice",
            way: pod("preset", &|pod| pod["spec"]["nodeName"] = json!(node)),
            fates: [Refused("spec.nodeName is set"); 2],
        },
    ]
}

/// The pods that an attack is about.
fn about(attack: &Attack) -> &str {
    match &attack.way {
        Way::Create(objects) => objects[0]["metadata"]["name"].as_str().unwrap_or_default(),
        Way::Patch(pod, ..) | Way::Bind(pod, _) => pod,
    }
}

fn carry_out(story: &Story, attack: &Attack) -> Result<(), String> {
    let kubectl = |words: &[&str], input: &str| story.kubectl_as(MALLORY, words, input).map(drop);
    match &attack.way {
        Way::Create(objects) => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            kubectl(&["create", "--validate=false", "-f", "-"], &list.to_string())
        }
        Way::Patch(pod, "", part) => {
            kubectl(&["patch", "pod", pod, "--type=merge", "-p", &part.to_string()], "")
        }
        Way::Patch(pod, subresource, part) => {
            let which = format!("--subresource={subresource}");
            kubectl(&["patch", "pod", pod, &which, "--type=merge", "-p", &part.to_string()], "")
        }
        Way::Bind(pod, binding) => {
            let path = format!("/api/v1/namespaces/{}/pods/{pod}/binding", story.kube.namespace);
            kubectl(&["create", "--raw", &path, "-f", "-"], &binding.to_string())
        }
    }
}

#[tokio::test]
async fn a_hostile_user_gains_nothing() {
    let story = Story::prepare("attacks", |setup| {
        setup.slurm_policies = "required";
        setup.policy = "believeRequester: true".to_owned();
    });
    let Some(mut story) = story.await else { return };
    let policies = Policies::of(&story).await;
    let namespace = story.kube.namespace.clone();
    let team = json!({
        "namespaces": [namespace], "user": "bob", "accounts": ["team2"],
        "partitions": ["gangway"], "maxTimeLimit": "2:00:00", "maxNodes": 4,
    });
    policies.make("team", &team).await;
    let mut research = team.clone();
    research["groups"] = json!(["research"]);
    (research["user"], research["accounts"]) = (json!("alice"), json!(["team1"]));
    policies.make("research", &research).await;
    story.bridge.start().await;
    story.kubectl(&["label", "namespace", &namespace, "gangway.dev/managed=true"]);
    for (user, _) in [MALLORY, DORA] {
        let name = format!("--user={user}");
        let here = format!("--namespace={namespace}");
        story.kubectl(&[
            "create",
            "rolebinding",
            user,
            "--clusterrole=cluster-admin",
            &name,
            &here,
        ]);
    }

    let trust = Trust::new();
    let config = format!("{MAKERS}policy: {{ slurmPolicies: required, believeRequester: true }}\n");
    let mut webhook = Admission::start(&story, &trust.sign(&["127.0.0.1"]), &config).await;
    webhook.install_webhook(&story, &trust.pem());
    behind(&story, 0).await;
    renewed(&story, &mut webhook).await;
    webhook.remove();

    let guards = Admission::install_policies(&story, MAKERS);
    behind(&story, 1).await;
    guards.remove();
    policies.drop("team").await;
    policies.drop("research").await;
    story.end().await;
}

/// A user of Slurm copies the stamp of somebody's placeholder into a job of their own, as the next attempt, and ends it:
/// were it believed, the pods would leave with it.
#[tokio::test]
async fn a_copied_stamp_makes_no_placeholder() {
    let Some(mut story) = Story::begin("posing").await else { return };
    story.kube.create(&manifest::indexed_job("gang", 2, &manifest::template(8, &[]))).await;
    let before = story.bound("gang-", 2).await;
    let job = story.seated(&before).await;
    let stamp = wait("the placeholder is sealed", SOON, async || {
        let job = story.slurm.job(job.id.0).await;
        Stamp::parse(&job.admin_comment).ok_or(job.comment)
    })
    .await;
    let next = Stamp { generation: stamp.generation + 1, ..stamp };
    let comment = format!("--comment={}", next.to_text());
    let words = ["--parsable", "--external", "--partition=gangway", "--nodes=1", &comment];
    let said = story.world.run_as("bob", "sbatch", &words);
    let id: u32 = said.trim().parse().unwrap_or_else(|_| unreachable!("sbatch says {said}"));
    story.slurm.adopt(JobId(id));
    assert_eq!(Stamp::of(&story.slurm.job(id).await), Some(next), "it looks like one");
    // A bridge that begins reads every job.
    story.bridge.kill();
    story.bridge.start().await;
    let log = story.bridge.directory().join("gangway.log");
    let noticed = format!("job={id} user=\"bob\"");
    wait("the bridge has noticed it", SOON, async || {
        let said = std::fs::read_to_string(&log).expect("a log");
        if said.contains(&noticed) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    story.slurm.scancel("bob", id);
    story.slurm.reaches(id, BaseState::Cancelled).await;
    // Whoever comes after that is served after that.
    story.kube.create(&manifest::pod("later", &manifest::template(8, &[]))).await;
    story.bound("later", 1).await;
    let uids = |pods: &[Pod]| pods.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&story.bound("gang-", 2).await), "nobody has left");
    assert_eq!(story.slurm.job(job.id.0).await.state.base, BaseState::Running);
    story.end().await;
}

/// All attacks behind one kind of guard.
async fn behind(story: &Story, guard: usize) {
    guarded(story).await;
    let began = Instant::now();
    // Dora's gang runs as who her group is, whoever made its pods.
    let job = manifest::indexed_job("victim", 2, &manifest::template(8, &[]));
    let made = story.kubectl_as(DORA, &["create", "-f", "-"], &job.to_string());
    made.expect("a Job of Dora's");
    let victim = story.bound("victim", 2).await;
    let stamped = |pod: &Pod| pod.annotations.get(names::REQUESTER).cloned();
    assert_eq!(stamped(&victim[0]).as_deref(), Some("dora"));
    let her_job = story.slurm.job(victim[0].job()).await;
    assert_eq!((her_job.user.as_str(), her_job.account.as_str()), ("alice", "team1"));

    let stamp = Stamp::of(&her_job).expect("a placeholder").to_text();

    // Mallory passes for Dora, for root, and for Dora's placeholder: her job is bob's all the same, and its own.
    let forged = manifest::template(
        1,
        &[
            (names::REQUESTER, "dora"),
            (names::REQUESTER_GROUPS, "research"),
            ("slurmjob.slinky.slurm.net/user-id", "0"),
            ("gangway.dev/comment", &stamp),
        ],
    );
    let create = |pod: &Value| {
        let made = story.kubectl_as(MALLORY, &["create", "-f", "-"], &pod.to_string());
        made.expect("a pod that is none of an attack");
    };
    create(&manifest::pod("forged", &forged));
    let own = story.bound("forged", 1).await;
    assert_eq!(stamped(&own[0]).as_deref(), Some("mallory"));
    let job = story.slurm.job(own[0].job()).await;
    assert_eq!((job.user.as_str(), job.account.as_str()), ("bob", "team2"));
    assert_ne!(Stamp::of(&job).expect("a placeholder").to_text(), stamp);
    assert_eq!(job.comment, stamp, "it is only a comment");

    // Two pods of hers that wait, to be attacked with.
    let mut gated = manifest::pod("gated", &manifest::template(1, &[]));
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    create(&gated);
    create(&annotated("waiting", "gangway.dev/begin", "now+1hour"));
    story.told("waiting", "BeginTime").await;

    let refused_before = story.refusals_of(MALLORY.0);
    let mut refused = 0;
    let attacks = attacks(&victim[0]);
    for attack in &attacks {
        let came = carry_out(story, attack);
        match attack.fates[guard] {
            Refused(words) => {
                let problem = came.expect_err(attack.name);
                assert!(problem.contains(words), "{}: {problem}", attack.name);
                refused += usize::from(!words.is_empty());
            }
            Told(words) => {
                assert_eq!(came, Ok(()), "{}", attack.name);
                story.told(about(attack), words).await;
            }
        }
    }
    let in_history = story.refusals_of(MALLORY.0) - refused_before;
    assert!(in_history >= refused, "{in_history} of {refused} refusals are in the audit log");

    // Nobody else has noticed.
    let place = |pod: &Pod| (pod.uid.clone(), pod.node.clone(), pod.annotations.clone());
    for pod in &victim {
        assert_eq!(place(pod), place(&story.kube.pod(&pod.name).await), "Dora's pod");
    }
    assert_eq!(story.slurm.job(her_job.id.0).await.state.base, BaseState::Running);
    let pods = story.kube.pods().await;
    let runs = pods.iter().filter(|pod| pod.node.is_some()).count();
    assert_eq!(runs, 3, "only Dora's and the honest half of Mallory's run");
    for (_, job) in story.slurm.live().await {
        assert!(["alice", "bob"].contains(&job.user.as_str()), "job {} of {}", job.id, job.user);
    }
    story.note(&format!(
        "behind {}: {} attacks, {refused} refused at once and in the audit log, the others told, in {:.1} s",
        ["the webhook", "policies alone"][guard],
        attacks.len(),
        began.elapsed().as_secs_f32()
    ));
    story.kube.delete_all().await;
    story.gone("").await;
}

/// A pod that is made as Mallory, to see what becomes of it.
fn tried(story: &Story) -> Result<Value, String> {
    let pod = manifest::pod("tried", &manifest::template(1, &[]));
    let words = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let made = story.kubectl_as(MALLORY, &words, &pod.to_string())?;
    serde_json::from_str(&made).map_err(|error| error.to_string())
}

/// Waits until both the changing and the refusing half are heard by the API server.
async fn guarded(story: &Story) {
    wait("the API server asks", SOON, async || {
        let pod = tried(story)?;
        let stamped = pod["metadata"]["annotations"][names::REQUESTER] == "mallory";
        let tolerates = pod["spec"]["tolerations"].to_string().contains(names::TAINT_MANAGED);
        let forged = annotated("tried", names::JOB_ID, "1").to_string();
        let words = ["create", "--dry-run=server", "-f", "-"];
        let refused = story.kubectl_as(MALLORY, &words, &forged).is_err();
        let mut preset = manifest::pod("tried", &manifest::template(1, &[]));
        preset["spec"]["nodeName"] = json!("p5-0001");
        let kept_out = story.kubectl_as(MALLORY, &words, &preset.to_string()).is_err();
        let all = [stamped, tolerates, refused, kept_out];
        if all.into_iter().all(|one| one) { Ok(()) } else { Err(format!("{all:?}: {pod}")) }
    })
    .await;
}

/// A new certificate is shown without a restart.
async fn renewed(story: &Story, webhook: &mut Admission) {
    let trust = Trust::new();
    let (certificate, key) = trust.sign(&["127.0.0.1"]);
    webhook.certify(&certificate, &key);
    webhook.install_webhook(story, &trust.pem());
    guarded(story).await;
}
