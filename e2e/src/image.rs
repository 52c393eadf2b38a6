//! The operator's image, made from the Dockerfile's runtime stage as a Docker engine makes it. The program comes from this workspace
//! instead of the stage that compiles it: no registry of base images is needed, and what was compiled before stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::debian::Debian;
use crate::operator;
use crate::process::{Process, run, wrapped};

/// How the image is called, on the node too; the part before the colon and the part after it.
pub const NAME: (&str, &str) = ("keyvault-sync", "test");
/// Another name of the same image.
pub const OTHER_TAG: &str = "test-again";
/// What a node keeps a pod's namespaces with.
pub const PAUSE: &str = "keyvault-sync-pause:test";
/// The image that stands for the Dockerfile's stage `build`.
const PROGRAM: &str = "keyvault-sync-program:test";
/// As in the Dockerfile, which a test compares.
const RUSTFLAGS: &str = "-C target-feature=+crt-static";

/// What dockerd and its containerd would write beside their folders: inside, these are empty ones. Nor would they leave the kernel without
/// AppArmor profiles of theirs.
const HIDDEN: &str = r#"
mount -t tmpfs none /run && mount -t tmpfs none /opt || exit 1
if [ -e /sys/module/apparmor/parameters/enabled ]; then
    mount --bind /dev/null /sys/module/apparmor/parameters/enabled || exit 1
fi
exec "$@""#;

/// Images, as `docker save` writes them.
#[derive(Clone, Debug)]
pub struct Image {
    /// The archive.
    pub archive: PathBuf,
    /// Bytes of the operator's image as registries keep it, compressed by gzip.
    pub compressed_bytes: u64,
    /// An archive with `PAUSE`.
    pub pause: PathBuf,
}

/// Compiles the operator as it is released, statically linked; builds the image in `folder`, which keeps the archive.
///
/// # Errors
/// Not root, no Debian packages, or a step fails; the end of its output is in the message.
pub fn build(folder: &Path, debian: &Debian) -> anyhow::Result<Image> {
    println!("compiling the operator as it is released");
    let program =
        operator::build(&["--locked", "--release", "--target=host-tuple"], &[("RUSTFLAGS", RUSTFLAGS)])?;
    println!("building the image from the Dockerfile");
    let engine = Engine::start(folder, debian)?;
    let stage = folder.join("stage");
    fs::create_dir_all(&stage)?;
    fs::copy(&program, stage.join("keyvault-sync")).context("cannot copy the operator")?;
    let layer = folder.join("program.tar");
    run(Command::new("tar").arg("-cf").arg(&layer).arg("-C").arg(&stage).arg("keyvault-sync"))?;
    run(engine.docker()?.arg("import").arg(&layer).arg(PROGRAM))?;
    let mut build = engine.docker()?;
    build
        // BuildKit makes the stages that the asked one needs, and no others.
        .env("DOCKER_BUILDKIT", "1")
        .args(["build", "--progress=plain", "--network=none", "--target=runtime"])
        .args(["--build-arg", &format!("PROGRAM={PROGRAM}"), "--tag", &format!("{}:{}", NAME.0, NAME.1)])
        .args(["--tag", &format!("{}:{OTHER_TAG}", NAME.0), "--file"])
        .arg(repository().join("Dockerfile"))
        // Nothing is taken from the sources.
        .arg(&stage);
    run(&build)?;
    let archive = folder.join("image.tar");
    let save = |archive: &Path, image: &str| {
        run(engine.docker()?.arg("save").arg("--output").arg(archive).arg(image))
    };
    save(&archive, NAME.0)?;
    let pause = folder.join("pause.tar");
    pause_image(&engine, folder)?;
    save(&pause, PAUSE)?;
    Ok(Image { compressed_bytes: compressed_bytes(&archive)?, archive, pause })
}

/// Compiled on the spot, since there is no registry to pull it from.
fn pause_image(engine: &Engine, folder: &Path) -> anyhow::Result<()> {
    let (source, layer) = (folder.join("pause.c"), folder.join("pause-layer.tar"));
    fs::write(&source, include_str!("pause.c"))?;
    run(Command::new("cc").args(["-static", "-O2", "-o"]).arg(folder.join("pause")).arg(&source))?;
    run(Command::new("tar").arg("-cf").arg(&layer).arg("-C").arg(folder).arg("pause"))?;
    run(engine.docker()?.args(["import", "--change", "ENTRYPOINT [\"/pause\"]"]).arg(&layer).arg(PAUSE))
}

/// A Docker engine of our own. It sees its own processes, mounts and network only, which end with it.
struct Engine {
    debian: Debian,
    folder: PathBuf,
    daemon: Process,
}

impl Engine {
    fn start(folder: &Path, debian: &Debian) -> anyhow::Result<Engine> {
        ensure!(rustix::process::geteuid().is_root(), "building an image needs root: run it with sudo");
        let folder = folder.join("docker");
        fs::create_dir_all(&folder)?;
        let mut daemon = debian.command("dockerd")?;
        for (option, name) in
            [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid"), ("config-file", "daemon.json")]
        {
            daemon.arg(format!("--{option}={}", folder.join(name).display()));
        }
        // It needs none, and would change settings of the one it is in.
        daemon.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        daemon.arg(format!("--host=unix://{}", socket(&folder).display()));
        // Else it writes a key of its own to /etc/docker.
        let settings = serde_json::json!({"deprecated-key-path": folder.join("key.json")});
        fs::write(folder.join("daemon.json"), settings.to_string())?;
        let mut sandbox = Command::new("unshare");
        sandbox
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", HIDDEN, "sh"]);
        let daemon = Process::spawn("dockerd", &wrapped(sandbox, &daemon), &folder.join("dockerd.log"))?;
        let engine = Engine { debian: debian.clone(), folder, daemon };
        engine
            .daemon
            .wait_until_serving(|| Ok(engine.docker()?.arg("version").output()?.status.success()))?;
        Ok(engine)
    }

    fn docker(&self) -> anyhow::Result<Command> {
        let mut docker = self.debian.command("docker")?;
        docker.arg(format!("--host=unix://{}", socket(&self.folder).display()));
        // The user's own settings and credentials are not its business.
        docker.env("DOCKER_CONFIG", &self.folder).env_remove("DOCKER_CONTEXT");
        Ok(docker)
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}

/// What `gzip` makes of it, at the level that Docker takes too.
fn compressed_bytes(archive: &Path) -> anyhow::Result<u64> {
    let output = Command::new("gzip").arg("--stdout").arg(archive).output().context("cannot start gzip")?;
    ensure!(output.status.success(), "gzip failed ({})", output.status);
    Ok(u64::try_from(output.stdout.len())?)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_compiled_as_the_dockerfile_does() {
        let dockerfile = fs::read_to_string(repository().join("Dockerfile")).unwrap();
        for part in [
            format!("ENV RUSTFLAGS=\"{RUSTFLAGS}\"\n"),
            "cargo auditable build --locked --release --target host-tuple --package keyvault-sync "
                .to_owned(),
        ] {
            assert!(dockerfile.contains(&part), "the Dockerfile lacks {part:?}");
        }
    }
}
