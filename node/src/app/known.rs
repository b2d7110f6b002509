//! What a node has on disk when it starts.

use std::sync::Arc;

use crate::{
    agent::{
        book::Book,
        drift,
        error::{Error, fail},
        event::Events,
        identity::Identity,
        journal::Journal,
        state_dir::{Owner, StateDir},
        store::Store,
        world::World,
    },
    clock::Clock,
    config::Config,
};

/// The state directory of a node that has joined.
pub(super) fn state(config: &Config) -> Result<(StateDir, Owner), Error> {
    let not_joined = || {
        let message =
            format!("{} is not part of a mesh yet: {} holds no identity", config.node, config.data_dir.display());
        let hint = format!(
            "`skein init {}` founds one; `skein join --token-file FILE` joins one, by a token of `skein invite {}`",
            config.trust_domain, config.node
        );
        fail("not_joined", message, hint)
    };
    // Opening makes it: a node that never joined leaves no trace.
    if !config.data_dir.exists() {
        return Err(not_joined());
    }
    let dir = StateDir::open(&config.data_dir)?;
    let owner = dir.owner()?.ok_or_else(not_joined)?;
    if owner.node != config.node || owner.trust_domain != config.trust_domain {
        let (is, wants) = ((&owner.node, &owner.trust_domain), (&config.node, &config.trust_domain));
        let message =
            format!("{} is the state of {} in {}, not of {} in {}", dir.path().display(), is.0, is.1, wants.0, wants.1);
        return Err(fail("bad_config", message, "correct [node] in the configuration, or name another data_dir"));
    }
    Ok((dir, owner))
}

/// What the disk knows.
pub(super) struct Known {
    pub(super) store: Arc<Store>,
    pub(super) identity: Arc<Identity>,
    pub(super) book: Arc<Book>,
    pub(super) world: Arc<World>,
    pub(super) generation: u64,
    pub(super) members: Vec<u8>,
    pub(super) events: Arc<Events>,
}

/// Reads it.
///
/// # Errors
/// `not_joined` if the node has left; `key_permissions`, `storage_failed`, `storage_full`.
pub(super) fn load(dir: &StateDir, owner: &Owner) -> Result<(Known, Journal), Error> {
    // What runs goes on with a full disk; what starts writes first.
    let room = "free some space: a node does not start on a full disk";
    read(dir, owner).map_err(|error| if error.code == "storage_full" { error.hint(room) } else { error })
}

fn read(dir: &StateDir, owner: &Owner) -> Result<(Known, Journal), Error> {
    drift::resume(dir)?;
    let now = Clock.now();
    let store = Arc::new(Store::open(&dir.store())?);
    let identity = Identity::load(dir, owner)?;
    let mut book = Book::load(store.clone(), &owner.trust_domain, now)?;
    let policy = book.first_state(now);
    if policy.grants().get(&owner.node).is_some_and(|grant| grant.retired) {
        let message = format!("{} has left its mesh, and {} was not wiped", owner.node, dir.path().display());
        let hint = format!(
            "remove that directory; if the machine is to come back: `skein invite {} --replace`, then `skein join` here",
            owner.node
        );
        return Err(fail("not_joined", message, hint));
    }
    let world = World::new(&owner.trust_domain, &owner.node, policy, store.known_keys()?);
    let generation = store.next_generation(0, now, rand::random())?;
    let members = store.members()?.unwrap_or_default();
    let (identity, book, world) = (Arc::new(identity), Arc::new(book), Arc::new(world));
    let (journal, events) = Journal::open(dir.path(), &owner.node).map_err(|error| {
        let message = format!("{}/events: {error}", dir.path().display());
        fail("storage_failed", message, "check the file's permissions and the disk; without it the node begins anew")
    })?;
    let events = Arc::new(events);
    Ok((Known { store, identity, book, world, generation, members, events }, journal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{init, store::Judgement};
    use certs::{
        id::{NodeId, TrustDomain},
        root::Root,
        sign::SigningKey,
    };
    use policy::{
        changeset::{Change, Changeset},
        history::signed,
        kinds::node_grant_body,
    };

    #[test]
    fn a_node_that_left_and_was_not_wiped_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("state")).unwrap();
        let (trust_domain, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new("a").unwrap());
        let (operator, now) = (SigningKey::generate(), Clock.now());
        let wish = init::Init {
            trust_domain: &trust_domain,
            node: &node,
            services: &[],
            root: &Root::generate(&trust_domain, now),
            operator: ("ann", &operator),
            recovery: None,
            address: None,
            now,
        };
        init::init(&dir, &wish).unwrap();
        let owner = dir.owner().unwrap().unwrap();
        let state = load(&dir, &owner).unwrap().0.world.current().load().state.clone();
        let grant = certs::grant::NodeGrant { retired: true, ..(*state.grants()[&node]).clone() };
        let (document, body) = node_grant_body(&grant);
        let leaves = Changeset {
            trust_domain,
            role_set: state.role_set.number,
            issued_at: now,
            message: String::new(),
            confirm_by: None,
            nonce: [1; 16],
            changes: vec![Change { replaces: state.heads(&document), document, content: Some(body) }],
        };
        let bytes = signed(&leaves, &[&operator]);
        let judgement =
            Judgement { at: now, subject: certs::sign::Digest::of(&bytes), from: "leave".into(), refused: None };
        Store::open(&dir.store()).unwrap().append(&[&bytes], &[judgement]).unwrap();
        let error = load(&dir, &owner).err().unwrap();
        assert_eq!(error.code, "not_joined");
        assert!(error.hint.contains("skein invite a --replace"), "{error:?}");
    }
}
