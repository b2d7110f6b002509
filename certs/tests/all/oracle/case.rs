//! A case in words: four certificates, the policy that they meet, and how the chain is shown. No certificate exists yet.

/// Seconds since 1970 at which good cases are judged.
pub(super) const NOW: i64 = 1_800_000_000;
pub(super) const MINUTE: i64 = 60;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) const TRUST_DOMAIN: &str = "prod.example";
pub(super) const NODES: [&str; 3] = ["a", "b", "c"];
/// The last of each is one that no case speaks of: it stands for all that a pattern covers besides the others.
pub(super) const NAMESPACES: [&str; 3] = ["shop", "bank", "other"];
pub(super) const ACCOUNTS: [&str; 3] = ["web", "api", "other"];

/// Keys by number: from here on they are of other sorts (P-384, Ed25519).
pub(super) const P256_KEYS: usize = 8;
pub(super) const KEYS: usize = P256_KEYS + 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Usage {
    DigitalSignature,
    KeyCertSign,
    CrlSign,
    KeyAgreement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extended {
    Server,
    Client,
    CodeSigning,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basic {
    Absent,
    NoCa,
    Ca(Option<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Absent,
    Harmless,
    Critical,
}

/// By numbers of [`NAMESPACES`] and [`ACCOUNTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    All,
    Namespace(usize),
    Exact(usize, usize),
}

#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) node: usize,
    pub(super) epoch: u64,
    pub(super) accounts: Vec<Pattern>,
    pub(super) services: Vec<Pattern>,
    pub(super) record_key: bool,
    pub(super) enroller: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Extension {
    Absent,
    Garbage,
    Grant(Grant),
}

/// An enroller's word on who redeemed an invite.
#[derive(Debug, Clone)]
pub(super) struct Redemption {
    /// The key that signed it.
    pub(super) by: usize,
    /// The number of that key's certificate, where it is not the issuer's.
    pub(super) shown: Option<usize>,
    pub(super) node: usize,
    pub(super) epoch: u64,
    /// The node's CA key, and whether its record key is the one that its grant names.
    pub(super) key: usize,
    pub(super) record_key: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Cert {
    pub(super) subject: &'static str,
    pub(super) issuer: &'static str,
    pub(super) key: usize,
    pub(super) signer: usize,
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) usages: Vec<Usage>,
    pub(super) extended: Vec<Extended>,
    pub(super) basic: Basic,
    pub(super) uris: Vec<String>,
    pub(super) dns: Vec<String>,
    pub(super) address: bool,
    pub(super) mail: bool,
    pub(super) grant: Extension,
    pub(super) redemption: Option<Redemption>,
    /// DNS names permitted below.
    pub(super) permitted: Option<Vec<String>>,
    pub(super) unknown: Unknown,
    /// Bytes of an extension that nobody reads.
    pub(super) ballast: usize,
}

/// An operator's word on a node.
#[derive(Debug, Clone)]
pub(super) struct NodeGrant {
    pub(super) node: usize,
    pub(super) epoch: u64,
    /// Namespace, and the account (and service) of it.
    pub(super) services: Vec<(usize, usize)>,
    pub(super) redeemer: Option<usize>,
    pub(super) enroller: bool,
    pub(super) retired: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub(super) grants: Vec<NodeGrant>,
    pub(super) evicted: Vec<(usize, u64)>,
    pub(super) accounts: Vec<(usize, usize)>,
    pub(super) keys: Vec<usize>,
    /// Node, epoch, key.
    pub(super) known: Vec<(usize, u64, usize)>,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Leaf, node CA, enroller CA, and others that may be shown.
    pub(super) certs: Vec<Cert>,
    /// Which of them are shown, in this order.
    pub(super) shown: Vec<usize>,
    /// What is trusted.
    pub(super) roots: Vec<Cert>,
    pub(super) policy: Policy,
    pub(super) now: i64,
}

pub(super) const LEAF: usize = 0;
pub(super) const NODE: usize = 1;
pub(super) const ENROLLER: usize = 2;
/// In cases where it is not the issuer.
pub(super) const REDEEMER: usize = 3;

impl Cert {
    fn ca(subject: &'static str, issuer: &'static str, key: usize, signer: usize, below: u8, life: i64) -> Cert {
        Cert {
            subject,
            issuer,
            key,
            signer,
            from: NOW - 5 * MINUTE,
            until: NOW - 5 * MINUTE + life,
            usages: vec![Usage::KeyCertSign],
            extended: Vec::new(),
            basic: Basic::Ca(Some(below)),
            uris: Vec::new(),
            dns: Vec::new(),
            address: false,
            mail: false,
            grant: Extension::Absent,
            redemption: None,
            permitted: None,
            unknown: Unknown::Absent,
            ballast: 0,
        }
    }
}

impl Case {
    /// Enroller `a` certified node `b`, which certified the leaf of `shop/web`.
    pub(super) fn good() -> Case {
        let mut leaf = Cert::ca("leaf", "node", 0, 1, 0, HOUR);
        leaf.usages = vec![Usage::DigitalSignature];
        leaf.extended = vec![Extended::Server, Extended::Client];
        leaf.basic = Basic::Absent;
        leaf.uris = vec![format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/web")];
        leaf.dns = vec![format!("web.shop.{TRUST_DOMAIN}")];
        let mut node = Cert::ca("node", "enroller", 1, 2, 0, 30 * DAY);
        let own = vec![Pattern::Exact(0, 0)];
        let grant = |node, epoch, patterns: Vec<Pattern>, enroller: bool| Grant {
            node,
            epoch,
            accounts: patterns.clone(),
            services: patterns,
            record_key: !enroller,
            enroller,
        };
        node.grant = Extension::Grant(grant(1, 3, own, false));
        let mut enroller = Cert::ca("enroller", "root", 2, 3, 1, 365 * DAY);
        enroller.grant = Extension::Grant(grant(0, 1, vec![Pattern::All], true));
        let signed = |node, epoch, services, redeemer| {
            let enroller = node == 0;
            NodeGrant { node, epoch, services, redeemer, enroller, retired: false }
        };
        let grants = vec![signed(0, 1, Vec::new(), None), signed(1, 3, vec![(0, 0)], Some(0))];
        Case {
            certs: vec![leaf, node, enroller],
            shown: vec![LEAF, NODE, ENROLLER],
            roots: vec![Cert::ca("root", "root", 3, 3, 2, 3650 * DAY)],
            policy: Policy { grants, ..Policy::default() },
            now: NOW,
        }
    }

    /// Another enroller has redeemed the invite of `b`: `c`, or the enroller that `b` is itself.
    pub(super) fn redeem(&mut self, by_itself: bool) {
        let (node, epoch) = if by_itself { (1, 3) } else { (2, 1) };
        self.policy.grants[1].redeemer = (!by_itself).then_some(node);
        let mut redeemer = Cert::ca("redeemer", "root", 4, 3, 1, 365 * DAY);
        let all = vec![Pattern::All];
        let grant = Grant { node, epoch, accounts: all.clone(), services: all, record_key: false, enroller: true };
        redeemer.grant = Extension::Grant(grant);
        self.certs.push(redeemer);
        let shown = Some(self.certs.len() - 1);
        self.certs[NODE].redemption =
            Some(Redemption { by: 4, shown, node: 1, epoch: 3, key: self.certs[NODE].key, record_key: true });
    }
}
