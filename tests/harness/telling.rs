//! A command that goes on telling, as `--watch` and `tap` do: its lines as they come.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cluster::Cluster, eventually};

/// One that runs; it ends with the value.
pub struct Telling {
    child: Child,
    out: Lines,
    err: Lines,
}

/// Grows as the command writes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                kept.0.lock().expect("nobody panics with it").push(line);
            }
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        eventually(what, || {
            let lines = self.all();
            if holds(&lines) { Ok(()) } else { Err(format!("{lines:#?}")) }
        });
    }
}

impl Telling {
    /// Runs `skein` with these words on a node.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(cluster: &Cluster, node: &str, words: &[&str]) -> Self {
        let mut command = cluster.command(node);
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("skein can be started");
        let out = Lines::of(child.stdout.take().expect("piped above"));
        let err = Lines::of(child.stderr.take().expect("piped above"));
        Self { child, out, err }
    }

    /// Its results so far.
    pub fn out(&self) -> Vec<String> {
        self.out.all()
    }

    /// Waits for results of which this holds.
    pub fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        self.out.until(what, holds);
    }

    /// Waits for remarks of which this holds.
    pub fn until_err(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        self.err.until(what, holds);
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = i32::try_from(self.child.id()).expect("Linux pids fit");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }

    /// True if it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
