//! Children that never outlive their test.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// How `skein` is called: a program and the words before the first argument.
#[derive(Debug, Clone)]
pub struct Skein {
    /// The executable.
    pub program: PathBuf,
    /// Words before the command line proper.
    pub prefix: Vec<String>,
}

impl Skein {
    /// `program` is `skein` itself.
    pub fn at(program: impl AsRef<Path>) -> Self {
        Self { program: program.as_ref().to_owned(), prefix: Vec::new() }
    }

    /// A command with a clean environment: nothing of the caller's configuration leaks into a test.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).env_clear().stdin(Stdio::null());
        for keep in ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(keep) {
                command.env(keep, value);
            }
        }
        command
    }
}

/// What a finished command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none, with all that was said.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The error object on standard error: its last line that is JSON.
    ///
    /// # Panics
    /// When there is none.
    pub fn error(&self) -> Value {
        let found = self.err.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let whole = || serde_json::from_str(&self.err).ok();
        found
            .filter(|value| value.get("error").is_some())
            .or_else(whole)
            .unwrap_or_else(|| panic!("no error object: {self:?}"))
    }

    /// Itself, if the exit code is `code`.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// A running node; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// The ready line.
    pub ready: Value,
    output: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts `command` and waits for its ready line.
    ///
    /// # Errors
    /// The process ended, or said something else, before it was ready.
    pub fn start(mut command: Command, patience: Duration) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let out = child.stdout.take().expect("piped above");
        let (lines, ready) = mpsc::sync_channel(1);
        let output: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut lines = Some(lines);
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                match lines.take() {
                    Some(first) => drop(first.send(line)),
                    None => kept.lock().expect("nobody panics with it").push(line),
                }
            }
        });
        let mut running = Self { child, ready: Value::Null, output };
        let line = ready.recv_timeout(patience).map_err(|_| match running.child.try_wait() {
            Ok(Some(status)) => format!("ended before it was ready: {status}"),
            _ => format!("not ready within {patience:?}"),
        })?;
        running.ready =
            serde_json::from_str(&line).map_err(|error| format!("first line is no JSON: {error}: {line}"))?;
        Ok(running)
    }

    /// What it has written to standard output after the ready line.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().expect("nobody panics with it").clone()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("Linux pids fit");
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().expect("a child can be waited for")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits for the end without a signal.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
