//! What survives a crash: changesets as they came, spent tokens, the generation, the audit chain, last-known members.
//!
//! Everything is durable when a call returns. All calls block on the disk: async code goes through
//! `tokio::task::spawn_blocking`.

mod audit;
mod disk;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use certs::{
    codec::{self, Millis},
    id::NodeId,
    sign::Digest,
    verify::KnownKey,
};
use membership::record::next_generation;
use policy::changeset;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use disk::Disk;

pub use audit::{AuditEntry, AuditHead, Broken, Judgement};

use super::error::{Error, fail, internal};

/// In order of arrival, so that references come before what refers to them.
const CHANGESETS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changesets");
/// Token hash -> [`Spent`].
const TOKENS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tokens");
/// Position -> [`AuditEntry`].
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// How the tables are laid out; a store without it is of the first kind.
const FORMAT: &str = "format";
/// The layout that this build writes, and the newest that it reads.
const NEWEST_FORMAT: u32 = 1;
const GENERATION: &str = "generation";
const MEMBERS: &str = "members";
const KNOWN_KEYS: &str = "known_keys";
const ROLLED_BACK: &str = "rolled_back";

/// Bytes of redb's page cache: everything that is read often lives in memory already.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes that stay free on the disk: below it pushes are refused before the store is touched.
const RESERVE_BYTES: u64 = 4 << 20;
/// Most bytes of one small entry (token, audit).
const ENTRY_BYTES: usize = 256 << 10;

/// The store of one node.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// True for ever once the disk did not keep what it had taken.
    sync_failed: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Inner {
    Open(Database),
    /// The disk was full; the next write tries to open it again.
    Full,
    /// The disk failed, or somebody panicked over it; nothing is read or written until restart.
    Closed(String),
}

/// What became of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spent {
    /// Proofs that did not hold so far.
    WrongProofs(u32),
    /// Redeemed: the key that did, and the reply, so that a lost one can be repeated.
    Redeemed {
        /// SHA-256 of the joiner's public key and record key.
        keys: Digest,
        /// The encoded reply.
        reply: Vec<u8>,
    },
    /// Burnt by wrong proofs.
    Burnt,
}

impl Store {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// `storage_failed`, `storage_full`; `not_supported` if a newer build laid it out otherwise.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let sync_failed = Arc::default();
        let database = open(path, &sync_failed)?;
        Ok(Self { path: path.to_path_buf(), inner: Mutex::new(Inner::Open(database)), sync_failed })
    }

    /// All changesets in order of arrival.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn changesets(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.read(|database| {
            let table = database.begin_read()?.open_table(CHANGESETS)?;
            table.iter()?.map(|row| Ok(row?.1.value().to_vec())).collect()
        })
    }

    /// Appends changesets and says so in the audit chain: all or nothing.
    ///
    /// # Errors
    /// `storage_full`, `storage_closed`.
    pub fn append(&self, changesets: &[&[u8]], judgements: &[Judgement]) -> Result<(), Error> {
        let bytes: usize = changesets.iter().map(|c| c.len()).sum();
        self.write(bytes, |write| {
            let mut table = write.open_table(CHANGESETS)?;
            let next = table.last()?.map_or(0, |(key, _)| key.value() + 1);
            for (position, changeset) in (next..).zip(changesets) {
                table.insert(position, *changeset)?;
            }
            drop(table);
            audit::link(write, judgements)
        })
    }

    /// Puts stubs in the place of changesets, by id: all or nothing.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn replace(&self, stubs: &BTreeMap<Digest, Vec<u8>>) -> Result<(), Error> {
        let bytes: usize = stubs.values().map(Vec::len).sum();
        self.write(bytes, |write| {
            let mut table = write.open_table(CHANGESETS)?;
            let mut places = Vec::new();
            for row in table.iter()? {
                let (position, bytes) = row?;
                let id = changeset::decode(bytes.value()).ok().map(|packed| packed.id());
                places.extend(id.and_then(|id| stubs.get(&id)).map(|stub| (position.value(), stub)));
            }
            for (position, stub) in places {
                table.insert(position, stub.as_slice())?;
            }
            Ok(())
        })
    }

    /// What became of the token with this hash.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn token(&self, hash: &Digest) -> Result<Option<Spent>, Error> {
        let found = self.read(|database| {
            let table = database.begin_read()?.open_table(TOKENS)?;
            Ok(table.get(hash.0.as_slice())?.map(|value| value.value().to_vec()))
        })?;
        found.map(|bytes| entry(&bytes)).transpose()
    }

    /// Notes what became of a token of which `before` was known, before anything is signed for it; in the audit chain as well with a
    /// judgement.
    ///
    /// # Errors
    /// `failed` if something else became of it meanwhile; else as [`Self::append`].
    pub fn set_token(
        &self,
        hash: &Digest,
        before: Option<&Spent>,
        spent: &Spent,
        judgement: Option<Judgement>,
    ) -> Result<(), Error> {
        let (before, bytes) = (before.map(codec::encode), codec::encode(spent));
        let mut is_same = false;
        self.write(bytes.len(), |write| {
            let mut tokens = write.open_table(TOKENS)?;
            is_same = tokens.get(hash.0.as_slice())?.map(|value| value.value().to_vec()) == before;
            if !is_same {
                return Ok(());
            }
            tokens.insert(hash.0.as_slice(), bytes.as_slice())?;
            drop(tokens);
            judgement.map_or(Ok(()), |judgement| audit::link(write, &[judgement]))
        })?;
        let changed = || fail("failed", "the token was used at this very moment", "try again with the same one");
        is_same.then_some(()).ok_or_else(changed)
    }

    /// When it was last found that this store was older than what its node had done; Unix milliseconds.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn rolled_back(&self) -> Result<Option<Millis>, Error> {
        Ok(self.meta(ROLLED_BACK)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))))
    }

    /// Keeps when that was found. Durable on return.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn set_rolled_back(&self, at: Millis) -> Result<(), Error> {
        self.set_meta(ROLLED_BACK, &at.to_be_bytes())
    }

    /// A generation that this node never used: above the stored one, the given one and the clock, with 24 random bits
    /// below, so that two copies of one state differ. Durable on return.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn next_generation(&self, seen: u64, now: Millis, random: u32) -> Result<u64, Error> {
        let stored = self.meta(GENERATION)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let generation = next_generation(stored.unwrap_or(0), seen, now, random);
        self.set_meta(GENERATION, &generation.to_be_bytes())?;
        Ok(generation)
    }

    /// Keeps a generation that this node goes on under. Durable on return.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn set_generation(&self, generation: u64) -> Result<(), Error> {
        self.set_meta(GENERATION, &generation.to_be_bytes())
    }

    /// Members as last known, in membership's own encoding.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn members(&self) -> Result<Option<Vec<u8>>, Error> {
        self.meta(MEMBERS)
    }

    /// Keeps members as last known.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn set_members(&self, bytes: &[u8]) -> Result<(), Error> {
        self.set_meta(MEMBERS, bytes)
    }

    /// First keys of nodes.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn known_keys(&self) -> Result<HashMap<NodeId, KnownKey>, Error> {
        let decode = |bytes: Vec<u8>| codec::decode::<_, { 16 << 20 }>(&bytes).map_err(internal);
        self.meta(KNOWN_KEYS)?.map_or(Ok(HashMap::new()), decode)
    }

    /// Keeps the first keys of nodes.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn set_known_keys(&self, keys: &HashMap<NodeId, KnownKey>) -> Result<(), Error> {
        self.set_meta(KNOWN_KEYS, &codec::encode(keys))
    }

    /// Why nothing can be written, if so.
    pub fn trouble(&self) -> Option<Error> {
        match &*self.inner() {
            Inner::Open(_) => free(&self.path).is_some_and(|free| free < RESERVE_BYTES).then(|| full(&self.path)),
            Inner::Full => Some(full(&self.path)),
            Inner::Closed(why) => Some(closed(&self.path, why)),
        }
    }

    /// What the last one left; closed if it panicked: nobody knows what the disk then holds.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            self.inner.clear_poison();
            let mut inner = poisoned.into_inner();
            *inner = Inner::Closed("its last user panicked".to_owned());
            inner
        })
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read(|database| {
            let table = database.begin_read()?.open_table(META)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn set_meta(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes.len(), |write| {
            write.open_table(META)?.insert(key, bytes)?;
            Ok(())
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Error> {
        match &*self.inner() {
            Inner::Open(database) => work(database).map_err(|e| failed(&self.path, &e)),
            Inner::Full => Err(full(&self.path)),
            Inner::Closed(why) => Err(closed(&self.path, why)),
        }
    }

    fn write(
        &self,
        bytes: usize,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let mut inner = self.inner();
        if free(&self.path).is_some_and(|free| free < RESERVE_BYTES + 4 * bytes as u64) {
            return Err(full(&self.path));
        }
        if matches!(*inner, Inner::Full) {
            *inner = Inner::Open(open(&self.path, &self.sync_failed)?);
        }
        let database = match &*inner {
            Inner::Open(database) => database,
            Inner::Full => return Err(full(&self.path)),
            Inner::Closed(why) => return Err(closed(&self.path, why)),
        };
        let done = || -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            work(&write)?;
            write.commit()?;
            Ok(())
        };
        let Err(error) = done() else { return Ok(()) };
        // After an I/O error redb takes nothing more. A full disk may have space again, so the file is opened anew at
        // the next write; any other error, and any error of a sync, leaves it unknown what the disk holds, and only a
        // restart reads it again.
        if is_full(&error) && !self.sync_failed.load(Relaxed) {
            *inner = Inner::Full;
            return Err(full(&self.path));
        }
        *inner = Inner::Closed(error.to_string());
        Err(closed(&self.path, &error.to_string()))
    }
}

fn open(path: &Path, sync_failed: &Arc<AtomicBool>) -> Result<Database, Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let opened = || -> Result<(Database, u32), redb::Error> {
        let database = builder.create_with_backend(Disk::open(path, sync_failed)?)?;
        let write = database.begin_write()?;
        let format = format_of(&write.open_table(META)?)?;
        if format <= NEWEST_FORMAT {
            write.open_table(CHANGESETS)?;
            write.open_table(TOKENS)?;
            write.open_table(AUDIT)?;
            write.open_table(META)?.insert(FORMAT, NEWEST_FORMAT.to_be_bytes().as_slice())?;
            write.commit()?;
        } else {
            // Nothing of it is touched.
            write.abort()?;
        }
        Ok((database, format))
    };
    let (database, format) = opened().map_err(|e| if is_full(&e) { full(path) } else { failed(path, &e) })?;
    readable(path, format)?;
    Ok(database)
}

/// How the tables are laid out. What is no number is of a build to come.
fn format_of(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<u32, redb::Error> {
    let noted = meta.get(FORMAT)?;
    Ok(noted.map_or(1, |bytes| bytes.value().try_into().map_or(u32::MAX, u32::from_be_bytes)))
}

/// Fails with `not_supported` for a layout that this build does not know.
fn readable(path: &Path, format: u32) -> Result<(), Error> {
    if format <= NEWEST_FORMAT {
        return Ok(());
    }
    let message = format!(
        "{} has format {format}, written by a newer skein; this one reads up to {NEWEST_FORMAT}",
        path.display()
    );
    let hint = "run the version that wrote it, or a newer one; a backup of data_dir of before the upgrade is the other way back";
    Err(fail("not_supported", message, hint))
}

fn entry<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    codec::decode::<T, ENTRY_BYTES>(bytes).map_err(internal)
}

fn is_full(error: &redb::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(e) if matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge))
}

fn free(path: &Path) -> Option<u64> {
    let about = nix::sys::statvfs::statvfs(path.parent()?).ok()?;
    Some(about.blocks_available() * about.fragment_size())
}

fn full(path: &Path) -> Error {
    let hint = "free some space; traffic goes on, but no policy and no eviction counts here until then";
    fail("storage_full", format!("no space left for {}", path.display()), hint)
}

fn closed(path: &Path, why: &str) -> Error {
    let message = format!("{} is closed after an error: {why}", path.display());
    fail("storage_failed", message, "check the disk and restart the node; traffic goes on")
}

fn failed(path: &Path, error: &redb::Error) -> Error {
    fail("storage_failed", format!("{}: {error}", path.display()), "check the disk, or restore data_dir from a backup")
}

#[cfg(test)]
mod tests;
