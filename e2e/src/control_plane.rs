//! How etcd, kube-apiserver and kube-controller-manager are started: certificates, ports, flags. When they are ready, and
//! what becomes of them, is `cluster`'s business.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::certificates::{Authority, Issued, KeyType, Leaf};
use crate::kubeconfig::{self, User};
use crate::process::Process;

/// The issuer a cluster has by default. Nothing is reachable there: whoever checks tokens is given the keys
/// (`LocalCluster::jwks`).
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";

/// Below every range from which kernels take ports for outgoing connections and port 0 (Linux: from 32768). So nobody
/// takes the API server's port by chance while it is down in a test.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

const SERVICE_RANGE: &str = "10.0.0.0/24";

/// Address of the Service `kubernetes`: the first of that range.
pub(crate) const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Port of that Service.
pub(crate) const SERVICE_PORT: u16 = 443;

/// What all starts of one cluster have in common.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    authority: Authority,
    /// Client certificate of the administrator.
    pub(crate) admin: Issued,
    apiserver: SocketAddr,
    etcd_port: u16,
}

impl ControlPlane {
    /// Makes the certificates and keys in `folder`, and chooses the ports. `apiserver`: where the API server is to listen; without
    /// it, at a free port of loopback.
    pub(crate) fn prepare(folder: &Path, apiserver: Option<SocketAddr>) -> anyhow::Result<ControlPlane> {
        let authority = Authority::root("keyvault-sync local cluster")?;
        let names = [
            "localhost",
            "127.0.0.1",
            &SERVICE_ADDRESS.to_string(),
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let server = authority.issue(&Leaf::server("kube-apiserver").names(&names))?;
        let admin = authority.issue(&Leaf::client("admin", Some("system:masters")))?;
        let manager = authority.issue(&Leaf::client("system:kube-controller-manager", None))?;
        let scheduler = authority.issue(&Leaf::client("system:kube-scheduler", None))?;
        // RSA as in AKS, so that who checks the tokens meets RS256.
        let tokens = KeyType::Rsa2048.generate()?.serialize_pem();

        let apiserver = match apiserver {
            Some(address) => address,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let mut etcd_port = free_port()?;
        if etcd_port == apiserver.port() {
            etcd_port = free_port()?;
        }
        let plane = ControlPlane { folder: folder.to_path_buf(), authority, admin, apiserver, etcd_port };
        plane.write("ca.crt", &plane.ca_pem())?;
        plane.write("apiserver.crt", &server.certificate)?;
        plane.write("apiserver.key", &server.key)?;
        plane.write("service-accounts.key", &tokens)?;
        // What the API server shows to kubelets, of which it asks logs.
        plane.write("admin.crt", &plane.admin.certificate)?;
        plane.write("admin.key", &plane.admin.key)?;
        for (name, user) in [("controller-manager", &manager), ("scheduler", &scheduler)] {
            let kubeconfig = plane.kubeconfig(&User::Certificate(user), "default");
            plane.write(&format!("{name}.kubeconfig"), &kubeconfig)?;
        }
        Ok(plane)
    }

    /// Writes the kubeconfig of a node's kubelet and says where.
    pub(crate) fn node_kubeconfig(&self, node: &str) -> anyhow::Result<PathBuf> {
        let user = Leaf::client(&format!("system:node:{node}"), Some("system:nodes"));
        let issued = self.authority.issue(&user)?;
        let name = format!("{node}.kubeconfig");
        self.write(&name, &self.kubeconfig(&User::Certificate(&issued), "default"))?;
        Ok(self.folder.join(name))
    }

    /// The file with the certificate that signs all others.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.apiserver)
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    pub(crate) fn kubeconfig(&self, user: &User<'_>, namespace: &str) -> String {
        kubeconfig::document(&self.url(), &self.ca_pem(), user, namespace).to_string()
    }

    pub(crate) fn start_etcd(&self, program: &Path) -> anyhow::Result<Process> {
        let clients = self.etcd_url();
        self.spawn(
            "etcd",
            program,
            &[
                ("data-dir", self.path("etcd")),
                ("listen-client-urls", clients.clone()),
                ("advertise-client-urls", clients),
                // No other member comes, so any port will do.
                ("listen-peer-urls", "http://127.0.0.1:0".to_owned()),
                // Nothing has to outlive a power failure, and a test's disk is busy enough.
                ("unsafe-no-fsync", "true".to_owned()),
                ("log-level", "warn".to_owned()),
            ],
        )
    }

    pub(crate) fn start_apiserver(&self, program: &Path) -> anyhow::Result<Process> {
        self.spawn(
            "kube-apiserver",
            program,
            &[
                ("etcd-servers", self.etcd_url()),
                ("cert-dir", self.path("apiserver")),
                ("tls-cert-file", self.path("apiserver.crt")),
                ("tls-private-key-file", self.path("apiserver.key")),
                ("client-ca-file", self.path("ca.crt")),
                ("bind-address", self.apiserver.ip().to_string()),
                ("advertise-address", self.apiserver.ip().to_string()),
                ("secure-port", self.apiserver.port().to_string()),
                ("kubelet-client-certificate", self.path("admin.crt")),
                ("kubelet-client-key", self.path("admin.key")),
                ("kubelet-preferred-address-types", "InternalIP".to_owned()),
                // An endpoint on loopback is not allowed, and nobody here goes through the Service.
                ("endpoint-reconciler-type", "none".to_owned()),
                ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
                ("authorization-mode", "Node,RBAC".to_owned()),
                ("service-account-issuer", ISSUER.to_owned()),
                ("service-account-key-file", self.path("service-accounts.key")),
                ("service-account-signing-key-file", self.path("service-accounts.key")),
                // A demo that is left running still shows its first Events the next morning; the default is an hour.
                ("event-ttl", "24h".to_owned()),
                // Twice the default: tests of one file share a cluster, and none may be slowed by another's burst.
                ("max-requests-inflight", "800".to_owned()),
                ("max-mutating-requests-inflight", "400".to_owned()),
            ],
        )
    }

    pub(crate) fn start_controller_manager(&self, program: &Path) -> anyhow::Result<Process> {
        self.spawn(
            "kube-controller-manager",
            program,
            &[
                ("kubeconfig", self.path("controller-manager.kubeconfig")),
                ("service-account-private-key-file", self.path("service-accounts.key")),
                ("root-ca-file", self.path("ca.crt")),
                ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
                // Each controller under its own roles; the account of the program itself may next to nothing.
                ("use-service-account-credentials", "true".to_owned()),
                // It is the only one.
                ("leader-elect", "false".to_owned()),
                // It makes this folder.
                ("flex-volume-plugin-dir", self.path("volume-plugins")),
                // Nobody asks it for anything: no port.
                ("secure-port", "0".to_owned()),
                // The default of 20 requests a second makes the deletion of a few hundred objects take minutes.
                ("kube-api-qps", "500".to_owned()),
                ("kube-api-burst", "1000".to_owned()),
            ],
        )
    }

    /// Who places pods on nodes: without nodes nobody needs it.
    pub(crate) fn start_scheduler(&self, program: &Path) -> anyhow::Result<Process> {
        self.spawn(
            "kube-scheduler",
            program,
            &[
                ("kubeconfig", self.path("scheduler.kubeconfig")),
                ("leader-elect", "false".to_owned()),
                ("secure-port", "0".to_owned()),
            ],
        )
    }

    fn spawn(&self, name: &str, program: &Path, flags: &[(&str, String)]) -> anyhow::Result<Process> {
        let mut command = Command::new(program);
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}"))).current_dir(&self.folder);
        Process::spawn(name, &command, &self.folder.join(format!("{name}.log")))
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        kubeconfig::write_private(&self.folder.join(name), text)
    }
}

/// Whether a start failed because another process was faster with a port. Both servers say it in Go's words.
pub(crate) fn is_port_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("address already in use")
}

/// A port nobody listens on now. It may be taken by the time it is used: see `is_port_taken`.
fn free_port() -> anyhow::Result<u16> {
    let width = PORTS.end - PORTS.start;
    // `RandomState` is seeded by the system's random source, once per process and then counted on.
    let first = RandomState::new().hash_one(std::process::id()) % u64::from(width);
    let first = u16::try_from(first)?;
    (0..width)
        .map(|step| PORTS.start + (first + step) % width)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("no free port on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end))
}
