//! Where a demonstration lives: a directory and a block of loopback addresses, both held by this process alone.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::bookinfo::App;
use super::ledger::{Ledger, Remains};
use super::machine::Machine;
use super::screen;

/// Demonstrations that may run on one machine at a time.
const PLACES: u8 = 24;
/// Loopback addresses of each: 127.0.0.11 and up, 127.0.0.21 and up, ...
const BLOCK: u8 = 10;
/// What is added to every port where a program of this machine has taken them on all addresses.
const OFFSETS: [u16; 3] = [0, 1000, 2000];
/// Bytes of the directory's name, so that a socket in it stays within what the system takes (108).
const MAX_DIR: usize = 70;
/// The file whose lock says that a demonstration lives here.
const LOCK: &str = "demo.lock";

/// A directory and addresses, until it is dropped: then all files are gone.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) machines: Vec<Machine>,
    pub(super) ledger: Ledger,
    home: Home,
    _claim: TcpListener,
}

/// A directory that is locked, and emptied when it is dropped.
#[derive(Debug)]
struct Home {
    dir: PathBuf,
    /// Whether the user named it.
    named: bool,
    /// Whether the directory itself was made here.
    made: bool,
    keep_logs: bool,
    _lock: File,
}

impl Place {
    /// Takes the directory that the user names, or a free one, and cleans what a killed demonstration left there;
    /// says what it found.
    ///
    /// # Errors
    /// Another demonstration lives there, it holds something else, or no address is free.
    pub(super) fn take(wanted: Option<&Path>) -> anyhow::Result<(Self, Vec<Remains>)> {
        let mut remains = Vec::new();
        let home = match wanted {
            Some(dir) => named(dir, &mut remains)?,
            None => any(&mut remains)?,
        };
        let (machines, claim) = addresses(&home.dir)?;
        for part in ["nodes", "logs", "policies"] {
            private_dir(&home.dir.join(part))?;
        }
        let ledger = Ledger::begin(&home.dir, home.made)?;
        Ok((Self { machines, ledger, home, _claim: claim }, remains))
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// The operator's directory.
    pub(super) fn operator(&self) -> PathBuf {
        self.dir().join("operator")
    }

    /// The file that a process writes its log to.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{name}.log"))
    }

    /// Removes everything that was made here, but leaves the logs to who named the directory and wants to know what
    /// went wrong; the next demonstration there removes them too.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn clean(mut self, keep_logs: bool) -> std::io::Result<Option<PathBuf>> {
        self.home.keep_logs = keep_logs && self.home.named;
        self.home.clean()?;
        Ok(self.home.keep_logs.then(|| self.home.dir.join("logs")))
    }
}

impl Home {
    fn clean(&self) -> std::io::Result<()> {
        Ledger::remove_files(&self.dir, self.keep_logs)?;
        if self.keep_logs {
            return Ok(());
        }
        remove(std::fs::remove_file(self.dir.join(LOCK)))?;
        if self.made { remove(std::fs::remove_dir(&self.dir)) } else { Ok(()) }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next demonstration; `clean` has told of it where it was called.
        let _ = self.clean();
    }
}

/// What is not there is removed.
fn remove(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn named(dir: &Path, remains: &mut Vec<Remains>) -> anyhow::Result<Home> {
    let dir = std::path::absolute(dir).with_context(|| format!("{} is no directory", dir.display()))?;
    if dir.to_str().is_none_or(|name| name.len() > MAX_DIR) {
        return Err(screen::usage(format!("--dir {}: the name may have {MAX_DIR} bytes of UTF-8", dir.display())));
    }
    let made = !dir.exists();
    private_dir(&dir)?;
    let foreign = std::fs::read_dir(&dir)?.next().is_some() && !dir.join(LOCK).exists();
    if foreign {
        return Err(screen::usage(format!("--dir {}: not empty, and no demo's; name another one", dir.display())));
    }
    let Some(lock) = lock(&dir)? else {
        return Err(screen::failure(
            "address_in_use",
            format!("another demo lives in {}", dir.display()),
            "stop it, or name another --dir",
        ));
    };
    let left = Ledger::clean_up(&dir)?;
    let made = made || left.as_ref().is_some_and(|left| left.made);
    remains.extend(left);
    Ok(Home { dir, named: true, made, keep_logs: false, _lock: lock })
}

/// The first free directory of this user; all others that nobody holds are cleaned on the way.
fn any(remains: &mut Vec<Remains>) -> anyhow::Result<Home> {
    let user = nix::unistd::getuid();
    let mut taken = None;
    private_dir(&std::env::temp_dir())?;
    for number in 1..=PLACES {
        let dir = std::env::temp_dir().join(format!("skein-demo-{user}-{number}"));
        // Everybody may write beside it: what is not made here this very moment may be anybody's.
        let is_ours = if taken.is_some() { is_own(&dir) } else { make(&dir)? || is_own(&dir) };
        if !is_ours {
            continue;
        }
        let Some(lock) = lock(&dir)? else { continue };
        remains.extend(Ledger::clean_up(&dir)?);
        // One that is not needed is removed with its home.
        let home = Home { dir, named: false, made: true, keep_logs: false, _lock: lock };
        taken.get_or_insert(home);
    }
    taken.ok_or_else(|| {
        let dir = std::env::temp_dir();
        screen::failure("failed", format!("{PLACES} demos live in {} already", dir.display()), "name a --dir")
    })
}

/// Whether a directory in a place where everybody may write is this user's, and closed to others.
fn is_own(dir: &Path) -> bool {
    let own = |metadata: std::fs::Metadata| {
        metadata.is_dir() && metadata.uid() == nix::unistd::getuid().as_raw() && metadata.mode() & 0o077 == 0
    };
    std::fs::symlink_metadata(dir).is_ok_and(own)
}

/// Makes a directory that only this user reads; false if something has the name.
fn make(dir: &Path) -> anyhow::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", dir.display())),
    }
}

pub(super) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))
}

fn lock(dir: &Path) -> anyhow::Result<Option<File>> {
    let file = dir.join(LOCK);
    // Not through a link: it would make or lock whatever somebody else chose.
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).custom_flags(nix::libc::O_NOFOLLOW);
    let opened = options.open(&file);
    let opened = opened.with_context(|| format!("cannot write {}", file.display()))?;
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", file.display())),
    }
}

/// The first block of addresses on which everything is free, and the socket that keeps other demonstrations off it.
fn addresses(dir: &Path) -> anyhow::Result<(Vec<Machine>, TcpListener)> {
    let mut obstacle = String::new();
    for offset in OFFSETS {
        for block in 1..=PLACES {
            let ip = |number: usize| Ipv4Addr::new(127, 0, 0, block * BLOCK + u8::try_from(number).unwrap_or(u8::MAX));
            let machine = |(number, app): (usize, App)| {
                Machine::on_loopback(app, ip(number + 1), offset, dir.join("nodes").join(app.name()))
            };
            let machines: Vec<_> = App::ALL.into_iter().enumerate().map(machine).collect();
            let claim = SocketAddr::new(IpAddr::V4(ip(usize::from(BLOCK) - 1)), 15008);
            let claimed = TcpListener::bind(claim).map_err(|error| format!("{claim}: {error}"));
            match claimed.and_then(|claimed| all_free(&machines).map(|()| claimed)) {
                Ok(claimed) => return Ok((machines, claimed)),
                Err(reason) => obstacle = reason,
            }
        }
    }
    let hint = "stop what listens there; `ss -ltnup` shows it";
    Err(screen::failure("address_in_use", format!("no block of loopback addresses is free ({obstacle})"), hint))
}

fn all_free(machines: &[Machine]) -> Result<(), String> {
    for machine in machines {
        let udp = UdpSocket::bind(machine.mesh).map(drop);
        udp.map_err(|error| format!("UDP {}: {error}", machine.mesh))?;
        for address in [machine.mesh, machine.admin, machine.metrics, machine.outbound, machine.target] {
            TcpListener::bind(address).map(drop).map_err(|error| format!("{address}: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_has_one_demo_and_is_gone_afterwards() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join("demo");
        let (place, remains) = Place::take(Some(&dir)).expect("free");
        assert!(remains.is_empty());
        let second = Place::take(Some(&dir)).expect_err("taken");
        assert!(second.to_string().contains("another demo"), "{second:#}");
        place.clean(false).expect("ours");
        assert!(!dir.exists());
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let base = tempfile::tempdir().expect("a directory");
        std::fs::write(base.path().join("thesis.tex"), "").expect("written");
        assert!(Place::take(Some(base.path())).is_err());
        assert_eq!(std::fs::read_dir(base.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn what_others_put_there_is_passed_over() {
        let base = tempfile::tempdir().expect("a directory");
        let [made, planted, link] = ["made", "planted", "link"].map(|name| base.path().join(name));
        assert!(make(&made).expect("it can be made") && is_own(&made));
        // Whether it was there for long or came a moment ago: it is not taken for one's own.
        DirBuilder::new().create(&planted).expect("a directory");
        std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o777)).expect("ours");
        std::os::unix::fs::symlink(base.path().join("nowhere"), &link).expect("a link");
        for foreign in [&planted, &link] {
            assert!(!make(foreign).expect("it is there") && !is_own(foreign), "{}", foreign.display());
        }
        assert!(!base.path().join("nowhere").exists());
        assert!(!make(&made).expect("it is there") && is_own(&made), "that of an earlier demo is taken again");
        std::os::unix::fs::symlink(base.path().join("elsewhere"), made.join(LOCK)).expect("a link");
        assert!(lock(&made).is_err() && !base.path().join("elsewhere").exists(), "nothing is made through a link");
    }

    #[test]
    fn two_demos_get_addresses_of_their_own() {
        let base = tempfile::tempdir().expect("a directory");
        let (first, _) = Place::take(Some(&base.path().join("1"))).expect("free");
        let (second, _) = Place::take(Some(&base.path().join("2"))).expect("free");
        assert_ne!(first.machines[0].mesh, second.machines[0].mesh);
    }
}
