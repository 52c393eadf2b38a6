//! The container runtime of a node: containerd with everything of it in a folder, pods on a bridge (CNI), and images that are brought
//! instead of pulled.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::network::Place;
use super::{at, file, text};
use crate::debian::Debian;
use crate::image;
use crate::process::{Process, run};

/// A running containerd.
pub(super) struct Containerd {
    process: Process,
    socket: PathBuf,
}

impl Containerd {
    /// Starts it, waits until it serves, and brings the images.
    pub(super) fn start(
        place: &Place,
        debian: &Debian,
        folder: &Path,
        images: &[&Path],
    ) -> anyhow::Result<Containerd> {
        let cni = folder.join("cni");
        fs::create_dir_all(&cni)?;
        file(&cni, "10-pods.conflist", &pod_network(place, folder).to_string())?;
        // Short: the path of a socket has at most 107 bytes.
        let socket = PathBuf::from(format!("/run/{}.sock", place.name));
        let settings = file(folder, "containerd.toml", &settings(debian, folder, &cni, &socket))?;
        let mut program = debian.command("containerd")?;
        program.arg("--config").arg(settings);
        let name = format!("containerd of {}", place.name);
        let process = Process::spawn(&name, &at(place, program), &folder.join("containerd.log"))?;
        let containerd = Containerd { process, socket };
        containerd
            .process
            .wait_until_serving(|| Ok(containerd.ctr(debian)?.arg("version").output()?.status.success()))?;
        for image in images {
            let mut import = containerd.ctr(debian)?;
            import.args(["images", "import"]).arg(image);
            run(&import)?;
        }
        Ok(containerd)
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// As the kubelet is told it.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn ctr(&self, debian: &Debian) -> anyhow::Result<std::process::Command> {
        let mut ctr = debian.command("ctr")?;
        // The namespace that the kubelet's containers and images are in.
        ctr.args(["--namespace", "k8s.io", "--address"]).arg(&self.socket);
        Ok(ctr)
    }
}

fn settings(debian: &Debian, folder: &Path, cni: &Path, socket: &Path) -> String {
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
[grpc]
address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {pause:?}
# Without the right to do so (CAP_SYS_RESOURCE) runc would fail to make a process less likely to be killed than we are.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = {runc:?}
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {plugins:?}
conf_dir = {cni:?}
"#,
        root = text(&folder.join("containerd")),
        state = format!("/run/{}", folder.file_name().unwrap_or_default().to_string_lossy()),
        socket = text(socket),
        pause = image::PAUSE,
        runc = text(&debian.folder("usr/sbin/runc")),
        plugins = text(&debian.folder("usr/lib/cni")),
        cni = text(cni),
    )
}

/// Pods of a node are on its bridge and reach others by way of the node.
fn pod_network(place: &Place, folder: &Path) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": place.pods()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": text(&folder.join("addresses")),
            },
        }],
    })
}
