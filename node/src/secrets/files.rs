//! Files that documents name: which of them may be read, whatever links lead there, and how.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Key, MAX_BYTES, Secrets};

/// Folders by the namespace whose workloads may use files below them.
pub type Folders = BTreeMap<String, Vec<PathBuf>>;

impl Secrets {
    /// From now on documents may name only files below these folders; without, whatever the node may read.
    #[must_use]
    pub fn within(self, folders: Option<Folders>) -> Self {
        Self { folders: folders.map(Arc::new), ..self }
    }

    /// A file that a document names for workloads of a namespace, as text.
    ///
    /// # Errors
    /// In words.
    pub fn named_file(&self, namespace: &str, path: &str) -> Result<String, String> {
        let real = self.allowed(namespace, path)?;
        let failed = |error: io::Error| format!("{path}: {error}");
        // Whoever opens a pipe would wait for its writer.
        let without_waiting = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
        let file = fs::OpenOptions::new().read(true).custom_flags(without_waiting.bits()).open(real).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(format!("{path}: not a file, but a directory, a device or a pipe"));
        }
        // The size that a file tells is not what comes of it: it may grow, and some tell none.
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(format!("{path}: more than {MAX_BYTES} bytes"));
        }
        Ok(text)
    }

    /// The same of a private key.
    ///
    /// # Errors
    /// In words; also for a key that every user of the machine may read.
    pub fn named_key(&self, namespace: &str, path: &str) -> Result<Key, String> {
        let key = Key::from(self.named_file(namespace, path)?);
        match fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0) {
            true => Err(format!("{path}: every user of this machine may read the key (chmod o-r)")),
            false => Ok(key),
        }
    }

    /// Where a file is that may be read.
    fn allowed(&self, namespace: &str, path: &str) -> Result<PathBuf, String> {
        if !path.starts_with('/') {
            return Err(format!("`{path}` is not an absolute path"));
        }
        let real = fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))?;
        // Whoever sees only the path that is written finds it below the folder.
        let leads = if real == Path::new(path) { String::new() } else { format!(" (in fact {})", real.display()) };
        let is_below = |folder: &Path| fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder));
        if self.folder.parent().is_some_and(is_below) {
            return Err(format!(
                "{path}{leads}: lies in the node's data directory, of which documents may name nothing; keep it elsewhere, or \
                 give it to the node with `skein secret put`"
            ));
        }
        let Some(folders) = &self.folders else { return Ok(real) };
        if folders.get(namespace).into_iter().flatten().any(|folder| is_below(folder)) {
            return Ok(real);
        }
        Err(format!("{path}{leads}: lies below no folder that `[secrets] files` of skein.toml gives to {namespace}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_files_are_read_and_only_as_far_as_they_may_reach() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(Path::new("/nonexistent"));
        let read_file = |path: &str| secrets.named_file("shop", path);
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        nix::unistd::mkfifo(path("pipe").as_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for special in ["/dev/zero", "/dev/null", &path("pipe"), &path("")] {
            let why = read_file(special).unwrap_err();
            assert!(why.contains(special) && why.contains("not a file"), "{why}");
        }
        let large = fs::File::create(path("large")).unwrap();
        large.set_len(1 << 40).unwrap();
        assert!(read_file(&path("large")).unwrap_err().contains("more than 1048576 bytes"));
        fs::write(path("small"), "text").unwrap();
        assert_eq!(read_file(&path("small")).unwrap(), "text");
        assert!(read_file("relative").unwrap_err().contains("absolute"));
        assert!(read_file("/nowhere/at/all").unwrap_err().contains("/nowhere/at/all"));
    }

    #[test]
    fn the_nodes_own_files_are_nobodys_whatever_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let (data, out) = (dir.path().join("data"), dir.path().join("out"));
        for folder in [&data, &out] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("ca.key"), "text").unwrap();
            fs::set_permissions(folder.join("ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::os::unix::fs::symlink(&data, out.join("link")).unwrap();
        let secrets = Secrets::new(&data).within(Some(BTreeMap::from([("shop".to_owned(), vec![dir.path().into()])])));
        for path in ["data/ca.key", "out/../data/ca.key", "out/link/ca.key"] {
            let path = dir.path().join(path);
            let refused = secrets.named_key("shop", path.to_str().unwrap()).unwrap_err();
            assert!(refused.contains("data directory") && refused.contains("/data/ca.key"), "{refused}");
        }
        assert!(secrets.named_key("shop", out.join("ca.key").to_str().unwrap()).is_ok());
    }

    #[test]
    fn a_namespace_has_the_files_below_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["shop", "bank", "shopping"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("a.pem"), "text").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("bank/a.pem"), dir.path().join("shop/link.pem")).unwrap();
        let folders = BTreeMap::from([("shop".to_owned(), vec![dir.path().join("shop")])]);
        let secrets = Secrets::new(Path::new("/nonexistent"));
        let read = |secrets: &Secrets, namespace: &str, path: &str| {
            secrets.named_file(namespace, dir.path().join(path).to_str().unwrap())
        };
        assert!(read(&secrets, "bank", "shop/a.pem").is_ok(), "as long as no folders are named");
        let secrets = secrets.within(Some(folders));
        assert!(read(&secrets, "shop", "shop/a.pem").is_ok());
        for (namespace, path) in
            [("shop", "bank/a.pem"), ("shop", "shopping/a.pem"), ("shop", "shop/link.pem"), ("bank", "bank/a.pem")]
        {
            let refused = read(&secrets, namespace, path).unwrap_err();
            assert!(refused.contains("[secrets] files") && refused.contains(namespace), "{refused}");
        }
        let refused = read(&secrets, "shop", "shop/link.pem").unwrap_err();
        assert!(refused.contains("shop/link.pem (in fact ") && refused.contains("bank/a.pem)"), "{refused}");
    }
}
