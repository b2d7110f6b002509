//! A loopback address for each service, and for each host of a ServiceEntry that needs one: the same one as long as the node runs, and almost always after that.

use crate::config::Cidr;
use policy::route::Called;
use std::{
    collections::{BTreeSet, HashMap},
    hash::Hasher as _,
    net::Ipv4Addr,
};
use twox_hash::XxHash64;

/// The addresses that were given away.
///
/// A name says where in the range its address lies, so that nodes and restarts agree without a word; only where two names
/// meet does it depend on who came first. An address is given to another only when the range is full and who had it is gone.
#[derive(Debug)]
pub struct Addresses {
    range: Cidr,
    given: HashMap<Called, u32>,
    taken: HashMap<u32, Called>,
}

impl Addresses {
    /// None is given away yet.
    #[must_use]
    pub fn new(range: Cidr) -> Self {
        Self { range, given: HashMap::new(), taken: HashMap::new() }
    }

    /// The address of what is called so; `None` if the range is full. `present` is all that exists.
    pub fn assign(&mut self, called: &Called, present: &BTreeSet<&Called>) -> Option<Ipv4Addr> {
        if let Some(known) = self.given.get(called) {
            return self.range.nth(*known);
        }
        if self.taken.len() >= self.room() as usize {
            self.given.retain(|called, _| present.contains(called));
            self.taken.retain(|_, called| present.contains(called));
        }
        let slot = self.free(called)?;
        self.given.insert(called.clone(), slot);
        self.taken.insert(slot, called.clone());
        self.range.nth(slot)
    }

    /// The first and the last address of the range are nobody's.
    fn room(&self) -> u32 {
        u32::try_from(self.range.size().saturating_sub(2)).unwrap_or(u32::MAX)
    }

    fn free(&self, called: &Called) -> Option<u32> {
        let room = self.room();
        if self.taken.len() >= room as usize {
            return None;
        }
        let mut hash = XxHash64::with_seed(0);
        hash.write(called.to_string().as_bytes());
        let first = u32::try_from(hash.finish() % u64::from(room.max(1))).unwrap_or(0);
        (0..room).map(|step| 1 + (first + step) % room).find(|slot| !self.taken.contains_key(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::ServiceName;
    use std::collections::BTreeMap;

    fn services(count: usize) -> Vec<Called> {
        (0..count).map(|number| Called::Service(ServiceName::new("shop", &format!("s{number}")).unwrap())).collect()
    }

    fn addresses(range: &str) -> Addresses {
        Addresses::new(Cidr::parse(range).unwrap())
    }

    #[test]
    fn an_address_depends_on_the_name_alone_and_stays() {
        let services = services(300);
        let present: BTreeSet<&Called> = services.iter().collect();
        let mut first = addresses("127.240.0.0/16");
        let before: BTreeMap<_, _> = services.iter().map(|one| (one, first.assign(one, &present).unwrap())).collect();
        assert_eq!(before.values().collect::<BTreeSet<_>>().len(), services.len(), "each has its own");
        let range = Cidr::parse("127.240.0.0/16").unwrap();
        assert!(before.values().all(|address| range.contains((*address).into())));
        // In whatever order they come, and after some have gone.
        let mut second = addresses("127.240.0.0/16");
        let same = services.iter().rev().filter(|one| second.assign(one, &present) == Some(before[one])).count();
        assert!(same >= services.len() - 4, "only names that meet may differ: {same}");
        assert!(services.iter().all(|one| first.assign(one, &BTreeSet::new()) == Some(before[one])));
    }

    #[test]
    fn names_that_meet_are_parted_and_a_full_range_is_told() {
        let services = services(15);
        let present: BTreeSet<&Called> = services.iter().take(14).collect();
        let mut small = addresses("127.9.9.0/28");
        let given: BTreeSet<_> = present.iter().map(|one| small.assign(one, &present).unwrap()).collect();
        assert_eq!(given.len(), 14);
        assert!(!given.contains(&Ipv4Addr::new(127, 9, 9, 0)) && !given.contains(&Ipv4Addr::new(127, 9, 9, 15)));
        assert_eq!(small.assign(&services[14], &present), None);
        // One goes, and its address is free for another.
        let present: BTreeSet<&Called> = services.iter().skip(1).collect();
        let last = small.assign(&services[14], &present).unwrap();
        assert!(given.contains(&last));
        assert_ne!(small.assign(&services[1], &present), Some(last));
    }
}
