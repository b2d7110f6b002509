//! Data workers of a node that a test holds up: `skein-under-test` knows two signals for it.

use std::path::Path;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cluster::Node;

impl Node {
    /// Holds up one of its data workers, by the name of its thread, until [`Node::let_go`].
    ///
    /// # Panics
    /// When it does not run or has no such worker.
    pub fn hold_up(&self, worker: &str) {
        let tasks = format!("/proc/{}/task", self.pid());
        let threads = std::fs::read_dir(tasks).expect("the node runs").filter_map(Result::ok);
        let named = |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == worker);
        let found = threads.map(|thread| thread.path()).find(|path| named(path)).expect("it has such a worker");
        let thread = found.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("the id of a thread");
        // The kernel gives a signal for a thread's id to that thread, where it can.
        kill(Pid::from_raw(thread), Signal::SIGUSR2).expect("the thread is there");
    }

    /// Lets all of them go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn let_go(&self) {
        self.running.as_ref().expect("the node runs").signal(Signal::SIGUSR1);
    }
}
