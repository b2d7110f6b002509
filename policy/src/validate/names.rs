//! Things by the host names that they claim, found without looking at all of them.

use std::collections::{BTreeMap, HashMap};

/// Things by exact host or wildcard.
#[derive(Debug)]
pub(super) struct Names<V> {
    exact: HashMap<String, Vec<V>>,
    /// By what follows the `*`.
    wild: HashMap<String, Vec<V>>,
    /// By the host, or what follows its `*`, backwards: what a wildcard covers stands together.
    backwards: BTreeMap<String, V>,
    /// The same of wildcards alone.
    wild_backwards: BTreeMap<String, V>,
}

impl<V: Copy> Names<V> {
    pub(super) fn new() -> Self {
        Self {
            exact: HashMap::new(),
            wild: HashMap::new(),
            backwards: BTreeMap::new(),
            wild_backwards: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, host: &str, thing: V) {
        match host.strip_prefix('*') {
            Some(suffix) => {
                self.wild.entry(suffix.to_owned()).or_default().push(thing);
                self.wild_backwards.entry(backwards(host)).or_insert(thing);
            }
            None => self.exact.entry(host.to_owned()).or_default().push(thing),
        }
        self.backwards.entry(backwards(host)).or_insert(thing);
    }

    /// What claims this very host, in the order in which it was added.
    pub(super) fn same(&self, host: &str) -> &[V] {
        let found = match host.strip_prefix('*') {
            Some(suffix) => self.wild.get(suffix),
            None => self.exact.get(host),
        };
        found.map_or(&[], Vec::as_slice)
    }

    /// What claims a wider host than this; the narrowest first.
    pub(super) fn wider(&self, host: &str) -> impl Iterator<Item = V> {
        let (inner, from) = match host.strip_prefix('*') {
            Some(suffix) => (suffix, 1),
            None => (host, 0),
        };
        let ends = (from..=inner.len()).filter_map(|start| inner.get(start..));
        ends.filter_map(|suffix| self.wild.get(suffix)).flatten().copied()
    }

    /// What covers the host: the same or a wider one.
    pub(super) fn covering(&self, host: &str) -> impl Iterator<Item = V> {
        self.same(host).iter().copied().chain(self.wider(host))
    }

    /// One claimant of each narrower wildcard that a wildcard covers.
    pub(super) fn narrower(&self, wildcard: &str) -> impl Iterator<Item = V> {
        let start = backwards(wildcard);
        let from = self.wild_backwards.range(start.clone()..);
        let longer = from.skip_while({
            let start = start.clone();
            move |(found, _)| **found == start
        });
        longer.take_while(move |(found, _)| found.starts_with(&start)).map(|(_, thing)| *thing)
    }

    /// Something whose host a wildcard covers, the wildcard's own among them.
    pub(super) fn within(&self, wildcard: &str) -> Option<V> {
        let start = backwards(wildcard);
        let (found, thing) = self.backwards.range(start.clone()..).next()?;
        found.starts_with(&start).then_some(*thing)
    }
}

fn backwards(host: &str) -> String {
    host.strip_prefix('*').unwrap_or(host).chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hosts::covers;

    proptest! {
        #[test]
        fn what_is_found_is_what_covers(hosts in proptest::collection::vec("[*]?[ab.]{0,4}", 0..12), asked in "[*]?[ab.]{0,4}") {
            let mut names = Names::new();
            for (index, host) in hosts.iter().enumerate() {
                names.add(host, index);
            }
            let mut found: Vec<usize> = names.covering(&asked).collect();
            found.sort_unstable();
            let expected: Vec<usize> = (0..hosts.len()).filter(|index| covers(&hosts[*index], &asked)).collect();
            prop_assert_eq!(found, expected);
            if asked.starts_with('*') {
                let within = names.within(&asked).map(|index| covers(&asked, &hosts[index]));
                prop_assert_eq!(within, hosts.iter().any(|host| covers(&asked, host)).then_some(true));
            }
        }
    }
}
