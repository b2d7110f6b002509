//! The verifier against an oracle that knows no certificates: a case is words, the oracle judges the words by the design's rules,
//! the verifier judges the certificates that are made of them.

mod build;
mod case;
mod generate;
mod rules;

use std::collections::BTreeMap;

use certs::verify::verify;

use self::{build::Keys, generate::Random};

/// What a run of cases came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cases: usize,
    /// Chains that hold.
    pub(crate) good: usize,
    /// Cases on which verifier and oracle differ, in words.
    pub(crate) mismatches: Vec<String>,
    /// How often a rule was the only one broken: what shows that the verifier knows it.
    pub(crate) alone: BTreeMap<&'static str, usize>,
}

/// The names of all rules.
pub(crate) fn rules() -> impl Iterator<Item = &'static str> {
    rules::RULES.iter().map(|(name, _)| *name)
}

/// Judges so many cases; the same seed gives the same ones.
pub(crate) fn judge(seed: u64, cases: usize) -> Tally {
    let (keys, mut random) = (Keys::generate(), Random(seed));
    let mut tally = Tally { cases, ..Tally::default() };
    for number in 0..cases {
        let case = generate::case(&mut random);
        let (chain, authority) = keys.build(&case);
        let bytes = chain.iter().map(|der| der.len()).sum();
        let broken = rules::broken(&case, bytes);
        let verdict = verify(&chain, &authority, case.now.unsigned_abs() * 1000);
        let differs = match &verdict {
            Ok(_) if !broken.is_empty() => Some(format!("taken, though {broken:?}")),
            Err(error) if broken.is_empty() => Some(format!("refused: {error}")),
            Ok(peer) => differences(&case, peer, &keys),
            Err(_) => None,
        };
        tally.good += usize::from(broken.is_empty());
        if let [rule] = broken.as_slice() {
            *tally.alone.entry(rule).or_default() += 1;
        }
        tally.mismatches.extend(differs.map(|what| format!("seed {seed}, case {number}: {what}\n{case:#?}")));
    }
    tally
}

/// What the verifier says of a peer, against what the case says.
fn differences(case: &case::Case, peer: &certs::verify::Peer, keys: &Keys) -> Option<String> {
    let (leaf, node) = (&case.certs[case.shown[0]], &case.certs[case.shown[1]]);
    let millis = |at: i64| at.unsigned_abs() * 1000;
    let accounts = rules::effective(case, |grant| &grant.accounts);
    let services = rules::effective(case, |grant| &grant.services);
    let same_accounts =
        rules::universe().all(|pair| peer.grant.allows_account(&build::account(pair)) == accounts.contains(&pair));
    let same_services =
        rules::universe().all(|pair| peer.grant.allows_service(&build::service(pair)) == services.contains(&pair));
    let same = peer.id.uri() == leaf.uris[0]
        && (peer.not_before, peer.not_after) == (millis(leaf.from), millis(leaf.until))
        && peer.ca_key == keys.digest(node.key)
        && peer.node == build::node(peer_node(node))
        && !peer.grant.enroller;
    (!same || !same_accounts || !same_services).then(|| format!("read as {peer:?}"))
}

fn peer_node(node: &case::Cert) -> usize {
    match &node.grant {
        case::Extension::Grant(grant) => grant.node,
        case::Extension::Absent | case::Extension::Garbage => usize::MAX,
    }
}
