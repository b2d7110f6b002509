//! What the data plane says of this node's gateways: which ports are open, and what keeps others shut. And what it is told: that
//! clients shall go elsewhere.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

use policy::DocumentId;

use super::Current;

impl Current {
    /// True if this node is drained or stops soon: its gateways answer, and let each connection end with that.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Says it.
    pub fn tell_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }
}

/// All of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doors {
    /// By address.
    pub open: Vec<OpenDoor>,
    /// What is not as the documents say.
    pub troubles: Vec<Trouble>,
}

/// A port that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDoor {
    /// Where.
    pub listen: SocketAddr,
    /// The port as documents name it.
    pub port: u16,
    /// `NAMESPACE/NAME[/INSTANCE]` of the service that speaks here.
    pub service: String,
    /// The Gateways.
    pub documents: Vec<DocumentId>,
    /// What is spoken: `http`, `https`, `tls` where no requests come out of it here, or `tcp`.
    pub protocol: &'static str,
    /// What is served, the most specific first.
    pub hosts: Vec<String>,
}

/// Something to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// A stable word.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}
