//! The demonstration: every step holds, and nothing is left behind, however it ends.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use harness::{eventually, now};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{skein, written};

/// `demo --once` promises to be over by then.
const ONCE: Duration = Duration::from_secs(300);

/// A demonstration that stays up, in a directory of its own; its handle is the first line that it prints.
fn start(dir: &Path) -> (Child, Value) {
    let mut command = skein().command();
    command.args(["demo", "-o", "json", "--dir"]).arg(dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skein can be started");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a pipe can be read");
    let handle = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    (child, handle)
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a process id");
    kill(Pid::from_raw(pid), signal).expect("the process lives");
}

/// Waits until no process has its files in `dir`.
fn all_gone(dir: &Path) {
    let dir = dir.to_string_lossy();
    eventually("no process is left", || {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let left = lines.filter(|line| String::from_utf8_lossy(line).contains(&*dir)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    });
}

#[test]
fn once_shows_that_every_step_holds() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let dir = base.path().join("demo");
    let started = now();
    let output = skein().command().args(["demo", "--once", "-o", "json", "--dir"]).arg(&dir).output();
    let output = output.expect("skein can be started");
    assert!(started.elapsed() < ONCE, "{:?}", started.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_str(&text).expect("one JSON object");
    written("demo --once", &summary);
    let keys = |value: &Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    assert_eq!(keys(&summary), ["ok", "nodes", "convergence_ms", "pushes", "steps", "failover"]);
    assert_eq!(keys(&summary["pushes"][0]), ["document", "node", "to_all_ms"]);
    assert_eq!(keys(&summary["steps"][0]), ["name", "requests", "failed", "split"]);
    assert_eq!(keys(&summary["failover"]), ["requests", "failed", "retried", "removed_everywhere_ms"]);
    assert_eq!((&summary["ok"], &summary["failover"]["failed"]), (&true.into(), &0.into()));
    assert!(!dir.exists());
}

#[test]
fn nothing_is_left_after_a_signal_or_a_kill() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let dir = base.path().join("demo");
    let (mut first, handle) = start(&dir);
    written("demo", &handle);
    let nodes = handle["nodes"].as_array().expect("nodes");
    assert!(nodes.len() >= 4, "{handle}");
    assert!(Path::new(handle["operator_dir"].as_str().expect("a path")).is_dir());
    signal(&first, Signal::SIGKILL);
    first.wait().expect("our child");
    all_gone(&dir);
    assert!(dir.exists(), "a killed process removes nothing");

    let (second, handle) = start(&dir);
    assert_eq!(handle["nodes"].as_array().map(Vec::len), Some(6));
    signal(&second, Signal::SIGINT);
    let output = second.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("was killed and could not clean up"), "{said}");
    all_gone(&dir);
    assert!(!dir.exists());
}

#[test]
fn a_directory_with_something_else_in_it_is_refused() {
    let base = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(base.path().join("thesis.tex"), "").expect("written");
    let output = skein().command().args(["demo", "--once", "--dir"]).arg(base.path()).output();
    let output = output.expect("skein can be started");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
