//! The gRPC door: any language may knock, and with certificates only those who have one.

use std::time::Duration;

use gangway_api::v1;
use gangway_api::v1::extender_client::ExtenderClient;
use gangway_core::job::{BaseState, JobId};
use gangway_tests::{SOON, Story, wait};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Python, with stubs made from the proto on the spot.
#[tokio::test]
async fn a_stranger_in_python_places_a_gang() {
    let Some(story) = Story::begin("python").await else { return };
    // A world of its own: the bridge's scheduler ends placeholders of its cluster without pods.
    let cluster = format!("{}-stranger", story.cluster);
    let address = format!("127.0.0.1:{}", story.bridge.grpc);
    let mut python = story.world.command("root-python3");
    python.args(["tests/python/extender.py", "proto", &address, &cluster, "gang-of-two"]);
    // It runs beside this test's runtime, which has nothing else to do.
    let ran = tokio::task::spawn_blocking(move || python.output()).await.expect("it is joined");
    let ran = ran.expect("Python can be started");
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{complaint}");
    let said = String::from_utf8(ran.stdout).expect("text");
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let all = |what: &str| -> Vec<&Value> { lines.iter().filter(|l| l["what"] == what).collect() };
    let one = |what: &str| -> &Value {
        let found = all(what);
        assert_eq!(found.len(), 1, "one {what} in {said}");
        found[0]
    };

    assert_eq!(one("health")["serving"], true);
    assert_eq!(all("bad").len(), 3);
    for bad in all("bad") {
        assert_eq!(bad["code"], "INVALID_ARGUMENT", "{}", bad["name"]);
    }
    let allocated = &one("allocated")["allocated"];
    let id = u32::try_from(allocated["job_id"].as_u64().expect("a job")).expect("a job id");
    let seats = allocated["seats"].as_array().expect("seats");
    assert_eq!(seats.len(), 2);
    let job = story.slurm.job(id).await;
    for (rank, seat) in seats.iter().enumerate() {
        // Protobuf's JSON leaves out zeros.
        assert_eq!(seat["rank"].as_u64().unwrap_or(0), rank as u64);
        assert_eq!(seat["member_uid"], format!("gang-of-two-{rank}"));
        assert_eq!(seat["indexes"]["gpu"]["index"].as_array().map(Vec::len), Some(8));
        assert_eq!(seat["indexes"]["efa"]["index"].as_array().map(Vec::len), Some(32));
    }
    assert_ne!(seats[0]["node"], seats[1]["node"]);
    assert_eq!(one("again")["allocated"]["job_id"], id);
    let explained = one("explain");
    assert_eq!(explained["verdict"]["allocated"]["job_id"], id);
    assert_eq!(explained["placeholders"][0]["job_id"], id);
    assert_eq!(explained["placeholders"][0]["user"], "alice");
    let watched = all("watch");
    assert_eq!(watched[0]["placeholder"]["state"], "RUNNING", "{said}");
    assert_eq!(watched[1]["synced"], true, "{said}");
    let last = watched.last().expect("it was watched to its end");
    assert_eq!(last["placeholder"]["state"], "CANCELLED", "{said}");
    assert_eq!(one("release")["job_ids"][0], id);
    assert_eq!(one("ended")["ended"]["state"], "CANCELLED");
    assert!(one("release again").get("job_ids").is_none());
    assert_eq!(job.id, JobId(id));
    story.slurm.reaches(id, BaseState::Cancelled).await;
    story.end().await;
}

/// A CA and what it signs, as files where needed.
pub(crate) struct Trust {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are fine names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { ca: CertifiedIssuer::self_signed(params, key).expect("a CA") }
    }

    /// Certificate and key in PEM.
    pub(crate) fn sign(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.ca).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// The CA's own certificate in PEM.
    pub(crate) fn pem(&self) -> String {
        self.ca.pem()
    }

    fn ca(&self) -> Certificate {
        Certificate::from_pem(self.ca.pem())
    }
}

async fn explain(channel: Result<Channel, tonic::transport::Error>) -> Result<(), String> {
    let channel = channel.map_err(|error| format!("{error:?}"))?;
    let request = v1::ExplainRequest { cluster: "nobody".to_owned(), uid: "nothing".to_owned() };
    let answer = ExtenderClient::new(channel).explain(request).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

/// Knocks at the door on this port: believing this CA, showing this certificate with its key, all in PEM.
pub(crate) async fn knock(port: u16, ca: &str, own: (&str, &str)) -> Result<(), String> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let tls = tls.identity(Identity::from_pem(own.0, own.1));
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).expect("a URL");
    let endpoint = endpoint.timeout(Duration::from_secs(10)).tls_config(tls);
    explain(endpoint.map_err(|error| format!("{error:?}"))?.connect().await).await
}

#[tokio::test]
async fn only_a_client_with_a_certificate_of_our_ca_is_let_in() {
    let (ours, theirs) = (Trust::new(), Trust::new());
    let (certificate, key) = ours.sign(&["localhost", "127.0.0.1"]);
    let files = std::env::temp_dir().join(format!("gangway-tls-{}", std::process::id()));
    let story = Story::prepare("mtls", |setup| {
        std::fs::create_dir_all(&files).expect("the temporary directory can be written");
        let file = |name: &str, text: &str| {
            let path = files.join(name);
            std::fs::write(&path, text).expect("the temporary directory can be written");
            path.display().to_string()
        };
        setup.more = format!(
            "tls: {{ certificate: '{}', key: '{}', clientCA: '{}', clients: [a-client] }}\n\
             limits: {{ callsPerSecond: 5 }}\n",
            file("tls.crt", &certificate),
            file("tls.key", &key),
            file("ca.crt", &ours.ca.pem()),
        );
    });
    let Some(mut story) = story.await else { return };
    story.bridge.start().await;

    let endpoint = format!("https://localhost:{}", story.bridge.grpc);
    let endpoint = Endpoint::from_shared(endpoint).expect("a URL").timeout(Duration::from_secs(10));
    let connect = async |tls: ClientTlsConfig| {
        let endpoint = endpoint.clone().tls_config(tls).expect("certificates");
        explain(endpoint.connect().await).await
    };
    let trusting = || ClientTlsConfig::new().ca_certificate(ours.ca());
    let identity = |(certificate, key): (String, String)| Identity::from_pem(certificate, key);

    let known = connect(trusting().identity(identity(ours.sign(&["a-client"])))).await;
    assert_eq!(known, Ok(()), "a client of ours");
    let unlisted = connect(trusting().identity(identity(ours.sign(&["another"])))).await;
    assert!(unlisted.is_err(), "a client of our CA whose name is not listed");
    let stranger = connect(trusting().identity(identity(theirs.sign(&["a-client"])))).await;
    assert!(stranger.is_err(), "a client of another CA");
    let nobody = connect(trusting()).await;
    assert!(nobody.is_err(), "a client without a certificate");
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{}", story.bridge.grpc));
    let plain = explain(plain.expect("a URL").timeout(Duration::from_secs(10)).connect().await);
    assert!(plain.await.is_err(), "a client without TLS");
    story.note(&format!("without a certificate: {}", nobody.expect_err("just seen")));

    // Whoever asks too often is told so, and the bridge's own way in is not narrowed by that.
    let own = identity(ours.sign(&["a-client"]));
    let channel = endpoint.clone().tls_config(trusting().identity(own)).expect("certificates");
    let channel = channel.connect().await.expect("a client of ours");
    let mut refused = String::new();
    for _ in 0..200 {
        if let Err(said) = explain(Ok(channel.clone())).await {
            refused = said;
            break;
        }
    }
    assert!(refused.contains("a-client asks more than 5 times a second"), "{refused}");
    wait("it is let in again", SOON, async || explain(Ok(channel.clone())).await).await;

    // Everything is rotated, and nobody starts anew.
    let next = Trust::new();
    let (certificate, key) = next.sign(&["localhost"]);
    for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", next.pem())] {
        std::fs::write(files.join(name), text).expect("the temporary directory can be written");
    }
    wait("a client of the next CA is let in", SOON, async || {
        let (certificate, key) = next.sign(&["a-client"]);
        let tls = ClientTlsConfig::new().ca_certificate(next.ca());
        connect(tls.identity(Identity::from_pem(certificate, key))).await
    })
    .await;
    let before = connect(trusting().identity(identity(ours.sign(&["a-client"])))).await;
    assert!(before.is_err(), "a client of the CA before");

    // The scheduler's own way in needs none.
    let template = gangway_tests::manifest::template(8, &[]);
    story.kube.create(&gangway_tests::manifest::pod("alone", &template)).await;
    story.seated(&story.bound("alone", 1).await).await;
    story.end().await;
    std::fs::remove_dir_all(&files).expect("it is ours");
}
