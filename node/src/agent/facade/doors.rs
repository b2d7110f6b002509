//! What the data plane has open: this node's gateways and names, what keeps others shut, the credentials that they use.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::Agent;
use crate::{
    agent::error::{Error, fail},
    secrets::Secrets,
    snapshot::{Captures, Doors, PlaintextPort, Trouble},
};

impl Agent {
    /// What the data plane says of them.
    pub fn doors(&self) -> Arc<Doors> {
        self.inner.sync.world.current().doors()
    }

    /// Where captured connections are taken.
    pub fn captures(&self) -> Arc<Captures> {
        self.inner.sync.world.current().captures()
    }

    /// Where services beside this node take callers outside the mesh.
    pub fn plaintext(&self) -> Arc<Vec<PlaintextPort>> {
        self.inner.sync.world.current().plaintext()
    }

    /// Where this node listens, and no application.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let world = &self.inner.sync.world;
        world.look_at_own_ports();
        world.own_ports().listeners
    }

    /// True from when the node serves until it begins to stop.
    pub fn is_listening(&self) -> bool {
        self.inner.listening.load(Relaxed)
    }

    /// The node's own credentials.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    /// What is to be mended of gateways and names, and of the services outside the mesh that are not reached as documents say.
    pub(super) fn troubles_beyond(&self) -> Vec<Error> {
        let (world, current) = (&self.inner.sync.world, self.inner.sync.world.current());
        let (doors, names, resolvers) = (current.doors(), current.names(), current.resolvers());
        let (outside, tls) = (world.outside_troubles(), current.tls_troubles());
        let of_doors = doors.troubles.iter().chain(&names.troubles).chain(&*resolvers);
        of_doors.chain(&outside).chain(&*tls).map(told).collect()
    }
}

pub(super) fn told(one: &Trouble) -> Error {
    fail(one.code, &one.message, one.hint)
}
