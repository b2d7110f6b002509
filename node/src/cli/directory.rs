//! The operator directory: keys, the trust bundle, and the nodes by which the mesh is reached.

#[cfg(test)]
mod links;
mod public;
mod roots;

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use certs::{
    id::{NodeId, TrustDomain},
    sealed,
    sign::{Digest, SigningKey},
    verify::Authority,
};
use nix::{
    fcntl::{self, OFlag},
    sys::stat::Mode,
    unistd::{self, UnlinkatFlags},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    accounts,
    agent::{
        admin::api::{self, Out},
        state_dir,
    },
    cli::{
        error::{Error, Result, io},
        passphrase::{Passphrase, Word},
    },
    config::paths::folder_of,
};

pub(super) const OPERATOR: &str = "operator.key";
pub(super) const RECOVERY: &str = "recovery.key";
pub(super) const ROOT: &str = "root.key";
/// What `init` writes first.
pub(super) const FIRST: [&str; 4] = [OPERATOR, RECOVERY, ROOT, BUNDLE];
pub(super) const NEXT_ROOT: &str = "root.next.key";
const BUNDLE: &str = "bundle.pem";
const MESH: &str = "mesh.toml";

/// An operator directory; it may not exist yet.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    /// Sign by `recovery.key`.
    recovery: bool,
    /// Of its keys.
    passphrase: Passphrase,
}

/// `mesh.toml`: what the operator knows of the mesh, refreshed by every call, of whatever version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Id of the first RoleSet's changeset: what every token names.
    pub genesis: Digest,
    /// Number of the latest RoleSet whose roots are in `bundle.pem`.
    #[serde(default)]
    pub role_set: u64,
    /// Who counts no more, as far as that was proven here: none of them is believed.
    #[serde(default, skip_serializing_if = "Out::is_empty")]
    pub out: Out,
    /// Nodes, those seen alive last first.
    #[serde(default, rename = "node")]
    pub nodes: Vec<KnownNode>,
    /// What a later build noted beside that: not read, and written again as it is.
    #[serde(flatten)]
    pub later: toml::Table,
}

impl Known {
    /// Whom to believe under these roots.
    pub fn authority(&self, roots: Vec<Vec<u8>>) -> Authority {
        let mut authority = Authority::new(self.trust_domain.clone(), roots);
        self.out.instruct(&mut authority);
        authority
    }
}

/// A node of `mesh.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    /// Its name.
    pub name: NodeId,
    /// `HOST:PORT`s of the mesh.
    pub addresses: Vec<String>,
}

/// What `init` makes and this directory keeps.
pub struct Keys<'a> {
    /// Signs policy.
    pub operator: &'a SigningKey,
    /// Signs RoleSets only.
    pub recovery: &'a SigningKey,
    /// The root's certificate and key, PEM.
    pub root: &'a str,
    /// The trust bundle, PEM.
    pub bundle: &'a str,
}

/// Which keys lie in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lying {
    /// The root's.
    pub root: bool,
    /// The one for lost keys.
    pub recovery: bool,
    /// The operator's.
    pub operator: bool,
    /// Whether that is under a passphrase.
    pub sealed: bool,
}

impl Directory {
    /// The directory that a flag names, or the default one of a mesh.
    pub fn of(explicit: Option<&Path>, trust_domain: &TrustDomain) -> Self {
        let path = explicit.map_or_else(|| home().join(trust_domain.as_str()), Path::to_path_buf);
        Self { path, recovery: false, passphrase: Passphrase::default() }
    }

    /// The same directory, its keys under this passphrase.
    #[must_use]
    pub fn under(self, passphrase: Passphrase) -> Self {
        Self { passphrase, ..self }
    }

    /// The same directory, where `recovery.key` signs in the place of `operator.key`.
    #[must_use]
    pub fn recovering(self) -> Self {
        Self { recovery: true, ..self }
    }

    /// The directory that a flag names, or the default one of this machine's mesh, or the only one there is.
    ///
    /// # Errors
    /// None is there, or several are.
    pub fn find(explicit: Option<&Path>, trust_domain: Option<&TrustDomain>) -> Result<Self> {
        let candidates = match (explicit, trust_domain) {
            (Some(path), _) => vec![path.to_path_buf()],
            (None, Some(name)) => vec![home().join(name.as_str())],
            (None, None) => meshes(&home()),
        };
        let mut present = candidates.iter().filter(|path| path.is_dir());
        match (present.next(), present.next()) {
            (Some(path), None) => Ok(Self { path: path.clone(), recovery: false, passphrase: Passphrase::default() }),
            (Some(_), Some(_)) => {
                let names: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
                Err(Error::new("ambiguous", format!("there are several operator directories: {}", names.join(", ")))
                    .hint("say which with --operator DIR"))
            }
            (None, _) => {
                let looked = candidates.first().cloned().unwrap_or_else(home);
                Err(Error::new("no_operator", format!("there is no operator directory at {}", looked.display()))
                    .hint("give the one that `skein init` wrote with --operator DIR"))
            }
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new mesh's keys, none over another.
    ///
    /// # Errors
    /// The directory holds keys already, or cannot be written.
    pub fn store_keys(&self, keys: &Keys<'_>) -> Result<()> {
        self.refuse_old_keys()?;
        self.make()?;
        // One passphrase for all three.
        let word = self.passphrase.of_new_keys()?;
        let sealed = |pem: &str| seal(pem, word.as_ref());
        self.write(OPERATOR, sealed(&keys.operator.to_pem())?.as_bytes(), 0o600)?;
        self.write(RECOVERY, sealed(&keys.recovery.to_pem())?.as_bytes(), 0o600)?;
        self.write(ROOT, sealed(keys.root)?.as_bytes(), 0o600)?;
        self.write(BUNDLE, keys.bundle.as_bytes(), 0o644)
    }

    /// Removes what [`Self::store_keys`] wrote, when the mesh did not come about.
    pub fn forget_keys(&self) {
        for name in FIRST {
            // The error that led here is the one to report.
            let _ = fs::remove_file(self.path.join(name));
        }
    }

    /// Fails if keys lie here that a new mesh would overwrite.
    ///
    /// # Errors
    /// They do.
    pub fn refuse_old_keys(&self) -> Result<()> {
        match [OPERATOR, RECOVERY, ROOT].iter().map(|name| self.path.join(name)).find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => {
                Err(Error::new("already_exists", format!("{} exists: this mesh was founded", path.display()))
                    .hint("choose another trust domain or another --operator DIR; keys are never overwritten"))
            }
        }
    }

    /// Whether nothing is known of a mesh here: an `init` that did not come to its end leaves keys and no more.
    pub fn is_unfinished(&self) -> bool {
        !self.path.join(MESH).exists()
    }

    /// The key that signs policy.
    ///
    /// # Errors
    /// Missing, readable by others, or no key.
    pub fn operator_key(&self) -> Result<SigningKey> {
        let path = self.path.join(if self.recovery { RECOVERY } else { OPERATOR });
        let pem = self.opened(&path, read_private(&path)?)?;
        SigningKey::from_pem(&pem).map_err(|error| {
            Error::new("bad_config", format!("{} is not a signing key: {error}", path.display()))
                .hint("restore the file that `skein init` wrote")
        })
    }

    /// Writes what a further operator needs: a key of their own, the trust bundle, the nodes that are known.
    ///
    /// # Errors
    /// Keys lie here already, or it cannot be written.
    pub fn store_operator(&self, key: &SigningKey, bundle: &str, known: &Known) -> Result<()> {
        self.refuse_old_keys()?;
        // A passphrase that cannot be read is found before anything is written.
        let sealed = seal(&key.to_pem(), self.passphrase.of_new_keys()?.as_ref())?;
        let made = !self.path.exists();
        // A bundle and a `mesh.toml` may lie here without a key: they stay what they are where this does not come about.
        let held = [BUNDLE, MESH].map(|name| (name, fs::read(self.path.join(name)).ok()));
        let written = (|| {
            self.make()?;
            // The key last: without it there is no directory that looks complete.
            self.write(BUNDLE, bundle.as_bytes(), 0o644)?;
            self.store_known(known)?;
            self.write(OPERATOR, sealed.as_bytes(), 0o600)
        })();
        if written.is_err() {
            for (name, before) in held {
                // The error that led here is the one to report.
                let _ = match before {
                    Some(content) => self.write(name, &content, 0o644),
                    None => fs::remove_file(self.path.join(name)).map_err(|error| io("remove", &self.path, &error)),
                };
            }
            if made {
                let _ = fs::remove_dir(&self.path);
            }
        }
        written
    }

    /// Which keys lie here.
    pub fn lying(&self) -> Lying {
        let is_sealed = |name: &str| {
            let text = state_dir::read_private(&self.path.join(name)).ok().flatten();
            text.is_some_and(|text| certs::sealed::is_sealed(&text))
        };
        let lies = |name: &str| self.path.join(name).exists();
        Lying { root: lies(ROOT), recovery: lies(RECOVERY), operator: lies(OPERATOR), sealed: is_sealed(OPERATOR) }
    }

    /// Puts every key that lies here under another passphrase, or under none: all of them or, where one cannot be opened, none.
    /// `word` is asked for once they are open. Gives their names.
    ///
    /// # Errors
    /// No key lies here, one cannot be opened, there is no new passphrase, or the disk refuses.
    pub fn reseal(&self, word: impl FnOnce() -> Result<Option<Word>>) -> Result<Vec<&'static str>> {
        let mut open = Vec::new();
        for name in [OPERATOR, RECOVERY, ROOT, NEXT_ROOT] {
            let path = self.path.join(name);
            if let Some(text) = state_dir::read_private(&path)? {
                open.push((name, self.opened(&path, text)?));
            }
        }
        if open.is_empty() {
            return Err(Error::new("no_operator", format!("there is no key in {}", self.path.display()))
                .hint("give the directory that `skein init` wrote with --operator DIR"));
        }
        let word = word()?;
        for (name, text) in &open {
            self.write(name, seal(text, word.as_ref())?.as_bytes(), 0o600)?;
        }
        Ok(open.into_iter().map(|(name, _)| name).collect())
    }

    /// A key file's text in the clear.
    fn opened(&self, path: &Path, text: Zeroizing<String>) -> Result<Zeroizing<String>> {
        if sealed::is_sealed(&text) { self.passphrase.open(path, &text) } else { Ok(text) }
    }

    fn make(&self) -> Result<()> {
        let above = Some(folder_of(&self.path)).filter(|folder| !folder.exists()).map(Path::to_path_buf);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        let owned = made.and_then(|()| {
            above.iter().chain([&self.path]).try_for_each(|path| {
                hand_over(path, &open_directory(path)?);
                Ok(())
            })
        });
        owned.map_err(|error| io("create", &self.path, &error))
    }

    /// Writes a file whole or not at all. Under sudo the directory is another's, who may put links into it: all is done by the
    /// directory's descriptor, and nothing that is there already is opened.
    fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.path.join(name);
        let draft = format!(".{name}.{:016x}", rand::random::<u64>());
        let written = (|| {
            let directory = open_directory(&self.path)?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = fcntl::openat(&directory, draft.as_str(), flags, Mode::from_bits_truncate(mode))?;
            let written = put(fs::File::from(file), &path, content)
                .and_then(|()| Ok(fcntl::renameat(&directory, draft.as_str(), &directory, name)?));
            if written.is_err() {
                // The draft is worthless; the error that made it so is reported.
                let _ = unistd::unlinkat(&directory, draft.as_str(), UnlinkatFlags::NoRemoveDir);
            }
            written.and_then(|()| directory.sync_all())
        })();
        written.map_err(|error| io("write", &path, &error))
    }
}

fn put(mut file: fs::File, path: &Path, content: &[u8]) -> std::io::Result<()> {
    file.write_all(content)?;
    hand_over(path, &file);
    file.sync_all()
}

/// The directory itself, not what a link leads to.
fn open_directory(path: &Path) -> std::io::Result<fs::File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// A key file's text under the passphrase, if there is one.
fn seal(pem: &str, word: Option<&Word>) -> Result<Zeroizing<String>> {
    let Some(word) = word else { return Ok(Zeroizing::new(pem.to_owned())) };
    let sealed = sealed::seal(pem, word.as_bytes()).map_err(|error| Error::new("failed", error.to_string()))?;
    Ok(Zeroizing::new(sealed))
}

/// Reads a key file that nobody else may read.
fn read_private(path: &Path) -> Result<Zeroizing<String>> {
    state_dir::read_private(path)?.ok_or_else(|| {
        Error::new("no_operator", format!("there is no key at {}", path.display()))
            .hint("give the directory that `skein init` wrote with --operator DIR")
    })
}

/// Operator directories below `home`.
fn meshes(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.join(MESH).is_file()).collect();
    found.sort();
    found
}

/// `$XDG_CONFIG_HOME/skein` of the invoking user, also under sudo.
fn home() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").or_else(|| invoker().map(|user| user.dir.join(".config")));
    let config = config.or_else(|| variable("HOME").map(|home| home.join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/root/.config")).join("skein")
}

/// Who called sudo.
fn invoker() -> Option<accounts::User> {
    let name = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty())?;
    nix::unistd::geteuid().is_root().then(|| accounts::user(&name)).flatten()
}

/// Under sudo, gives what was written to the invoking user, if it lies in that user's home.
fn hand_over(path: &Path, opened: &fs::File) {
    let Some(user) = invoker().filter(|user| path.starts_with(&user.dir)) else { return };
    if opened.metadata().is_ok_and(|metadata| metadata.uid() != user.uid.as_raw()) {
        // Root's file is still a valid one; the next call by the user says what is wrong.
        let _ = unistd::fchown(opened, Some(user.uid), Some(user.gid));
    }
}

#[cfg(test)]
mod tests;
