//! The programs that tests and demo run beside us: Kubernetes, found where `KUBEBUILDER_ASSETS` points or built from the pinned Go
//! modules `e2e/tools/kubernetes` and `kubernetes-oldest`; Helm and kubeconform. Running them is the work of others.

mod go_module;

use std::env;
use std::path::PathBuf;

use anyhow::{Context, ensure};

pub(crate) use self::go_module::lock;
use self::go_module::{GoModule, Program};

/// Which Kubernetes is run: `newest`, which it is without this, or `oldest`, the oldest that is supported.
pub const RELEASE_VARIABLE: &str = "KEYVAULT_SYNC_TEST_KUBERNETES";

/// A Kubernetes release, pinned by a Go module.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    name: &'static str,
    module: GoModule,
}

macro_rules! pinned {
    ($folder:literal, $title:literal, $pinned:literal, $flags:expr) => {
        GoModule {
            title: $title,
            pinned: $pinned,
            go_mod: include_str!(concat!("../tools/", $folder, "/go.mod")),
            go_sum: include_str!(concat!("../tools/", $folder, "/go.sum")),
            folder: concat!(env!("CARGO_MANIFEST_DIR"), "/tools/", $folder),
            linker_flags: $flags,
        }
    };
}

/// What is run unless somebody asks for another.
pub const NEWEST: Release = Release {
    name: "newest",
    module: pinned!("kubernetes", "Kubernetes", "k8s.io/kubernetes", kubernetes_version),
};

/// The oldest that is supported.
pub const OLDEST: Release = Release {
    name: "oldest",
    module: pinned!("kubernetes-oldest", "Kubernetes", "k8s.io/kubernetes", kubernetes_version),
};

const HELM: GoModule = pinned!("helm", "Helm", "helm.sh/helm/v4", |version| {
    format!("-X helm.sh/helm/v4/internal/version.version={version}")
});
const KUBECONFORM: GoModule =
    pinned!("kubeconform", "kubeconform", "github.com/yannh/kubeconform", |version| {
        format!("-X main.version={version}")
    });

/// The four programs of a control plane, ready to run.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `etcd`
    pub etcd: PathBuf,
    /// `kube-apiserver`
    pub kube_apiserver: PathBuf,
    /// `kube-controller-manager`
    pub kube_controller_manager: PathBuf,
    /// `kubectl`
    pub kubectl: PathBuf,
}

/// What a cluster with nodes needs beside `Tools`.
#[derive(Clone, Debug)]
pub struct NodeTools {
    /// `kubelet`
    pub kubelet: PathBuf,
    /// `kube-scheduler`
    pub kube_scheduler: PathBuf,
}

/// The order is that of need: who waits sees the long one early.
const CONTROL_PLANE: [Program; 4] = [
    Program { name: "etcd", package: "go.etcd.io/etcd/server/v3" },
    Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
    Program { name: "kube-controller-manager", package: "k8s.io/kubernetes/cmd/kube-controller-manager" },
    Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl" },
];
const NODE: [Program; 2] = [
    Program { name: "kubelet", package: "k8s.io/kubernetes/cmd/kubelet" },
    Program { name: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler" },
];

/// Makes the programs ready that the environment asks for (`Release::chosen`).
///
/// # Errors
/// As `Release::ensure_tools`.
pub fn ensure_tools() -> anyhow::Result<Tools> {
    Release::chosen()?.ensure_tools()
}

/// Finds the programs of nodes, of the newest release, building those that are missing.
///
/// # Errors
/// As `Release::ensure_tools`.
pub fn ensure_node_tools() -> anyhow::Result<NodeTools> {
    let [kubelet, kube_scheduler] = NEWEST.module.ensure(NODE, None)?;
    Ok(NodeTools { kubelet, kube_scheduler })
}

/// Helm, built the first time.
///
/// # Errors
/// As `Release::ensure_tools`.
pub fn helm() -> anyhow::Result<PathBuf> {
    let [helm] = HELM.ensure([Program { name: "helm", package: "helm.sh/helm/v4/cmd/helm" }], None)?;
    Ok(helm)
}

/// kubeconform, built the first time.
///
/// # Errors
/// As `Release::ensure_tools`.
pub fn kubeconform() -> anyhow::Result<PathBuf> {
    let package = "github.com/yannh/kubeconform/cmd/kubeconform";
    let [kubeconform] = KUBECONFORM.ensure([Program { name: "kubeconform", package }], None)?;
    Ok(kubeconform)
}

/// The folder that keeps what was built or installed for this repository: `KEYVAULT_SYNC_CACHE`, else
/// `keyvault-sync` in the user's cache folder. It may be deleted at any time.
///
/// # Errors
/// Neither that variable nor `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_root() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("KEYVAULT_SYNC_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("keyvault-sync")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/keyvault-sync")))
        .context("no folder to keep built programs in: set KEYVAULT_SYNC_CACHE to one")
}

impl Release {
    /// The one that `RELEASE_VARIABLE` names; without it the newest.
    ///
    /// # Errors
    /// It names none.
    pub fn chosen() -> anyhow::Result<Release> {
        let name = env::var(RELEASE_VARIABLE).unwrap_or_default();
        let named = [NEWEST, OLDEST].into_iter().find(|release| release.name == name);
        named
            .or_else(|| name.is_empty().then_some(NEWEST))
            .with_context(|| format!("{RELEASE_VARIABLE} is {name:?}, which is neither newest nor oldest"))
    }

    /// How `RELEASE_VARIABLE` calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// As `v1.2.3`.
    pub fn version(&self) -> &'static str {
        self.module.version()
    }

    /// Finds the programs, building those that are missing. The first time on a machine this takes about seven minutes and
    /// says on standard error what it does. `KUBEBUILDER_ASSETS`, which is of any release, does not count for the oldest.
    ///
    /// # Errors
    /// `go` is missing or too old, or a build fails; the message says what to do.
    pub fn ensure_tools(&self) -> anyhow::Result<Tools> {
        let assets = env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
        let assets = assets.map(PathBuf::from).filter(|_| self.name == NEWEST.name);
        if let Some(folder) = &assets {
            ensure!(
                folder.is_dir(),
                "KUBEBUILDER_ASSETS names {}, which is no folder; unset it, and the programs are built",
                folder.display()
            );
        }
        let [etcd, kube_apiserver, kube_controller_manager, kubectl] =
            self.module.ensure(CONTROL_PLANE, assets.as_deref())?;
        Ok(Tools { etcd, kube_apiserver, kube_controller_manager, kubectl })
    }
}

/// Kubernetes' programs say which version they are by what the linker wrote into them.
fn kubernetes_version(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)]
        .map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"))
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_staging_module_is_of_the_pinned_release() {
        for release in [NEWEST, OLDEST] {
            assert!(release.version().starts_with("v1."), "{}", release.version());
            let published = release.version().replacen("v1.", "v0.", 1);
            let replaced: Vec<_> =
                release.module.go_mod.lines().filter(|line| line.contains(" => ")).collect();
            assert!(replaced.len() >= 30, "{replaced:?}");
            for line in replaced {
                assert!(line.ends_with(&published), "{line} is not {published}");
            }
        }
        assert_ne!(NEWEST.module.cache_folder().unwrap(), OLDEST.module.cache_folder().unwrap());
    }

    #[test]
    fn every_module_names_its_version() {
        assert!(HELM.version().starts_with("v4."), "{}", HELM.version());
        assert_ne!(KUBECONFORM.version(), "v0.0.0");
    }

    #[test]
    fn ready_programs_are_taken_and_nothing_is_built() {
        let folder = tempfile::tempdir().unwrap();
        for program in CONTROL_PLANE {
            fs::write(folder.path().join(program.name), "").unwrap();
        }
        let cache = folder.path().join("cache");
        let found = NEWEST.module.ensure_in(&cache, CONTROL_PLANE, Some(folder.path())).unwrap();
        assert_eq!(found, CONTROL_PLANE.map(|program| folder.path().join(program.name)));
        assert!(!cache.exists());
    }

    #[test]
    fn what_the_assets_lack_is_taken_from_the_cache() {
        let assets = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            fs::write(assets.path().join(name), "").unwrap();
        }
        fs::write(cache.path().join("kube-controller-manager"), "").unwrap();
        let found = NEWEST.module.ensure_in(cache.path(), CONTROL_PLANE, Some(assets.path())).unwrap();
        assert_eq!(found[1], assets.path().join("kube-apiserver"));
        assert_eq!(found[2], cache.path().join("kube-controller-manager"));
    }
}
