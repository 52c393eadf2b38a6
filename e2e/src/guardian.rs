//! Ends what this process started and removes its folders when it is gone, however it went: exit, panic, Ctrl-C, SIGKILL.
//! The orderly end is each owner's `Drop`; this is the net below it.
//!
//! `PR_SET_PDEATHSIG` would not do: it is bound to the thread that spawned, and threads of a test or of an async runtime
//! come and go. So one small shell per process of ours reads a pipe that only we hold open. The kernel closes our end
//! whatever kills us; the shell then reads the end of the file and cleans up.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use anyhow::Context;

/// Each line is a verb and a value; the values are kept until the pipe ends. A removal is tried again for some seconds,
/// because a process that was just killed may have a last write on its way to the disk. `kill -s KILL -- -group` is the
/// one spelling that every POSIX shell reads the same.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
set --
while read -r verb value; do
    case $verb in
        kill) groups="$groups$value " ;;
        spare) groups=${groups%%" $value "*}" "${groups#*" $value "} ;;
        remove) set -- "$@" "$value" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
for folder; do
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        # Folders of control groups hold files that cannot be removed, and go without that.
        rm -rf -- "$folder" || find "$folder" -depth -type d -exec rmdir {} + && break
        sleep 0.2
    done
done
"#;

struct Guardian {
    shell: Child,
    pipe: ChildStdin,
}

static GUARDIAN: Mutex<Option<Guardian>> = Mutex::new(None);

/// From now on the process group `group` is killed when this process is gone.
pub(crate) fn kill_with_us(group: u32) -> anyhow::Result<()> {
    tell(&format!("kill {group}"))
}

/// The process group `group` has ended and its id may soon be somebody else's: it is no longer to be killed.
pub(crate) fn spare(group: u32) -> anyhow::Result<()> {
    tell(&format!("spare {group}"))
}

/// From now on `folder` is removed when this process is gone. Its path must hold no line break.
pub(crate) fn remove_with_us(folder: &Path) -> anyhow::Result<()> {
    tell(&format!("remove {}", folder.display()))
}

fn tell(line: &str) -> anyhow::Result<()> {
    let mut slot = GUARDIAN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(guardian) = slot.as_mut()
        && let Some(status) = guardian.shell.try_wait()?
    {
        // Somebody killed it from outside. What it knew is lost; go on rather than start children unguarded for ever.
        anyhow::bail!(
            "the shell that guards our child processes has ended ({status}); start the command again"
        );
    }
    if slot.is_none() {
        *slot = Some(start()?);
    }
    let guardian = slot.as_mut().context("no guardian")?;
    writeln!(guardian.pipe, "{line}").context("cannot reach the shell that guards our child processes")
}

fn start() -> anyhow::Result<Guardian> {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "keyvault-sync-guardian"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C goes to the whole foreground group; the guardian has to outlive it.
        .process_group(0)
        .spawn()
        .context("cannot start /bin/sh, which guards our child processes")?;
    let pipe = shell.stdin.take().context("the guardian has no standard input")?;
    Ok(Guardian { shell, pipe })
}
