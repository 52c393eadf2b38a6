//! Child processes that certainly end: with their owner, with a panic, and with this process however it dies.
//! What is run, and when it is ready, is the caller's business.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::guardian;

/// How long a process may take to end after SIGTERM. The operator finishes a vault write within its own time limit,
/// which is shorter.
const TERMINATION_GRACE: Duration = Duration::from_secs(60);

/// For `run`.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 30;
/// A server that does not serve by then is stuck, and how often it is asked.
const SERVING_LIMIT: Duration = Duration::from_secs(60);
const SERVING_POLL: Duration = Duration::from_millis(50);

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

    /// Waits, without an async runtime, until `serves` says so.
    ///
    /// # Errors
    /// It ended, or does not serve within a minute; the end of its log is in the message.
    pub(crate) fn wait_until_serving(&self, serves: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let end = Instant::now() + SERVING_LIMIT;
        while !serves()? {
            if self.exited().is_some() || Instant::now() > end {
                bail!("{} does not serve; the end of its log:\n{}", self.name, self.log_tail(TAIL_LINES));
            }
            std::thread::sleep(SERVING_POLL);
        }
        Ok(())
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
    let mut gate = Command::new("/bin/sh");
    gate.args(["-c", r#"read -r go && exec "$@" </dev/null"#, "sh"]).stdin(Stdio::piped());
    wrapped(gate, command)
}

/// `program` as `wrapper` runs it (`nsenter --net=…`, say): its name and arguments come last, environment and folder are its own.
pub(crate) fn wrapped(mut wrapper: Command, program: &Command) -> Command {
    wrapper.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    if let Some(folder) = program.get_current_dir() {
        wrapper.current_dir(folder);
    }
    wrapper
}

/// Runs a program that takes seconds at most, and shows what it says only where it fails.
///
/// # Errors
/// It cannot be started, fails, or does not end in five minutes; the end of its output is in the message.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy());
    let line = words.collect::<Vec<_>>().join(" ");
    let log = tempfile::NamedTempFile::new().context("cannot make a temporary file; TMPDIR says where")?;
    let process = Process::spawn(&line, command, log.path())?;
    match process.wait_blocking(STEP_LIMIT) {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("`{line}` failed ({status}):\n{}", process.log_tail(TAIL_LINES)),
        None => {
            bail!("`{line}` did not end in {} s:\n{}", STEP_LIMIT.as_secs(), process.log_tail(TAIL_LINES))
        }
    }
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
