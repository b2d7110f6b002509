//! Meshes in which most members have no link with most.

use membership::{
    sim::{
        network::Network,
        population::{Citizen, Population},
    },
    view::MemberState,
};

/// So many nodes of which the first `running` run, know the first one's address and see each other.
pub(crate) fn crowd(nodes: usize, running: usize, seed: u64) -> (Network, Vec<Citizen>) {
    let Population { citizens, authority, notary } = Population::new(nodes, seed);
    let mut network = Network::with_notary(authority, notary, seed);
    network.latency = (1, 2);
    network.start(&citizens[0], &[], Vec::new());
    let first = [network.address(&citizens[0].node)];
    citizens[1..running].iter().for_each(|citizen| network.start(citizen, &first, Vec::new()));
    network.run(15_000);
    for at in &citizens[..running] {
        for of in &citizens[..running] {
            assert_eq!(network.state(&at.node, &of.node), Some(MemberState::Alive), "{} at {}", of.node, at.node);
        }
    }
    (network, citizens)
}
