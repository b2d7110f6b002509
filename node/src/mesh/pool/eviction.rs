//! Which connection gives way where a node has as many as it may: the least recently used of those that nobody uses.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Connection, Group, Link, Pool, Pools, State, lock};
use crate::{clock::Uptime, mesh::error::Code};

impl Pools {
    /// Closes the least recently used of the connections that nobody uses, whichever worker's it is; false if all are in use.
    pub(in crate::mesh) fn evict(&self) -> bool {
        let pools: Vec<_> = lock(&self.0).iter().filter_map(std::sync::Weak::upgrade).collect();
        let oldest = pools.iter().filter_map(|pool| Some((pool.oldest()?, pool))).min_by_key(|(used, _)| *used);
        oldest.is_some_and(|(used, pool)| pool.drop_used_at(used))
    }
}

impl Pool {
    /// When the least recently used of the connections that nobody uses was used.
    fn oldest(&self) -> Option<Uptime> {
        lock(&self.groups).values().filter_map(|group| group.oldest()).min()
    }

    /// Closes a connection that nobody uses and that was last used then; false if there is none any more.
    fn drop_used_at(&self, used: Uptime) -> bool {
        lock(&self.groups).values().any(|group| group.drop_used_at(used))
    }
}

impl Group {
    /// When the longest unused connection was last used.
    fn oldest(&self) -> Option<Uptime> {
        let mut state = lock(&self.state);
        state.forget_ended();
        let state = &*state;
        let unused = state.connections.iter().filter_map(|connection| state.unused_since(connection));
        let kept = state.idle.iter().flat_map(|(_, links)| links).filter(|link| !link.is_quic).map(|link| link.since);
        unused.chain(kept).chain(state.unclaimed.iter().map(|(_, since)| *since)).min()
    }

    fn drop_used_at(&self, used: Uptime) -> bool {
        let mut state = lock(&self.state);
        state.forget_ended();
        let unused = |connection: &&Arc<Connection>| state.unused_since(connection) == Some(used);
        let ended: Vec<_> = state.connections.iter().filter(unused).cloned().collect();
        for connection in &ended {
            connection.quic.close(Code::Done.varint(), b"");
        }
        state.connections.retain(|connection| !ended.iter().any(|ended| Arc::ptr_eq(ended, connection)));
        let before = state.unclaimed.len();
        state.unclaimed.retain(|(_, since)| *since != used);
        let mut dropped = !ended.is_empty() || before != state.unclaimed.len();
        for (_, links) in &mut state.idle {
            let before = links.len();
            links.retain(|link| match link.is_quic {
                true => !ended.iter().any(|connection| link.is_on(connection)),
                false => link.since != used,
            });
            dropped |= before != links.len();
        }
        dropped
    }
}

impl State {
    /// Drops the kept links that have ended: their streams have, too.
    fn forget_ended(&mut self) {
        for (_, links) in &mut self.idle {
            links.retain_mut(Link::is_usable);
        }
    }

    /// Since when nobody uses a QUIC connection: every stream on it is a virtual connection that is kept. `None` while somebody does.
    fn unused_since(&self, connection: &Connection) -> Option<Uptime> {
        let streams = connection.streams.load(Relaxed);
        let last = Uptime(connection.used.load(Relaxed));
        if streams == 0 {
            return Some(last);
        }
        let kept = self.idle.iter().flat_map(|(_, links)| links).filter(|link| link.is_on(connection));
        let (kept, last) = kept.fold((0, last), |(kept, last), link| (kept + 1, last.max(link.since)));
        (streams == kept).then_some(last)
    }
}
