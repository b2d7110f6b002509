//! The rules of an identity, written from the design and not from the verifier: each says of a case whether it holds, and a
//! chain is good if all do under one of the roots.

use super::case::{
    ACCOUNTS, Basic, Case, Cert, DAY, Extended, Extension, Grant, MINUTE, NAMESPACES, NODES, NodeGrant, P256_KEYS,
    Pattern, TRUST_DOMAIN, Unknown, Usage,
};

/// What a rule looks at: the chain by its places, and one of the roots.
pub(super) struct Chain<'a> {
    leaf: &'a Cert,
    node: &'a Cert,
    enroller: &'a Cert,
    root: &'a Cert,
    case: &'a Case,
    bytes: usize,
}

type Rule = (&'static str, fn(&Chain<'_>) -> bool);

/// In no order: a case is bad if one of them is broken, whichever.
pub(super) const RULES: &[Rule] = &[
    ("at most 16 KiB", |c| c.bytes <= 16_384),
    ("keys are P-256", |c| c.path().iter().all(|cert| cert.key < P256_KEYS)),
    ("signatures are ECDSA P-256", |c| c.path().iter().all(|cert| cert.signer < P256_KEYS)),
    ("each is signed by the next one's key", |c| c.pairs().iter().all(|(child, ca)| child.signer == ca.key)),
    ("each names the next one as its issuer", |c| c.pairs().iter().all(|(child, ca)| child.issuer == ca.subject)),
    ("lives are bounded", lives_are_bounded),
    ("nobody begins in the future", |c| c.path().iter().all(|cert| cert.from <= c.case.now + 5 * MINUTE)),
    ("nobody has ended", |c| c.path().iter().all(|cert| c.case.now < cert.until + 5 * MINUTE)),
    ("validity is nested", |c| c.pairs().iter().all(|(child, ca)| ca.from <= child.from && child.until <= ca.until)),
    ("a leaf signs, and certifies nothing", |c| set(&c.leaf.usages) == [Usage::DigitalSignature]),
    ("CAs certify and do nothing else", |c| c.cas().iter().all(|ca| set(&ca.usages) == [Usage::KeyCertSign])),
    ("a leaf is server and client", |c| set(&c.leaf.extended) == [Extended::Server, Extended::Client]),
    ("CAs have no extended usage", |c| c.cas().iter().all(|ca| ca.extended.is_empty())),
    ("a leaf is no CA", |c| matches!(c.leaf.basic, Basic::Absent | Basic::NoCa)),
    ("path lengths are exact", |c| {
        [(c.node, 0), (c.enroller, 1), (c.root, 2)].iter().all(|(ca, below)| ca.basic == Basic::Ca(Some(*below)))
    }),
    ("a leaf has one URI", |c| c.leaf.uris.len() == 1),
    ("and it is an identity of this mesh", |c| c.identity().is_some() || c.leaf.uris.len() != 1),
    ("and its DNS image stands beside it", |c| c.identity().is_none_or(|id| c.leaf.dns == [id.image()])),
    ("no leaf has an address or a mailbox", |c| !c.leaf.address && !c.leaf.mail),
    ("CAs have no names", |c| {
        c.cas().iter().all(|ca| ca.uris.is_empty() && ca.dns.is_empty() && !ca.address && !ca.mail)
    }),
    ("leaf and root have no grant", |c| [c.leaf, c.root].iter().all(|cert| matches!(cert.grant, Extension::Absent))),
    ("node CA and enroller CA have one", |c| grant(c.node).is_some() && grant(c.enroller).is_some()),
    ("the enroller's lets it enrol", |c| grant(c.enroller).is_none_or(|grant| grant.enroller && !grant.record_key)),
    ("the node's does not, and names its record key", |c| {
        grant(c.node).is_none_or(|grant| !grant.enroller && grant.record_key)
    }),
    ("accounts are the enroller's to give", |c| c.contained(|grant| &grant.accounts)),
    ("services are the enroller's to give", |c| c.contained(|grant| &grant.services)),
    ("the identity is the node's to give", |c| {
        c.both(|grant, id| match id {
            Identity::Account(namespace, account) => covered(&grant.accounts, *namespace, *account),
            Identity::Node(node) => *node == NODES[grant.node],
        })
    }),
    ("operators know the enroller", |c| grant(c.enroller).is_none_or(|grant| c.signed(grant).is_some())),
    ("as an enroller", |c| c.of_enroller(|_, signed| signed.enroller)),
    ("of an epoch that was", |c| c.of_enroller(|grant, signed| grant.epoch <= signed.epoch)),
    ("that is not evicted", |c| grant(c.enroller).is_none_or(|grant| !c.evicted(grant))),
    ("operators know the node", |c| grant(c.node).is_none_or(|grant| c.signed(grant).is_some())),
    ("of this very epoch", |c| c.of_node(|grant, signed| grant.epoch == signed.epoch)),
    ("that has not left", |c| c.of_node(|_, signed| !signed.retired)),
    ("that is not evicted either", |c| grant(c.node).is_none_or(|grant| !c.evicted(grant))),
    ("and let it be who the leaf says", |c| {
        let Some(Identity::Account(namespace, account)) = c.identity() else { return true };
        c.of_node(|_, signed| signed.services.contains(&(namespace, account)))
    }),
    ("only node CAs carry a redemption", |c| [c.leaf, c.enroller, c.root].iter().all(|cert| cert.redemption.is_none())),
    ("and it is short", |c| {
        let shown = c.node.redemption.as_ref().and_then(|redemption| redemption.shown);
        shown.is_none_or(|number| c.case.certs[number].ballast < 1_000)
    }),
    ("who redeemed the invite vouches for the node", |c| {
        let Some(parent) = grant(c.enroller) else { return true };
        c.of_node(|_, signed| vouches(parent, signed) || c.is_redeemed(signed))
    }),
    ("the first key of a name stays", |c| {
        let Some(grant) = grant(c.node) else { return true };
        let other = |(node, epoch, key): &(usize, u64, usize)| {
            *node == grant.node && *epoch == grant.epoch && *key != c.node.key
        };
        !c.case.policy.known.iter().any(other)
    }),
    ("no key is revoked", |c| c.path().iter().all(|cert| !c.case.policy.keys.contains(&cert.key))),
    ("no account is revoked", |c| match c.identity() {
        Some(Identity::Account(namespace, account)) => !c.case.policy.accounts.contains(&(namespace, account)),
        Some(Identity::Node(_)) | None => true,
    }),
    ("a leaf constrains nobody", |c| c.leaf.permitted.is_none()),
    ("CAs permit the leaf's name", |c| {
        let Some(name) = c.identity().map(|id| id.image()) else { return true };
        let within = |tree: &String| *tree == name || name.ends_with(&format!(".{tree}"));
        c.cas().iter().all(|ca| ca.permitted.as_ref().is_none_or(|trees| trees.iter().any(within)))
    }),
    ("nothing unknown is critical", |c| c.path().iter().all(|cert| cert.unknown != Unknown::Critical)),
];

/// The rules that the case breaks; none if the chain is good. `bytes` is the length of what is shown.
pub(super) fn broken(case: &Case, bytes: usize) -> Vec<&'static str> {
    let [leaf, node, enroller] = case.shown.as_slice() else { return vec!["leaf, node CA, enroller CA"] };
    let of = |root| {
        let [leaf, node, enroller] = [*leaf, *node, *enroller].map(|index| &case.certs[index]);
        let chain = Chain { leaf, node, enroller, root, case, bytes };
        RULES.iter().filter(|(_, holds)| !holds(&chain)).map(|(name, _)| *name).collect::<Vec<_>>()
    };
    // Under the root that leaves least to object to.
    case.roots.iter().map(of).min_by_key(Vec::len).unwrap_or_else(|| vec!["a root is trusted"])
}

/// What the peer may have by certificate and operators' word: accounts, or services, by numbers.
pub(super) fn effective(case: &Case, of: fn(&Grant) -> &Vec<Pattern>) -> Vec<(usize, usize)> {
    let grant = grant(&case.certs[case.shown[1]]).expect("asked of good chains only");
    let signed = case.policy.grants.iter().find(|signed| signed.node == grant.node).expect("good chains have one");
    universe().filter(|pair| covered(of(grant), pair.0, pair.1) && signed.services.contains(pair)).collect()
}

pub(super) fn universe() -> impl Iterator<Item = (usize, usize)> {
    (0..NAMESPACES.len()).flat_map(|namespace| (0..ACCOUNTS.len()).map(move |account| (namespace, account)))
}

enum Identity {
    Account(usize, usize),
    Node(&'static str),
}

impl Identity {
    fn image(&self) -> String {
        match self {
            Identity::Account(namespace, account) => {
                format!("{}.{}.{TRUST_DOMAIN}", ACCOUNTS[*account], NAMESPACES[*namespace])
            }
            Identity::Node(node) => format!("{node}._node.{TRUST_DOMAIN}"),
        }
    }
}

impl Chain<'_> {
    fn path(&self) -> [&Cert; 4] {
        [self.leaf, self.node, self.enroller, self.root]
    }

    fn cas(&self) -> [&Cert; 3] {
        [self.node, self.enroller, self.root]
    }

    fn pairs(&self) -> [(&Cert, &Cert); 3] {
        [(self.leaf, self.node), (self.node, self.enroller), (self.enroller, self.root)]
    }

    /// All identities that there are, one by one: what is none of these is none.
    fn identity(&self) -> Option<Identity> {
        let [uri] = self.leaf.uris.as_slice() else { return None };
        let account = |(namespace, account): (usize, usize)| {
            let form = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", NAMESPACES[namespace], ACCOUNTS[account]);
            (form == *uri).then_some(Identity::Account(namespace, account))
        };
        let node = |node: &'static str| {
            (format!("spiffe://{TRUST_DOMAIN}/mesh/node/{node}") == *uri).then_some(Identity::Node(node))
        };
        universe().find_map(account).or_else(|| NODES.into_iter().find_map(node))
    }

    fn contained(&self, of: fn(&Grant) -> &Vec<Pattern>) -> bool {
        let (Some(own), Some(parent)) = (grant(self.node), grant(self.enroller)) else { return true };
        universe().all(|(ns, name)| !covered(of(own), ns, name) || covered(of(parent), ns, name))
    }

    fn both(&self, holds: fn(&Grant, &Identity) -> bool) -> bool {
        let (Some(grant), Some(id)) = (grant(self.node), self.identity()) else { return true };
        holds(grant, &id)
    }

    fn signed(&self, grant: &Grant) -> Option<&NodeGrant> {
        self.case.policy.grants.iter().find(|signed| signed.node == grant.node)
    }

    fn of_node(&self, holds: impl Fn(&Grant, &NodeGrant) -> bool) -> bool {
        let Some(grant) = grant(self.node) else { return true };
        self.signed(grant).is_none_or(|signed| holds(grant, signed))
    }

    fn of_enroller(&self, holds: impl Fn(&Grant, &NodeGrant) -> bool) -> bool {
        let Some(grant) = grant(self.enroller) else { return true };
        self.signed(grant).is_none_or(|signed| holds(grant, signed))
    }

    /// By an enroller of this mesh, for the node's very keys, whenever that was.
    fn is_redeemed(&self, signed: &NodeGrant) -> bool {
        let Some(redemption) = &self.node.redemption else { return false };
        let Some(redeemer) = redemption.shown.map(|number| &self.case.certs[number]) else { return false };
        let is_of_mesh = self.case.roots.iter().any(|root| {
            is_ca(root, 2, 3650)
                && matches!(root.grant, Extension::Absent)
                && (redeemer.signer, redeemer.issuer) == (root.key, root.subject)
                && (root.from <= redeemer.from && redeemer.until <= root.until)
                && !self.case.policy.keys.contains(&root.key)
        });
        let counts = grant(redeemer).is_some_and(|own| own.enroller && !own.record_key && vouches(own, signed));
        let own = |own: &Grant| (own.node, own.epoch) == (redemption.node, redemption.epoch);
        is_of_mesh
            && is_ca(redeemer, 1, 365)
            && counts
            && !self.case.policy.keys.contains(&redeemer.key)
            && redemption.by == redeemer.key
            && (redemption.key == self.node.key && redemption.record_key)
            && (signed.node, signed.epoch) == (redemption.node, redemption.epoch)
            && grant(self.node).is_some_and(own)
    }

    fn evicted(&self, grant: &Grant) -> bool {
        self.case.policy.evicted.iter().any(|(node, epoch)| *node == grant.node && grant.epoch <= *epoch)
    }
}

/// All that concerns a CA alone but its grant.
fn is_ca(cert: &Cert, below: u8, days: i64) -> bool {
    cert.key < P256_KEYS
        && cert.signer < P256_KEYS
        && (0..=days * DAY).contains(&(cert.until - cert.from))
        && set(&cert.usages) == [Usage::KeyCertSign]
        && cert.extended.is_empty()
        && cert.basic == Basic::Ca(Some(below))
        && (cert.uris.is_empty() && cert.dns.is_empty() && !cert.address && !cert.mail)
        && cert.unknown != Unknown::Critical
        && cert.redemption.is_none()
}

/// The enroller that the operators' grant names, and one that is the node itself.
fn vouches(enroller: &Grant, signed: &NodeGrant) -> bool {
    signed.redeemer == Some(enroller.node) || (enroller.node, enroller.epoch) == (signed.node, signed.epoch)
}

fn lives_are_bounded(chain: &Chain<'_>) -> bool {
    let bounds = [(chain.leaf, 1), (chain.node, 30), (chain.enroller, 365), (chain.root, 3650)];
    bounds.iter().all(|(cert, days)| cert.until >= cert.from && cert.until - cert.from <= days * DAY)
}

fn grant(cert: &Cert) -> Option<&Grant> {
    match &cert.grant {
        Extension::Grant(grant) => Some(grant),
        Extension::Absent | Extension::Garbage => None,
    }
}

fn covered(patterns: &[Pattern], namespace: usize, name: usize) -> bool {
    patterns.iter().any(|pattern| match pattern {
        Pattern::All => true,
        Pattern::Namespace(own) => *own == namespace,
        Pattern::Exact(own, exact) => (*own, *exact) == (namespace, name),
    })
}

fn set<T: Copy + Ord>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort();
    items.dedup();
    items
}
