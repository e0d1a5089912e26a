//! The Kubernetes binaries, built from their Go modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::{golang, log};
use crate::process::{ask, leashed, run};
use crate::progress::step;

/// One Go module and the programs we take from it.
struct Module {
    name: &'static str,
    path: &'static str,
    version: &'static str,
    programs: &'static [&'static str],
    /// The version of the `k8s.io` modules that this module's own go.mod takes from its source tree.
    staging: Option<&'static str>,
    ldflags: &'static str,
    /// Files of the module that are needed beside its programs, and what they are called there.
    files: &'static [(&'static str, &'static str)],
}

static MODULES: [Module; 3] = [
    Module {
        name: "kubernetes",
        path: "k8s.io/kubernetes",
        version: "v1.36.3",
        programs: &["cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kubectl"],
        staging: Some("v0.36.3"),
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
            -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        files: &[],
    },
    Module {
        name: "kwok",
        path: "sigs.k8s.io/kwok",
        version: "v0.8.0",
        programs: &["cmd/kwok"],
        staging: None,
        ldflags: "-s -w",
        files: &[],
    },
    Module {
        name: "training-operator",
        path: "github.com/kubeflow/training-operator",
        version: "v1.8.1",
        programs: &["cmd/training-operator.v1"],
        staging: None,
        ldflags: "-s -w",
        files: &[(CRD, "pytorchjobs.yaml")],
    },
];

/// Controllers of further kinds: a part of their own, because only tests need them.
static CONTROLLERS: [Module; 2] = [
    Module {
        name: "jobset",
        path: "sigs.k8s.io/jobset",
        version: "v0.11.1",
        programs: &["."],
        staging: None,
        ldflags: "-s -w",
        files: &[("config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml", "jobsets.yaml")],
    },
    Module {
        name: "lws",
        path: "sigs.k8s.io/lws",
        version: "v0.8.0",
        programs: &["cmd"],
        staging: None,
        ldflags: "-s -w",
        files: &[(
            "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml",
            "leaderworkersets.yaml",
        )],
    },
];

/// A part of its own, so that its version can change without building all of Kubernetes anew.
static ETCD: Module = Module {
    name: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    version: "v3.6.8",
    programs: &["."],
    staging: None,
    ldflags: "-s -w",
    files: &[],
};

/// What makes the programs of Kubernetes say their version.
const KUBERNETES_LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";

/// Only stories of the other door need it, so it is a part of its own: a first `demo` does not pay for it.
static KUBE_SCHEDULER: Module = Module {
    name: "kube-scheduler",
    path: "k8s.io/kubernetes",
    version: "v1.36.3",
    programs: &["cmd/kube-scheduler"],
    staging: Some("v0.36.3"),
    ldflags: KUBERNETES_LDFLAGS,
    files: &[],
};

/// The kubelet: only a world whose hosts run containers needs it.
static KUBELET: Module = Module {
    name: "kubelet",
    path: "k8s.io/kubernetes",
    version: "v1.36.3",
    programs: &["cmd/kubelet"],
    staging: Some("v0.36.3"),
    ldflags: KUBERNETES_LDFLAGS,
    files: &[],
};

/// Helm, for the chart: only `cargo xtask chart` and the tests need it.
static HELM: Module = Module {
    name: "helm",
    path: "helm.sh/helm/v3",
    version: "v3.22.0",
    programs: &["cmd/helm"],
    staging: None,
    ldflags: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
    files: &[],
};

/// The CRD that the training-operator needs, beside its binary.
const CRD: &str = "manifests/base/crds/kubeflow.org_pytorchjobs.yaml";

/// Raise it when the way of building changes.
const RECIPE: u32 = 1;

/// The directory of the binaries, built if this machine does not have them yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    let modules = MODULES.iter().map(|module| {
        let Module { path, version, programs, staging, ldflags, .. } = module;
        format!("{path}@{version} {programs:?} {staging:?} {ldflags}")
    });
    let recipe = format!("{RECIPE} {CRD} {}", modules.collect::<Vec<_>>().join("\n"));
    let what = "building the Kubernetes binaries into the cache";
    super::ensure("bin", &recipe, what, |place| build(&MODULES, place))
}

/// The directory of etcd, built if this machine does not have it yet.
pub(crate) fn etcd() -> Result<PathBuf> {
    let Module { path, version, ldflags, .. } = &ETCD;
    let recipe = format!("{RECIPE} {path}@{version} {ldflags}");
    super::ensure("etcd", &recipe, "building etcd into the cache", |place| {
        let go = golang::ensure()?;
        step("building etcd", || build_module(&go, &ETCD, place))?;
        // Go names a program after its directory.
        fs::rename(place.join("server"), place.join("etcd")).context("etcd was not built")?;
        super::remove_tree(&place.join("modules"))
    })
}

/// The directory of kube-scheduler, built if this machine does not have it yet.
pub(crate) fn kube_scheduler() -> Result<PathBuf> {
    alone(&KUBE_SCHEDULER)
}

/// The directory of the kubelet, built if this machine does not have it yet.
pub(crate) fn kubelet() -> Result<PathBuf> {
    alone(&KUBELET)
}

/// The directory of Helm, built if this machine does not have it yet.
pub(crate) fn helm() -> Result<PathBuf> {
    alone(&HELM)
}

/// A part that is one module's programs.
fn alone(module: &'static Module) -> Result<PathBuf> {
    let Module { name, path, version, programs, staging, ldflags, .. } = module;
    let recipe = format!("{RECIPE} {path}@{version} {programs:?} {staging:?} {ldflags}");
    super::ensure(name, &recipe, &format!("building {name} into the cache"), |place| {
        let go = golang::ensure()?;
        step(&format!("building {name}"), || build_module(&go, module, place))?;
        super::remove_tree(&place.join("modules"))
    })
}

/// The directory of the controllers of JobSet and LeaderWorkerSet, each under its module's name.
pub(crate) fn controllers() -> Result<PathBuf> {
    let modules = CONTROLLERS.iter().map(|module| {
        let Module { path, version, programs, ldflags, files, .. } = module;
        format!("{path}@{version} {programs:?} {ldflags} {files:?}")
    });
    let recipe = format!("{RECIPE} {}", modules.collect::<Vec<_>>().join("\n"));
    let what = "building the JobSet and LeaderWorkerSet controllers into the cache";
    super::ensure("controllers", &recipe, what, |place| {
        build(&CONTROLLERS, place)?;
        // Go names a program after its directory.
        fs::rename(place.join("cmd"), place.join("lws")).context("lws was not built")
    })
}

fn build(modules: &'static [Module], place: &Path) -> Result<()> {
    let go = golang::ensure()?;
    // All at once: while one fetches or links on one core, another compiles on the other.
    std::thread::scope(|scope| -> Result<()> {
        let build = |module: &'static Module| {
            let (go, what) = (&go, format!("building {}", module.name));
            scope.spawn(move || step(&what, || build_module(go, module, place)))
        };
        let builds: Vec<_> = modules.iter().map(build).collect();
        for build in builds {
            build.join().map_err(|_| anyhow!("a builder panicked"))??;
        }
        Ok(())
    })?;
    fs::remove_dir_all(place.join("modules"))?;
    Ok(())
}

fn build_module(go: &Path, module: &Module, place: &Path) -> Result<()> {
    let Module { name, path, version, programs, ldflags, files, .. } = module;
    let log = log(name)?;
    let _ = fs::remove_file(&log);
    let directory = place.join("modules").join(name);
    fs::create_dir_all(&directory)?;
    let go_command = || {
        let mut command = leashed(go);
        command.current_dir(&directory).env("GOFLAGS", "-mod=mod").env("GOWORK", "off");
        // The compiler collects its garbage less often: a fifth less CPU (measured on `go build std`).
        command.env("GOGC", "400");
        command
    };

    // The module's own go.mod says which staging modules it needs; only then can ours be written.
    fs::write(directory.join("go.mod"), format!("module world/{name}\n\ngo 1.26\n"))?;
    run(go_command().args(["mod", "download"]).arg(format!("{path}@{version}")), &log)?;
    let cache = ask(Command::new(go).args(["env", "GOMODCACHE"]), "")?;
    let cache = Path::new(cache.trim());
    let theirs = cache.join("cache/download").join(path).join(format!("@v/{version}.mod"));
    let theirs =
        fs::read_to_string(&theirs).with_context(|| format!("cannot read {}", theirs.display()))?;
    fs::write(directory.join("go.mod"), go_mod(module, &theirs))?;

    let mut build = go_command();
    build.args(["build", "-p", "2", "-ldflags", ldflags, "-o"]).arg(place);
    build.args(programs.iter().map(|program| format!("{path}/{program}")));
    run(&mut build, &log)?;

    for (file, name) in *files {
        let file = cache.join(format!("{path}@{version}")).join(file);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        fs::write(place.join(name), bytes)?;
    }
    Ok(())
}

/// A main module that only requires theirs, with its in-tree `k8s.io` modules taken from their releases.
fn go_mod(module: &Module, theirs: &str) -> String {
    let Module { name, path, version, staging, .. } = module;
    let mut text = format!("module world/{name}\n\ngo 1.26\n\nrequire {path} {version}\n");
    let Some(staging) = staging else { return text };
    let mut seen = Vec::new();
    for line in theirs.lines() {
        let mut words = line.split_whitespace();
        let (Some(path), Some("v0.0.0")) = (words.next(), words.next()) else { continue };
        if path.starts_with("k8s.io/") && !seen.contains(&path) {
            seen.push(path);
            text.push_str(&format!("replace {path} => {path} {staging}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_tree_modules_are_replaced() {
        let theirs =
            "require (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2025\n\tk8s.io/api v0.0.0\n)";
        let text = go_mod(&MODULES[0], theirs);
        assert!(text.ends_with("v1.36.3\nreplace k8s.io/api => k8s.io/api v0.36.3\n"), "{text}");
    }
}
