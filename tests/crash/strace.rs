//! `strace` on a running process, with every thread attached before anything happens.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use harness::eventually_within;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A tracer that tampers with system calls until it is detached.
pub(crate) struct Strace {
    tracer: Child,
    pid: u32,
    watch: JoinHandle<()>,
    detached: Arc<AtomicBool>,
}

impl Strace {
    /// Attaches to all threads of `pid`; `how` is what strace's `inject` does to these calls.
    pub(crate) fn attach(pid: u32, calls: &str, how: &str) -> Self {
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{how}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        eventually_within("strace holds every thread", PATIENCE, || match loose_thread(pid) {
            None => Ok(()),
            Some(thread) => Err(format!("{thread} is not traced")),
        });
        let detached = Arc::new(AtomicBool::new(false));
        let watch = std::thread::spawn({
            let (tracer, detached) = (pid_of(&tracer), Arc::clone(&detached));
            // A tracer may hold threads of a killed process for ever, and with them its sockets.
            move || {
                while !detached.load(Relaxed) {
                    if is_dead(pid) {
                        let _ = kill(tracer, Signal::SIGKILL);
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { tracer, pid, watch, detached }
    }

    /// Lets go; true if the process died meanwhile.
    pub(crate) fn detach(mut self) -> bool {
        let _ = kill(pid_of(&self.tracer), Signal::SIGTERM);
        // The watch ends it where the process is dead.
        let _ = self.tracer.wait();
        self.detached.store(true, Relaxed);
        self.watch.join().expect("the watch does not panic");
        is_dead(self.pid)
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("Linux pids fit"))
}

fn is_dead(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

/// A thread that is not traced yet. A process that died meanwhile has none: the tracer met its call.
fn loose_thread(pid: u32) -> Option<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let loose = |status: &str| status.contains("TracerPid:\t0\n") && !status.contains("State:\tZ");
    let found = threads
        .filter_map(Result::ok)
        .find(|thread| std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| loose(&status)));
    found.map(|thread| thread.path().display().to_string())
}
