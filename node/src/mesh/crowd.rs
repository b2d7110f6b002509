//! How many are let in at a time, all together and of one kind: strangers by their address, local users by their id.

use crate::lock::lock;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

/// Counts who is inside.
#[derive(Debug)]
pub struct Crowd<K: Eq + Hash = IpAddr> {
    all: usize,
    each: usize,
    inside: Mutex<(usize, HashMap<K, usize>)>,
}

/// One place, until dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash = IpAddr> {
    crowd: Arc<Crowd<K>>,
    key: K,
}

impl<K: Eq + Hash + Copy> Crowd<K> {
    /// At most so many at a time, and so many of one address or user.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Crowd { all, each, inside: Mutex::new((0, HashMap::new())) })
    }

    /// A place for one of `key`, if there is one.
    pub fn enter_as(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        self.place(key, self.all, self.each)
    }

    fn place(self: &Arc<Self>, key: K, most: usize, most_each: usize) -> Option<Place<K>> {
        let mut inside = lock(&self.inside);
        let (all, each) = &mut *inside;
        let mine = each.get(&key).copied().unwrap_or_default();
        if *all >= most || mine >= most_each {
            return None;
        }
        *all += 1;
        each.insert(key, mine + 1);
        Some(Place { crowd: self.clone(), key })
    }
}

impl Crowd {
    /// A place for one who comes from this address, if there is one.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        self.enter_within(from, self.all, self.each)
    }

    /// A place, if there is one within these limits instead of the crowd's own.
    pub fn enter_within(self: &Arc<Self>, from: IpAddr, most: usize, most_each: usize) -> Option<Place> {
        self.place(host(from), most, most_each)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut inside = lock(&self.crowd.inside);
        let (all, each) = &mut *inside;
        *all -= 1;
        if let Some(mine) = each.get_mut(&self.key) {
            *mine -= 1;
            if *mine == 0 {
                each.remove(&self.key);
            }
        }
    }
}

/// Whom an address stands for: an IPv6 host has its whole /64.
#[must_use]
pub fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_fill_it() {
        let crowd = Crowd::new(5, 2);
        let address = |net: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, host]);
        let mut inside: Vec<Place> = (0..9).filter_map(|last| crowd.enter(address(1, last))).collect();
        assert_eq!(inside.len(), 2);
        inside.extend((2..9).filter_map(|net| crowd.enter(address(net, 1))));
        assert_eq!(inside.len(), 5);
        drop(inside);
        assert!(crowd.enter([192, 0, 2, 1].into()).is_some());
        assert_eq!(*lock(&crowd.inside), (0, HashMap::new()));
    }
}
