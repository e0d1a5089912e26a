//! The Helm chart on the real API server: every object is taken, every pod passes the restricted profile, and the
//! configuration that it writes is one that the binary reads.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gangway_tests::rights::{granted, manifests};
use gangway_tests::{Bridge, Story};
use serde_json::{Value, json};

use crate::door::Trust;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/chart")
}

/// Everything switched on, as this release in the story's namespace. Without a Helm the story is skipped.
fn render(story: &Story) -> Option<String> {
    let Some(helm) = std::env::var_os("GANGWAY_HELM") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_HELM is not set");
        story.note("skipped: GANGWAY_HELM is not set");
        return None;
    };
    let mut command = Command::new(helm);
    command.args(["template", &story.cluster]).arg(chart()).args(["--kube-version", "1.33"]);
    command
        .args(["--namespace", &story.cluster, "--values"])
        .arg(chart().join("ci/all-values.yaml"));
    // There is no cert-manager in a world, so it is `gangway certificates` that would run; the namespace is the story's.
    let own = "certManager.enabled=false,certificates.enabled=true,namespace.create=false";
    command.args(["--set", own]);
    // Nobody answers its webhooks, so they look at no namespace that there is.
    command.arg("--set").arg(format!("admission.namespaceLabels.story={}", story.cluster));
    command.arg("--set").arg(format!("admission.caBundle={}", ca(story)));
    let out = command.stdin(Stdio::null()).output().expect("helm can be started");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).expect("UTF-8"))
}

/// A CA as a webhook's configuration has it.
fn ca(story: &Story) -> String {
    let file = story.bridge.directory().join("ca.pem");
    std::fs::write(&file, Trust::new().pem()).expect("the temporary directory can be written");
    let out = Command::new("base64").arg("-w0").arg(file).output().expect("base64 can be started");
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn kubectl(story: &Story, words: &[&str]) -> Output {
    let mut command = story.world.command("kubectl");
    command.args(words).env("KUBECONFIG", story.world.kubeconfig());
    command.output().expect("kubectl can be started")
}

fn apply(story: &Story, file: &Path, more: &[&str]) {
    let file = file.display().to_string();
    let words = [&["apply", "--server-side", "--validate=strict", "-f", &file][..], more].concat();
    let out = kubectl(story, &words);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words:?}: {said}");
    // PodSecurity warns of templates that it would not let in.
    assert!(!said.contains("Warning"), "{words:?}: {said}");
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// What the binary says to a configuration file: nothing is reached, so it always ends with an error.
fn says(verb: &str, text: &str, directory: &Path) -> String {
    let config = directory.join(format!("{verb}.yaml"));
    std::fs::write(&config, text).expect("the temporary directory can be written");
    let mut command = Bridge::command(verb, &config);
    command.args(["--log", "error"]);
    if verb != "ui" {
        command.args(["--kubeconfig", "/nowhere"]);
    }
    let out = command.output().expect("gangway can be started");
    assert!(!out.status.success());
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[tokio::test]
async fn the_chart_is_taken_whole_and_its_pods_are_restricted() {
    let Some(story) = Story::prepare("chart", |_| {}).await else { return };
    let Some(text) = render(&story) else { return story.end().await };
    let directory = story.bridge.directory();
    let file = directory.join("chart.yaml");
    std::fs::write(&file, text).expect("the temporary directory can be written");
    for level in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{level}=restricted");
        let out = kubectl(&story, &["label", "namespace", &story.cluster, &label]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    apply(&story, &file, &["--dry-run=server"]);
    apply(&story, &file, &[]);
    for crd in std::fs::read_dir(chart().join("crds")).expect("the chart has CRDs").flatten() {
        apply(&story, &crd.path(), &["--dry-run=server"]);
    }

    let objects = gangway_tests::rights::objects(&file);
    let deployments = of_kind(&objects, "Deployment");
    assert_eq!(deployments.len(), 6);
    for deployment in &deployments {
        let name = deployment["metadata"]["name"].as_str().expect("a name");
        let template = &deployment["spec"]["template"];
        // As the Deployment's controller would make it.
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
        });
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(story.cluster);
        let path = directory.join("pod.json");
        std::fs::write(&path, pod.to_string()).expect("the temporary directory can be written");
        apply(&story, &path, &["--dry-run=server"]);
        // And refused where it may write to its root, so that the profile is really looked at.
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        std::fs::write(&path, pod.to_string()).expect("the temporary directory can be written");
        let words =
            ["apply", "--server-side", "--dry-run=server", "-f", &path.display().to_string()];
        let out = kubectl(&story, &words);
        assert!(String::from_utf8_lossy(&out.stderr).contains("violates PodSecurity"), "{out:?}");
        for container in template["spec"]["containers"].as_array().into_iter().flatten() {
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
            assert!(container["resources"]["requests"]["memory"].is_string(), "{name}");
        }
    }
    // Only the one that mints has Slurm's key.
    for (deployment, container) in deployments.iter().flat_map(|deployment| {
        let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
        containers.into_iter().flatten().map(move |container| (deployment, container))
    }) {
        let mounts = container["volumeMounts"].to_string();
        assert!(!mounts.contains("/run/gangway/key"), "{}", deployment["metadata"]["name"]);
    }

    // The chart grants what the manifests do, and no more.
    let ours = |user: &str, from: &str, prefix: &str| {
        user.strip_prefix(&format!("system:serviceaccount:{from}:{prefix}-")).map(str::to_owned)
    };
    let rights = |all: gangway_tests::rights::ByUser, from: &str, prefix: &str| {
        let pairs = all.into_iter().filter_map(|(user, rights)| {
            let names = rights.into_iter().map(|mut right| {
                right.namespace =
                    if right.namespace.is_empty() { String::new() } else { "own".to_owned() };
                right.to_string()
            });
            Some((ours(&user, from, prefix)?, names.collect::<Vec<_>>()))
        });
        pairs.collect::<std::collections::BTreeMap<_, _>>()
    };
    let rendered = rights(granted(&objects), &story.cluster, &story.cluster);
    let mut written = rights(granted(&manifests(&chart().join(".."))), "gangway", "gangway");
    written.retain(|part, _| rendered.contains_key(part));
    assert_eq!(rendered.len(), 6, "{:?}", rendered.keys());
    assert_eq!(rendered, written);

    let config = of_kind(&objects, "ConfigMap")[0]["data"].clone();
    for (verb, key) in [
        ("scheduler", "gangway.yaml"),
        ("controllers", "gangway.yaml"),
        ("extender", "extender.yaml"),
        ("ui", "ui.yaml"),
    ] {
        let text = config[key].as_str().expect("a text");
        let said = says(verb, text, directory);
        assert!(!said.contains("the configuration"), "{verb}: {said}");
        let said = says(verb, &format!("{text}\nunheard: of\n"), directory);
        assert!(said.contains("unheard"), "{verb} does not read its file: {said}");
    }
    let out = kubectl(&story, &["delete", "--wait=false", "-f", &file.display().to_string()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    story.end().await;
}
