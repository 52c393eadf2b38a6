//! A Kubernetes with two nodes, in a sandbox: a control plane, a scheduler, and on each node containerd and a kubelet, so that pods
//! really run. How a node's two programs are started is in `node/`; how packets go is `network`'s work.

mod containerd;
mod kubelet;
mod network;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::Api;

use self::containerd::Containerd;
use self::network::{Network, Place};
use crate::cluster::LocalCluster;
use crate::control_plane::{SERVICE_ADDRESS, SERVICE_PORT};
use crate::debian::Debian;
use crate::process::{Process, wrapped};
use crate::tools::{self, NodeTools};
use crate::{sandbox, wait};

/// The address of the first node, where the test's own servers are reached from every pod.
pub const ADDRESS: Ipv4Addr = network::FIRST.address;

/// A cluster with nodes. Dropping it ends its processes.
pub struct NodeCluster {
    // In the order of their end.
    nodes: Vec<Node>,
    scheduler: Process,
    /// Its control plane.
    pub cluster: LocalCluster,
}

struct Node {
    kubelet: Process,
    containerd: Containerd,
}

impl NodeCluster {
    /// Starts control plane and nodes and waits until the nodes are ready. `images`: archives that every node has.
    ///
    /// # Errors
    /// Not in a sandbox, or something does not start; the end of its log is in the message.
    pub async fn start(debian: &Debian, images: &[&Path]) -> anyhow::Result<NodeCluster> {
        let sandbox = sandbox::folder().context("a cluster with nodes runs in a sandbox")?;
        let tools = tokio::task::spawn_blocking(tools::ensure_node_tools).await??;
        let network = Network::lay(debian)?;
        let cluster = LocalCluster::start_at(Some((SERVICE_ADDRESS, SERVICE_PORT).into())).await?;
        let scheduler = cluster.plane().start_scheduler(&tools.kube_scheduler)?;
        let mut nodes = Vec::new();
        for place in network.places() {
            nodes.push(Node::start(&place, debian, &tools, &cluster, &sandbox, images).await?);
        }
        let started = NodeCluster { nodes, scheduler, cluster };
        for place in network.places() {
            started.wait_until_ready(place.name).await.with_context(|| started.log_tails())?;
        }
        Ok(started)
    }

    async fn wait_until_ready(&self, name: &str) -> anyhow::Result<()> {
        let nodes: Api<KubernetesNode> = Api::all(self.cluster.admin());
        let is_ready = |node: &KubernetesNode| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
            let is_ready = conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            is_ready && taints.is_empty()
        };
        wait::object(&nodes, name, "to be ready", is_ready).await.map(drop)
    }

    /// The end of the logs of everything but the pods.
    pub fn log_tails(&self) -> String {
        let mut text = self.cluster.log_tails();
        let nodes = self.nodes.iter().flat_map(|node| [&node.kubelet, node.containerd.process()]);
        for process in nodes.chain([&self.scheduler]) {
            text.push_str(&format!(
                "\n--- the end of the log of {}:\n{}",
                process.name(),
                process.log_tail(40)
            ));
        }
        text
    }
}

impl Node {
    async fn start(
        place: &Place,
        debian: &Debian,
        tools: &NodeTools,
        cluster: &LocalCluster,
        sandbox: &Path,
        images: &[&Path],
    ) -> anyhow::Result<Node> {
        let folder = sandbox.join(place.name);
        fs::create_dir_all(&folder)?;
        let containerd = Containerd::start(place, debian, &folder, images)?;
        let group = sandbox::make_control_group_in(sandbox, place.name)?;
        let kubelet = kubelet::start(place, debian, tools, cluster.plane(), &folder, &containerd, &group)?;
        Ok(Node { kubelet, containerd })
    }
}

/// A program as it is run at a place of the network.
fn at(place: &Place, program: Command) -> Command {
    let Some(namespace) = place.namespace() else { return program };
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", namespace.display()));
    wrapped(nsenter, &program)
}

/// A path as programs' settings have it.
fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A file in `folder`.
fn file(folder: &Path, name: &str, content: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
