//! Dials of simulated nodes: as many at once as a real node makes, and as slow to give up.

use std::{collections::VecDeque, net::SocketAddr};

use certs::id::NodeId;

use super::{
    network::{Host, Network, pair},
    queue::Delivery,
};
use crate::engine::{Event, LinkId};

/// Dials of one node at once, as `node` makes them.
const AT_ONCE: usize = 64;
/// A dial into the void ends after this, as in `node`.
const VOID_MS: u64 = 3_000;

/// The dials of one process.
#[derive(Default)]
pub(super) struct Dials {
    under_way: usize,
    waiting: VecDeque<(Option<NodeId>, SocketAddr)>,
}

impl Network {
    /// Dials, or waits for its turn.
    pub(super) fn dial(&mut self, from: &NodeId, node: Option<NodeId>, address: SocketAddr) {
        let Some(host) = self.nodes.get_mut(from) else { return };
        if host.dials.under_way < AT_ONCE {
            host.dials.under_way += 1;
            self.begin_dial(from, node, address);
        } else {
            host.dials.waiting.push_back((node, address));
        }
    }

    /// If a dial ends by this event, the next one begins. A link that ended before the dialler heard of it was none.
    pub(super) fn dialled(&mut self, from: &NodeId, mut event: Event) -> Event {
        if let Event::LinkUp { node, link, dialled: Some(address) } = &event
            && !self.links.contains_key(link)
        {
            event = Event::DialFailed { node: Some(node.clone()), address: *address };
        }
        if matches!(event, Event::DialFailed { .. } | Event::LinkUp { dialled: Some(_), .. })
            && let Some(host) = self.nodes.get_mut(from)
        {
            match host.dials.waiting.pop_front() {
                Some((node, address)) => self.begin_dial(from, node, address),
                // A process that was started anew may hear how a dial of the last one ended.
                None => host.dials.under_way = host.dials.under_way.saturating_sub(1),
            }
        }
        event
    }

    fn begin_dial(&mut self, from: &NodeId, node: Option<NodeId>, address: SocketAddr) {
        let fail = |wait: u64| (wait, Event::DialFailed { node: node.clone(), address });
        let listens = |host: &Host| host.up && host.address == address;
        let target = self.addresses.get(&address).map(|name| (name.clone(), listens(&self.nodes[name])));
        let cut = |name: &NodeId| self.is_cut(from, name) || self.is_cut(name, from);
        // Who is paused answers when it wakes, if that is in time.
        let pause = |name: &NodeId| self.nodes[name].paused_until.saturating_sub(self.now);
        let (wait, event) = match target {
            Some((name, true)) if pause(&name) >= VOID_MS => fail(VOID_MS),
            Some((name, true)) if !cut(&name) && node.as_ref().is_none_or(|node| *node == name) => {
                let answers = pause(&name) + 2;
                self.count += 1;
                let link = LinkId(self.count);
                self.links.insert(link, (from.clone(), name.clone()));
                self.between.entry(pair(from, &name)).or_default().insert(link);
                let accepted = Event::LinkUp { node: from.clone(), link, dialled: None };
                self.soon(Delivery::Event { to: name.clone(), event: Box::new(accepted) });
                (answers, Event::LinkUp { node: name, link, dialled: Some(address) })
            }
            Some((name, _)) if cut(&name) => fail(VOID_MS),
            _ => fail(2),
        };
        let at = self.now + wait;
        self.queue.push(at, Delivery::Event { to: from.clone(), event: Box::new(event) });
    }
}
