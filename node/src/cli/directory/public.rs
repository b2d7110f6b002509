//! What is public in an operator directory: `mesh.toml` and `bundle.pem`. Any node tells it again to whom has lost it.

use std::fs;

use certs::root::{bundle_from_pem, trust_domain_of};

use super::{BUNDLE, Directory, Known, KnownNode, MESH, Out, ROOT, api};
use crate::cli::error::{Error, Result, io};

impl Directory {
    /// The trust bundle, PEM.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn bundle(&self) -> Result<String> {
        self.public(BUNDLE)
    }

    /// What is known of the mesh.
    ///
    /// # Errors
    /// Missing or not as it should be.
    pub fn known(&self) -> Result<Known> {
        toml::from_str(&self.public(MESH)?).map_err(|error| {
            Error::new("bad_config", format!("{}: {}", self.path.join(MESH).display(), error.message()))
                .hint(
                    "restore it from a copy; else move it away, and `skein operator restore DIR` on the machine of a running node writes \
                     another one, without what was proven of who counts no more",
                )
        })
    }

    fn public(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        fs::read_to_string(&path).map_err(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                return io("read", &path, &error);
            }
            let dir = self.path.display();
            Error::new("no_operator", format!("there is no {}", path.display())).hint(format!(
                "it is public: `skein operator restore {dir}` on the machine of a running node writes it; a copy from another operator's \
                 directory serves, too"
            ))
        })
    }

    /// Writes `mesh.toml`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store_known(&self, known: &Known) -> Result<()> {
        let text =
            toml::to_string(known).map_err(|error| Error::new("failed", format!("cannot write {MESH}: {error}")))?;
        self.write(MESH, format!("# Written by skein, refreshed by every call.\n{text}").as_bytes(), 0o644)
    }

    /// Writes what a node says of its mesh beside the keys that lie here, which stay as they are. What was proved before stays, too.
    ///
    /// # Errors
    /// `wrong_trust_domain` if what lies here is of another mesh, `unverified_node` if it is of a later RoleSet; or it cannot be written.
    pub fn restore(&self, mesh: &api::Mesh) -> Result<()> {
        let dir = self.path.display();
        let other = |what: String| {
            Error::new("wrong_trust_domain", format!("{what}, {} is a node of {}", mesh.node, mesh.trust_domain))
                .hint("nothing was written; ask a node of the mesh that the keys are of")
        };
        let known = self.path.join(MESH).exists().then(|| self.known()).transpose()?;
        if let Some(known) = known.as_ref().filter(|known| known.genesis != mesh.genesis) {
            return Err(other(format!("{dir}/{MESH} is of the mesh {} {}", known.trust_domain, known.genesis)));
        }
        if let Some(known) = known.as_ref().filter(|known| known.role_set > mesh.role_set) {
            let Known { role_set, .. } = known;
            let message = format!(
                "{} knows RoleSets up to {}, and {dir}/{MESH} is of RoleSet {role_set}",
                mesh.node, mesh.role_set
            );
            return Err(Error::new("unverified_node", message)
                .hint("nothing was written; wait until the node has caught up, or do it at another one"));
        }
        let root = self.held(ROOT)?.and_then(|pem| bundle_from_pem(&pem).ok()?.into_iter().next());
        if let Some(named) = root.and_then(|der| trust_domain_of(&der)).filter(|named| *named != mesh.trust_domain) {
            return Err(other(format!("{dir}/{ROOT} is of {named}")));
        }
        self.make()?;
        self.write(BUNDLE, mesh.bundle.as_bytes(), 0o644)?;
        let told = Known::told(mesh);
        self.store_known(&known.map_or_else(|| told.clone(), |known| Known { nodes: told.nodes.clone(), ..known }))
    }

    /// Keeps what a node says of the nodes there are; a directory that cannot be written stays as it is.
    pub fn refresh(&self, known: &Known, mesh: &api::Mesh) {
        let fresh = Known { nodes: Known::told(mesh).nodes, ..known.clone() };
        if fresh != *known && !fresh.nodes.is_empty() {
            // A read-only copy of the directory is a way to use it.
            let _ = self.store_known(&fresh);
        }
    }

    /// Keeps who counts no more; a directory that cannot be written stays as it is.
    pub fn note_out(&self, edit: impl FnOnce(&mut Out)) {
        let Ok(mut known) = self.known() else { return };
        let before = known.out.clone();
        edit(&mut known.out);
        if known.out != before {
            // A read-only copy of the directory is a way to use it.
            let _ = self.store_known(&known);
        }
    }
}

impl Known {
    /// What a node says of its mesh; who counts no more is left to proofs.
    pub fn told(mesh: &api::Mesh) -> Self {
        let mut nodes = mesh.nodes.clone();
        nodes.retain(|node| !node.addresses.is_empty());
        nodes.sort_by_key(|node| !node.alive);
        let node = |node: api::KnownNode| KnownNode { name: node.name, addresses: node.addresses };
        Self {
            trust_domain: mesh.trust_domain.clone(),
            genesis: mesh.genesis,
            role_set: mesh.role_set,
            out: Out::default(),
            nodes: nodes.into_iter().map(node).collect(),
            later: toml::Table::new(),
        }
    }
}
