//! Child processes that certainly end: with their owner, with a panic, and with this process however it dies.
//! What is run, and when it is ready, is the caller's business.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::guardian;

/// How long a process may take to end after SIGTERM. The operator finishes a vault write within its own time limit,
/// which is shorter.
const TERMINATION_GRACE: Duration = Duration::from_secs(60);

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How much of the end of a log is read for `log_tail`, in bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// Where a line of `log_tail` is cut, in characters: the API server's can be longer than a screen.
const TAIL_COLUMNS: usize = 400;

/// A running child process in a process group of its own. Dropping it kills the group and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`. Program, arguments, environment and folder are taken
    /// from `command`; its standard input is empty.
    ///
    /// # Errors
    /// The log cannot be opened, or the program cannot be started. A program that is not there shows as an early exit
    /// with status 127 and a line in the log.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> anyhow::Result<Process> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {} of {name}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot open the log of {name} twice"))?;
        Self::start(name, command, Some(log.to_path_buf()), output.into(), errors.into())
    }

    /// Starts `command` with our own standard output and error, as one runs a compiler.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_inherited(name: &str, command: &Command) -> anyhow::Result<Process> {
        Self::start(name, command, None, Stdio::inherit(), Stdio::inherit())
    }

    fn start(
        name: &str,
        command: &Command,
        log: Option<PathBuf>,
        stdout: Stdio,
        stderr: Stdio,
    ) -> anyhow::Result<Process> {
        let mut child = gated(command)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        let gate = child.stdin.take();
        let process =
            Process { name: name.to_owned(), pid, log, state: Mutex::new(State { child, ended: None }) };
        guardian::kill_with_us(pid)?;
        // Only now, guarded, may it begin. A shell that already ended (no such folder) is seen by `exited`.
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n").ok();
        }
        Ok(process)
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file its output goes to, if it has one.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// Its exit status, if it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut state = self.lock();
        if state.ended.is_none()
            && let Ok(Some(status)) = state.child.try_wait()
        {
            self.ended(&mut state, status);
        }
        state.ended
    }

    /// Ends the process group at once, as the kernel does when memory is short: nothing is cleaned up. Returns when it is
    /// gone.
    pub fn kill9(&self) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        self.signal_group(Signal::KILL);
        if let Ok(status) = state.child.wait() {
            self.ended(&mut state, status);
        }
    }

    /// Asks it to end (SIGTERM), as the kubelet does, and waits for that.
    ///
    /// # Errors
    /// It was still running a minute later; it has been killed then, and the error says so.
    pub async fn terminate(&self) -> anyhow::Result<ExitStatus> {
        self.terminate_within(TERMINATION_GRACE).await.with_context(|| {
            format!(
                "{} did not end within {} s of SIGTERM and was killed; the end of its log:\n{}",
                self.name,
                TERMINATION_GRACE.as_secs(),
                self.log_tail(30)
            )
        })
    }

    /// Asks it to end, and kills it if it has not after `grace`: then `None`.
    pub async fn terminate_within(&self, grace: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        // A suspended process gets its SIGTERM only when it goes on.
        self.signal(Signal::CONT);
        let status = tokio::time::timeout(grace, self.wait()).await.ok();
        self.kill9();
        status
    }

    /// Waits until it ends by itself.
    pub async fn wait(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits, without an async runtime, until it ends by itself or `limit` is over (then `None`).
    pub fn wait_blocking(&self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let status = self.exited();
            if status.is_some() || Instant::now() >= end {
                return status;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Freezes it (SIGSTOP): its sockets stay open and answer nothing.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after `suspend`.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The last `lines` lines of its log; empty if it has none.
    pub fn log_tail(&self, lines: usize) -> String {
        self.log.as_deref().map_or_else(String::new, |log| tail(log, lines))
    }

    /// Sends its process group a signal, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        if self.lock().ended.is_none() {
            self.signal_group(signal);
        }
    }

    /// The caller holds the lock and has seen no end: until we wait for the child its id cannot be given to another.
    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // The only possible failure is that the group is gone, which is what `exited` tells.
            kill_process_group(pid, signal).ok();
        }
    }

    fn ended(&self, state: &mut State, status: ExitStatus) {
        state.ended = Some(status);
        guardian::spare(self.pid).ok();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// `command`, but beginning only when a line is read from standard input, and not at all when that is closed before: so a
/// child is never running unguarded, even if we are killed in the middle of starting it.
fn gated(command: &Command) -> Command {
    let mut gated = Command::new("/bin/sh");
    gated.args(["-c", r#"read -r go && exec "$@" </dev/null"#, "sh"]);
    gated.arg(command.get_program()).args(command.get_args()).stdin(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => gated.env(name, value),
            None => gated.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        gated.current_dir(folder);
    }
    gated
}

fn tail(log: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<String> = text.lines().map(shortened).collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(no log: {error})"),
    }
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(TAIL_COLUMNS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Whether a process of that id is running. One that has ended and was not waited for (a zombie) is not.
pub fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "pid (name) state …"; the name may itself hold spaces and brackets.
        Ok(stat) => !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) if Path::new("/proc/self/stat").exists() => false,
        Err(_) => i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok()),
    }
}
