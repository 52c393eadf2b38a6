//! Programs of Debian packages (containerd, runc, dockerd …), unpacked into the cache folder: nothing is installed, so nothing of the
//! machine changes, no service is started, and root is not needed. Running them is the caller's work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use sha2::{Digest, Sha256};

use crate::process::Process;
use crate::{guardian, tools};

/// What is unpacked. The libraries are those that a small installation may lack.
const PACKAGES: [&str; 13] = [
    "containerd",
    "containernetworking-plugins",
    "docker.io",
    "iproute2",
    "runc",
    "libbpf1",
    "libcap2",
    "libdevmapper1.02.1",
    "libelf1",
    "libmnl0",
    "libseccomp2",
    "libsystemd0",
    "libxtables12",
];

/// In others, packages are cut in another way.
const RELEASE: &str = "bookworm";

/// Folders of programs in a package.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// An archive that does not answer is not waited for any longer; the packages weigh 75 MB.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// The unpacked packages.
#[derive(Clone, Debug)]
pub struct Debian {
    root: PathBuf,
}

impl Debian {
    /// Finds the packages in the cache folder, or fetches and unpacks what the machine's own Debian release has of them now.
    ///
    /// # Errors
    /// This is no Debian, or its archive is not reached; the message says what to do.
    pub fn ensure() -> anyhow::Result<Debian> {
        let cache = tools::cache_root()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let hash = Sha256::digest(PACKAGES.join(" "));
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let root = cache.join(format!("debian-{RELEASE}-{hash}"));
        let _lock = tools::lock(&cache.join(".debian.lock"))?;
        if !root.is_dir() {
            // Under another name until it is whole: who is interrupted begins again.
            let unfinished = tempfile::Builder::new().prefix(".debian-").tempdir_in(&cache)?;
            guardian::remove_with_us(unfinished.path())?;
            fetch(unfinished.path())?;
            let unpacked = unfinished.path().join("root");
            fs::rename(&unpacked, &root).with_context(|| format!("cannot move {}", unpacked.display()))?;
        }
        Ok(Debian { root })
    }

    /// A program of one of the packages, ready to be started: with their libraries, and with their folders first on `PATH`.
    ///
    /// # Errors
    /// None of the packages has it.
    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(self.program(program)?);
        command.env("PATH", self.path()).env("LD_LIBRARY_PATH", self.libraries());
        Ok(command)
    }

    /// Where a program of one of the packages is.
    ///
    /// # Errors
    /// None of the packages has it.
    pub fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let places = PROGRAM_FOLDERS.map(|folder| self.root.join(folder).join(name));
        places.into_iter().find(|place| place.is_file()).with_context(|| {
            format!("{} has no program {name}: delete that folder, and it is made anew", self.root.display())
        })
    }

    /// A path of the packages, `usr/lib/cni` for one.
    pub fn folder(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// `PATH` with the folders of the packages first.
    pub fn path(&self) -> String {
        let folders = PROGRAM_FOLDERS.map(|folder| self.root.join(folder).display().to_string());
        format!("{}:{}", folders.join(":"), std::env::var("PATH").unwrap_or_default())
    }

    /// `LD_LIBRARY_PATH` of the programs.
    fn libraries(&self) -> String {
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        [format!("usr/lib/{triple}"), format!("lib/{triple}")]
            .map(|folder| self.root.join(folder).display().to_string())
            .join(":")
    }
}

/// Why this machine has no such packages, in a sentence; `None` if it has.
pub fn obstacle() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let is_it = value("ID") == "debian" && value("VERSION_CODENAME") == RELEASE;
    (!is_it).then(|| {
        format!("it needs Debian {RELEASE}, from whose packages it takes containerd, runc and dockerd")
    })
}

/// Fetches the packages into `folder` and unpacks them into `folder/root`. apt keeps its lists there too: those of the machine may
/// be missing or old, and stay as they are.
fn fetch(folder: &Path) -> anyhow::Result<()> {
    println!("fetching Debian packages, once: {}", PACKAGES.join(" "));
    for sub in ["state/lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(folder.join(sub))?;
    }
    apt_get(folder, &["update"])?;
    apt_get(folder, &[&["download"], PACKAGES.as_slice()].concat())?;
    let mut versions = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        let unpacked =
            Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder.join("root")).status()?;
        ensure!(unpacked.success(), "dpkg-deb cannot unpack {}", path.display());
        versions.push_str(&format!("{}\n", path.file_stem().unwrap_or_default().to_string_lossy()));
    }
    fs::write(folder.join("root/versions"), versions)?;
    Ok(())
}

fn apt_get(folder: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let log = folder.join("apt.log");
    // What the machine does after an update of its own lists is for those.
    let settings = folder.join("apt.conf");
    fs::write(&settings, "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n")?;
    let mut command = Command::new("apt-get");
    command.current_dir(folder).env("APT_CONFIG", settings).arg("--quiet");
    for (option, value) in [
        ("Dir::State", folder.join("state")),
        ("Dir::State::status", PathBuf::from("/var/lib/dpkg/status")),
        ("Dir::Cache", folder.join("cache")),
    ] {
        command.arg(format!("-o{option}={}", value.display()));
    }
    // Without the sandbox user, who could not write here.
    command.arg("-oAPT::Sandbox::User=").args(arguments);
    let process = Process::spawn("apt-get", &command, &log)?;
    let line = format!("apt-get {}", arguments.first().unwrap_or(&""));
    match process.wait_blocking(FETCH_LIMIT) {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!(
            "`{line}` failed ({status}): the packages come from this machine's Debian archive. The end of its output:\n{}",
            process.log_tail(10)
        ),
        None => bail!("`{line}` did not end in {} s and was ended", FETCH_LIMIT.as_secs()),
    }
}
