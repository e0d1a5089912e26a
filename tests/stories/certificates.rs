//! Certificates of our own making: the webhook and the door are there without cert-manager, and outlive a certificate and
//! its CA without a restart and without one lost question.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use gangway_tests::{Admission, Bridge, SOON, Story, manifest, wait};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, PostParams};

use crate::door::knock;

/// Whom the webhook lets through: it is of no interest here.
const OPEN: &str = "makers: [admin]\npolicy: { slurmPolicies: off, identities: [{ namespace: '*', user: alice }] }\n";
/// The names that our manifests give.
const CA: &str = "gangway-ca";
const ADMISSION: &str = "gangway-admission-tls";
const DOOR: &str = "gangway-door-tls";
/// Lives of seconds: a certificate is renewed after 8, the CA is announced after 16 and signs after 19.
const LIVES: [&str; 3] = ["--lifetime=12", "--ca-lifetime=24", "--spread=3"];

/// `gangway certificates`. Whatever becomes of the story, it does not outlive it: it would tell the API server of its CA
/// for as long as it lives.
struct Papers(Child);

impl Drop for Papers {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it with the rights that its manifest gives and no others.
fn start(story: &Story) -> Papers {
    let log = fs::File::create(story.bridge.directory().join("certificates.log")).expect("a log");
    let mut command = std::process::Command::new(Bridge::binary());
    command.args(["certificates", "--namespace=gangway", "--webhook=gangway-admission"]);
    command.args(LIVES).arg(format!("--issue={ADMISSION}=127.0.0.1,gangway-admission.gangway.svc"));
    command.arg(format!("--issue={DOOR}=localhost,gangway-scheduler.gangway.svc"));
    command.arg("--kubeconfig").arg(story.world.certificates_kubeconfig());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Papers(command.spawn().expect("gangway certificates can be started"))
}

/// A file of a Secret.
fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
    String::from_utf8(bytes.unwrap_or_default()).expect("PEM is text")
}

/// Puts a Secret's files where a process looks for them, as a kubelet does.
fn mount(secret: &Secret, directory: &Path) {
    fs::create_dir_all(directory).expect("the temporary directory can be written");
    for key in ["tls.key", "tls.crt", "ca.crt"] {
        let next = directory.join("next");
        fs::write(&next, text(secret, key)).expect("the temporary directory can be written");
        fs::rename(next, directory.join(key)).expect("the temporary directory can be written");
    }
}

async fn secret(secrets: &Api<Secret>, name: &str) -> Secret {
    wait(&format!("Secret {name} is there"), SOON, async || {
        secrets.get_opt(name).await.expect("the API server").ok_or_else(String::new)
    })
    .await
}

async fn clean(secrets: &Api<Secret>) {
    for name in [CA, ADMISSION, DOOR] {
        // One that is not there need not go.
        let _ = secrets.delete(name, &DeleteParams::default()).await;
    }
}

#[tokio::test]
async fn without_cert_manager_everything_goes_on_while_certificates_and_their_ca_are_renewed() {
    let directory = std::env::temp_dir().join(format!("gangway-papers-{}", std::process::id()));
    let door = directory.join("door");
    let at = |name: &str| door.join(name).display().to_string();
    let more = format!(
        "tls: {{ certificate: '{}', key: '{}', clientCA: '{}' }}\n",
        at("tls.crt"),
        at("tls.key"),
        at("ca.crt")
    );
    let Some(mut story) = Story::prepare("papers", |setup| setup.more = more).await else { return };
    let secrets: Api<Secret> = Api::namespaced(story.kube.client.clone(), "gangway");
    clean(&secrets).await;
    // What somebody else has made is never written, and keeps nobody from the rest.
    let foreign: Secret = serde_json::from_value(serde_json::json!({
        "metadata": {"name": DOOR}, "stringData": {"tls.crt": "of another"},
    }))
    .expect("a Secret");
    secrets.create(&PostParams::default(), &foreign).await.expect("it is made");

    let papers = start(&story);
    let first = secret(&secrets, ADMISSION).await;
    let log = story.bridge.directory().join("certificates.log");
    wait("it says whose the Secret is", SOON, async || {
        let said = fs::read_to_string(&log).expect("a log");
        if said.contains("made by somebody else") { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(text(&secret(&secrets, DOOR).await, "tls.crt"), "of another");
    secrets.delete(DOOR, &DeleteParams::default()).await.expect("it is deleted");
    mount(&secret(&secrets, DOOR).await, &door);

    story.bridge.start().await;
    let own = (text(&first, "tls.crt"), text(&first, "tls.key"));
    let mut webhook = Admission::start(&story, &own, OPEN).await;
    story.kubectl(&["label", "namespace", &story.kube.namespace, "gangway.dev/managed=true"]);
    // Without a word of whom to believe: that is for the one who makes the certificates.
    webhook.install_webhook(&story, "");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pod = manifest::pod("tried", &manifest::template(1, &[]));
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let tried = async || story.kube.api().create(&dry, &pod).await;
    wait("the API server believes the webhook", SOON, async || {
        let now = secret(&secrets, ADMISSION).await;
        webhook.certify(&text(&now, "tls.crt"), &text(&now, "tls.key"));
        let made = tried().await.map_err(|error| error.to_string())?;
        let stamped =
            made.metadata.annotations.is_some_and(|a| a.contains_key("gangway.dev/requester"));
        if stamped { Ok(()) } else { Err("nobody asks it".to_owned()) }
    })
    .await;

    // From here on no question is lost, while everything is renewed.
    let first_ca = text(&secret(&secrets, CA).await, "tls.crt");
    let (mut certificates, mut cas) =
        (vec![text(&secret(&secrets, ADMISSION).await, "tls.crt")], vec![first_ca]);
    let mut questions = 0;
    wait("three certificates and two CAs were seen", Duration::from_secs(60), async || {
        let now = secret(&secrets, ADMISSION).await;
        if text(&now, "tls.crt") != certificates[certificates.len() - 1] {
            certificates.push(text(&now, "tls.crt"));
        }
        webhook.certify(&text(&now, "tls.crt"), &text(&now, "tls.key"));
        let ca = text(&secret(&secrets, CA).await, "tls.crt");
        if ca != cas[cas.len() - 1] {
            cas.push(ca);
        }
        let at_the_door = secret(&secrets, DOOR).await;
        mount(&at_the_door, &door);
        tried().await.expect("the webhook answers, and is believed");
        let [ca, certificate, key] =
            ["ca.crt", "tls.crt", "tls.key"].map(|name| text(&at_the_door, name));
        knock(story.bridge.grpc, &ca, (&certificate, &key)).await.expect("the door is open");
        questions += 1;
        let seen = (certificates.len(), cas.len());
        if seen.0 >= 3 && seen.1 >= 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert!(
        text(&secret(&secrets, ADMISSION).await, "ca.crt").contains(cas[0].trim()),
        "the old CA is believed"
    );
    story.note(&format!(
        "{} certificates and {} CAs, {questions} questions each to the webhook and through the door, none lost",
        certificates.len(),
        cas.len()
    ));
    webhook.remove();
    drop(papers);
    clean(&secrets).await;
    story.end().await;
    fs::remove_dir_all(&directory).expect("it is ours");
}
