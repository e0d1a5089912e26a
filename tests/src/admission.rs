//! `gangway admission` in front of one story's namespace, as a webhook or as policies of the API server.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::bridge::Bridge;
use crate::http;
use crate::story::Story;
use crate::wait::{SOON, wait};

/// Where the manifests are.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/admission");
/// What every guard says of where it looks.
const EVERYWHERE: &str = "operator: NotIn, values: ['kube-system', 'gangway']";

/// A guard of one namespace. Whatever becomes of the story, it looks at no other.
pub struct Admission {
    /// Its port for /metrics.
    pub metrics: u16,
    webhook: u16,
    directory: PathBuf,
    child: Option<Child>,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    installed: String,
}

impl Admission {
    /// Starts the webhook with this certificate and key; `more` is further configuration.
    pub async fn start(story: &Story, (certificate, key): &(String, String), more: &str) -> Self {
        let [webhook, metrics, health] = [(); 3].map(|()| http::free_port());
        let mut admission = Self::of(story, webhook, metrics);
        admission.certify(certificate, key);
        let config = admission.directory.join("admission.yaml");
        let yaml = format!(
            "cluster: {}\ntls: {{ certificate: '{1}/tls.crt', key: '{1}/tls.key' }}\n\
             listen: {{ webhook: '127.0.0.1:{webhook}', metrics: '127.0.0.1:{metrics}', health: '127.0.0.1:{health}' }}\n{more}",
            story.cluster,
            admission.directory.display()
        );
        fs::write(&config, yaml).expect("the configuration can be written");
        let log = File::create(admission.directory.join("admission.log"));
        let child = Bridge::command("admission", &config)
            .arg("--kubeconfig")
            .arg(story.world.admission_kubeconfig())
            .stdout(Stdio::null())
            .stderr(log.expect("the log can be written"))
            .spawn();
        admission.child = Some(child.expect("admission can be started"));
        wait("admission is ready", SOON, async || match http::get(health, "/readyz").await {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        admission
    }

    fn of(story: &Story, webhook: u16, metrics: u16) -> Self {
        let directory = story.bridge.directory().join("admission");
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        Self {
            metrics,
            webhook,
            directory,
            child: None,
            kubectl: story.world.binary("kubectl"),
            kubeconfig: story.world.kubeconfig(),
            installed: String::new(),
        }
    }

    /// Gives it another certificate, as cert-manager would.
    pub fn certify(&self, certificate: &str, key: &str) {
        for (name, text) in [("tls.key", key), ("tls.crt", certificate)] {
            fs::write(self.directory.join(name), text).expect("the certificate can be written");
        }
    }

    /// Has the API server ask it about the story's namespace; `ca` signed its certificate.
    pub fn install_webhook(&mut self, story: &Story, ca: &str) {
        let text = fs::read_to_string(format!("{MANIFESTS}/webhook.yaml")).expect("the manifest");
        let kinds = text.split("\n---\n").filter(|part| part.contains("WebhookConfiguration"));
        let text = kinds.collect::<Vec<_>>().join("\n---\n");
        let service = "service: {name: gangway-admission, namespace: gangway, path: ";
        let bundle = base64(ca.as_bytes());
        let url = format!("caBundle: '{bundle}', url: 'https://127.0.0.1:{}", self.webhook);
        let text = ["/mutate", "/validate"].iter().fold(text, |text, path| {
            text.replace(&format!("{service}{path}}}"), &format!("{url}{path}'"))
        });
        let text =
            text.replace("values: [kube-system, gangway]", "values: ['kube-system', 'gangway']");
        self.install(story, &text);
    }

    /// Has the API server look itself; `more` is configuration of who is who.
    pub fn install_policies(story: &Story, more: &str) -> Self {
        let mut admission = Self::of(story, 0, 0);
        let config = admission.directory.join("policies.yaml");
        fs::write(&config, format!("cluster: {}\n{more}", story.cluster)).expect("written");
        let printed = Bridge::command("admission", &config).arg("--print-policies").output();
        let printed = printed.expect("admission can be started");
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        admission.install(story, &String::from_utf8(printed.stdout).expect("text"));
        admission
    }

    fn install(&mut self, story: &Story, text: &str) {
        assert!(text.contains(EVERYWHERE), "it would look at every namespace: {text}");
        let here = format!("operator: In, values: ['{}']", story.kube.namespace);
        self.installed = text.replace(EVERYWHERE, &here);
        let said = self.kubectl("apply", &["--server-side", "--force-conflicts"]);
        assert!(said.is_ok(), "{said:?}");
    }

    /// Takes the guards away.
    pub fn remove(&self) {
        let said = self.kubectl("delete", &["--ignore-not-found"]);
        assert!(said.is_ok(), "{said:?}");
    }

    fn kubectl(&self, verb: &str, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.kubectl);
        command.arg(verb).args(words).args(["-f", "-"]).env("KUBECONFIG", &self.kubeconfig);
        fed(&mut command, &self.installed).map(drop)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("admission.log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(10).collect();
            tell(&end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            // One that cannot be taken away looks at a namespace that is gone.
            let _ = self.kubectl("delete", &["--ignore-not-found"]);
        }
        if let Some(mut child) = self.child.take() {
            // Either fails only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command with this on its standard input: what it printed, or its complaint.
pub(crate) fn fed(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command can be started");
    let mut pipe = child.stdin.take().expect("it is piped");
    // One that has ended already has said why.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    let ran = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if ran.status.success() { Ok(text(&ran.stdout)) } else { Err(text(&ran.stderr)) }
}

fn base64(bytes: &[u8]) -> String {
    let mut command = Command::new("base64");
    fed(command.arg("-w0"), &String::from_utf8_lossy(bytes)).expect("base64 is everywhere")
}

#[expect(clippy::print_stdout, reason = "a test talks to a person")]
fn tell(what: &str) {
    println!("{what}");
}
