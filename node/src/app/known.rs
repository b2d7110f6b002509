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

pub(super) fn load(dir: &StateDir, owner: &Owner) -> Result<(Known, Journal), Error> {
    drift::resume(dir)?;
    let now = Clock.now();
    let store = Arc::new(Store::open(&dir.store())?);
    let identity = Identity::load(dir, owner)?;
    let mut book = Book::load(store.clone(), &owner.trust_domain, now)?;
    let world = World::new(&owner.trust_domain, &owner.node, book.first_state(now), store.known_keys()?);
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
