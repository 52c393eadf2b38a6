//! The kubelet of a node: its settings and its start. When the node is ready is seen by its object in the API server.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::containerd::Containerd;
use super::network::Place;
use super::{ADDRESS, at, file, text};
use crate::control_plane::ControlPlane;
use crate::debian::Debian;
use crate::process::Process;
use crate::tools::NodeTools;

/// Starts it; when the node is ready is seen by the node's object.
pub(super) fn start(
    place: &Place,
    debian: &Debian,
    tools: &NodeTools,
    plane: &ControlPlane,
    folder: &Path,
    containerd: &Containerd,
    control_group: &str,
) -> anyhow::Result<Process> {
    let root = folder.join("kubelet");
    fs::create_dir_all(&root)?;
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": place.address,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": text(&plane.ca_file())},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": containerd.endpoint(),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": control_group,
        // Older kernels have the first version of control groups alone.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": text(&folder.join("pods")),
        "volumePluginDir": text(&root.join("volume-plugins")),
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        // However full the disk of this machine is.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
    });
    let settings = file(folder, "kubelet.json", &settings.to_string())?;
    let mut program = Command::new(&tools.kubelet);
    program
        .env("PATH", debian.path())
        .arg(format!("--config={}", settings.display()))
        .arg(format!("--kubeconfig={}", plane.node_kubeconfig(place.name)?.display()))
        .arg(format!("--root-dir={}", root.display()))
        .arg(format!("--cert-dir={}", root.join("pki").display()))
        .arg(format!("--hostname-override={}", place.name))
        .arg(format!("--node-ip={}", place.address))
        .arg(format!("--node-labels=topology.kubernetes.io/zone={}", place.name));
    Process::spawn(&format!("kubelet of {}", place.name), &at(place, program), &folder.join("kubelet.log"))
}
