//! The state directory: whose it is, its keys, one process at a time.
//!
//! `node.json` is written last and marks a directory as joined; keys alone are the traces of an attempt that may be
//! repeated with the same keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use certs::id::{NodeId, TrustDomain};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::{Error, fail, internal};

/// Most bytes of a key or certificate file.
const FILE_BYTES: u64 = 1 << 20;

/// The node CA's certificates, its issuer after it.
pub const CA_CERTIFICATES: &str = "ca.pem";
/// The node CA's private key.
pub const CA_KEY: &str = "ca.key";
/// The key that signs this node's records.
pub const RECORD_KEY: &str = "record.key";
/// The enroller CA's certificate, on enrollers.
pub const ENROLLER_CERTIFICATE: &str = "enroller.pem";
/// The enroller CA's private key, on enrollers.
pub const ENROLLER_KEY: &str = "enroller.key";
/// Where members were last seen.
pub const ADDRESSES: &str = "addresses";
/// The latest time that certificates of other nodes have proven.
pub const CLOCK: &str = "clock";
/// The folder of this node's own credentials.
pub const SECRETS: &str = "secrets";
/// There while connections of this machine are captured, or should be.
pub const CAPTURED: &str = "captured";
const NODE: &str = "node.json";
const LOCK: &str = "lock";
/// The store within a data directory.
pub const STORE: &str = "store.redb";
/// What must be its owner's alone.
const FILES: [&str; 10] =
    [CA_KEY, RECORD_KEY, ENROLLER_KEY, CA_CERTIFICATES, ENROLLER_CERTIFICATE, NODE, STORE, ADDRESSES, CLOCK, CAPTURED];

/// Whose state a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its mesh.
    pub trust_domain: TrustDomain,
    /// The address that it told others first; used where the configuration names none, while its machine has it.
    pub address: Option<std::net::SocketAddr>,
    /// Where it found its enroller: the first node that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enroller: Option<std::net::SocketAddr>,
    /// The address that it tells instead of the first one, which its machine has no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<std::net::SocketAddr>,
    /// What a later build noted beside that: not read, and written again as it is.
    #[serde(flatten)]
    pub later: serde_json::Map<String, serde_json::Value>,
}

/// A locked state directory; the lock ends with the value.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the directory if need be, checks its permissions and owner and locks it.
    ///
    /// # Errors
    /// `key_permissions` if others may enter, or it or a file in it is another user's; `state_in_use` if another process holds it,
    /// `storage_failed` otherwise.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, nix::unistd::geteuid().as_raw())
    }

    /// Whoever owns it: for one who empties it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_empty(path: &Path) -> Result<Self, Error> {
        let about = fs::metadata(path).map_err(|e| cannot("read", path, &e))?;
        Self::open_as(path, about.uid())
    }

    /// Whose state lies there, for root who only looks; nothing is made. Where a node runs on it, `state_in_use`.
    ///
    /// # Errors
    /// As [`Self::open`] as the directory's owner.
    pub fn look(path: &Path) -> Result<Option<Owner>, Error> {
        if path.join(LOCK).exists() { Self::open_to_empty(path)?.owner() } else { owner_in(path) }
    }

    /// For this user. Whoever owns a directory can put other keys there, also where root could read them all the same.
    fn open_as(path: &Path, user: u32) -> Result<Self, Error> {
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| cannot("create", path, &e))?;
        }
        let about = fs::metadata(path).map_err(|e| cannot("read", path, &e))?;
        if !about.is_dir() {
            return Err(fail("storage_failed", format!("{} is no directory", path.display()), "name another data_dir"));
        }
        private(path, &about, "0700")?;
        let lock = path.join(LOCK);
        let owned = owned(path, &about, user);
        if !lock.exists() {
            // Nothing is made in a directory of somebody else.
            owned.clone()?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&lock)
            .map_err(|e| cannot("open", &lock, &e))?;
        match file.try_lock() {
            Ok(()) => {
                owned?;
                for name in FILES {
                    let file = path.join(name);
                    if let Ok(about) = fs::symlink_metadata(&file) {
                        self::owned(&file, &about, user)?;
                    }
                }
                Ok(Self { path: path.to_path_buf(), _lock: file })
            }
            Err(fs::TryLockError::WouldBlock) => Err(fail(
                "state_in_use",
                format!("{} is in use by another process", path.display()),
                "a node runs with this data_dir already; stop it first",
            )),
            Err(fs::TryLockError::Error(e)) => Err(cannot("lock", &lock, &e)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// Whose state this is; none before init or join.
    ///
    /// # Errors
    /// `storage_failed` if the file is there and cannot be read.
    pub fn owner(&self) -> Result<Option<Owner>, Error> {
        owner_in(&self.path)
    }

    /// False if the directory is certainly nobody's state: who may not look into it does not know.
    #[must_use]
    pub fn has_owner(path: &Path) -> bool {
        path.join(NODE).try_exists().unwrap_or(true)
    }

    /// Marks the directory as this node's: the last step of init and join.
    ///
    /// # Errors
    /// `storage_failed`, `storage_full`.
    pub fn own(&self, owner: &Owner) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(owner).map_err(internal)?;
        self.write(NODE, text.as_bytes())
    }

    /// Reads a private file; none if it is not there.
    ///
    /// # Errors
    /// `key_permissions` if group or others may read it, `storage_failed` otherwise.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        read_private(&self.path.join(name))
    }

    /// Reads a private file that must be there.
    ///
    /// # Errors
    /// As [`Self::read`]; `storage_failed` if it is missing.
    pub fn must_read(&self, name: &str) -> Result<Zeroizing<String>, Error> {
        self.read(name)?.ok_or_else(|| {
            let path = self.path.join(name);
            fail(
                "storage_failed",
                format!("{} is missing", path.display()),
                "restore it, or join again with a new token",
            )
        })
    }

    /// Writes a private file: whole or not at all, durable on return.
    ///
    /// # Errors
    /// `storage_failed`, `storage_full`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        write_private(&self.path.join(name), bytes)
    }
}

fn owner_in(path: &Path) -> Result<Option<Owner>, Error> {
    let file = path.join(NODE);
    let Some(text) = read_private(&file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        fail("storage_failed", format!("{} cannot be read: {e}", file.display()), "restore it from a backup")
    })
}

/// What is wrong with the files of a state directory, each by itself; works while a node holds the lock.
#[must_use]
pub fn faults(path: &Path) -> Vec<Error> {
    let Ok(about) = fs::metadata(path) else { return Vec::new() };
    let mut faults = faults_of(path, &about, &FILES);
    let secrets = path.join(SECRETS);
    for folder in std::iter::once(secrets.clone()).chain(entries(&secrets)) {
        // Not through a link, as above.
        let Ok(about) = fs::symlink_metadata(&folder) else { continue };
        if about.is_symlink() {
            let message = format!("{} is a link: whoever owns its end owns the credentials", folder.display());
            faults.push(fail("key_permissions", message, "put the folder itself there"));
        } else if about.is_dir() {
            let files: Vec<PathBuf> = entries(&folder).filter(|entry| !entry.is_dir()).collect();
            let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            faults.extend(faults_of(&folder, &about, &names));
        }
    }
    faults
}

/// What is wrong with an operator's directory and with these files in it, as far as they are there.
#[must_use]
pub fn faults_of_keys(path: &Path, names: &[&str]) -> Vec<Error> {
    fs::metadata(path).map_or_else(|_| Vec::new(), |about| faults_of(path, &about, names))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// A folder's own mode, and its files'.
fn faults_of(path: &Path, about: &fs::Metadata, names: &[&str]) -> Vec<Error> {
    let mut faults: Vec<Error> = private(path, about, "0700").err().into_iter().collect();
    for name in names {
        let file = path.join(name);
        // Not through a link: what it points to is not what the node reads.
        let Ok(found) = fs::symlink_metadata(&file) else { continue };
        let fault = |message: String, hint: String| fail("key_permissions", message, hint);
        if found.is_symlink() {
            let message = format!("{} is a link: the node does not follow it", file.display());
            faults.push(fault(message, "put the file itself there".to_owned()));
        } else if !found.is_file() {
            faults.push(fault(format!("{} is no file", file.display()), "restore it from a backup".to_owned()));
        } else {
            faults.extend(private(&file, &found, "0600").err());
            if found.uid() != about.uid() {
                let message = format!("{} belongs to another user than {}", file.display(), path.display());
                faults.push(fault(message, format!("chown --reference {} {}", path.display(), file.display())));
            }
            if found.nlink() > 1 {
                let message = format!("{} has a second name somewhere", file.display());
                faults.push(fault(message, "copy it, and put the copy in its place".to_owned()));
            }
        }
    }
    faults
}

/// Reads a file that only its owner may read, without following links; none if it is not there.
///
/// # Errors
/// `key_permissions` if group or others may read it, `storage_failed` otherwise.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, Error> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("{} cannot be read: {e}", path.display());
            return Err(fail("key_permissions", message, "it must belong to the user who runs skein, mode 0600"));
        }
        Err(e) => return Err(cannot("read", path, &e)),
    };
    let about = file.metadata().map_err(|e| cannot("read", path, &e))?;
    private(path, &about, "0600")?;
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(about.len().min(FILE_BYTES)).unwrap_or(0) + 1));
    file.take(FILE_BYTES).read_to_string(&mut text).map_err(|e| cannot("read", path, &e))?;
    Ok(Some(text))
}

/// Writes a file that only its owner may read: whole or not at all, durable on return.
///
/// # Errors
/// `storage_failed`, `storage_full`.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = || -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    written().map_err(|e| cannot("write", path, &e))
}

fn private(path: &Path, about: &fs::Metadata, wanted: &str) -> Result<(), Error> {
    let mode = about.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(fail(
        "key_permissions",
        format!("{} has mode {mode:04o}: others than its owner may use it", path.display()),
        format!("chmod {} {}", &wanted[1..], path.display()),
    ))
}

fn owned(path: &Path, about: &fs::Metadata, user: u32) -> Result<(), Error> {
    let owner = about.uid();
    if owner == user {
        return Ok(());
    }
    Err(fail(
        "key_permissions",
        format!("{} belongs to the user with id {owner}, and skein runs as {user}", path.display()),
        format!("run it as that user, or chown -R {user} the state directory if no node of that user is to run on it"),
    ))
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let (code, hint) = if full {
        ("storage_full", "free some space")
    } else {
        ("storage_failed", "check the path, its owner and its permissions")
    };
    fail(code, format!("cannot {what} {}: {error}", path.display()), hint)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn private_dir() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = private_dir();
        let first = StateDir::open(&folder.path().join("state")).unwrap();
        let refused = StateDir::open(first.path()).unwrap_err();
        assert_eq!(refused.code, "state_in_use");
        assert!(crate::error::CODES.iter().any(|row| row.0 == refused.code));
        let path = first.path().to_path_buf();
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn files_that_others_may_read_are_refused() {
        let folder = private_dir();
        let dir = StateDir::open(folder.path()).unwrap();
        dir.write(CA_KEY, b"secret").unwrap();
        assert_eq!(dir.must_read(CA_KEY).unwrap().as_str(), "secret");
        fs::set_permissions(folder.path().join(CA_KEY), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = dir.read(CA_KEY).unwrap_err();
        assert_eq!(refused.code, "key_permissions");
        assert!(refused.message.contains("0640") && refused.hint.contains("chmod 600"));
        drop(dir);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(StateDir::open(folder.path()).unwrap_err().code, "key_permissions");
    }

    #[test]
    fn what_is_another_users_is_refused() {
        let folder = private_dir();
        let path = folder.path().join("state");
        let user = nix::unistd::geteuid().as_raw();
        let stranger = user.wrapping_add(1);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        let refused = StateDir::open_as(&path, stranger).unwrap_err();
        assert_eq!((&*refused.code, path.join(LOCK).exists()), ("key_permissions", false));
        assert!(refused.message.contains(&format!("{user}, and skein runs as {stranger}")), "{refused:?}");
        let held = StateDir::open(&path).unwrap();
        assert_eq!(
            StateDir::open_as(&path, stranger).unwrap_err().code,
            "state_in_use",
            "whose it is, a node has seen"
        );
        held.write(CA_KEY, b"secret").unwrap();
        drop(held);
        assert_eq!(StateDir::open_as(&path, stranger).unwrap_err().code, "key_permissions");
        if user == 0 {
            // Only root can give a file away.
            std::os::unix::fs::chown(path.join(CA_KEY), Some(stranger), None).unwrap();
            let refused = StateDir::open(&path).unwrap_err();
            assert!(refused.code == "key_permissions" && refused.message.contains(CA_KEY), "{refused:?}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let folder = private_dir();
        let dir = StateDir::open(folder.path()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join(RECORD_KEY)).unwrap();
        assert_eq!(dir.read(RECORD_KEY).unwrap_err().code, "storage_failed");
        assert_eq!(dir.read(CA_KEY).unwrap(), None);
    }

    #[test]
    fn each_fault_is_named() {
        let folder = private_dir();
        let dir = StateDir::open(&folder.path().join("state")).unwrap();
        for name in [CA_KEY, RECORD_KEY, ENROLLER_KEY] {
            dir.write(name, b"secret").unwrap();
        }
        let path = dir.path().to_path_buf();
        assert_eq!(faults(&path), []);
        fs::set_permissions(path.join(CA_KEY), fs::Permissions::from_mode(0o604)).unwrap();
        fs::rename(path.join(RECORD_KEY), folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), path.join(RECORD_KEY)).unwrap();
        fs::hard_link(path.join(ENROLLER_KEY), folder.path().join("copy")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        let found = faults(&path);
        assert!(found.iter().all(|fault| fault.code == "key_permissions" && !fault.hint.is_empty()), "{found:?}");
        let about = |word: &str| found.iter().filter(|fault| fault.message.contains(word)).count();
        assert_eq!((found.len(), about("0711"), about("0604"), about("link"), about("second name")), (4, 1, 1, 1, 1));
    }

    #[test]
    fn credentials_and_an_operators_keys_are_looked_at_too() {
        let folder = private_dir();
        let path = folder.path().join("state");
        drop(StateDir::open(&path).unwrap());
        let secrets = path.join(SECRETS).join("shop");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets).unwrap();
        write_private(&secrets.join("web.json"), b"{}").unwrap();
        write_private(&path.join(CLOCK), b"1").unwrap();
        assert_eq!(faults(&path), []);
        for file in [secrets.join("web.json"), path.join(CLOCK)] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(faults(&path).len(), 3, "{:?}", faults(&path));
        let keys = ["operator.key", "root.key"];
        keys.iter().for_each(|name| write_private(&path.join(name), b"secret").unwrap());
        assert_eq!(faults_of_keys(&path, &keys), []);
        fs::set_permissions(path.join("root.key"), fs::Permissions::from_mode(0o640)).unwrap();
        let found = faults_of_keys(&path, &keys);
        assert!(found.len() == 1 && found[0].message.contains("root.key"), "{found:?}");
    }

    #[test]
    fn an_owner_is_kept() {
        let folder = private_dir();
        let dir = StateDir::open(folder.path()).unwrap();
        assert_eq!(dir.owner().unwrap(), None);
        let owner = Owner {
            node: NodeId::new("web-1").unwrap(),
            trust_domain: TrustDomain::new("prod.example").unwrap(),
            address: None,
            enroller: None,
            found: None,
            later: serde_json::Map::default(),
        };
        dir.own(&owner).unwrap();
        assert_eq!(dir.owner().unwrap(), Some(owner.clone()));
        // A build that goes back to this one finds its node as it was.
        let later = serde_json::json!({"node": "web-1", "trust_domain": "prod.example", "later": {"than": 1}});
        write_private(&folder.path().join(NODE), later.to_string().as_bytes()).unwrap();
        let read = dir.owner().unwrap().unwrap();
        assert_eq!((&read.node, &read.address), (&owner.node, &None));
        let found = Some("10.0.0.7:15008".parse().unwrap());
        dir.own(&Owner { found, ..read }).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&dir.must_read(NODE).unwrap()).unwrap();
        assert_eq!((&kept["later"]["than"], &kept["found"]), (&1.into(), &"10.0.0.7:15008".into()));
    }
}
