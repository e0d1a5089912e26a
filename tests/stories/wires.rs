//! The wires and what opens them: TLS to slurmrestd with certificates that rotate, tokens that another process mints,
//! and no secret in any log.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use gangway_tests::{Bridge, SOON, Seal, Secured, Setup, Story, manifest, wait};

use crate::door::Trust;

/// Files of one story, each replaced as a whole.
struct Files(PathBuf);

impl Files {
    fn put(&self, name: &str, text: &str) -> PathBuf {
        std::fs::create_dir_all(&self.0).expect("the temporary directory can be written");
        let (path, next) = (self.0.join(name), self.0.join("next"));
        std::fs::write(&next, text).expect("the temporary directory can be written");
        std::fs::rename(next, &path).expect("the temporary directory can be written");
        path
    }

    /// What a client of this CA needs.
    fn client(&self, trust: &Trust) {
        let (certificate, key) = trust.sign(&["gangway"]);
        self.put("ca.crt", &trust.pem());
        self.put("tls.crt", &certificate);
        self.put("tls.key", &key);
    }
}

/// A server of this CA that lets its clients in.
fn seal(trust: &Trust) -> Seal {
    let (certificate, key) = trust.sign(&["localhost"]);
    Seal { certificate, key, client_ca: trust.pem() }
}

async fn ready(story: &Story, wanted: u16) -> String {
    wait(&format!("/readyz says {wanted}"), SOON, async || match story.bridge.readyz().await {
        Some((code, said)) if code == wanted => Ok(said),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// `gangway token`, as a sidecar: it alone has the key.
fn minting(story: &Story, out: &Path) -> Child {
    let key = story.world.shared().join("slurm/etc/slurm/jwt.key");
    let log = std::fs::File::create(out.with_extension("log")).expect("a log");
    let mut command = std::process::Command::new(Bridge::binary());
    command.args(["token", "--lifetime", "60", "--log", "trace", "--key"]).arg(key);
    command.arg("--out").arg(out).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("gangway token can be started")
}

#[tokio::test]
async fn tls_to_slurmrestd_outlives_its_certificates_and_no_secret_is_logged() {
    let files = Files(std::env::temp_dir().join(format!("gangway-wires-{}", std::process::id())));
    let (old, new) = (Trust::new(), Trust::new());
    files.client(&old);
    let mut secured = None;
    let story = Story::prepare("wires", |setup: &mut Setup| {
        let proxy = Secured::before(&setup.slurm_url, &seal(&old));
        setup.slurm_url = proxy.url();
        secured = Some(proxy);
        let at = |name: &str| files.0.join(name).display().to_string();
        setup.slurm = format!(
            "tls: {{ ca: '{}', certificate: '{}', key: '{}' }}",
            at("ca.crt"),
            at("tls.crt"),
            at("tls.key"),
        );
        setup.token_file = files.0.join("token");
        setup.log = "trace";
    });
    let Some(mut story) = story.await else { return };
    let secured = secured.expect("just made");
    let token = files.0.join("token");
    let mut minter = minting(&story, &token);
    wait("a token is there", SOON, async || token.exists().then_some(()).ok_or_else(String::new))
        .await;
    let first = std::fs::read_to_string(&token).expect("a token");

    story.bridge.start().await;
    let template = manifest::template(8, &[]);
    let bind = async |name: &str| {
        story.kube.create(&manifest::pod(name, &template)).await;
        story.seated(&story.bound(name, 1).await).await;
    };
    bind("by-the-old-ca").await;
    let before = secured.let_in();
    assert!(before > 0, "nobody came through the proxy");

    // The server turns first: its new CA is not believed, and nothing is sent to it.
    secured.turn(&seal(&new));
    let said = ready(&story, 503).await;
    story.note(&format!("before the files are rotated: {said}"));
    assert_eq!(secured.let_in(), before, "it spoke to a server that nobody vouches for");
    files.client(&new);
    ready(&story, 200).await;
    bind("by-the-new-ca").await;

    // The next token of the minter, without waiting for half of its life.
    minter.kill().expect("it is ours");
    minter.wait().expect("it is ours");
    let mut minter = minting(&story, &token);
    let second = wait("another token is there", Duration::from_secs(10), async || {
        let now = std::fs::read_to_string(&token).expect("a token");
        if now == first { Err("it is the first".to_owned()) } else { Ok(now) }
    })
    .await;
    bind("by-the-next-token").await;
    story.kube.delete_pods("").await;
    story.gone("").await;
    story.nothing_lives(SOON).await;
    minter.kill().expect("it is ours");
    minter.wait().expect("it is ours");

    let key = std::fs::read_to_string(files.0.join("tls.key")).expect("a key");
    let key = key.lines().nth(1).expect("PEM has lines").to_owned();
    let kubernetes = std::fs::read_to_string(story.world.bridge_kubeconfig()).expect("it is there");
    let kubernetes = kubernetes.lines().find_map(|line| line.trim().strip_prefix("token: "));
    let kubernetes = kubernetes.expect("a kubeconfig with a token").to_owned();
    for log in [story.bridge.directory().join("gangway.log"), token.with_extension("log")] {
        let text = std::fs::read(&log).expect("a log");
        let text = String::from_utf8_lossy(&text);
        for (what, secret) in [
            ("the first token", &first),
            ("the second token", &second),
            ("the private key", &key),
            ("the API server's token", &kubernetes),
        ] {
            // A part of it would be enough: the signature is what makes a token one.
            let part = secret.rsplit('.').next().unwrap_or(secret);
            assert!(!text.contains(part), "{what} is in {}", log.display());
        }
        let lines = text.lines().count();
        story.note(&format!("{lines} lines at trace level in {}", log.display()));
    }
    let traced = std::fs::read_to_string(story.bridge.directory().join("gangway.log"));
    assert!(traced.expect("a log").contains("TRACE"), "that log says nothing at trace level");
    story.end().await;
    std::fs::remove_dir_all(&files.0).expect("it is ours");
}
