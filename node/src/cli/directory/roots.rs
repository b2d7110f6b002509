//! Keys of roots in the operator directory, and the bundle beside them, while the mesh goes from one root to the next.

use std::{fs, path::Path};

use certs::{
    codec::Millis,
    id::TrustDomain,
    root::{Root, bundle_from_pem, bundle_to_pem, trust_domain_of},
    trust::{Trust, root_id},
};
use zeroize::Zeroizing;

use super::{BUNDLE, Directory, Known, NEXT_ROOT, ROOT, seal};
use crate::{
    agent::state_dir,
    cli::error::{Error, Result, io},
};

impl Directory {
    /// The root that the mesh is to go to: the one whose key lies here since an earlier attempt, or a new one, kept before anybody
    /// hears of it.
    ///
    /// # Errors
    /// The key cannot be read or written.
    pub fn next_root(&self, trust_domain: &TrustDomain, trust: &Trust, now: Millis) -> Result<Root> {
        if let Some(pem) = self.held(NEXT_ROOT)? {
            let root = self.read_root(trust_domain, &self.path.join(NEXT_ROOT), pem)?;
            if !trust.former.contains(&root.certificate()) {
                return Ok(root);
            }
        }
        let root = Root::generate(trust_domain, now);
        self.write(NEXT_ROOT, seal(&root.to_pem(), self.passphrase.known()?.as_ref())?.as_bytes(), 0o600)?;
        Ok(root)
    }

    /// The root with this certificate.
    ///
    /// # Errors
    /// `no_root` if its key does not lie here.
    pub fn root_of(&self, trust_domain: &TrustDomain, certificate: &[u8]) -> Result<Root> {
        for name in [ROOT, NEXT_ROOT] {
            // A sealed key's certificate stands beside it in the clear.
            if let Some(pem) = self.held(name)?.filter(|pem| is_of(pem, certificate)) {
                return self.read_root(trust_domain, &self.path.join(name), pem);
            }
        }
        let message = format!("the key of root {} is not in {}", root_id(certificate), self.path.display());
        Err(Error::new("no_root", message)
            .hint("give the directory that holds it with --operator: the one in which the root was made"))
    }

    /// The root from which enroller CAs are certified now.
    ///
    /// # Errors
    /// As [`Self::root_of`].
    pub fn issuing_root(&self, trust_domain: &TrustDomain, trust: &Trust) -> Result<Root> {
        let mut last = Error::new("no_root", "the mesh has no root to issue from");
        for certificate in trust.issuing() {
            match self.root_of(trust_domain, certificate) {
                Ok(root) => return Ok(root),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The same where its key lies in a file of its own.
    ///
    /// # Errors
    /// `no_root` if that is no key of such a root.
    pub fn issuing_root_in(&self, file: &Path, trust_domain: &TrustDomain, trust: &Trust) -> Result<Root> {
        let absent = |what: String| Error::new("no_root", what).hint("--root-key names the file root.key");
        let pem = state_dir::read_private(file)?.ok_or_else(|| absent(format!("there is no {}", file.display())))?;
        if !trust.issuing().any(|certificate| is_of(&pem, certificate)) {
            let wanted: Vec<_> = trust.issuing().map(|root| root_id(root)).collect();
            let message = format!("{} is not the key of root {}", file.display(), wanted.join(" or "));
            return Err(absent(message));
        }
        self.read_root(trust_domain, file, pem)
    }

    /// The root whose key lies here, or with `next` the one that was made for a change that is not over. Its certificate names the mesh,
    /// so that this needs nothing beside it.
    ///
    /// # Errors
    /// `no_root` if its key lies elsewhere; readable by others, or no key.
    pub fn lying_root(&self, next: bool) -> Result<Root> {
        let (name, hint) = if next {
            (NEXT_ROOT, "`skein ca rotate start` makes it")
        } else {
            (ROOT, "give the directory that holds it with --operator DIR")
        };
        let path = self.path.join(name);
        let pem = self
            .held(name)?
            .ok_or_else(|| Error::new("no_root", format!("there is no root key at {}", path.display())).hint(hint))?;
        let named = bundle_from_pem(&pem).ok().and_then(|all| trust_domain_of(all.first()?));
        let trust_domain = named.map_or_else(|| self.known().map(|known| known.trust_domain), Ok)?;
        self.read_root(&trust_domain, &path, pem)
    }

    fn read_root(&self, trust_domain: &TrustDomain, path: &Path, pem: Zeroizing<String>) -> Result<Root> {
        let pem = self.opened(path, pem)?;
        Root::from_pem(trust_domain, &pem).map_err(|error| {
            Error::new("bad_config", format!("{} is not a root: {error}", path.display()))
                .hint("restore the file that `skein init` wrote")
        })
    }

    /// Once the mesh trusts nothing but the root that was next: its key is `root.key` from now on; the old one stays under its own name.
    ///
    /// # Errors
    /// A file cannot be renamed.
    pub fn settle_roots(&self, trust: &Trust) -> Result<()> {
        let [certificate] = trust.roots.as_slice() else { return Ok(()) };
        if !self.held(NEXT_ROOT)?.is_some_and(|pem| is_of(&pem, certificate)) {
            return Ok(());
        }
        let path = |name: &str| self.path.join(name);
        let rename =
            |from: &str, to: &str| fs::rename(path(from), path(to)).map_err(|error| io("rename", &path(from), &error));
        if let Some(old) = self.held(ROOT)? {
            let id = bundle_from_pem(&old).ok().and_then(|all| all.first().map(|der| root_id(der)));
            rename(ROOT, &format!("root.{}.key", id.as_deref().unwrap_or("old")))?;
        }
        rename(NEXT_ROOT, ROOT)
    }

    /// Forgets the root that was next, after the change was given up.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_next_root(&self) -> Result<()> {
        let path = self.path.join(NEXT_ROOT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Keeps the roots of a RoleSet, unless those of a later one are known already.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn keep_roots(&self, roots: &[Vec<u8>], role_set: u64) -> Result<()> {
        let known = self.known()?;
        if role_set < known.role_set {
            return Ok(());
        }
        let bundle = bundle_to_pem(roots);
        if self.bundle().ok().as_ref() != Some(&bundle) {
            self.write(BUNDLE, bundle.as_bytes(), 0o644)?;
        }
        if role_set != known.role_set {
            self.store_known(&Known { role_set, ..known })?;
        }
        Ok(())
    }

    pub(super) fn held(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        state_dir::read_private(&self.path.join(name))
    }
}

/// Whether the key file is that of this root.
fn is_of(pem: &str, certificate: &[u8]) -> bool {
    bundle_from_pem(pem).is_ok_and(|all| all.iter().any(|der| der == certificate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::directory::tests::{founded, known};

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn the_next_root_takes_the_place_of_the_old_one_when_it_alone_is_trusted() {
        let temporary = tempfile::tempdir().unwrap();
        let (mesh, directory) = (known().trust_domain, Directory::of(Some(temporary.path()), &known().trust_domain));
        founded(&directory);
        let old = directory.lying_root(false).unwrap().certificate();
        let steady = Trust::of(vec![old.clone()]);
        let new = directory.next_root(&mesh, &steady, NOW).unwrap().certificate();
        // An attempt that broke off goes on with the same root.
        assert_eq!(directory.next_root(&mesh, &steady, NOW).unwrap().certificate(), new);
        let both = steady.begin(&new).unwrap();
        directory.settle_roots(&both).unwrap();
        assert_eq!(directory.issuing_root(&mesh, &both).unwrap().certificate(), old);
        let used = both.activate().unwrap();
        assert_eq!(directory.issuing_root(&mesh, &used).unwrap().certificate(), new);
        let over = used.finish().unwrap();
        for _ in 0..2 {
            directory.settle_roots(&over).unwrap();
            assert_eq!(directory.lying_root(false).unwrap().certificate(), new);
        }
        assert_eq!(directory.root_of(&mesh, &old).err().unwrap().code, "no_root");
        assert!(temporary.path().join(format!("root.{}.key", root_id(&old))).exists());
        let third = directory.next_root(&mesh, &over, NOW).unwrap().certificate();
        assert!(third != new && third != old);
    }

    #[test]
    fn roots_of_an_older_role_set_do_not_come_back() {
        let temporary = tempfile::tempdir().unwrap();
        let (mesh, directory) = (known().trust_domain, Directory::of(Some(temporary.path()), &known().trust_domain));
        founded(&directory);
        let [old, new] = [0, 1].map(|_| Root::generate(&mesh, NOW).certificate());
        let kept = || bundle_from_pem(&directory.bundle().unwrap()).unwrap();
        directory.keep_roots(std::slice::from_ref(&new), 4).unwrap();
        directory.keep_roots(&[old], 3).unwrap();
        assert_eq!((kept(), directory.known().unwrap().role_set), (vec![new], 4));
    }
}
