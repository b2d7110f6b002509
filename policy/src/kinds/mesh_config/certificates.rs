//! How long the mesh's certificates live. The longest lives are those that every verifier takes (`certs::verify`), so that no policy
//! can make an identity outlive them.

use std::time::Duration;

use crate::{codes, decode::At};

const SHORTEST: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long the mesh's certificates live. Each is renewed at half its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateLifetimes {
    /// A service's identity, its key in memory only. 1 h; 10 s to 24 h.
    pub leaf: Duration,
    /// A node's identity. 24 h; 10 s to 24 h.
    pub node_identity: Duration,
    /// A node's own CA: how long a mesh without any enroller goes on. 30 d; 10 min to 30 d.
    pub node_ca: Duration,
    /// An enroller's CA. 1 y; 1 d to 1 y.
    pub enroller_ca: Duration,
}

impl Default for CertificateLifetimes {
    fn default() -> Self {
        Self { leaf: HOUR, node_identity: DAY, node_ca: 30 * DAY, enroller_ca: 365 * DAY }
    }
}

impl CertificateLifetimes {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let read = |name, shortest: Duration, longest: Duration, default| {
            let Some(given) = fields.get(name) else { return default };
            let Some(lifetime) = given.duration() else { return default };
            if !(shortest..=longest).contains(&lifetime) {
                let message = format!("{name} is not within {}s to {}h", shortest.as_secs(), longest.as_secs() / 3_600);
                given.error(codes::RANGE, message);
            }
            lifetime
        };
        let default = Self::default();
        let lifetimes = Self {
            leaf: read("leaf", SHORTEST, DAY, default.leaf),
            node_identity: read("nodeIdentity", SHORTEST, DAY, default.node_identity),
            node_ca: read("nodeCa", 10 * MINUTE, 30 * DAY, default.node_ca),
            enroller_ca: read("enrollerCa", DAY, 365 * DAY, default.enroller_ca),
        };
        fields.finish();
        let within = [
            ("leaf", lifetimes.leaf, "nodeCa", lifetimes.node_ca),
            ("nodeIdentity", lifetimes.node_identity, "nodeCa", lifetimes.node_ca),
            ("nodeCa", lifetimes.node_ca, "enrollerCa", lifetimes.enroller_ca),
        ];
        for (inner, lifetime, outer, limit) in within {
            if lifetime > limit {
                at.error(codes::NEVER_VALID, format!("{inner} would outlive {outer}, which signs it"));
            }
        }
        Some(lifetimes)
    }
}
