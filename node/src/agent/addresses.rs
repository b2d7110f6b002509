//! Where members were last seen, whatever became of their certificates: how a node that was away for long finds its mesh again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use certs::id::NodeId;
use membership::view::Member;
use policy::history::State;

use super::{
    resolver::NODES,
    state_dir::{ADDRESSES, StateDir},
};
use crate::lock::lock;

/// Addresses that are kept of one node.
const EACH: usize = 8;

/// The table, on disk too.
pub struct Addresses {
    dir: Arc<StateDir>,
    /// `HOST:PORT`s of the configuration and of the join.
    fixed: Vec<String>,
    seen: Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>,
}

impl Addresses {
    /// What an earlier run saw; a file that cannot be read is no reason not to run.
    pub fn load(dir: Arc<StateDir>, fixed: Vec<String>) -> Self {
        let text = dir.read(ADDRESSES).ok().flatten();
        let seen = text.map(|text| parse(&text)).unwrap_or_default();
        Self { dir, fixed, seen: Mutex::new(seen) }
    }

    /// Notes where members are, and forgets nodes that are none any more; gives what to [`keep`](Self::keep) where that changed something.
    pub fn note(&self, members: &BTreeMap<NodeId, Arc<Member>>, state: &State, own: &NodeId) -> Option<String> {
        let counts = |node: &NodeId| {
            let grant = state.grants().get(node);
            grant.is_some_and(|grant| !grant.retired && !state.revocations().evicted(node, grant.epoch))
        };
        let mut seen = self.seen();
        let before = seen.len();
        seen.retain(|node, _| counts(node));
        let mut is_changed = seen.len() != before;
        let others = members.values().filter(|member| member.id != *own && !member.addresses.is_empty());
        for member in others.filter(|member| counts(&member.id)) {
            let addresses = member.addresses.iter().take(EACH);
            if seen.get(&member.id).is_none_or(|known| !known.iter().eq(addresses.clone())) {
                seen.insert(member.id.clone(), addresses.copied().collect());
                is_changed = true;
            }
        }
        is_changed.then(|| write(&seen))
    }

    /// Writes the table; blocks on the disk.
    pub fn keep(&self, table: &str) {
        if let Err(error) = self.dir.write(ADDRESSES, table.as_bytes()) {
            tracing::warn!(code = %error.code, "addresses of members are not on disk: {error}");
        }
    }

    /// Where members were seen.
    pub fn seen_at(&self) -> BTreeSet<SocketAddr> {
        self.seen().values().flatten().copied().collect()
    }

    /// Where nodes are, as far as no name needs to be looked up: those of the join and the configuration first.
    pub fn known(&self) -> Vec<SocketAddr> {
        let fixed = self.fixed.iter().filter_map(|address| address.parse().ok());
        fixed.chain(self.seen_at()).collect()
    }

    /// Where members were seen that are not among these.
    pub fn seen_but(&self, linked: &BTreeSet<NodeId>) -> Vec<SocketAddr> {
        let seen = self.seen();
        let lost = seen.iter().filter(|(node, _)| !linked.contains(node));
        lost.filter_map(|(_, addresses)| addresses.first().copied()).collect()
    }

    /// All that is known, names resolved: first where these nodes were seen, then the rest.
    pub async fn all(&self, first: impl Fn(&NodeId) -> bool) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = {
            let seen = self.seen();
            let (firsts, others): (Vec<_>, Vec<_>) = seen.iter().partition(|(node, _)| first(node));
            firsts.into_iter().chain(others).flat_map(|(_, addresses)| addresses.iter().copied()).collect()
        };
        for address in &self.fixed {
            // A name that cannot be resolved now may be known at the next attempt.
            all.extend(NODES.host_and_port(address).await.into_iter().flatten());
        }
        let mut once = BTreeSet::new();
        all.retain(|address| once.insert(*address));
        all
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<SocketAddr>>> {
        lock(&self.seen)
    }
}

/// One line a node: its name, then its addresses.
fn write(seen: &BTreeMap<NodeId, Vec<SocketAddr>>) -> String {
    let line = |(node, addresses): (&NodeId, &Vec<SocketAddr>)| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{node} {}\n", addresses.join(" "))
    };
    seen.iter().map(line).collect()
}

fn parse(text: &str) -> BTreeMap<NodeId, Vec<SocketAddr>> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let node = NodeId::new(words.next()?).ok()?;
        Some((node, words.filter_map(|word| word.parse().ok()).take(EACH).collect::<Vec<_>>()))
    };
    text.lines().filter_map(line).filter(|(_, addresses)| !addresses.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use certs::grant::NodeGrant;

    use super::*;
    use crate::testing;

    #[test]
    fn the_table_survives_its_file_and_a_damaged_line_spoils_no_other() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let seen = BTreeMap::from([
            (NodeId::new("a").unwrap(), vec![at("10.0.0.1:15008"), at("[2001:db8::1]:15008")]),
            (NodeId::new("b").unwrap(), vec![at("10.0.0.2:15008")]),
        ]);
        let text = write(&seen);
        assert_eq!(parse(&text), seen);
        assert_eq!(parse(&format!("no address\n- 1.2.3.4:5\nc nonsense\n\n{text}")), seen);
    }

    #[test]
    fn the_disk_is_asked_only_where_a_member_moved_came_or_went() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(StateDir::open(&folder.path().join("state")).unwrap());
        let addresses = Addresses::load(dir, Vec::new());
        let mut mesh = testing::Mesh::new();
        let mut grant = |node: &str, epoch: u64, retired: bool| {
            let node = NodeId::new(node).unwrap();
            let grant = NodeGrant { node, epoch, retired, ..testing::grant() };
            let (document, content) = policy::kinds::node_grant_body(&grant);
            mesh.push(document, Some(content))
        };
        grant("a", 1, false);
        grant("b", 1, false);
        let state = grant("c", 1, false);
        let at = |address: &str| vec![address.parse().unwrap()];
        let mut members: BTreeMap<NodeId, Arc<Member>> = ["a", "b", "c"]
            .map(|name| Member { addresses: at("10.0.0.1:1"), ..testing::member(name) })
            .map(|member| (member.id.clone(), Arc::new(member)))
            .into();
        let own = NodeId::new("a").unwrap();
        assert_eq!(addresses.note(&members, &state, &own).as_deref(), Some("b 10.0.0.1:1\nc 10.0.0.1:1\n"));
        for _ in 0..10 {
            assert_eq!(addresses.note(&members, &state, &own), None, "nothing is new");
        }
        let moved = Member { addresses: at("10.0.0.2:1"), ..testing::member("b") };
        members.insert(moved.id.clone(), Arc::new(moved));
        assert_eq!(addresses.note(&members, &state, &own).as_deref(), Some("b 10.0.0.2:1\nc 10.0.0.1:1\n"));
        let without = grant("c", 2, true);
        assert_eq!(addresses.note(&members, &without, &own).as_deref(), Some("b 10.0.0.2:1\n"));
        assert_eq!(addresses.note(&members, &without, &own), None);
    }
}
