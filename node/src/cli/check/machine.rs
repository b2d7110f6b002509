//! The machine: kernel, limits, memory, clock, and the disk that the state lies on.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use certs::codec::Millis;
use nix::{
    sys::{
        resource::{Resource, getrlimit},
        statfs::{NFS_SUPER_MAGIC, TMPFS_MAGIC, statfs},
        statvfs::statvfs,
    },
    unistd::{AccessFlags, access},
};

use super::finding::{Finding, Verdict, warn_unless};
use crate::{clock, mesh};

/// The first kernel that parts a UDP port by a filter.
const KERNEL: (u32, u32) = (4, 5);
/// File descriptors that leave room for connections.
const FILES: u64 = 65_536;
/// What the mesh's sockets ask for, bytes.
const BUFFER: u64 = 2 << 20;
/// Connections that a listener may queue.
const BACKLOG: u64 = 1_024;
/// Free memory of a machine that runs a node, bytes.
const MEMORY: u64 = 128 << 20;
/// Free space below which something should, and must be done, bytes.
const SPACE: (u64, u64) = (1 << 30, 100 << 20);
/// 2025 and 2100.
const CENTURY: (Millis, Millis) = (1_735_689_600_000, 4_102_444_800_000);

/// What the machine says of itself; none where it does not.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) kernel: Option<(u32, u32)>,
    pub(super) files: Option<u64>,
    pub(super) receive_buffer: Option<u64>,
    pub(super) backlog: Option<u64>,
    pub(super) memory: Option<u64>,
    pub(super) time: Millis,
    /// Why workers cannot share the port.
    pub(super) steering: Result<(), String>,
}

/// The disk under a directory that may not be there yet.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    /// Bytes that are free.
    pub(super) free: u64,
    /// Inodes that are free and that there are; disks without such have none.
    pub(super) inodes: (u64, u64),
    /// Why nothing can be written and brought to the disk.
    pub(super) writable: Result<(), String>,
    /// What kind of disk loses the state, if it is one.
    pub(super) fleeting: Option<&'static str>,
}

impl Machine {
    /// Looks at this machine.
    pub(super) fn here() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse().ok());
        Self {
            kernel: numbers.next().zip(numbers.next()),
            files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
            receive_buffer: number("/proc/sys/net/core/rmem_max"),
            backlog: number("/proc/sys/net/core/somaxconn"),
            memory: memory(),
            time: clock::machine(),
            steering: mesh::steers(),
        }
    }

    /// What is to be said of it.
    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some((major, minor)) = self.kernel {
            let message = format!("Linux {major}.{minor}");
            findings.push(if (major, minor) >= KERNEL {
                Finding::fine("machine.kernel", message)
            } else {
                Finding::amiss("machine.kernel", Verdict::Error, message)
            });
        }
        let mut least = |id, value: Option<u64>, least, what: &dyn Fn(u64) -> String| {
            findings.extend(value.map(|value| warn_unless(value >= least, id, what(value))));
        };
        least("machine.files", self.files, FILES, &|files| format!("{files} files may be open"));
        least("machine.receive_buffer", self.receive_buffer, BUFFER, &|bytes| format!("net.core.rmem_max is {bytes}"));
        least("machine.backlog", self.backlog, BACKLOG, &|queue| format!("net.core.somaxconn is {queue}"));
        least("machine.memory", self.memory, MEMORY, &|bytes| format!("{} MiB are free", bytes >> 20));
        findings.push(match &self.steering {
            Ok(()) => Finding::fine("machine.steering", "workers share one UDP port"),
            Err(why) => Finding::amiss(
                "machine.steering",
                Verdict::Warning,
                format!("workers cannot share the UDP port: {why}"),
            ),
        });
        findings.push(if (CENTURY.0..CENTURY.1).contains(&self.time) {
            Finding::fine("machine.clock", crate::agent::admin::rfc3339(self.time))
        } else {
            let message = format!("the clock says {}", crate::agent::admin::rfc3339(self.time));
            Finding::amiss("machine.clock", Verdict::Error, message)
        });
        findings
    }
}

impl Disk {
    /// The disk that `path` lies on, or will.
    pub(super) fn under(path: &Path) -> Option<Self> {
        let there = path.ancestors().find(|folder| folder.exists())?;
        let space = statvfs(there).ok()?;
        let kind = statfs(there).ok().map(|about| about.filesystem_type());
        Some(Self {
            path: there.to_owned(),
            free: space.blocks_available().saturating_mul(space.fragment_size()),
            inodes: (space.files_available(), space.files()),
            // Where the state will lie only once there is one, nothing is left behind for a look.
            writable: if there == path { written(there) } else { may_write(there) },
            fleeting: match kind {
                Some(TMPFS_MAGIC) => Some("memory"),
                Some(NFS_SUPER_MAGIC) => Some("a network disk"),
                Some(_) | None => None,
            },
        })
    }

    /// What is to be said of it.
    pub(super) fn judge(&self) -> Vec<Finding> {
        let path = self.path.display();
        let space = format!("{} MiB are free at {path}", self.free >> 20);
        let inodes = format!("{} of {} inodes are free at {path}", self.inodes.0, self.inodes.1);
        vec![
            match self.free {
                free if free < SPACE.1 => Finding::amiss("disk.space", Verdict::Error, space).coded("storage_full"),
                free => warn_unless(free >= SPACE.0, "disk.space", space),
            },
            warn_unless(self.inodes.1 == 0 || self.inodes.0 >= self.inodes.1 / 100, "disk.inodes", inodes),
            match &self.writable {
                Ok(()) => Finding::fine("disk.writable", format!("{path} can be written")),
                Err(why) => Finding::amiss("disk.writable", Verdict::Error, format!("{path} cannot be written: {why}")),
            },
            match self.fleeting {
                None => Finding::fine("disk.lasting", format!("{path} is a disk of this machine")),
                Some(kind) => Finding::amiss("disk.lasting", Verdict::Warning, format!("{path} is {kind}")),
            },
        ]
    }
}

fn may_write(folder: &Path) -> Result<(), String> {
    access(folder, AccessFlags::W_OK).map_err(|error| error.to_string())
}

/// Writes a file into a folder, brings it to the disk and removes it.
fn written(folder: &Path) -> Result<(), String> {
    let file = folder.join(format!(".check-{}", std::process::id()));
    let write = || {
        let mut made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        let written = made.write_all(b"skein check").and_then(|()| made.sync_all());
        written.and(fs::remove_file(&file))
    };
    write().map_err(|error: io::Error| error.to_string())
}

/// The number that a file of the kernel holds.
pub(super) fn number<T: FromStr>(file: &str) -> Option<T> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Free memory of the machine, or of this process's container where that is less, bytes.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10;
    let limit: Option<u64> = number("/sys/fs/cgroup/memory.max");
    let used: Option<u64> = number("/sys/fs/cgroup/memory.current");
    let container = limit.zip(used).map(|(limit, used)| limit.saturating_sub(used));
    Some(container.map_or(machine, |container| container.min(machine)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::check::finding::not_well;

    pub(in crate::cli::check) fn well() -> Machine {
        Machine {
            kernel: Some((6, 1)),
            files: Some(1 << 20),
            receive_buffer: Some(BUFFER),
            backlog: Some(4_096),
            memory: Some(1 << 30),
            time: 1_900_000_000_000,
            steering: Ok(()),
        }
    }

    pub(in crate::cli::check) fn disk() -> Disk {
        let path = PathBuf::from("/var/lib");
        Disk { path, free: 10 << 30, inodes: (900, 1_000), writable: Ok(()), fleeting: None }
    }

    /// Every finding of this file, provoked.
    pub(in crate::cli::check) fn provoked() -> Vec<Finding> {
        let bad = Machine {
            kernel: Some((4, 4)),
            files: Some(1_024),
            receive_buffer: Some(212_992),
            backlog: Some(128),
            memory: Some(1 << 20),
            time: 0,
            steering: Err("not permitted".into()),
        };
        let full = Disk {
            free: 1 << 20,
            inodes: (1, 1_000),
            writable: Err("read-only".into()),
            fleeting: Some("memory"),
            ..disk()
        };
        [bad.judge(), full.judge()].concat()
    }

    #[test]
    fn a_good_machine_has_nothing_to_mend() {
        assert_eq!(not_well(&[well().judge(), disk().judge()].concat()), []);
    }

    #[test]
    fn each_fault_is_found() {
        use Verdict::{Error, Warning};
        let found = not_well(&provoked());
        let wanted = [
            ("machine.kernel", Error),
            ("machine.files", Warning),
            ("machine.receive_buffer", Warning),
            ("machine.backlog", Warning),
            ("machine.memory", Warning),
            ("machine.steering", Warning),
            ("machine.clock", Error),
            ("disk.space", Error),
            ("disk.inodes", Warning),
            ("disk.writable", Error),
            ("disk.lasting", Warning),
        ];
        assert_eq!(found, wanted);
        let low = Disk { free: 500 << 20, ..disk() };
        assert_eq!(not_well(&low.judge()), [("disk.space", Warning)]);
    }

    #[test]
    fn a_folder_is_written_to_be_sure_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Disk::under(folder.path()).unwrap().writable, Ok(()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // No file can be made there, not even by root.
        assert!(Disk::under(Path::new("/proc/self")).unwrap().writable.is_err());
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let here = Machine::here();
        assert!(here.kernel.is_some() && here.files.is_some() && here.memory.is_some(), "{here:?}");
        let disk = Disk::under(Path::new("/tmp/not/there/yet")).unwrap();
        assert_eq!((disk.path, disk.writable), (PathBuf::from("/tmp"), Ok(())));
    }
}
