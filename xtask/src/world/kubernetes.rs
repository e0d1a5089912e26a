//! The Kubernetes side of a world: etcd, the API server, its controllers, KWOK and the training-operator.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::daemons::Daemons;
use super::ports::Ports;
use super::{repo, slurm};
use crate::cache::Parts;
use crate::process::{Process, ask, tail, wait_for};

const AUDIT: &str = include_str!("../../../manifests/world/audit-policy.yaml");
const STAGES: &str = include_str!("../../../manifests/world/kwok-stages.yaml");

/// Where the operator's webhook server looks for its certificate; not to be changed by a flag.
const SERVING_CERTS: &str = "/tmp/k8s-webhook-server/serving-certs";

/// The user that the bridge is, as RBAC sees it.
const BRIDGE: &str = "system:serviceaccount:gangway:gangway-scheduler";

/// The user that `gangway controllers` is.
const CONTROLLERS: &str = "system:serviceaccount:gangway:gangway-controllers";

/// The user that `gangway extender` is.
const EXTENDER: &str = "system:serviceaccount:gangway:gangway-extender";

/// The user that `gangway prolog` is.
const PROLOG: &str = "system:serviceaccount:gangway:gangway-prolog";

/// The user that `gangway admission` is.
const ADMISSION: &str = "system:serviceaccount:gangway:gangway-admission";

/// The user that `gangway certificates` is.
const CERTIFICATES: &str = "system:serviceaccount:gangway:gangway-certificates";

/// The group that kubelets are in.
const NODES: &str = "system:nodes";

/// The Kubernetes side of the world in `world`.
pub(crate) struct Kubernetes<'a> {
    pub(crate) world: &'a Path,
    pub(crate) parts: &'a Parts,
    /// The directory of further controllers, where they are wanted.
    pub(crate) controllers: Option<PathBuf>,
    /// The hosts whose nodes have a kubelet, so that KWOK keeps away from them.
    pub(crate) kubelets: &'a [String],
    pub(crate) ports: Ports,
    pub(crate) daemons: &'a Daemons,
}

impl Kubernetes<'_> {
    /// Brings everything up and waits until it serves; the nodes are there and ready then.
    pub(crate) fn up(&self, nodes: &[String]) -> Result<()> {
        self.configure()?;
        let etcd = self.start("etcd", &self.parts.etcd.join("etcd"), &self.etcd())?;
        self.wait("etcd", etcd, 30, || slurm::open(self.ports.port("etcd")))?;
        let api = self.binary("kube-apiserver", &self.apiserver())?;
        self.wait("kube-apiserver", api, 60, || slurm::open(self.ports.port("apiserver")))?;
        self.wait("kube-apiserver", api, 60, || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })?;

        // Kinds come before the controllers: the garbage collector looks for new ones only every 30 s.
        self.create_kinds(api)?;
        let manager = self.binary("kube-controller-manager", &self.manager())?;
        let kwok = self.binary("kwok", &self.kwok())?;
        let operator = self.operator()?;
        let controllers = self.start_controllers()?;
        self.create(&nodes_json(nodes, self.kubelets))?;
        self.wait("kube-controller-manager", manager, 60, || {
            self.kubectl(&["get", "serviceaccount", "default"]).is_ok()
        })?;
        let want = nodes.len() + 4 - self.kubelets.len();
        self.wait("kwok", kwok, 120, || self.schedulable().is_ok_and(|count| count == want))?;
        self.wait_for_operator(operator)?;
        self.wait_for_controllers(&controllers)
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.world.join("kubernetes")
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.directory().join(name).to_string_lossy().into_owned()
    }

    /// Files of the control plane: keys, tokens, and a kubeconfig for each token.
    fn configure(&self) -> Result<()> {
        let directory = self.directory();
        fs::create_dir_all(directory.join("tmp"))?;
        fs::create_dir_all(directory.join("pki"))?;
        fs::copy(self.parts.seed.join("sa.key"), directory.join("sa.key"))?;
        fs::write(directory.join("audit-policy.yaml"), AUDIT)?;
        fs::write(directory.join("kwok-stages.yaml"), STAGES)?;
        let (admin, bridge, controllers, prolog) = (token()?, token()?, token()?, token()?);
        let admission = token()?;
        let (extender, certificates) = (token()?, token()?);
        let mut kubelets = String::new();
        for name in self.kubelets {
            let own = token()?;
            let _ = writeln!(kubelets, "{own},system:node:{name},{name},\"{NODES}\"");
            let file = format!("{name}.kubeconfig");
            self.secret(&file, &self.kubeconfig_inside(name, &own))?;
        }
        let groups = "system:serviceaccounts,system:serviceaccounts:gangway,system:authenticated";
        self.secret(
            "tokens.csv",
            &format!(
                "{admin},admin,admin,system:masters\n{bridge},{BRIDGE},bridge,\"{groups}\"\n\
                 {controllers},{CONTROLLERS},controllers,\"{groups}\"\n\
                 {extender},{EXTENDER},extender,\"{groups}\"\n\
                 {prolog},{PROLOG},prolog,\"{groups}\"\n\
                 {admission},{ADMISSION},admission,\"{groups}\"\n\
                 {certificates},{CERTIFICATES},certificates,\"{groups}\"\n{kubelets}"
            ),
        )?;
        self.secret("kubeconfig", &self.kubeconfig("admin", &admin))?;
        self.secret("gangway.kubeconfig", &self.kubeconfig("gangway-scheduler", &bridge))?;
        let webhook = self.kubeconfig("gangway-admission", &admission);
        self.secret("admission.kubeconfig", &webhook)?;
        let papers = self.kubeconfig("gangway-certificates", &certificates);
        self.secret("certificates.kubeconfig", &papers)?;
        let nodes = self.kubeconfig("gangway-controllers", &controllers);
        self.secret("controllers.kubeconfig", &nodes)?;
        self.secret("extender.kubeconfig", &self.kubeconfig("gangway-extender", &extender))?;
        self.secret("prolog.kubeconfig", &self.kubeconfig_inside("gangway-prolog", &prolog))
    }

    /// To be read inside the Slurm host, where the world lies elsewhere.
    fn kubeconfig_inside(&self, user: &str, token: &str) -> String {
        self.kubeconfig(user, token).replace(&*self.world.to_string_lossy(), "/mnt/world")
    }

    fn secret(&self, name: &str, content: &str) -> Result<()> {
        let path = self.directory().join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn kubeconfig(&self, user: &str, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: world\n\
             clusters:\n- name: world\n  cluster:\n    server: https://127.0.0.1:{}\n    certificate-authority: {}\n\
             users:\n- name: {user}\n  user:\n    token: {token}\n\
             contexts:\n- name: world\n  context: {{cluster: world, user: {user}}}\n",
            self.ports.port("apiserver"),
            self.file("pki/apiserver.crt"),
        )
    }

    fn etcd(&self) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", self.ports.port("etcd"));
        let peer = format!("http://127.0.0.1:{}", self.ports.port("etcd-peer"));
        vec![
            format!("--data-dir={}", self.file("etcd")),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]
    }

    fn apiserver(&self) -> Vec<String> {
        let key = self.file("sa.key");
        // Who kubelets know it by. Their nodes have names that nobody on this machine can look up.
        let certificate = self.parts.seed.join("tls.crt");
        let secret = self.parts.seed.join("tls.key");
        vec![
            format!("--kubelet-client-certificate={}", certificate.display()),
            format!("--kubelet-client-key={}", secret.display()),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.port("etcd")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.port("apiserver")),
            format!("--cert-dir={}", self.file("pki")),
            format!("--token-auth-file={}", self.file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--feature-gates=GenericWorkload=true,GangScheduling=true".to_owned(),
            "--runtime-config=scheduling.k8s.io/v1alpha2=true".to_owned(),
            "--max-requests-inflight=2000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
            format!("--audit-policy-file={}", self.file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.world.join("audit.log").display()),
        ]
    }

    fn manager(&self) -> Vec<String> {
        let controllers =
            "*,-ttl,-node-ipam-controller,-service-lb-controller,-cloud-node-lifecycle-controller";
        vec![
            format!("--kubeconfig={}", self.file("kubeconfig")),
            format!("--service-account-private-key-file={}", self.file("sa.key")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.port("controller-manager")),
            format!("--cert-dir={}", self.file("pki-manager")),
            // Without the gate here, deleted PodGroups hang on their finalizer.
            "--feature-gates=GenericWorkload=true".to_owned(),
            format!("--controllers={controllers}"),
            // KWOK's nodes send no heartbeats.
            "--node-monitor-grace-period=100000s".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--concurrent-job-syncs=20".to_owned(),
            "--leader-elect=false".to_owned(),
        ]
    }

    fn kwok(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.file("kubeconfig")),
            format!("--config={}", self.file("kwok-stages.yaml")),
            "--manage-all-nodes=false".to_owned(),
            "--manage-nodes-with-label-selector=type=kwok".to_owned(),
            "--node-lease-duration-seconds=0".to_owned(),
            "--cidr=10.1.0.0/16".to_owned(),
            format!("--server-address=127.0.0.1:{}", self.ports.port("kwok")),
        ]
    }

    /// Installs the namespaces, the PyTorchJob CRD and the manifests that a real cluster would get from us too.
    fn create_kinds(&self, api: Process) -> Result<()> {
        let namespaces = ["kubeflow", "gangway"].map(|name| {
            format!("{{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{{\"name\":\"{name}\"}}}}")
        });
        let secret = "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\
            \"metadata\":{\"name\":\"training-operator-webhook-cert\",\"namespace\":\"kubeflow\"}}";
        self.create(&list(&[&namespaces[0], &namespaces[1], secret, &nodes_binding()]))?;
        let mut files: Vec<PathBuf> =
            fs::read_dir(repo()?.join("manifests"))?.flatten().map(|entry| entry.path()).collect();
        // Not what is rendered from the chart: a story's bridge runs outside of the cluster.
        files.retain(|path| path.to_string_lossy().ends_with("-rbac.yaml"));
        files.sort();
        files.insert(0, self.parts.bin.join("pytorchjobs.yaml"));
        // What every bridge shows where it is served. A story brings SlurmPolicies, which decide.
        files.push(repo()?.join("manifests/crds/gangs.yaml"));
        files.extend(self.further_kinds()?);
        for file in files {
            self.kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()])?;
        }
        // A kind that was applied a moment ago has no condition yet, and `wait` takes that for an error.
        self.wait("kube-apiserver", api, 30, || {
            self.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]).is_ok()
        })
    }

    /// Starts the training-operator.
    fn operator(&self) -> Result<Process> {
        // It reads its certificate from a fixed place under /tmp, where in a pod a Secret is mounted. Each world mounts
        // its own there, in a mount namespace that only the operator sees.
        let certificates = self.directory().join("serving-certs");
        fs::create_dir_all(&certificates)?;
        for name in ["tls.crt", "tls.key"] {
            fs::copy(self.parts.seed.join(name), certificates.join(name))?;
        }
        fs::create_dir_all(SERVING_CERTS)?;
        let port = |name| self.ports.port(name);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"")
            .arg("sh")
            .args([&certificates, Path::new(SERVING_CERTS)])
            .arg(self.parts.bin.join("training-operator.v1"))
            .arg(format!("--kubeconfig={}", self.file("kubeconfig")))
            .arg("--enable-scheme=pytorchjob")
            .arg(format!("--metrics-bind-address=127.0.0.1:{}", port("operator-metrics")))
            .arg(format!("--health-probe-bind-address=127.0.0.1:{}", port("operator-health")))
            .arg(format!("--webhook-server-port={}", port("operator-webhook")))
            .env("MY_POD_NAMESPACE", "kubeflow")
            .env_remove("KUBECONFIG");
        self.daemons.start("training-operator", &mut command)
    }

    /// Waits until the operator looks after PyTorchJobs.
    fn wait_for_operator(&self, operator: Process) -> Result<()> {
        let log = self.daemons.log("training-operator");
        let works = |line: &str| line.contains("Starting workers") && line.contains("pytorchjob");
        self.wait("training-operator", operator, 60, || {
            fs::read_to_string(&log).is_ok_and(|text| text.lines().any(works))
        })
    }

    /// How many nodes a scheduler could use: ready, and without a taint.
    fn schedulable(&self) -> Result<usize> {
        let template = "{{range .items}}{{if not .spec.taints}}{{range .status.conditions}}\
            {{if and (eq .type \"Ready\") (eq .status \"True\")}}x{{end}}{{end}}{{end}}{{end}}";
        Ok(self.kubectl(&["get", "nodes", "-o", "go-template", "--template", template])?.len())
    }

    /// Whether a node says that it is ready, and has lost the taint of those that are not.
    pub(super) fn ready(&self, node: &str) -> bool {
        let template = "{{if not .spec.taints}}{{range .status.conditions}}{{if eq .type \"Ready\"}}{{.status}}{{end}}{{end}}{{end}}";
        let words = ["get", "node", node, "-o", "go-template", "--template", template];
        self.kubectl(&words).is_ok_and(|said| said == "True")
    }

    pub(super) fn create(&self, json: &str) -> Result<()> {
        let mut command = self.kubectl_command();
        ask(command.args(["create", "--validate=false", "-f", "-"]), json).map(drop)
    }

    pub(super) fn kubectl(&self, words: &[&str]) -> Result<String> {
        ask(self.kubectl_command().args(words), "")
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.parts.bin.join("kubectl"));
        command.env("KUBECONFIG", self.file("kubeconfig"));
        command
    }

    fn binary(&self, name: &str, words: &[String]) -> Result<Process> {
        self.start(name, &self.parts.bin.join(name), words)
    }

    pub(super) fn start(&self, name: &str, program: &Path, words: &[String]) -> Result<Process> {
        let mut command = Command::new(program);
        command.args(words).env("TMPDIR", self.file("tmp")).env_remove("KUBECONFIG");
        self.daemons.start(name, &mut command)
    }

    pub(super) fn wait(
        &self,
        name: &str,
        process: Process,
        seconds: u64,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        let log = self.daemons.log(name);
        let ok = wait_for(Duration::from_secs(seconds), || {
            if condition() {
                return Ok(true);
            }
            if !process.alive() {
                bail!("{name} ended; {}", tail(&log));
            }
            Ok(false)
        })?;
        if !ok {
            bail!("{name} is not ready after {seconds} s; {}", tail(&log));
        }
        Ok(())
    }
}

/// All nodes as one List: those that only KWOK plays, and the four that have a slurmd too. Of these some have a real
/// kubelet, which adds what it knows to what is said here, and looks for nothing at a node's address but itself.
fn nodes_json(names: &[String], kubelets: &[String]) -> String {
    let node = |name: &str, by: &str, labels: &str, cpu: &str, memory: &str| {
        let address = match by {
            "kwok" => "",
            _ => ",\"addresses\":[{\"type\":\"InternalIP\",\"address\":\"127.0.0.1\"}]",
        };
        let resources = format!(
            "{{\"cpu\":\"{cpu}\",\"memory\":\"{memory}\",\"pods\":\"110\",\
             \"nvidia.com/gpu\":\"8\",\"vpc.amazonaws.com/efa\":\"32\"}}"
        );
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\
             \"type\":\"{by}\",\"kubernetes.io/hostname\":\"{name}\",\"kubernetes.io/os\":\"linux\",\
             \"kubernetes.io/arch\":\"amd64\"{labels}}}}},\
             \"status\":{{\"capacity\":{resources},\"allocatable\":{resources}{address}}}}}"
        )
    };
    let p5 = ",\"node.kubernetes.io/instance-type\":\"p5.48xlarge\"";
    let external = names.iter().map(|name| node(name, "kwok", p5, "192", "2Ti"));
    let hybrid = (1..=4).map(|i| format!("h{i}")).map(|name| {
        let by = if kubelets.contains(&name) { "kubelet" } else { "kwok" };
        node(&name, by, "", "8", "4000Mi")
    });
    let items: Vec<String> = external.chain(hybrid).collect();
    list(&items.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What kubelets may do: what Kubernetes itself foresees for nodes, for any node.
fn nodes_binding() -> String {
    format!(
        "{{\"apiVersion\":\"rbac.authorization.k8s.io/v1\",\"kind\":\"ClusterRoleBinding\",\
         \"metadata\":{{\"name\":\"world-nodes\"}},\"roleRef\":{{\"apiGroup\":\"rbac.authorization.k8s.io\",\
         \"kind\":\"ClusterRole\",\"name\":\"system:node\"}},\"subjects\":[{{\"kind\":\"Group\",\
         \"apiGroup\":\"rbac.authorization.k8s.io\",\"name\":\"{NODES}\"}}]}}"
    )
}

fn list(items: &[&str]) -> String {
    format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{}]}}", items.join(","))
}

fn token() -> Result<String> {
    let mut text = String::new();
    for byte in slurm::random(16)? {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
