//! The list of processes that a demonstration started, kept on disk, so that the next one can clean up after one that
//! was killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const FILE: &str = "demo.json";
/// Everything that a demonstration makes in its directory, but for the lock.
const PARTS: [&str; 5] = ["operator", "nodes", "logs", "policies", FILE];
/// How long a killed process may take to vanish.
const VANISH: Duration = Duration::from_secs(2);

/// The list, and the file that it is written to.
#[derive(Debug)]
pub(super) struct Ledger {
    dir: PathBuf,
    entries: Entries,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entries {
    /// When the demonstration began, for people.
    since: String,
    /// The machine's boot: process ids of another one say nothing.
    boot: String,
    /// Whether the directory itself was made for it.
    made: bool,
    processes: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    name: String,
    pid: u32,
    /// In clock ticks since boot: with it a process id is unique.
    start: u64,
}

/// What a killed demonstration had left.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) dir: PathBuf,
    /// Whether the directory itself was made for it.
    pub(super) made: bool,
    pub(super) since: String,
    pub(super) processes: usize,
    /// Those that still ran and were killed.
    pub(super) running: Vec<String>,
}

impl Ledger {
    /// Begins the list of the demonstration in `dir`, which was made for it or not.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn begin(dir: &Path, made: bool) -> anyhow::Result<Self> {
        let wall = i64::try_from(crate::clock::wall()).unwrap_or(i64::MAX);
        let since = jiff::Timestamp::from_millisecond(wall)
            .map_or_else(|_| String::new(), |at| at.strftime("%F %T UTC").to_string());
        let ledger =
            Self { dir: dir.to_owned(), entries: Entries { since, boot: boot(), made, processes: Vec::new() } };
        ledger.write()?;
        Ok(ledger)
    }

    /// Adds a process that has just been started.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn add(&mut self, name: &str, pid: u32) -> anyhow::Result<()> {
        // One that has already ended needs no entry.
        if let Some(start) = start_of(pid) {
            self.entries.processes.push(Entry { name: name.to_owned(), pid, start });
            self.write()?;
        }
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        super::compose::write(&self.dir.join(FILE), &serde_json::to_string(&self.entries)?)
    }

    /// Removes what the demonstration made in its directory.
    pub(super) fn remove_files(dir: &Path, but_logs: bool) -> std::io::Result<()> {
        remove_parts(dir, but_logs)
    }

    /// Ends the processes and removes the files of a demonstration that was killed; the caller holds its lock.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn clean_up(dir: &Path) -> anyhow::Result<Option<Remains>> {
        let entries = std::fs::read(dir.join(FILE)).ok();
        // A list that cannot be read was cut off by a crash of the machine, which ended the processes too.
        let entries = entries.and_then(|text| serde_json::from_slice::<Entries>(&text).ok());
        let remains = entries.map(|entries| {
            let ours = |entry: &&Entry| entries.boot == boot() && start_of(entry.pid) == Some(entry.start);
            let running: Vec<_> = entries.processes.iter().filter(ours).cloned().collect();
            end(&running);
            Remains {
                dir: dir.to_owned(),
                made: entries.made,
                since: entries.since.clone(),
                processes: entries.processes.len(),
                running: running.into_iter().map(|entry| entry.name).collect(),
            }
        });
        remove_parts(dir, false).with_context(|| format!("cannot clean {}", dir.display()))?;
        Ok(remains)
    }
}

fn end(processes: &[Entry]) {
    for process in processes {
        if let Ok(pid) = i32::try_from(process.pid) {
            // Its start time was compared just now; if it has ended since, all is well.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    const STEP: Duration = Duration::from_millis(20);
    for _ in 0..VANISH.as_millis() / STEP.as_millis() {
        if !processes.iter().any(|process| start_of(process.pid) == Some(process.start)) {
            break;
        }
        std::thread::sleep(STEP);
    }
}

fn remove_parts(dir: &Path, but_logs: bool) -> std::io::Result<()> {
    for part in PARTS.into_iter().filter(|part| !but_logs || *part != "logs") {
        let path = dir.join(part);
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        } else if path.exists() {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a living process started; none for a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it are the third and following.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_still_runs_is_ended_and_what_only_has_the_number_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let sleep = || std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let (mut ours, mut other) = (sleep(), sleep());
        let mut ledger = Ledger::begin(dir.path(), false).expect("written");
        ledger.add("ours", ours.id()).expect("written");
        ledger.add("other", other.id()).expect("written");
        ledger.entries.processes[1].start += 1;
        ledger.write().expect("written");
        let reaper = std::thread::spawn(move || ours.wait());
        let remains = Ledger::clean_up(dir.path()).expect("cleaned").expect("remains");
        assert_eq!((remains.processes, remains.running), (2, vec!["ours".to_owned()]));
        assert!(!reaper.join().expect("joined").expect("ended").success());
        assert!(other.try_wait().expect("our child").is_none());
        other.kill().and_then(|()| other.wait()).expect("ended");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
