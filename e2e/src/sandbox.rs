//! A test that needs root, run in namespaces of its own: network, mounts, processes. It sees nothing of the machine's network and
//! changes nothing of it; all that it starts and mounts is gone with its first process, however that ends. What it does in there is
//! its own business.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use tempfile::TempDir;

use crate::process::{Process, run as run_program};
use crate::{debian, guardian, tools};

/// Says to the program that it is inside, and which folder is its own.
const VARIABLE: &str = "KEYVAULT_SYNC_SANDBOX";

/// Where programs leave sockets, logs and state: each is an empty one inside.
const EMPTY_INSIDE: [&str; 4] = ["/opt", "/run", "/var/lib", "/var/log"];

/// Kernel settings that are the whole machine's, and what the kubelet wants them to be, or else makes them: inside, these files say
/// that they are so.
const KERNEL_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What the kernel gives control groups by.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What a kubelet wants to see in its group.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "hugetlb", "io"];

/// Why this machine cannot do it, in a sentence; `None` where it can.
pub fn obstacle() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("it needs Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root: run it with sudo".to_owned());
    }
    if let Some(why) = debian::obstacle() {
        return Some(why);
    }
    for program in ["unshare", "nsenter", "mount", "apt-get", "dpkg-deb", "cc", "tar", "gzip"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
        if !found {
            return Some(format!("it needs the program {program}, which is not on PATH"));
        }
    }
    let here =
        [std::env::temp_dir(), tools::cache_root().unwrap_or_default(), env!("CARGO_MANIFEST_DIR").into()];
    let hidden = here.iter().find(|path| EMPTY_INSIDE.iter().any(|empty| path.starts_with(empty)));
    if let Some(path) = hidden {
        let places = EMPTY_INSIDE.join(", ");
        return Some(format!(
            "{} would not be seen inside, where {places} are empty: set TMPDIR or KEYVAULT_SYNC_CACHE to another folder, or clone \
             elsewhere",
            path.display()
        ));
    }
    let works = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    match works {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "namespaces cannot be made here (a container without the rights?): {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        )),
        Err(error) => Some(format!("unshare cannot be started: {error}")),
    }
}

/// The folder of the sandbox, if we are in one.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// A folder for a sandbox, which is removed with us.
///
/// # Errors
/// It cannot be made.
pub fn new_folder() -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("keyvault-sync-install-")
        .tempdir()
        .context("cannot make a temporary folder; TMPDIR says where")?;
    guardian::remove_with_us(folder.path())?;
    Ok(folder)
}

/// Runs this program once more, inside, with these arguments, and waits for its end. `folder` (`new_folder`) is for what it
/// writes; there is a control group of the folder's name.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn run(folder: &Path, arguments: &[&OsStr], limit: Duration) -> anyhow::Result<ExitStatus> {
    let groups = control_groups(folder)?;
    for group in &groups {
        guardian::remove_with_us(group)?;
        make_control_group(group)?;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(VARIABLE, folder)
        .env("TMPDIR", folder);
    let process = Process::spawn_inherited("the sandbox", &command)?;
    let status = process.wait_blocking(limit);
    drop(process);
    for group in groups {
        remove_control_group(&group);
    }
    match status {
        Some(status) => Ok(status),
        None => bail!("the sandbox did not end in {} s and was ended", limit.as_secs()),
    }
}

/// Makes the inside what it is to be: called first by the program that is in there.
///
/// # Errors
/// A mount is refused.
pub fn settle(folder: &Path) -> anyhow::Result<()> {
    ensure!(std::process::id() == 1, "{VARIABLE} is set, but this is no sandbox: unset it, and one is made");
    let apparmor = "/sys/module/apparmor/parameters/enabled";
    if Path::new(apparmor).exists() {
        // Profiles that containerd loads would stay in the kernel.
        mount(&["--bind", "/dev/null", apparmor])?;
    }
    for place in EMPTY_INSIDE {
        mount(&["-t", "tmpfs", "none", place])?;
    }
    let settings = folder.join("kernel");
    fs::create_dir_all(&settings)?;
    for (name, value) in KERNEL_SETTINGS {
        let file = settings.join(name.replace('/', "-"));
        fs::write(&file, format!("{value}\n"))?;
        let place = format!("/proc/sys/{name}");
        mount(&["--bind", &file.display().to_string(), &place])?;
    }
    Ok(())
}

/// The control group of the sandbox, without the place where the kernel shows it.
pub fn control_group(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("/{}", name.trim_start_matches('.'))
}

/// A control group within that of the sandbox.
///
/// # Errors
/// The kernel refuses it.
pub fn make_control_group_in(folder: &Path, name: &str) -> anyhow::Result<String> {
    for group in control_groups(folder)? {
        make_control_group(&group.join(name))?;
    }
    Ok(format!("{}/{name}", control_group(folder)))
}

/// Where it is: in each hierarchy of the first version of control groups, or in the only one of the second.
fn control_groups(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = control_group(folder);
    let root = Path::new(CONTROL_GROUPS);
    if root.join("cgroup.controllers").is_file() {
        return Ok(vec![root.join(name.trim_start_matches('/'))]);
    }
    let mut groups = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("no control groups at {CONTROL_GROUPS}"))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            groups.push(path.join(name.trim_start_matches('/')));
        }
    }
    ensure!(!groups.is_empty(), "no control groups at {CONTROL_GROUPS}");
    Ok(groups)
}

fn make_control_group(group: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(group)
        .with_context(|| format!("cannot make the control group {}", group.display()))?;
    // In the second version a group has the controllers that those above hand down, from the first on.
    let mut above: Vec<_> = group.ancestors().take_while(|above| above.starts_with(CONTROL_GROUPS)).collect();
    above.reverse();
    above.into_iter().try_for_each(hand_down)?;
    // A new one of the first version may use no processor until it is told which.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (ours, above) = (group.join(file), group.join("..").join(file));
        if ours.is_file() {
            fs::write(&ours, fs::read_to_string(above)?)
                .with_context(|| format!("cannot set {}", ours.display()))?;
        }
    }
    Ok(())
}

fn hand_down(group: &Path) -> anyhow::Result<()> {
    let file = group.join("cgroup.subtree_control");
    for controller in
        fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default().split_whitespace()
    {
        if CONTROLLERS.contains(&controller) {
            fs::write(&file, format!("+{controller}")).with_context(|| {
                format!("the controller {controller} cannot be handed down by {}", file.display())
            })?;
        }
    }
    Ok(())
}

/// Removes it with those in it, which hold no process any more. What fails is left to the guardian.
fn remove_control_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_control_group(&entry.path());
        }
    }
    fs::remove_dir(group).ok();
}

fn mount(arguments: &[&str]) -> anyhow::Result<()> {
    run_program(Command::new("mount").args(arguments))
}
