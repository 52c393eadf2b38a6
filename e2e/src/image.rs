//! The operator's image, made from the Dockerfile's runtime stage as a Docker engine makes it. The program comes from this workspace
//! instead of the stage that compiles it: no registry of base images is needed, and what was compiled before stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::debian::Debian;
use crate::operator;
use crate::process::Process;

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

const ENGINE_LIMIT: Duration = Duration::from_secs(60);
/// Each takes seconds.
const STEP_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

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
    run(folder, Command::new("tar").arg("-cf").arg(&layer).arg("-C").arg(&stage).arg("keyvault-sync"))?;
    run(folder, engine.docker()?.arg("import").arg(&layer).arg(PROGRAM))?;
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
    run(folder, &build)?;
    let archive = folder.join("image.tar");
    let save = |archive: &Path, image: &str| {
        run(folder, engine.docker()?.arg("save").arg("--output").arg(archive).arg(image))
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
    run(folder, Command::new("cc").args(["-static", "-O2", "-o"]).arg(folder.join("pause")).arg(&source))?;
    run(folder, Command::new("tar").arg("-cf").arg(&layer).arg("-C").arg(folder).arg("pause"))?;
    run(
        folder,
        engine.docker()?.args(["import", "--change", "ENTRYPOINT [\"/pause\"]"]).arg(&layer).arg(PAUSE),
    )
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
        let daemon = debian.command("dockerd")?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", HIDDEN, "sh"]).arg(daemon.get_program());
        for (name, value) in daemon.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        for (option, name) in
            [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid"), ("config-file", "daemon.json")]
        {
            command.arg(format!("--{option}={}", folder.join(name).display()));
        }
        // It needs none, and would change settings of the one it is in.
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.arg(format!("--host=unix://{}", socket(&folder).display()));
        // Else it writes a key of its own to /etc/docker.
        let settings = serde_json::json!({"deprecated-key-path": folder.join("key.json")});
        fs::write(folder.join("daemon.json"), settings.to_string())?;
        let daemon = Process::spawn("dockerd", &command, &folder.join("dockerd.log"))?;
        let engine = Engine { debian: debian.clone(), folder, daemon };
        engine.wait()?;
        Ok(engine)
    }

    fn wait(&self) -> anyhow::Result<()> {
        let end = Instant::now() + ENGINE_LIMIT;
        loop {
            let mut version = self.docker()?;
            version.arg("version").stdout(Stdio::null()).stderr(Stdio::null());
            if version.status()?.success() {
                return Ok(());
            }
            if self.daemon.exited().is_some() || Instant::now() > end {
                bail!("dockerd does not serve; the end of its log:\n{}", self.daemon.log_tail(20));
            }
            std::thread::sleep(POLL);
        }
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

/// Runs it with its output in a log of `folder`, and not for ever.
fn run(folder: &Path, command: &Command) -> anyhow::Result<()> {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let verb = command.get_args().map(|word| word.to_string_lossy()).find(|word| !word.starts_with('-'));
    let name = format!("{program} {}", verb.unwrap_or_default());
    let process = Process::spawn(&name, command, &folder.join("steps.log"))?;
    match process.wait_blocking(STEP_LIMIT) {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("`{name}` failed ({status}):\n{}", process.log_tail(30)),
        None => bail!("`{name}` did not end in {} s:\n{}", STEP_LIMIT.as_secs(), process.log_tail(30)),
    }
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
