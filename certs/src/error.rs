//! What may fail when certificates are issued, and when they are verified. Nothing has changed anywhere when one of these is returned.

use std::fmt;

use crate::{
    codec::Millis,
    grant::Pattern,
    id::{NameError, NodeId, ServiceAccount, SpiffeId},
};

/// A key, a certificate or a request that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no PEM, or not of the expected sort.
    #[error("no {expected} in this PEM text")]
    Pem {
        /// `private key`, `certificate`...
        expected: &'static str,
    },
    /// The key is damaged, or not P-256 (TLS) or Ed25519 (documents).
    #[error("not a usable {expected} key")]
    Key {
        /// `P-256` or `Ed25519`.
        expected: &'static str,
    },
    /// A certificate that this crate did not make, or that does not belong to the key.
    #[error("certificate not usable: {0}")]
    Certificate(String),
    /// A certificate request that asks for more than a key's certification, or whose own signature does not hold.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// The identity lies outside the CA's grant.
    #[error("{0} is outside this node's grant")]
    OutsideGrant(SpiffeId),
    /// The grant asked for is wider than the issuer's own.
    #[error("grant of {0} is wider than the issuer's")]
    WiderGrant(Pattern),
    /// The issuer is not valid at the time given.
    #[error("the issuing certificate is valid from {not_before} to {not_after} only (Unix milliseconds)")]
    IssuerNotValid {
        /// Its begin.
        not_before: Millis,
        /// Its end.
        not_after: Millis,
    },
    /// Nothing shows that the enroller which the grant names redeemed the invite: nobody would believe a certificate.
    #[error("nothing shows that {redeemer} redeemed the invite of {node}")]
    Unredeemed {
        /// Whose invite.
        node: NodeId,
        /// Who was to redeem it.
        redeemer: NodeId,
    },
    /// So many services or accounts that the chain, or the grant in it, would exceed what verifiers accept.
    #[error("its certificates would take {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes of the chain, or of the grant alone.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl Error {
    /// rcgen fails only on what we would have to have made wrong.
    pub(crate) fn issue(error: rcgen::Error) -> Error {
        Error::Certificate(error.to_string())
    }
}

impl From<VerifyError> for Error {
    fn from(error: VerifyError) -> Error {
        Error::Certificate(error.to_string())
    }
}

/// A place in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// An endpoint's or a node's identity.
    Leaf,
    /// The CA of a node.
    NodeCa,
    /// The CA that certifies node CAs.
    Enroller,
    /// The anchor.
    Root,
}

/// The rule that a chain breaks. Nothing else about the peer is to be believed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not leaf, node CA, enroller CA.
    #[error("chain of {found} certificates, expected {expected}")]
    Length {
        /// How many came.
        found: usize,
        /// How many a path has.
        expected: usize,
    },
    /// More than the limit of a chain.
    #[error("chain of {0} bytes; the limit is 16384")]
    TooLarge(usize),
    /// Not a certificate of this mesh's shape.
    #[error("{link}: {what}")]
    Malformed {
        /// Where.
        link: Link,
        /// What is wrong.
        what: &'static str,
    },
    /// Not ECDSA with SHA-256.
    #[error("{link}: signed by an algorithm other than ECDSA with SHA-256")]
    SignatureAlgorithm {
        /// Where.
        link: Link,
    },
    /// Not P-256.
    #[error("{link}: its key is not P-256")]
    KeyType {
        /// Where.
        link: Link,
    },
    /// It may live longer than its place in the path allows.
    #[error("{link}: life of {hours} h; the limit is {limit} h")]
    Life {
        /// Where.
        link: Link,
        /// Its life in hours.
        hours: u64,
        /// The limit in hours.
        limit: u64,
    },
    /// Not exactly `keyCertSign` (CA) or `digitalSignature` (leaf), critical.
    #[error("{link}: wrong key usage")]
    KeyUsage {
        /// Where.
        link: Link,
    },
    /// A leaf that is a CA, a CA that is none, or another path length than its place has.
    #[error("{link}: wrong basic constraints or path length")]
    BasicConstraints {
        /// Where.
        link: Link,
    },
    /// Not exactly server and client authentication in a leaf, or any in a CA.
    #[error("{link}: wrong extended key usage")]
    ExtendedKeyUsage {
        /// Where.
        link: Link,
    },
    /// An extension that is there twice, or unknown and critical.
    #[error("{link}: extension {oid}: {why}")]
    Extension {
        /// Where.
        link: Link,
        /// Which.
        oid: String,
        /// Why not.
        why: &'static str,
    },
    /// Other alternative names than one URI and its DNS image.
    #[error("{link}: alternative names: {what}")]
    Names {
        /// Where.
        link: Link,
        /// What is wrong.
        what: &'static str,
    },
    /// The URI is no identity.
    #[error("leaf: {0}")]
    Identity(NameError),
    /// An identity of another mesh.
    #[error("leaf: {0} is of another trust domain")]
    TrustDomain(SpiffeId),
    /// Its issuer did not sign it.
    #[error("{link}: not signed by the next certificate of the chain")]
    Signature {
        /// Where.
        link: Link,
    },
    /// No trusted root signed the enroller CA.
    #[error("no root of this mesh signed the enroller CA")]
    UntrustedRoot,
    /// The CA has ended or its root was withdrawn, and its keys were not seen here before.
    #[error(
        "the CA of {0} has ended or its root was withdrawn, and its keys were not seen here before; ask another enroller, or let \
         the machine in again with `skein invite {0} --replace`"
    )]
    UnseenKey(NodeId),
    /// Not yet valid, beyond the clock tolerance.
    #[error("{link}: not valid before {not_before} (Unix milliseconds); now {now}")]
    NotYetValid {
        /// Where.
        link: Link,
        /// Its begin.
        not_before: Millis,
        /// The clock.
        now: Millis,
    },
    /// No longer valid, beyond the clock tolerance.
    #[error("{link}: ended at {not_after} (Unix milliseconds); now {now}")]
    Expired {
        /// Where.
        link: Link,
        /// Its end.
        not_after: Millis,
        /// The clock.
        now: Millis,
    },
    /// Valid before its issuer begins or after it ends.
    #[error("{link}: its validity exceeds its issuer's")]
    Nesting {
        /// Where.
        link: Link,
    },
    /// A name that a CA's name constraints keep from those below it.
    #[error("{link}: its name constraints do not permit {name}")]
    NameConstraints {
        /// Whose constraints.
        link: Link,
        /// The leaf's DNS name.
        name: String,
    },
    /// A CA without the grant extension.
    #[error("{link}: no grant")]
    NoGrant {
        /// Where.
        link: Link,
    },
    /// The enroller CA's grant does not let it enrol, or the node CA's does.
    #[error("{link}: its grant is of the wrong sort")]
    GrantSort {
        /// Where.
        link: Link,
    },
    /// A grant that its issuer may not give.
    #[error("node CA: its grant exceeds its issuer's by {0}")]
    WiderGrant(Pattern),
    /// The identity is not of those that its issuing CA may give.
    #[error("leaf: {0} is outside the grant of {1}")]
    OutsideGrant(SpiffeId, NodeId),
    /// No operator signed for this node.
    #[error("no NodeGrant for {0}")]
    NoNodeGrant(NodeId),
    /// Another epoch than the one that owns the name.
    #[error("{node}: epoch {certificate} in the certificate, {current} owns the name")]
    Epoch {
        /// Whose.
        node: NodeId,
        /// The certificate's.
        certificate: u64,
        /// The NodeGrant's.
        current: u64,
    },
    /// The node left for good.
    #[error("{0} is retired")]
    Retired(NodeId),
    /// The operators' NodeGrant does not make this node an enroller.
    #[error("{0} is not an enroller")]
    NotEnroller(NodeId),
    /// The node is evicted.
    #[error("{0} is evicted at epoch {1}")]
    Evicted(NodeId, u64),
    /// The account is revoked.
    #[error("account {0} is revoked")]
    RevokedAccount(ServiceAccount),
    /// The key is revoked.
    #[error("{link}: its key is revoked")]
    RevokedKey {
        /// Where.
        link: Link,
    },
    /// Of an epoch whose name was given to another machine, or that left.
    #[error("{0} of epoch {1} was replaced, or has left the mesh")]
    Ended(NodeId, u64),
    /// A second CA key or record key for a name that is taken.
    #[error("{0} is known with another CA key or record key in this epoch")]
    OtherKey(NodeId),
    /// Another enroller than the one that the grant names certified the node, and no word of that one on these keys is there.
    #[error(
        "{enroller} certified {node}, and nothing shows that {redeemer} redeemed the invite with these keys; renew it at {redeemer}, \
         or let the machine in again with `skein invite {node} --replace`"
    )]
    Unredeemed {
        /// Whose invite.
        node: NodeId,
        /// Who was to redeem it.
        redeemer: NodeId,
        /// Who certified the node.
        enroller: NodeId,
    },
    /// A service where a node is needed, or the reverse.
    #[error("{0} is not of the class that this conversation demands")]
    WrongClass(SpiffeId),
    /// Someone else than was called.
    #[error("expected {expected}, found {found}")]
    WrongIdentity {
        /// Who was called.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Link::Leaf => "leaf",
            Link::NodeCa => "node CA",
            Link::Enroller => "enroller CA",
            Link::Root => "root",
        })
    }
}
