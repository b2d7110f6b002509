//! Child processes that do not outlive this one, however it ends.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};

/// How long a process may take until it says that it is ready.
const READY: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when its process failed.
const LOG_LINES: usize = 12;

/// A process that was started here.
#[derive(Debug)]
pub(super) struct Process {
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) pid: u32,
    child: tokio::process::Child,
    log: PathBuf,
    /// Held, so that its standard output stays open.
    output: Option<BufReader<ChildStdout>>,
}

/// A command that neither the user's environment nor the terminal's Ctrl-C reaches, and that dies with this process:
/// with this thread, to be exact, so it is to be started from the main thread.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SKEIN_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    command.process_group(0);
    tie(&mut command);
    command
}

/// Lets the kernel kill the child when this thread ends, also by SIGKILL.
#[expect(unsafe_code, reason = "nothing safe runs between fork and exec")]
pub(super) fn tie(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let tie = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure makes three system calls that are safe after fork; it neither allocates nor locks.
    unsafe { command.pre_exec(tie) };
}

impl Process {
    /// Starts a command whose standard error goes to the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(name: &str, mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let mut child =
            command.stdout(Stdio::piped()).stderr(file).spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().ok_or_else(|| anyhow!("{name} ended at once"))?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self { name: name.to_owned(), pid, child, log, output })
    }

    /// Waits for the JSON line by which it says that it is ready.
    ///
    /// # Errors
    /// It ended, said something else, or took too long; with the end of its log.
    pub(super) async fn ready(&mut self) -> anyhow::Result<Value> {
        let output = self.output.as_mut().ok_or_else(|| anyhow!("{} has no output", self.name))?;
        let mut line = String::new();
        let read = tokio::time::timeout(READY, output.read_line(&mut line)).await;
        let ready = serde_json::from_str::<Value>(&line).ok().filter(|value| value["event"] == "ready");
        match (read, ready) {
            (Ok(Ok(_)), Some(ready)) => Ok(ready),
            (Err(_), _) => bail!("{} was not ready within {} s\n{}", self.name, READY.as_secs(), self.log_end()),
            (Ok(_), _) => {
                // A closed output is an end, or nearly.
                let _ = tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await;
                let end = self.end().unwrap_or_else(|| format!("said {:?}\n{}", line.trim(), self.log_end()));
                bail!("{} did not start: it {end}", self.name)
            }
        }
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// How it ended, if it did: a signal needs no log to be understood.
    pub(super) fn end(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(match status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("ended with {status}\n{}", self.log_end()),
        })
    }

    /// Sends it a signal; one that has ended needs none.
    pub(super) fn signal(&self, signal: Signal) {
        let (Some(_), Ok(pid)) = (self.child.id(), i32::try_from(self.pid)) else { return };
        // It is our child and not yet waited for, so the number is its own. If it just ended, all is well.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// The last lines of its log, for people.
    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        last.iter().map(|line| format!("  {}: {line}\n", self.name)).collect()
    }
}

/// Asks all to end, then makes them.
pub(super) async fn end_all(processes: &mut [Process], patience: Duration) {
    for process in processes.iter() {
        process.signal(Signal::SIGTERM);
    }
    let all = async {
        for process in processes.iter_mut() {
            // An error means that there is nothing to wait for.
            let _ = process.ended().await;
        }
    };
    if tokio::time::timeout(patience, all).await.is_err() {
        for process in processes.iter_mut() {
            process.signal(Signal::SIGKILL);
            let _ = process.ended().await;
        }
    }
}
